"""Escape codes: on a terminal that takes them, and nowhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..hostile.batch import command, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
FORCING = {"GITHUB_ACTIONS": "1", "PY_COLORS": "1"}
PAGES = (
    ["--help"],
    ["upscale", "--help"],
    ["upscale", "--nix"],
    ["upscale", "none.png", "out"],
    ["models", "list"],
)


def on_a_terminal(*args: object, **variables: str) -> bytes:
    """What a command sends to a terminal of 200 columns, on both of its streams."""
    main, side = pty.openpty()
    variables = {"TERM": "xterm-256color", "COLUMNS": "200", "NO_COLOR": "", **variables}
    process = subprocess.Popen(command(*args), stdout=side, stderr=side, env=environment(**variables))
    os.close(side)
    seen = b""
    while True:
        try:
            block = os.read(main, 65536)
        except OSError:
            # Linux says so at the end.
            break
        if not block:
            break
        seen += block
    process.wait(60)
    os.close(main)
    return seen


@pytest.mark.parametrize(
    "wish",
    [
        {"NO_COLOR": "1", "FORCE_COLOR": "1"},
        pytest.param({"NO_COLOR": "1"}, marks=pytest.mark.slow),
        pytest.param({"TERM": "dumb"}, marks=pytest.mark.slow),
    ],
)
def test_a_terminal_that_wants_no_codes_gets_none(
    wish: dict[str, str], photo: np.ndarray, tmp_path: Path, tiny_weights: Path
) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(photo[:32, :32]).save(tmp_path / name)
    (tmp_path / "broken.png").touch()
    runs = [
        *PAGES,
        ["fft-inspect", tmp_path],
        ["upscale", tmp_path, tmp_path / "out", "--weights", tiny_weights],
    ]
    for args in runs:
        seen = on_a_terminal(*args, **wish)
        assert seen
        assert b"\x1b" not in seen, args
    assert b"2 done, 0 skipped, 1 failed" in seen


def test_other_terminals_get_colours() -> None:
    assert b"\x1b[31mstrsr: none.png: no such file or folder" in on_a_terminal("upscale", "none.png", "out")
    assert b"\x1b" in on_a_terminal("--help")


@pytest.mark.parametrize("forcing", [FORCING, pytest.param({}, marks=pytest.mark.slow)])
def test_what_is_no_terminal_gets_no_codes(forcing: dict[str, str]) -> None:
    env = {key: value for key, value in environment(**forcing).items() if key != "FORCE_COLOR"}
    for args in PAGES:
        ran = subprocess.run(command(*args), env=env, capture_output=True, check=False)
        assert ran.stdout + ran.stderr
        assert b"\x1b" not in ran.stdout + ran.stderr


def test_a_terminal_gets_a_table_or_blocks_by_its_width(tmp_path: Path) -> None:
    wide = on_a_terminal("models", "list", "--models-dir", tmp_path, COLUMNS="200").decode()
    assert re.search(r"^\x1b\[1mname +state +size +licence +repository\x1b\[0m\r$", wide, re.MULTILINE)
    narrow = on_a_terminal("models", "list", "--models-dir", tmp_path, COLUMNS="80").decode()
    assert "\r\n  licence     Apache-2.0\r\n" in narrow
