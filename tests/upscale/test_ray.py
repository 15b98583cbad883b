"""Batches on Ray: nodes in one process, some of which are lost; drivers that are killed; and what is shared out.

Nodes are of `ray.cluster_utils`, and each test ends its own alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strsr_cli.batch.journal import JOURNAL

from ..helpers.ray_runs import ends, finish, rest, until_done
from ..helpers.upscale_runs import left_over
from .test_crash import leftovers, outputs

COUNT = 40
BROKEN = ("06.png", "23.jpg", "32.png")
# An input at which a worker dies, as by the fault of a driver or for lack of memory: told by its size.
DEADLY = """
import os, signal
from strsr_cli.upscale import files
read_image = files.read_image
def read(path, *more):
    if path.name == "13.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return read_image(path, *more)
files.read_image = read
"""


@pytest.fixture
def pictures(tmp_path: Path, photo: np.ndarray) -> Path:
    """Forty pictures in two folders, three of them broken."""
    root = tmp_path / "in"
    (root / "below").mkdir(parents=True)
    for number in range(COUNT):
        name = f"{number:02}.{'jpg' if number % 4 == 3 else 'png'}"
        path = root / ("below" if number % 2 else "") / name
        if name in BROKEN:
            path.write_text("no image")
        else:
            Image.fromarray(photo[number:, number:][:48, :64]).save(path)
    return root


@pytest.fixture
def begin(start: Callable[..., subprocess.Popen], pictures: Path) -> Callable[..., subprocess.Popen]:
    """Begin a run over the pictures."""
    return partial(start, pictures)


@pytest.mark.slow
def test_a_lost_node_costs_nothing_but_time(
    nodes: Callable[[], None], begin: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    local = finish(begin(tmp_path / "local"), 1)
    process = begin(tmp_path / "out", "--engine", "ray")
    lines = until_done(process, 10)
    nodes()
    events = finish(process, 1, lines)
    assert ends(events) == ends(local)
    assert {name for name, event in ends(events).items() if event == "failed"} == set(BROKEN)
    assert events[-1]["done"] == COUNT - len(BROKEN)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "local") != {}
    assert left_over(tmp_path / "out") == [JOURNAL]
    again = finish(begin(tmp_path / "out"), 1)
    assert (again[-1]["done"], again[-1]["skipped"]) == (0, COUNT - len(BROKEN))


@pytest.mark.slow
def test_a_killed_driver_is_started_again(
    nodes: Callable[[], None], begin: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    process = begin(tmp_path / "out", "--engine", "ray")
    until_done(process, 8)
    process.kill()
    process.communicate()
    there = len(outputs(tmp_path / "out"))
    assert 8 <= there < COUNT - len(BROKEN)
    events = finish(begin(tmp_path / "out", "--engine", "ray"), 1)
    assert events[-1]["skipped"] >= there
    assert events[-1]["done"] + events[-1]["skipped"] + events[-1]["left"] == COUNT - len(BROKEN)
    finish(begin(tmp_path / "local"), 1)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "local")
    assert leftovers(tmp_path / "out") == []


@pytest.mark.slow
def test_an_image_that_kills_its_workers_fails_alone(
    nodes: Callable[[], None], begin: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\nif any('default_worker' in word for word in sys.argv + sys.orig_argv):\n"
        + "".join(f"    {line}\n" for line in DEADLY.splitlines())
    )
    events = finish(begin(tmp_path / "out", "--engine", "ray"), 1)
    (reason,) = [e["reason"] for e in events if e["event"] == "failed" and e["input"].endswith("13.png")]
    assert re.search(r"13.png: its worker died \d times while making it: ", reason)
    assert events[-1]["done"] == COUNT - len(BROKEN) - 1
    assert left_over(tmp_path / "out") == [JOURNAL]


@pytest.mark.slow
def test_large_models_take_both_phases_of_each_chunk(
    nodes: Callable[[], None],
    begin: Callable[..., subprocess.Popen],
    pictures: Path,
    models: Path,
    tmp_path: Path,
) -> None:
    for path in sorted(pictures.rglob("*.*g"))[5:]:
        path.unlink()
    options = ("--model", "zimage", "--models-dir", models, "--scale", "2")
    local = finish(begin(tmp_path / "local", *options), 1)
    events = finish(begin(tmp_path / "out", *options, "--engine", "ray"), 1)
    assert ends(events) == ends(local)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "local") != {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code"), [([signal.SIGINT], 130), ([signal.SIGINT] * 2, 130), ([signal.SIGTERM], 143)]
)
def test_signals_end_a_run_on_ray_as_they_end_others(
    signals: list[int],
    code: int,
    begin: Callable[..., subprocess.Popen],
    tmp_path: Path,
) -> None:
    process = begin(tmp_path / "out", "--engine", "ray", "--workers", "2")
    lines = until_done(process, 4)
    for place, number in enumerate(signals):
        if place:
            assert process.stderr is not None
            while "^C again" not in process.stderr.readline():
                assert process.poll() is None
        os.killpg(process.pid, number)
    stdout, stderr = rest(process)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    events = [json.loads(line) for line in [*lines, *stdout.splitlines()]]
    if len(signals) == 1 and code == 130:
        assert events[-1]["unreached"] > 0
    assert left_over(tmp_path / "out") == [JOURNAL]
