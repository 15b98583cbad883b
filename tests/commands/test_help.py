"""The help pages, as a person at a terminal of 100 columns sees them; `make golden` makes them again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "golden" / "help"
COMMANDS = [
    "",
    "upscale",
    "train",
    "distill",
    "export",
    "doctor",
    "fft-inspect",
    "evaluate",
    "bench",
    "serve",
    "models",
]


COMMANDS += [f"models {name}" for name in ("list", "pull", "verify", "path")]
COMMANDS += ["upscale --help-all"]
# What `python -m strsr_cli COMMAND --help` does, for each command in turn.
ALL_PAGES = """
import contextlib, runpy, sys
for command in sys.argv[1:]:
    sys.argv = ["strsr", *command.split(), "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module("strsr_cli", run_name="__main__", alter_sys=True)
    print(end="\\f")
"""


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The help page of each command, all by one process."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    environment.pop("GITHUB_ACTIONS", None)
    program = [sys.executable, "-c", ALL_PAGES, *COMMANDS]
    result = subprocess.run(program, capture_output=True, text=True, check=True, env=environment)
    return dict(zip(COMMANDS, result.stdout.split("\f")[:-1], strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_pages_are_the_stored_ones(command: str, pages: dict[str, str]) -> None:
    seen = "\n".join(line.rstrip() for line in pages[command].splitlines()) + "\n"
    path = GOLDEN / f"{command.replace(' --', '-').replace(' ', '-') or 'strsr'}.txt"
    if os.environ.get("STRSR_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(seen)
    assert seen == path.read_text()
