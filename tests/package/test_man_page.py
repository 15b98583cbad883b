"""The manual page is the one that the commands make, and is read without complaint."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "strsr.1"


def test_the_manual_page_is_that_of_these_commands() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "make_man_page.py"))["page"]()
    assert made == PAGE.read_text(), "run python scripts/make_man_page.py"


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_groff_reads_the_manual_page_without_a_word() -> None:
    result = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", PAGE], capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    # Bold letters are struck twice.
    text = re.sub(".\b|\x1b\\[[0-9;]*m", "", result.stdout)
    for heading in ("STRSR UPSCALE", "STRSR MODELS PULL", "ENVIRONMENT", "FILES"):
        assert f"\n{heading}\n" in text
