from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from strsr_cli.plan import Job, make_plan
from strsr_models import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "a.jpg", "sub/b.jpeg"):
        Image.new("RGB", (4, 4)).save(root / name)
    return root


def plan_jobs(source: str, target: str, kind: str) -> list[Job]:
    return make_plan(source, target, kind).jobs


def targets(jobs: list[Job]) -> list[str]:
    return [str(job.target) for job in jobs]


def test_a_folder_is_mirrored(folder: Path) -> None:
    assert targets(plan_jobs(str(folder), "out", "keep")) == ["out/a.jpg", "out/a.png", "out/sub/b.jpeg"]


def test_outputs_that_would_collide_keep_their_whole_names(folder: Path) -> None:
    jobs = plan_jobs(str(folder), "out", "webp")
    assert targets(jobs) == ["out/a.jpg.webp", "out/a.png.webp", "out/sub/b.webp"]


def test_one_image_goes_into_a_folder_or_a_file(folder: Path) -> None:
    source = str(folder / "a.jpg")
    assert targets(plan_jobs(source, "out", "keep")) == ["out/a.jpg"]
    assert targets(plan_jobs(source, "out", "png")) == ["out/a.png"]
    assert targets(plan_jobs(source, "big.webp", "keep")) == ["big.webp"]
    assert plan_jobs(source, "big.webp", "keep")[0].kind == "webp"
    assert plan_jobs(source, "-", "keep")[0].kind == "png"


def test_streams_have_no_path() -> None:
    job = plan_jobs("-", "-", "keep")[0]
    assert (job.source, job.target, job.kind) == (None, None, "png")
    assert targets(plan_jobs("-", "out", "jpg")) == ["out/stdin.jpg"]


def test_an_output_folder_inside_the_input_is_not_read_again(folder: Path) -> None:
    (folder / "out").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "out" / "a.png")
    jobs = plan_jobs(str(folder), str(folder / "out"), "keep")
    assert [job.source for job in jobs if job.source and "out" in job.source.parts] == []


@pytest.mark.parametrize(
    ("source", "target", "kind", "message"),
    [
        ("{in}", "-", "keep", "a folder cannot go to standard output"),
        ("{in}", "out.png", "keep", "INPUT is a folder, so OUTPUT must be one"),
        ("{in}/nothing", "out", "keep", "no such file or folder"),
        ("{in}/a.jpg", "out.gif", "keep", "cannot write .gif files"),
        ("{in}/a.jpg", "out.png", "jpg", "its suffix says png, --format says jpg"),
        ("{in}/a.jpg", "{in}/a.jpg", "keep", "would replace its own input"),
        ("{in}", "{in}", "keep", "OUTPUT is INPUT"),
        ("{in}", "out", "gif", "--format gif: unknown"),
        ("{empty}", "out", "keep", "no images in this folder"),
    ],
)
def test_paths_that_make_no_sense_are_refused(
    source: str, target: str, kind: str, message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"in": folder, "empty": tmp_path / "empty"}
    with pytest.raises(UsageError, match=message):
        plan_jobs(source.format(**places), target.format(**places), kind)
