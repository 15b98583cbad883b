"""Whole batches on disks that know little, and what becomes of the times, modes and links of outputs."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.batch.journal_files import JOURNAL

from ..helpers.refusing import refuse, same_inodes
from ..helpers.upscale_runs import left_over, made, reasons

Go = Callable[..., dict]
CALLS = ("chmod", "utime", "fsync", "chown", "link", "setxattr", "statvfs")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_that_refuses_all_that_is_not_needed_gets_all(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for call in CALLS:
        refuse(monkeypatch, call, number)
    refuse(monkeypatch, "disk_usage", number, module=shutil)
    refuse(monkeypatch, "flock", number, module=fcntl)
    refuse(monkeypatch, "lockf", number, module=fcntl)
    refuse(monkeypatch, "virtual_memory", errno.ENOENT, module=psutil)
    same_inodes(monkeypatch, 0, 0)
    run = go("--keep-times", "--verbose")
    assert made(run) == ["a.png", "b.jpg"]
    notes = [event["text"] for event in run["events"] if "refuses" in event.get("text", "")]
    assert any("modes of files (chmod)" in note for note in notes)
    assert all(note.startswith(str(tmp_path / "out")) for note in notes)
    assert left_over(tmp_path / "out") == [JOURNAL]
    again = go("--keep-times")
    assert (again["done"], again["skipped"]) == (0, 2)
    assert made(go("--overwrite")) == ["a.png", "b.jpg"]


@pytest.mark.parametrize("call", ["replace", "both"])
def test_a_disk_that_does_not_rename_keeps_what_it_has(
    go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    refuse(monkeypatch, "replace", errno.ENOTSUP)
    if call == "both":
        refuse(monkeypatch, "rename", errno.ENOTSUP)
    assert made(go()) == ["a.png", "b.jpg"]
    assert go()["skipped"] == 2
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.[pj][np]g")}
    run = go("--overwrite", "--quality", 50)
    assert made(run) == ([] if call == "both" else ["a.png", "b.jpg"])
    if call == "both":
        assert run["failed"] == 3
        assert {path: path.read_bytes() for path in before} == before
    assert left_over(tmp_path / "out") == [JOURNAL]


def test_one_inode_for_all_makes_no_output_its_own_input(
    strsr: Callable[..., Result],
    folder: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    same_inodes(monkeypatch, 1, 1)
    (tmp_path / "b.png").write_bytes(b"old")
    args = ["upscale", folder / "a.png", tmp_path / "b.png", "--weights", tiny_weights, "--scale", 2]
    result = strsr(*args)
    assert "would replace" not in result.output
    same = strsr("upscale", folder / "a.png", folder / ".." / "in" / "a.png", "--weights", tiny_weights)
    assert (same.exit_code, "would replace its own input" in same.stderr) == (2, True)
    here = strsr("upscale", folder, folder / "sub" / "..", "--weights", tiny_weights)
    assert (here.exit_code, "OUTPUT is INPUT" in here.stderr) == (2, True)


# --- times, modes, links ----------------------------------------------------------------------------


def test_outputs_have_their_inputs_times_where_asked_for(go: Go, folder: Path, tmp_path: Path) -> None:
    os.utime(folder / "a.png", ns=(10**18 + 5, 10**18 + 7))
    os.utime(folder / "sub" / "b.jpg", ns=(10**18, 10**18))
    go("--keep-times")
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == 10**18 + 7
    assert (tmp_path / "out" / "sub" / "b.jpg").stat().st_mtime_ns == 10**18
    # Times are no settings: what was made without them, or with them, is done.
    assert go("--keep-times")["skipped"] == go()["skipped"] == 2
    go("--overwrite")
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns > 10**18 + 7


def test_outputs_of_one_time_and_size_are_not_mixed_up(go: Go, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "a.bmp"
    contents = []
    for tile in (64, 96, 64):
        run = go("--keep-times", "--format", "bmp", "--tile", tile, "--overlap", 16)
        assert made(run) == ["a.bmp", "b.bmp"], reasons(run)
        contents.append(out.read_bytes())
    assert contents[0] == contents[2]
    assert go("--keep-times", "--format", "bmp", "--tile", 64, "--overlap", 16)["skipped"] == 2


def test_overwriting_keeps_modes_and_replaces_links(go: Go, tmp_path: Path) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious.jpg"
    go()
    (out / "a.png").chmod(0o640)
    (out / "sub" / "b.jpg").rename(precious)
    (out / "sub" / "b.jpg").symlink_to(precious)
    before = precious.read_bytes()
    go("--overwrite", "--quality", 40)
    assert stat.S_IMODE((out / "a.png").stat().st_mode) == 0o640
    assert not (out / "sub" / "b.jpg").is_symlink()
    assert precious.read_bytes() == before
    with Image.open(out / "sub" / "b.jpg") as image:
        image.load()


def test_a_linked_output_folder_is_written_through(
    strsr: Callable[..., Result], folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    strsr("upscale", folder, tmp_path / "link", "--weights", tiny_weights, "--scale", 2)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a.png").is_file()
