from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from strsr_cli.images.find import FileList, find_files, find_images, identity, list_files, read_list

from ..helpers.refusing import same_inodes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "sub/c.webp"):
        Image.new("RGB", (4, 4)).save(root / name)
    return root


def names(files: FileList, folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in files.images]


ALL = ["a.png", "b.jpg", "sub/c.webp"]


def test_files_that_are_no_images_are_counted(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "scan.dat", "PNG")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "sub/.picasa.ini"):
        (folder / name).touch()
    for name in ("notes.txt", "README", "a.png.bak", "raw.CR2", "film.mp4"):
        (folder / name).write_bytes((folder / "a.png").read_bytes()[: 100 * (name != "README")])
    (folder / "__MACOSX").mkdir()
    files = find_files(folder)
    assert names(files, folder) == ["a.png", "b.jpg", "scan.dat", "sub/c.webp"]
    assert files.passed_over == {"hidden": 6, "other": 5}
    assert files.failed == []


def test_loops_of_links_end_and_each_folder_is_read_once(folder: Path) -> None:
    (folder / "0-loop").symlink_to(folder)
    (folder / "0-best").symlink_to(folder / "sub")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "self").symlink_to("self")
    files = find_files(folder)
    assert names(files, folder) == ALL
    assert files.passed_over == {"again": 3, "other": 1}


def test_links_to_files_and_to_folders_elsewhere_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "disk" / "d.png")
    (folder / "linked").symlink_to(tmp_path / "disk")
    (folder / "e.png").symlink_to(tmp_path / "disk" / "d.png")
    assert names(find_files(folder), folder) == ["a.png", "b.jpg", "e.png", "linked/d.png", "sub/c.webp"]


def test_a_link_to_nothing_fails_if_it_calls_itself_an_image(folder: Path) -> None:
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "gone").symlink_to("nowhere")
    files = find_files(folder)
    assert [path.name for path, _ in files.failed] == ["gone.png"]
    assert files.passed_over == {"other": 1}


def test_pipes_are_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.png")
    files = find_files(folder)
    assert names(files, folder) == ALL
    assert files.passed_over == {"other": 2}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_folders_that_cannot_be_read_are_named(folder: Path) -> None:
    (folder / "sub").chmod(0)
    files = find_files(folder)
    (folder / "sub").chmod(0o700)
    assert [path.name for path, _ in files.failed] == ["sub"]


def test_a_folder_of_outputs_is_left_out_by_whatever_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder / "sub")
    assert find_images(folder, without=tmp_path / "link") == [folder / "a.png", folder / "b.jpg"]
    assert names(find_files(folder, without=folder), folder) == ALL


def test_a_list_names_files_below_the_folder(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (folder / ".hidden.png").touch()
    (folder / "notes.txt").touch()
    listed = [
        "sub/c.webp",
        "./a.png",
        "sub/../a.png",
        str(folder / "b.jpg"),
        ".",
        "sub",
        ".hidden.png",
        "notes.txt",
        "missing.png",
        "../outside.png",
        "sub/../../outside.png",
        str(tmp_path / "outside.png"),
        "nul\0b.png",
    ]
    files = list_files(listed, folder, tmp_path / "out")
    assert names(files, folder) == ["sub/c.webp", "a.png", "b.jpg"]
    assert files.passed_over == {"again": 1, "folder": 2, "hidden": 1, "other": 1}
    reasons = [reason for _, reason in files.failed]
    assert len(reasons) == 5
    assert "no such file" in reasons[0]
    assert all("outside of INPUT" in reason for reason in reasons[1:4])
    assert "--files0-from" in reasons[4]
    assert len(listed) == len(files.images) + len(files.failed) + files.passed_over.total()


def test_outputs_in_a_list_are_no_inputs(folder: Path) -> None:
    files = list_files(["a.png", "sub/c.webp"], folder, folder / "sub")
    assert names(files, folder) == ["a.png"]
    assert files.passed_over == {"output": 1}


def test_our_own_files_are_neither_found_nor_counted(folder: Path) -> None:
    before = find_files(folder, folder / "sub")
    for name in (
        ".strsr-journal/0-1.jsonl",
        ".strsr-journal/a.png",
        ".strsr-locks/b.png",
        ".strsr-old.jsonl",
    ):
        for root in (folder, folder / "sub"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(b"{}")
    assert find_files(folder, folder / "sub") == before
    assert list_files([".strsr-journal/0-1.jsonl", "sub/.strsr-journal/a.png"], folder, folder / "sub") == (
        list_files([], folder, folder / "sub")
    )


def test_lists_end_names_with_lines_or_nul() -> None:
    assert read_list(b"\xef\xbb\xbfa.png\r\nb c.png\n\n#d.png", zero=False) == ["a.png", "b c.png", "#d.png"]
    assert read_list(b"a\nb.png\0\xff.png\0", zero=True) == ["a\nb.png", "\udcff.png"]
    assert read_list(b"", zero=True) == []


@pytest.mark.parametrize(("inode", "device"), [(0, None), (0, 0), (7, None), (7, 7)])
def test_disks_without_inodes_have_all_their_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inode: int, device: int | None
) -> None:
    (folder / "below" / "deep").mkdir(parents=True)
    (folder / "out").mkdir()
    for name in ("below/1.png", "below/deep/2.png", "out/3.png"):
        (folder / name).write_bytes(b"")
    (folder / "below" / "loop").symlink_to(folder)
    before = names(find_files(folder, folder / "out"), folder)
    same_inodes(monkeypatch, inode, device)
    files = find_files(folder, folder / "out")
    assert names(files, folder) == before
    assert files.passed_over["output"] == 1
    assert files.passed_over["again"] == 1
    # Two names of one file are one, two files are two.
    (tmp_path / "link.png").symlink_to(folder / "below" / "1.png")
    assert identity(tmp_path / "link.png") == identity(folder / "below" / ".." / "below" / "1.png")
    assert identity(folder / "below" / "1.png") != identity(folder / "below" / "deep" / "2.png")
    assert identity(folder) != identity(folder / "below")
    assert identity(folder / "nothing") is None


class Entry:
    """An entry of a folder whose disk calls everything a file."""

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.name, self.path = entry.name, entry.path

    def is_dir(self) -> bool:
        return False

    def is_symlink(self) -> bool:
        return False


def test_folders_that_are_listed_as_files_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(find_files(folder), folder)
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: [Entry(entry) for entry in real(path)])
    assert names(find_files(folder), folder) == before


def test_unfinished_outputs_without_a_dot_are_no_inputs(folder: Path) -> None:
    before = names(find_files(folder), folder)
    (folder / "strsr-part-00000000-123-abc.png").touch()
    assert names(find_files(folder), folder) == before
