"""The help pages, as a person at a terminal of 100 columns sees them; `make golden` makes them again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "golden" / "help"
COMMANDS = ["", "upscale", "train", "distill", "export", "doctor", "fft-inspect", "bench", "models"]


@pytest.mark.parametrize(
    "command", [*COMMANDS, *(f"models {name}" for name in ("list", "pull", "verify", "path"))]
)
def test_help_pages_are_the_stored_ones(command: str) -> None:
    environment = {**os.environ, "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "COLUMNS": "100"}
    environment.pop("GITHUB_ACTIONS", None)
    result = subprocess.run(
        [sys.executable, "-m", "strsr_cli", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    seen = "\n".join(line.rstrip() for line in result.stdout.splitlines()) + "\n"
    path = GOLDEN / f"{command.replace(' ', '-') or 'strsr'}.txt"
    if os.environ.get("STRSR_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(seen)
    assert seen == path.read_text()
