"""One batch over all hostile files: each has the outcome that it must have, and nothing else happens."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from strsr_models.pipelines.lite import LitePipeline

from ..conftest import TINY
from .batch import CONTROL, Batch, all_cases, judged, make_folder, run_batch
from .cases import Case, PassedOver


@dataclass(frozen=True)
class Ran:
    cases: list[Case]
    root: Path
    batch: Batch
    before: dict[str, tuple[int, int]]


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all below a folder."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            state = Path(folder, name).lstat()
            found[f"{folder}/{name}"] = (state.st_size, state.st_mtime_ns) if name in files else (0, 0)
    return found


@pytest.fixture(scope="module", params=["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The batch, with a home, a cache and a folder for temporary files of its own.

    Files are what is tried here: the network is tiny, and its decoder adds no detail, so that the outputs are the
    bicubic enlargements.
    """
    root = tmp_path_factory.mktemp("hostile")
    for name in ("home", "cache", "tmp", "weights"):
        (root / name).mkdir()
    pipeline = LitePipeline(TINY)
    for parameter in pipeline.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    pipeline.save(root / "weights", {})
    cases = make_folder(all_cases(), root / "in")
    before = tree(root)
    own = {
        "STRSR_BACKEND": request.param,
        "HOME": root / "home",
        "XDG_CACHE_HOME": root / "cache",
        "TMPDIR": root / "tmp",
    }
    weights = ("--weights", root / "weights")
    return Ran(cases, root, run_batch(root / "in", root / "out", *weights, **own), before)


def test_files_have_the_outcome_that_they_must_have(ran: Ran) -> None:
    assert {case.name: said for case in ran.cases if (said := judged(case, ran.batch))} == {}


def test_the_counts_add_up_to_the_files_that_are_there(ran: Ran) -> None:
    counts, batch = ran.batch.summary, ran.batch
    images = {case.name for case in ran.cases if not isinstance(case.expected, PassedOver)}
    assert counts["found"] == counts["done"] + counts["skipped"] + counts["failed"]
    assert counts["done"] == len(batch.done)
    assert counts["failed"] == len(batch.failed)
    assert batch.skipped == set()
    assert batch.twice == []
    assert batch.done.keys() | batch.failed.keys() == images


def test_output_is_json_without_a_traceback(ran: Ran) -> None:
    assert ran.batch.lines == []
    assert b"Traceback" not in ran.batch.stderr
    assert ran.batch.code == 1
    for reason in ran.batch.failed.values():
        assert reason.strip()


def test_the_output_folder_holds_whole_outputs_alone(ran: Ran) -> None:
    made = {os.fsencode(ran.batch.planned[name]) for name in ran.batch.done}
    after = tree(ran.root)
    out = str(ran.root / "out")
    written = {os.fsencode(path) for path in after if path.startswith(out + "/") and not Path(path).is_dir()}
    own = os.fsencode(ran.root / "out" / ".strsr-")  # unfinished files, journal, locks
    assert {path for path in written if not path.startswith(own)} == made
    assert not [path for path in written if path.startswith(own) and path.endswith(tuple(SUFFIXES))]
    elsewhere = {path: state for path, state in after.items() if not (path + "/").startswith(out + "/")}
    # What OpenVINO has compiled may be kept.
    compiled = {path for path in elsewhere if path.startswith(str(ran.root / "cache" / "strsr"))}
    assert [path for path in compiled if path.endswith(".network")] or not compiled
    assert {path: elsewhere[path] for path in elsewhere.keys() - compiled} == ran.before


SUFFIXES = (b".png", b".jpg", b".jpeg", b".jfif", b".webp", b".tif", b".tiff", b".bmp", b".avif", b".gif")


def test_lines_for_people_hold_no_control_characters(
    strsr: Callable[..., Result], tiny_weights: Path, tmp_path: Path
) -> None:
    chosen = [case for case in all_cases() if case.group in ("names", "hidden")]
    names = make_folder(chosen, tmp_path / "in")
    args = ("upscale", tmp_path / "in", tmp_path / "out", "--scale", "1", "--weights", tiny_weights)
    result = strsr(*args)
    images = [case for case in names if not isinstance(case.expected, PassedOver)]
    holds = CONTROL.search(result.output) is None and len(result.stderr.splitlines()) == len(images) + 1
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    plan = strsr(*args, "--dry-run", "--overwrite").stdout
    holds &= CONTROL.search(plan) is None and len(plan.splitlines()) == len(images) + 1
    assert holds, result.stderr + plan
