"""scripts/lowest.py: what `make lowest` installs is the lower bound of everything that pyproject.toml names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "lowest.py"


def test_each_requirement_is_held_to_its_lower_bound() -> None:
    code = "import lowest; print(*lowest.lowest_requirements(), sep='\\n')"
    lines = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(lines) > 30
    for line in lines:
        # One bound each, and nothing above it: "torch==2.6.*", perhaps with extras and a marker behind it.
        assert re.fullmatch(r"[\w.-]+(\[\w+\])?==\d[\w.]*\.\*(; .*)?", line), line
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in lines}  # type: ignore[index]
    assert {"torch", "peft", "torchao", "s3fs", "ray", "pytest"} <= names
    assert "ruff" not in names
