"""The time until something is to be seen: fresh processes of the command, timed from outside."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import strsr_models
from strsr_models.errors import StrsrError

PATIENCE = 600  # seconds until a process that shows nothing is given up
POLL_EVERY = 0.002  # seconds
ROOTS = [str(Path(str(file)).resolve().parents[1]) for file in (__file__, strsr_models.__file__)]


def seconds_to_help(runs: int) -> float:
    """The seconds until `strsr --help` has answered; the median of the runs."""
    return statistics.median(_seconds(["--help"], None) for _ in range(runs))


def seconds_to_output(arguments: list[str], output: Path, runs: int) -> float:
    """The seconds until `strsr upscale ARGUMENTS` has written its output; the median of the runs.

    arguments: with absolute paths. The output is removed.
    """
    seconds = []
    for _ in range(runs):
        output.unlink(missing_ok=True)
        seconds.append(_seconds(["upscale", *arguments], output))
    output.unlink(missing_ok=True)
    return statistics.median(seconds)


def _seconds(arguments: list[str], output: Path | None) -> float:
    """The seconds until the output is there or, where none is to come, until the process has ended well."""
    command = [sys.executable, "-m", "strsr_cli", *arguments]
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    began = time.perf_counter()
    # The process starts in the package's own folder, where python -m looks before all others.
    with subprocess.Popen(command, cwd=ROOTS[0], env=_environment(), **streams) as process:
        try:
            while output is not None and process.poll() is None and not output.exists():
                if time.perf_counter() - began > PATIENCE:
                    raise StrsrError(f"strsr {' '.join(arguments)}: nothing came within {PATIENCE} s")
                time.sleep(POLL_EVERY)
            seconds = time.perf_counter() - began
            complaint = process.communicate()[1]
        finally:
            process.kill()
    if process.returncode != 0:
        last = complaint.strip().splitlines()[-1:] or ["no reason given"]
        raise StrsrError(f"strsr {' '.join(arguments)}: exit code {process.returncode}: {last[0]}")
    return seconds if output is not None else time.perf_counter() - began


def _environment() -> dict[str, str]:
    """The environment of this process, in which the packages that it runs itself are found first."""
    folders = list(ROOTS)
    inherited = os.environ.get("PYTHONPATH")
    if inherited:
        folders.append(inherited)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
