"""Several processes on one output folder: parts by a launcher, and locks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from strsr_cli.batch.journal import JOURNAL

from ..helpers.upscale_runs import left_over, made


def test_parts_make_every_image_once(go: Callable[..., dict], monkeypatch: pytest.MonkeyPatch) -> None:
    first = go("--shard", "1/2", code=0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = go(code=1)
    assert (made(first), first["left"]) == (["a.png", "b.jpg"], 1)
    assert (made(second), second["failed"], second["left"]) == ([], 1, 2)
    assert any("part 2 of 2 (by RANK and WORLD_SIZE)" in event.get("text", "") for event in second["events"])


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
