"""Fixtures of the commands: a small folder to upscale, in this process and in another."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from strsr_cli.app import app
from strsr_cli.batch.job import ARRAYS


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID")
    for name in (*names, *ARRAYS, *ARRAYS.values()):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    Image.fromarray(photo[:20, :25]).save(root / "a.png")
    Image.fromarray(photo[:15, :10]).save(root / "sub" / "b.jpg")
    (root / "broken.png").write_text("not an image")
    (root / ".DS_Store").touch()
    (root / "notes.txt").touch()
    return root


@pytest.fixture
def go(folder: Path, tiny_weights: Path, tmp_path: Path) -> Callable[..., dict]:
    """Run on in/ and out/, or on what is given; returns the last event, with the others as `events`."""

    def run(*options: object, paths: tuple[object, ...] = (folder, tmp_path / "out"), code: int = 1) -> dict:
        args = ["upscale", *paths, "--scale", 2, "--weights", tiny_weights, "--json", *options]
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        assert result.exit_code == code, result.output
        events = [json.loads(line) for line in result.stdout.splitlines()]
        last = events[-1]
        if last["event"] == "summary":
            parts = ("done", "skipped", "failed", "left", "unreached")
            assert last["found"] == sum(last[part] for part in parts)
        return {**last, "events": events}

    return run


@pytest.fixture
def start(folder: Path, tiny_weights: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Begin a run of many images in another process; waits until it has made one, if asked to."""
    (folder / "broken.png").unlink()
    for number in range(40):
        shutil.copy(folder / "a.png", folder / f"copy{number:02}.png")
    running: list[subprocess.Popen] = []

    def begin(*options: str, wait: bool = False) -> subprocess.Popen:
        out = tmp_path / "out"
        command = [
            sys.executable,
            "-m",
            "strsr_cli",
            "upscale",
            folder,
            out,
            "--weights",
            tiny_weights,
            *options,
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        running.append(process)
        while wait and not list(out.glob("*.png")):
            time.sleep(0.01)
            assert process.poll() is None
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()
