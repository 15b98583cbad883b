"""Several processes on one output folder: parts by a launcher, and locks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from strsr_cli.batch.journal_files import JOURNAL
from strsr_cli.batch.locks import FOLDER

from ..helpers.upscale_runs import left_over, made


def test_parts_make_every_image_once(go: Callable[..., dict], monkeypatch: pytest.MonkeyPatch) -> None:
    first = go("--shard", "1/2", code=0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = go(code=1)
    assert (made(first), first["left"]) == (["a.png", "b.jpg"], 1)
    assert (made(second), second["failed"], second["left"]) == ([], 1, 2)
    assert any("part 2 of 2 (by RANK and WORLD_SIZE)" in event.get("text", "") for event in second["events"])


def test_parts_of_an_indexed_job_make_every_image_once(
    go: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    first = go("--shard", "auto/2", code=0)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("STRSR_SHARDS", "2")
    second = go(code=1)
    assert (made(first), made(second), second["failed"]) == (["a.png", "b.jpg"], [], 1)


def test_images_that_fail_under_torchrun_end_no_process(
    go: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert go(code=0)["failed"] == 1


@pytest.mark.slow
def test_torchrun_prints_no_traceback_for_one_bad_photo(
    folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "strsr_cli"]
    arguments = ["upscale", str(folder), str(tmp_path / "out"), "--weights", str(tiny_weights)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "1 failed" in result.stderr
    assert (tmp_path / "out" / "a.png").exists()


def test_processes_on_one_folder_share_it(start: Callable[..., subprocess.Popen], tmp_path: Path) -> None:
    both = [start("--json"), start("--json")]
    outputs = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    events = [[json.loads(line) for line in output.splitlines()] for output in outputs]
    done = [event["output"] for run in events for event in run if event["event"] == "done"]
    assert len(done) == len(set(done)) == 42
    for run in events:
        assert run[-1]["found"] == run[-1]["done"] + run[-1]["skipped"] + run[-1]["left"] == 42
    assert left_over(tmp_path / "out") == [JOURNAL]


def test_a_run_that_makes_nothing_leaves_no_folder(
    strsr: Callable[..., Result], folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.png").unlink()
    result = strsr("upscale", folder, tmp_path / "new" / "out", "--weights", tmp_path / "nothing")
    assert result.exit_code == 3, result.output
    assert not (tmp_path / "new").exists()


def test_a_run_of_other_settings_waits_its_turn(
    start: Callable[..., subprocess.Popen],
    strsr: Callable[..., Result],
    folder: Path,
    tiny_weights: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    first = start("--json", wait=True)
    first.send_signal(signal.SIGSTOP)
    args = ["upscale", folder, out, "--weights", tiny_weights]
    for other in (["--scale", 2], ["--format", "jpg"], ["--quality", 50], ["--scale", 2, "--no-journal"]):
        result = strsr(*args, *other)
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.splitlines()
        assert f"{out}: process {first.pid} makes outputs there with other settings; wait for its end" in line
    # It is nothing to a dry run, to another OUTPUT, and to a single image beside.
    assert strsr(*args, "--scale", 2, "--dry-run").exit_code == 0
    alone = ["upscale", folder / "a.png", out / "alone.png", "--weights", tiny_weights, "--scale", 2]
    assert strsr(*alone).exit_code == 0
    first.send_signal(signal.SIGKILL)
    first.wait()
    # A dead run keeps nobody out, and what a later run skips depends on outputs alone.
    assert strsr(*args).exit_code == 0
    assert "0 done, 42 skipped" in strsr(*args).stderr
    assert left_over(out) == [JOURNAL]


@pytest.mark.slow
def test_parts_steal_what_a_killed_one_has_left(
    start: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    killed = start("--json", "--shard", "1/3", "--steal", "--jobs", "1", wait=True)
    killed.send_signal(signal.SIGSTOP)
    killed.kill()
    killed.wait()
    before = {path.relative_to(out) for path in out.rglob("*.*g") if not path.name.startswith(".")}
    assert len(before) < 14
    # The dead part's own, and it has not seen it.
    (tmp_path / "in" / "copy04.txt.png").write_text("not an image")
    others = [start("--json", "--shard", f"{number}/3", "--steal", "--jobs", "1") for number in (2, 3)]
    outputs = [process.communicate(timeout=200)[0] for process in others]
    events = [[json.loads(line) for line in output.splitlines()] for output in outputs]
    done = [Path(e["output"]).relative_to(out) for run in events for e in run if e["event"] == "done"]
    assert len(done) == len(set(done)) == 42 - len(before)
    assert not before & set(done)
    failed = [event["input"] for run in events for event in run if event["event"] == "failed"]
    assert [Path(name).name for name in failed] == ["copy04.txt.png"]
    for process, run in zip(others, events, strict=True):
        assert run[-1]["found"] == 43 == sum(run[-1][part] for part in ("done", "skipped", "failed", "left"))
        assert process.returncode == (1 if run[-1]["failed"] else 0)
    assert left_over(out) == [JOURNAL]


def test_a_part_that_comes_first_makes_all_of_it(go: Callable[..., dict], tmp_path: Path) -> None:
    dry = go("--shard", "1/2", "--steal", "--dry-run", code=0)
    assert (dry["to_make"], dry["skipped"]) == (2, 0)
    first = go("--shard", "1/2", "--steal", code=1)
    assert (made(first), first["failed"], first["left"]) == (["a.png", "b.jpg"], 1, 0)
    second = go("--shard", "2/2", "--steal", code=1)
    assert (made(second), second["failed"], second["left"]) == ([], 1, 2)


@pytest.mark.slow
def test_a_part_of_a_big_model_steals_too(
    strsr: Callable[..., Result], folder: Path, models: Path, tmp_path: Path
) -> None:
    words = ["upscale", folder, tmp_path / "out", "--model", "zimage", "--models-dir", models, "--scale", 2]
    result = strsr(*words, "--shard", "2/2", "--steal")
    assert result.exit_code == 1, result.output
    assert "2 done, 0 skipped, 1 failed" in result.stderr
    assert left_over(tmp_path / "out") == [JOURNAL]


def test_where_nothing_can_be_claimed_nothing_is_stolen(go: Callable[..., dict], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FOLDER).write_text("a file where a folder should be")
    run = go("--shard", "2/2", "--steal", code=1)
    assert (made(run), run["failed"], run["left"]) == ([], 1, 2)
    assert any("no locks can be made" in event.get("text", "") for event in run["events"])


def test_stealing_goes_by_the_journal(strsr: Callable[..., Result], folder: Path, tmp_path: Path) -> None:
    for option in ("--no-journal", "--overwrite", "--retry-failed"):
        result = strsr("upscale", folder, tmp_path / "out", "--shard", "1/2", "--steal", option)
        assert result.exit_code == 2
        assert option in result.stderr
