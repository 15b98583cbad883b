"""JPEG and deep PNG on systems without the libraries of a desktop, in processes that cannot load them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..conftest import EXAMPLES

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="LD_LIBRARY_PATH is Linux's")


def run_strsr(*args: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "strsr_cli", *map(str, args)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def without_libgl(tmp_path: Path) -> dict[str, str]:
    """The environment of a system whose libGL cannot be loaded: an empty file stands before any other."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "libGL.so.1").touch()
    environment = {"LD_LIBRARY_PATH": str(folder)}
    loading = [sys.executable, "-c", "import ctypes; ctypes.CDLL('libGL.so.1')"]
    hidden = subprocess.run(loading, env={**os.environ, **environment}, capture_output=True, check=False)
    assert b"file too short" in hidden.stderr
    return environment


@LINUX
def test_jpeg_and_deep_png_want_no_libgl(
    without_libgl: dict[str, str], tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.arange(0, 30_000, 50, dtype=np.uint16).reshape(20, 30)).save(tmp_path / "in/deep.png")
    Image.open(EXAMPLES / "cat.png").crop((0, 0, 30, 20)).save(tmp_path / "in/plain.png")
    options = ("--format", "jpg", "--weights", tiny_weights, "--scale", 2)
    run = run_strsr("upscale", tmp_path / "in", tmp_path / "out", *options, **without_libgl)
    assert run.returncode == 0, run.stderr
    for name in ("deep.jpg", "plain.jpg"):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.format, image.size) == ("JPEG", (60, 40))


def test_a_broken_opencv_fails_jpeg_alone_and_early(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2/__init__.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file')"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.png"):
        Image.open(EXAMPLES / "cat.png").crop((0, 0, 30, 20)).save(tmp_path / "in" / name)
    arguments = ("upscale", tmp_path / "in", tmp_path / "out", "--weights", tiny_weights)
    planned = run_strsr(*arguments, "--dry-run", PYTHONPATH=path)
    assert "1 to make, 0 skipped, 1 will fail" in planned.stdout
    run = run_strsr(*arguments, PYTHONPATH=path)
    assert run.returncode == 1
    assert [path.name for path in (tmp_path / "out").glob("*.*g")] == ["b.png"]
    (line,) = [line for line in run.stderr.splitlines() if "OpenCV" in line]
    assert "libGL.so.1" in line
    assert "pip install --force-reinstall --no-deps opencv-python-headless" in line
    assert "Traceback" not in run.stderr
    assert "bug" not in run.stderr
