from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from strsr_cli.batch.job import Job, Shard
from strsr_cli.batch.naming import compared, output_names
from strsr_cli.batch.plan import kept_kind, make_plan
from strsr_cli.images.formats import FORMAT_BY_SUFFIX
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


def test_images_get_a_name_whatever_the_others_are_called(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "A.png")
    Image.new("RGB", (4, 4)).save(folder / "a", "PNG")
    (folder / "b.png").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "b.png" / "c.png")
    Image.new("RGB", (4, 4)).save(folder / "b", "PNG")
    jobs = plan_jobs(str(folder), "out", "keep")
    assert {job.name.removeprefix(f"{folder}/"): job.target_name for job in jobs} == {
        "A.png": "out/A.png",
        "a": "out/a-3.png",
        "a.jpg": "out/a.jpg",
        "a.png": "out/a-2.png",
        "b": "out/b-2.png",
        "b.png/c.png": "out/b.png/c.png",
        "sub/b.jpeg": "out/sub/b.jpeg",
    }


NAMES = st.lists(
    st.lists(
        st.sampled_from(["a", "A", "\u00e4", "a\u0308", "a.png", "a-2.png", "a.jpg", "a.gif"]), min_size=1
    ).map(lambda parts: Path(*parts[:3])),
    unique=True,
)


@given(NAMES, st.sampled_from(["keep", "png", "jpg"]), st.sampled_from(["", "_x4"]))
def test_outputs_have_names_of_their_own(sources: list[Path], kind: str, add: str) -> None:
    folders = {parent for source in sources for parent in source.parents}
    sources = [source for source in sources if source not in folders]  # a file is no folder
    kinds = [kept_kind(source) if kind == "keep" else kind for source in sources]
    outputs = output_names(sources, kinds, add)
    names = [compared(output) for output in outputs]
    assert len(set(names)) == len(names)
    assert not set(names) & {compared(parent) for output in outputs for parent in output.parents}
    for source, output, own_kind in zip(sources, outputs, kinds, strict=True):
        assert output.parent == source.parent
        assert FORMAT_BY_SUFFIX[output.suffix.lower()] == own_kind


def test_outputs_beside_their_inputs_have_another_name(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "a_X4.jpg")
    for target in (None, str(folder), str(folder / "sub" / "..")):
        plan = make_plan(str(folder), target, "keep", add="_x4")
        assert targets(plan.jobs) == [str(Path(target or folder) / name) for name in BESIDE]
        assert plan.passed_over == {"output": 1}
    assert targets(make_plan(str(folder / "a.jpg"), None, "png", add="_x4").jobs) == [f"{folder}/a_x4.png"]
    link = folder.parent / "link"
    link.symlink_to(folder)
    with pytest.raises(UsageError, match="OUTPUT is INPUT"):
        make_plan(str(folder), str(link), "keep")


BESIDE = ["a_x4.jpg", "a_x4.png", "sub/b_x4.jpeg"]


def test_outputs_never_take_the_place_of_an_input(folder: Path) -> None:
    inner = folder / "sub"
    (inner / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(inner / "sub" / "b.jpeg")
    plan = make_plan(str(inner), str(folder), "keep")  # sub/sub/b.jpeg would become sub/b.jpeg
    assert targets(plan.jobs) == [f"{folder}/b.jpeg"]
    assert [path for path, _ in plan.refused] == [inner / "sub" / "b.jpeg"]
    assert "would replace an input" in plan.refused[0][1]


def test_a_list_is_mirrored_like_a_folder(folder: Path) -> None:
    plan = make_plan(str(folder), "out", "keep", names=["sub/b.jpeg", "a.png", "../../../x.png"])
    assert targets(plan.jobs) == ["out/sub/b.jpeg", "out/a.png"]
    assert [str(path) for path, _ in plan.refused] == ["../../../x.png"]


PARTS = st.lists(st.sampled_from(["..", ".", "", "sub", "a.png", "b.jpeg", "/", "~", "\n"]), max_size=6)


@given(st.lists(PARTS.map("/".join), max_size=5))
def test_lists_never_lead_out_of_the_output_folder(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.png", "in/a.png", "in/sub/b.jpeg"):
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, name).touch()
        try:
            plan = make_plan(f"{folder}/in", f"{folder}/out", "keep", names=names)
        except UsageError:  # none of them
            return
        for target in targets(plan.jobs):
            assert os.path.normpath(target).startswith(f"{folder}/out/")
            assert ".." not in Path(target).parts


def test_shards_split_the_plan_whatever_is_done(folder: Path) -> None:
    plan = make_plan(str(folder), "out", "keep", names=["a.jpg", "a.png", "sub/b.jpeg", "missing.png"])
    parts = [plan.shard(Shard(number, 2)) for number in (1, 2)]
    assert [part.count for part in parts] == [3, 1]
    assert targets(parts[0].jobs) == ["out/a.jpg", "out/sub/b.jpeg"]


def test_a_single_image_goes_into_a_folder_or_a_file(folder: Path) -> None:
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
        ("{in}", None, "keep", "OUTPUT is missing"),
    ],
)
def test_paths_that_make_no_sense_are_refused(
    source: str, target: str | None, kind: str, message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"in": folder, "empty": tmp_path / "empty"}
    with pytest.raises(UsageError, match=message):
        make_plan(source.format(**places), target and target.format(**places), kind)


@pytest.mark.parametrize(
    ("source", "target", "names", "add", "message"),
    [
        ("{in}/a.jpg", "out", ["a"], None, "no such folder"),
        ("-", "out", [], None, "has no folder"),
        ("-", "out", None, "_x4", "has no folder"),
        ("{in}", "out", None, "_x4", "writes beside INPUT"),
        ("{in}/a.jpg", "out", None, "_x4", "writes beside INPUT"),
        ("{in}", None, None, "../x", "in-place-suffix"),
        ("{in}", None, None, "", "in-place-suffix"),
        ("{in}", "out", ["notes.txt", "."], None, "no images in this list"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    source: str, target: str | None, names: list[str] | None, add: str | None, message: str, folder: Path
) -> None:
    (folder / "notes.txt").touch()
    with pytest.raises(UsageError, match=message):
        make_plan(source.format(**{"in": folder}), target, "keep", names, add)
