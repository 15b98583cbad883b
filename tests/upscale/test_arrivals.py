"""Which files in a watched folder are new, and whole."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strsr_cli.batch.plan import make_plan
from strsr_cli.images.read import is_whole_image
from strsr_cli.upscale.rounds.arrivals import PARTNERS, Arrivals

LONG = 1e9  # s


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    (tmp_path / "in").mkdir()
    Image.fromarray(photo[:20, :25]).save(tmp_path / "in" / "a.png")
    return tmp_path / "in"


def arrivals(settle: float = 0.0, patience: float = LONG) -> Arrivals:
    return Arrivals(is_whole_image, settle, patience)


def look(watched: Arrivals, folder: Path) -> tuple[list[str], list[str]]:
    """Names of what is to be made now, and of what is refused."""
    watched.begin()
    plan = watched.fresh(make_plan(str(folder), "out", "keep", arriving=watched))
    names = [Path(str(job.source)).name for job in plan.jobs]
    return names, [Path(str(source)).name for source, _ in plan.refused]


def test_a_file_is_handed_out_once_until_it_changes(folder: Path) -> None:
    watched = arrivals()
    assert look(watched, folder) == (["a.png"], [])
    assert look(watched, folder) == ([], [])
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    assert look(watched, folder) == (["a.png"], [])
    (folder / "sub").mkdir()
    shutil.move(folder / "a.png", folder / "sub" / "b.png")
    assert look(watched, folder) == (["b.png"], [])
    assert look(watched, folder) == ([], [])


def test_an_old_file_is_taken_at_once_whatever_it_is(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"no image")
    assert look(arrivals(settle=LONG, patience=-1.0), folder) == (["a.png", "b.png"], [])


def test_a_file_that_has_just_changed_is_waited_for(folder: Path) -> None:
    watched = arrivals(settle=LONG)
    for _ in range(3):
        assert look(watched, folder) == ([], [])
        assert watched.waits
    (folder / "a.png").unlink()
    assert look(watched, folder) == ([], [])
    assert not watched.waits


@pytest.mark.parametrize("name", ["b.png", "b.jpg", "b.webp", "b.tif", "b.bmp", "b.gif"])
def test_a_file_that_lacks_its_end_is_waited_for(name: str, folder: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo[:40, :50]).save(folder.parent / name)
    data = (folder.parent / name).read_bytes()
    watched = arrivals()
    for part in (0, len(data) // 2, len(data) - 20):
        (folder / name).write_bytes(data[:part])
        assert name not in look(watched, folder)[0]
        assert watched.waits
    (folder / name).write_bytes(data)
    assert look(watched, folder)[0] == [name]


@pytest.mark.parametrize("partner", PARTNERS)
def test_a_file_is_waited_for_while_it_is_downloaded(partner: str, folder: Path) -> None:
    # Firefox makes an empty file of the final name beside the one that grows.
    (folder / "b.png").touch()
    growing = folder / f"b.png{partner}"
    shutil.copy(folder / "a.png", growing)
    watched = arrivals(patience=-1.0)
    assert look(watched, folder)[0] == ["a.png"]
    growing.replace(folder / "b.png")
    assert look(watched, folder)[0] == ["b.png"]


def test_names_of_unfinished_copies_are_no_images(folder: Path) -> None:
    for name in (".b.png.Xy12Zq", "c.png.part", "d.jpg.crdownload", "e.tmp"):
        shutil.copy(folder / "a.png", folder / name)
    watched = arrivals()
    assert look(watched, folder)[0] == ["a.png"]
    (folder / ".b.png.Xy12Zq").rename(folder / "b.png")
    assert look(watched, folder)[0] == ["b.png"]


def test_an_empty_folder_is_watched_and_may_go_and_come(folder: Path, photo: np.ndarray) -> None:
    watched = arrivals()
    look(watched, folder)
    (folder / "a.png").unlink()
    assert look(watched, folder) == ([], [])
    Image.fromarray(photo[:20, :25]).save(folder / "a.png")
    assert look(watched, folder)[0] == ["a.png"]


def test_what_is_refused_is_told_once(folder: Path) -> None:
    (folder / "gone.png").symlink_to("nowhere")
    watched = arrivals()
    assert look(watched, folder)[1] == ["gone.png"]
    assert look(watched, folder)[1] == []
    (folder / "gone.png").unlink()
    look(watched, folder)
    (folder / "gone.png").symlink_to("nowhere")
    assert look(watched, folder)[1] == ["gone.png"]


def test_a_link_to_nothing_for_a_moment_is_no_failure(folder: Path) -> None:
    (folder / "gone.png").symlink_to("nowhere")
    watched = arrivals(settle=LONG)
    assert look(watched, folder)[1] == []
    (folder / "gone.png").unlink()
    assert look(watched, folder)[1] == []


def test_memory_grows_with_the_files_that_are_there_alone(folder: Path) -> None:
    watched = arrivals(patience=-1.0)
    data = (folder / "a.png").read_bytes()
    sizes = []
    for batch in range(4):
        for number in range(50):
            (folder / f"{batch}-{number}.png").write_bytes(data)
        look(watched, folder)
        sizes.append(len(watched._known) + len(watched._waiting) + len(watched._seen))
        for path in folder.glob(f"{batch}-*.png"):
            path.unlink()
    assert max(sizes) == 51
    assert sys.getsizeof(watched._known) < 10_000
