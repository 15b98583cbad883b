"""Several INPUTs, the last argument is OUTPUT: what lies where, what is refused, and what later runs do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from ..helpers.upscale_runs import made, reasons

Run = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: two photos, two folders of photos, and files that are none."""
    for number, name in enumerate(("a.jpg", "b.png", "old/a.jpg", "old/deep/c.png", "new/d.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[: 16 + number, :20]).save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def upscale(strsr: Run, tiny_weights: Path) -> Run:
    return lambda *args: strsr("upscale", *args, "--scale", 2, "--weights", tiny_weights)


def outputs(folder: str = "out") -> list[str]:
    root = Path(folder)
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in names if not name.startswith("."))


def test_files_lie_in_output_and_folders_keep_their_names(here: Path, go: Callable[..., dict]) -> None:
    run = go(paths=("a.jpg", "b.png", "old/", "./new", "notes.txt", "out"), code=0)
    names = ["a.jpg", "b.png", "new/d.png", "old/a.jpg", "old/deep/c.png"]
    assert outputs() == names
    assert (run["found"], run["done"], run["passed_over"]) == (5, 5, {"other": 1})
    with Image.open("out/old/a.jpg") as image, Image.open("old/a.jpg") as own:
        assert image.size == (2 * own.width, 2 * own.height)


def test_what_a_shell_makes_of_a_star_can_be_given_again(here: Path, go: Callable[..., dict]) -> None:
    for name in ("folder", "in"):
        shutil.rmtree(here / name, ignore_errors=True)
    star = sorted(os.listdir())
    first = go(paths=(*star, "out"), code=0)
    star = sorted(os.listdir())
    assert "out" in star
    again = go(paths=(*star, "out"), code=0)
    assert (again["done"], again["skipped"]) == (0, first["done"])
    assert again["passed_over"]["output"] == first["done"]


def test_a_star_that_is_one_folder_stays_one(here: Path, go: Callable[..., dict]) -> None:
    assert go(paths=("old", "out"), code=0)["done"] == 2
    again = go(paths=("old", "out", "out"), code=0)
    assert (again["done"], again["skipped"]) == (0, 2)


def test_fewer_or_other_inputs_leave_the_rest_alone(here: Path, go: Callable[..., dict]) -> None:
    go(paths=("a.jpg", "b.png", "old", "out"), code=0)
    before = {name: (here / "out" / name).stat().st_mtime_ns for name in outputs()}
    for paths in (("a.jpg", "b.png"), ("old", "a.jpg"), ("b.png",)):
        run = go(paths=(*paths, "out"), code=0)
        assert run["done"] == 0
        assert set(reasons(run).values()) == {"done before"}
    assert made(go(paths=("b.png", "new", "out"), code=0)) == ["d.png"]
    assert {name: (here / "out" / name).stat().st_mtime_ns for name in before} == before


def test_a_single_image_made_before_is_known_as_ours(here: Path, go: Callable[..., dict]) -> None:
    go(paths=("a.jpg", "out/"), code=0)
    run = go(paths=("a.jpg", "b.png", "out"), code=0)
    assert reasons(run) == {"a.jpg": "exists (--overwrite makes it again)"}


@pytest.mark.parametrize(
    ("paths", "both"),
    [
        (("a.jpg", "old/a.jpg"), ("a.jpg", "old/a.jpg")),
        (("a.jpg", "old/A.JPG"), ("a.jpg", "old/A.JPG")),
        (("old", "new/old"), ("old", "new/old")),
        (("new/old", "b.png", "./old/"), ("old/", "new/old")),
        (("b.png", "old/b.png"), ("b.png", "old/b.png")),
    ],
)
def test_two_outputs_of_one_name_are_refused_at_once(
    paths: tuple[str, ...], both: tuple[str, str], here: Path, upscale: Run
) -> None:
    shutil.copytree("old", "new/old")
    # A folder with the name of a file.
    (here / "old" / "b.png").mkdir()
    shutil.copy("a.jpg", "old/b.png/a.jpg")
    shutil.copy("a.jpg", "old/A.JPG")
    result = upscale(*paths, "out")
    assert result.exit_code == 2, result.output
    assert all(path in result.stderr for path in both)
    assert "would both become" in result.stderr
    assert not Path("out").exists()


def test_an_image_given_twice_is_made_once(here: Path, go: Callable[..., dict]) -> None:
    Path("link").symlink_to(here / "old")
    Path("other").mkdir()
    Path("other/a.jpg").symlink_to(here / "a.jpg")
    paths = ("old/deep", "a.jpg", "./a.jpg", here / "a.jpg", "other/a.jpg", "old", "link/deep/c.png", "old/")
    run = go(paths=(*paths, "out"), code=0)
    assert outputs() == ["a.jpg", "old/a.jpg", "old/deep/c.png"]
    assert (run["done"], run["passed_over"]) == (3, {"again": 7})


def test_the_order_of_arguments_changes_nothing(here: Path, go: Callable[..., dict]) -> None:
    paths = ["old/deep", "a.jpg", "old", "new"]
    plans = [go("--dry-run", paths=(*order, "out"), code=0)["events"] for order in (paths, paths[::-1])]
    assert plans[0][:-1] == plans[1][:-1]


def test_parts_of_several_inputs_are_disjoint_and_whole(here: Path, go: Callable[..., dict]) -> None:
    parts = [go("--shard", f"{k}/2", paths=("a.jpg", "old", "new", "out"), code=0) for k in (1, 2)]
    assert [part["done"] for part in parts] == [2, 2]
    assert outputs() == ["a.jpg", "new/d.png", "old/a.jpg", "old/deep/c.png"]


def test_folders_called_by_dots_have_their_own_names(
    here: Path, go: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here / "old" / "deep")
    go(paths=("..", "../../new", here / "out"), code=0)
    monkeypatch.chdir(here / "new")
    go(paths=(".", "../old/a.jpg", here / "out"), code=0)
    assert outputs(str(here / "out")) == ["a.jpg", "new/d.png", "old/a.jpg", "old/deep/c.png"]


def test_names_that_collide_by_their_new_suffix_stay_apart(here: Path, go: Callable[..., dict]) -> None:
    shutil.copy("b.png", "old/a.png")
    go("--format", "png", paths=("a.jpg", "old/a.png", "new", "out"), code=0)
    assert outputs() == ["a.jpg.png", "a.png", "new/d.png"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("a.jpg", "b.png", "notes.txt"), "must be a folder, not a file"),
        (("a.jpg", "b.png", "c.jpg"), "must be a folder, not a file"),
        (("a.jpg", "b.png", "-"), "must be a folder"),
        (("a.jpg", "b.png", "/dev/null"), "must be a folder"),
        (("a.jpg", "-", "out"), "standard input is one image"),
        (("a.jpg", "/dev/null", "out"), "/dev/null: is a pipe or a device"),
        (("*.gif", "a.jpg", "out"), "*.gif: no such file"),
        (("a.jpg", "", "out"), "INPUT is empty"),
        (("a.jpg", "b.png", "."), "would replace its own input"),
        (("a.jpg", "old", "."), "would replace its own input"),
        (("old", "new", "out", "--files-from", "notes.txt"), "give one folder as INPUT"),
        (("a.jpg", "/", "out"), "has no name"),
        (("notes.txt", "new/notes.txt", "out"), "new/notes.txt: no such file"),
        (("a.jpg", "old/a.jpg", "--in-place-suffix", "_x2"), "files of one folder at a time"),
        (("a.jpg", "old", "--in-place-suffix", "_x2"), "writes beside INPUT"),
        ((), "INPUT and OUTPUT are missing"),
        (("a.jpg",), "OUTPUT is missing"),
    ],
)
def test_several_inputs_that_make_no_sense_are_refused(
    args: tuple[str, ...], message: str, here: Path, upscale: Run
) -> None:
    before = sorted(here.rglob("*"))
    result = upscale(*args)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(here.rglob("*")) == before


def test_an_output_that_would_replace_another_input_fails(here: Path, go: Callable[..., dict]) -> None:
    # out/b.png is an INPUT, and the place of b.png's output.
    Path("out/old").mkdir(parents=True)
    shutil.copy("a.jpg", "out/old/b.png")
    shutil.copy("b.png", "old/b.png")
    before = Path("out/old/b.png").read_bytes()
    run = go(paths=("old", "out/old/b.png", "out"), code=1)
    assert (run["failed"], run["done"]) == (1, 3)
    assert Path("out/old/b.png").read_bytes() == before


def test_outputs_of_several_files_lie_beside_them(here: Path, go: Callable[..., dict]) -> None:
    assert made(go("--in-place-suffix", "_x2", paths=("a.jpg", "b.png"), code=0)) == ["a_x2.jpg", "b_x2.png"]
    # The star of a second run has the outputs, too.
    again = go("--in-place-suffix", "_x2", paths=("a.jpg", "a_x2.jpg", "b.png", "b_x2.png"), code=0)
    assert (again["done"], again["skipped"], again["passed_over"]) == (0, 2, {"output": 2})


def test_frames_of_several_files_are_made_one_by_one(here: Path, go: Callable[..., dict]) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save("clip.gif", save_all=True, append_images=frames[1:])
    go("--frames", "all", paths=("clip.gif", "b.png", "out"), code=0)
    assert outputs() == ["b.png", "clip_0001.png", "clip_0002.png"]


def test_a_report_shows_images_of_several_inputs(here: Path, go: Callable[..., dict]) -> None:
    go("--report", "page.html", paths=("a.jpg", "old", "out"), code=0)
    page = Path("page.html").read_text()
    assert "old/deep/c.png" in page
