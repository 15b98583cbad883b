"""The wheel as a user gets it: built from the sources, installed away from them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from ..conftest import EXAMPLES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, ROOT],
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("strsr-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_weights(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("config.json", "model.safetensors", "README.md"):
        assert f"strsr_models/weights/lite/{name}" in names
    for package in ("strsr", "strsr_cli", "strsr_models"):
        assert f"{package}/py.typed" in names
    assert "strsr/upscaler.py" in names
    (page,) = (name for name in names if name.endswith(".data/data/share/man/man1/strsr.1"))
    assert zipfile.ZipFile(wheel).read(page).startswith(b'.\\" Made by')
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {
        "strsr",
        "strsr_cli",
        "strsr_models",
    }


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([tmp_path / "venv/bin/pip", "install", "-q", wheel], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [tmp_path / "venv/bin/strsr", "upscale", EXAMPLES, "out", "--scale", "4", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["failed"], summary["done"]) == (0, 5)
    with Image.open(tmp_path / "out" / "cat.png") as image:
        assert image.size == (640, 480)
    statement = f"import strsr; strsr.upscale({str(EXAMPLES / 'cat.png')!r}, output='own.png')"
    python = [tmp_path / "venv/bin/python", "-c", statement]
    subprocess.run(python, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "out" / "cat.png").read_bytes()
