"""Killed at any moment: no output that looks finished is not, and the next run makes what is missing."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from ..helpers.image_files import small_files
from ..hostile.batch import command, environment, strsr

Run = Callable[..., Result]
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".avif")
# The command, killed where it renames its first picture: before that, or right after.
KILLED_AT_RENAME = """
import os, signal, sys
rename = os.replace
def replace(source, target):
    if not str(target).endswith((".png", ".jpg")):
        return rename(source, target)
    if sys.argv[1] == "after":
        rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
from strsr_cli.app import app
app(args=sys.argv[2:], prog_name="strsr")
"""


def outputs(folder: Path) -> dict[str, bytes]:
    """All that is there under names that are not hidden."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not re.search(r"(^|/)\.", name)}


def leftovers(folder: Path) -> list[str]:
    """Pictures that were never finished."""
    return sorted(path.name for path in folder.rglob(".strsr-*") if path.suffix in SUFFIXES)


@pytest.fixture
def pictures(tmp_path: Path, photo: np.ndarray) -> Path:
    """Two hundred small pictures of many formats, in two folders; no two are alike."""
    root = tmp_path / "in"
    (root / "below").mkdir(parents=True)
    for number in range(196):
        part = photo[number % 70 :, number % 96 :][:48, :64]
        suffix = SUFFIXES[number % len(SUFFIXES)]
        Image.fromarray(part).save(root / ("below" if number % 2 else "") / f"{number:02}{suffix}")
    for name in ("deep.png", "deep.tif", "float.tif", "gray.jpg"):
        (root / name).write_bytes(small_files()[name])
    return root


@pytest.mark.slow
def test_a_run_killed_thirty_times_comes_to_its_end(pictures: Path, tmp_path: Path) -> None:
    """STRSR_CRASH_RUNS says how many; each is killed after a seeded time from its start or its first output."""
    runs = int(os.environ.get("STRSR_CRASH_RUNS", "30"))
    start, work = timed(pictures, tmp_path / "whole")
    whole, out, rng = outputs(tmp_path / "whole"), tmp_path / "out", random.Random(30)
    assert len(whole) == 200
    made = []
    for _ in range(runs):
        if rng.random() < 0.2:
            kill(pictures, out, rng.uniform(0, 0.8 * start), at_once=True)
        else:
            kill(pictures, out, rng.uniform(0, work / 4 / runs), at_once=False)
        there = outputs(out)
        assert {name: whole.get(name) == data for name, data in there.items()} == dict.fromkeys(there, True)
        made.append(len(there))
    assert made == sorted(made), "a finished output has gone"
    assert made[-1] < len(whole), "nothing was left for the last run"
    print(f"{runs} runs killed, outputs after each: {made}; unfinished files: {len(leftovers(out))}")
    last = strsr("upscale", pictures, out)
    assert last.returncode == 0, last.stderr
    assert outputs(out) == whole
    assert leftovers(out) == []


def timed(folder: Path, out: Path) -> tuple[float, float]:
    """Run to the end: (seconds to the first output, seconds from there to the last)."""
    began = time.monotonic()
    process = begin(folder, out)
    assert process.stdout is not None
    done = [time.monotonic() for line in process.stdout if '"event": "done"' in line]
    process.stdout.close()
    assert process.wait() == 0
    return done[0] - began, done[-1] - done[0]


def begin(folder: Path, out: Path) -> subprocess.Popen[str]:
    own = command("upscale", folder, out, "--json")
    return subprocess.Popen(own, stdout=subprocess.PIPE, env=environment(), text=True)


def kill(folder: Path, out: Path, seconds: float, at_once: bool) -> None:
    """Run the command, and kill it so many seconds after its start or after its first output."""
    process = begin(folder, out)
    assert process.stdout is not None
    if not at_once:
        for line in process.stdout:
            if '"event": "done"' in line:
                break
    time.sleep(seconds)
    process.kill()
    process.stdout.close()
    assert process.wait() in (-9, 0)  # 0: nothing was left to do, which is told at the end


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_killed_while_it_renames_leaves_whole_files(
    moment: str, strsr: Run, photo: np.ndarray, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.jpg"):
        Image.fromarray(photo[:20, :30]).save(tmp_path / "in" / name)
    args = ("upscale", tmp_path / "in", tmp_path / "out", "--weights", tiny_weights)
    whole = ("upscale", tmp_path / "in", tmp_path / "whole", "--weights", tiny_weights)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_RENAME, moment, *map(str, args)], env=environment(), check=False
    )
    assert killed.returncode == -9
    there = outputs(tmp_path / "out")
    assert len(there) == (0 if moment == "before" else 1)
    assert moment == "after" or leftovers(tmp_path / "out")
    assert strsr(*whole).exit_code == 0
    assert there.items() <= outputs(tmp_path / "whole").items()
    assert strsr(*args).exit_code == 0
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")
    assert leftovers(tmp_path / "out") == []


@pytest.mark.slow
def test_runs_of_other_settings_killed_at_the_rename_go_on(
    strsr: Run, photo: np.ndarray, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(photo[:20, :30]).save(tmp_path / "in" / "b.jpg")
    args = ("upscale", tmp_path / "in", tmp_path / "out", "--weights", tiny_weights, "--quality")
    assert strsr(*args, 90).exit_code == 0
    before = outputs(tmp_path / "out")
    for quality in ("80", "70"):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_AT_RENAME, "before", *map(str, args), quality],
            env=environment(),
            check=False,
        )
        assert killed.returncode == -9
        assert outputs(tmp_path / "out") == before
    assert "1 skipped" in strsr(*args, 90).stderr
    assert "1 done" in strsr(*args, 60).stderr
    assert outputs(tmp_path / "out") != before
    assert leftovers(tmp_path / "out") == []
