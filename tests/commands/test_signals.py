"""Signals and readers that go away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strsr_cli.batch.journal_files import JOURNAL
from strsr_cli.system.signals import OUR_THREADS

from ..helpers.upscale_runs import left_over


def test_the_first_interrupt_finishes_what_is_under_way(
    start: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    process = start("--json", wait=True)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert b"^C again stops at once" in stderr
    assert b"Traceback" not in stderr
    last = json.loads(stdout.splitlines()[-1])
    assert last["event"] == "summary"
    assert last["unreached"] == 42 - last["done"] > 0
    assert left_over(tmp_path / "out") == [JOURNAL]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_means_it_leaves_nothing_behind(
    number: signal.Signals,
    code: int,
    start: Callable[..., subprocess.Popen],
    folder: Path,
    photo: np.ndarray,
    tmp_path: Path,
) -> None:
    Image.fromarray(np.tile(photo, (8, 8, 1))).save(folder / "b-large.png")  # seconds
    process = start("--scale", "8", "--tile", "256", wait=True)
    time.sleep(0.5)
    process.send_signal(number)
    if number == signal.SIGINT:
        assert process.stderr is not None
        while b"^C again" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == code, stderr
    assert stderr.endswith(b"strsr: interrupted\n")
    assert left_over(tmp_path / "out") == [JOURNAL]
    assert not (tmp_path / "out" / "b-large.png").exists()


def test_leaving_does_not_wait_for_threads_that_compute() -> None:
    code = (
        "import threading; from strsr_cli.system.signals import leave_at_once;"
        "threading.Thread(target=threading.Event().wait, name=NAME, daemon=True).start(); leave_at_once(143)"
    )
    ours, others = (code.replace("NAME", repr(name)) for name in (OUR_THREADS + "restore", "others"))
    assert subprocess.run([sys.executable, "-c", others], check=False, timeout=30).returncode == 0
    assert subprocess.run([sys.executable, "-c", ours], check=False, timeout=30).returncode == 143


def test_a_reader_that_goes_away_is_no_error(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "strsr_cli", "upscale", folder, tmp_path / "out", "--dry-run", "--json"]
    for name in ("a.png", "sub/b.jpg"):  # nothing to make: no network is measured
        (folder / name).write_text("no image")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 141
    assert stderr == b""
