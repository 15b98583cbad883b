"""NVIDIA's cards beside a PyTorch that cannot use them: said by doctor and by the first line of a run.

The card is a driver's tool of our own on PATH, and the PyTorch is the one installed, but for its file of versions.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the tool is a shell script, and torch is linked"
)

FOR_THE_CPU = """
__version__ = '2.99.0+cpu'
debug = False
cuda: str | None = None
git_version = '0'
hip: str | None = None
"""


def write_tool(folder: Path, script: str) -> str:
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def with_card(tmp_path: Path) -> dict[str, str]:
    """An environment whose driver lists a card, and whose PyTorch is for the CPU alone."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = tmp_path / "site" / "torch"
    torch.mkdir(parents=True)
    for entry in Path(spec.origin).parent.iterdir():
        (torch / entry.name).symlink_to(entry)
    (torch / "version.py").unlink()
    (torch / "version.py").write_text(FOR_THE_CPU)
    listing = 'test "$1" = --list-gpus && echo "GPU 0: NVIDIA GeForce RTX 3060 (UUID: GPU-1)"'
    return {
        "PATH": write_tool(tmp_path / "tools", listing),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]),
    }


def run_strsr(environment: dict[str, str], *args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "strsr_cli", *map(str, args)]
    environment = {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_doctor_says_that_a_card_lies_idle(with_card: dict[str, str]) -> None:
    examination = json.loads(run_strsr(with_card, "doctor", "--json").stdout)
    assert examination["torch"] == "2.99.0+cpu"
    assert "RTX 3060" in examination["advice"]
    assert examination["advice"] in run_strsr(with_card, "doctor").stdout


def test_a_run_begins_with_the_command_that_mends_it(
    with_card: dict[str, str], tiny_weights: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 20), "teal").save(tmp_path / "a.png")
    arguments = ("upscale", tmp_path / "a.png", tmp_path / "b.png", "--weights", tiny_weights, "--scale", 2)
    run = run_strsr(with_card, *arguments)
    assert run.returncode == 0, run.stderr
    first = run.stderr.splitlines()[0]
    assert first.startswith("NVIDIA GeForce RTX 3060: not used")
    assert "pip install --force-reinstall torch torchvision" in first
    assert (tmp_path / "b.png").exists()
    chosen = run_strsr(with_card, *arguments, "--device", "cpu", "--replace")
    assert "RTX" not in chosen.stderr
    asked = run_strsr(with_card, *arguments, "--device", "cuda", "--replace")
    assert asked.returncode == 3
    assert (
        "0 CUDA devices here for this PyTorch, which is for the CPU alone (pip install --force-reinstall"
        in asked.stderr
    )


def advice(environment: dict[str, str]) -> str:
    asking = "from strsr_cli.system.machine import advice_on_cuda; print(advice_on_cuda())"
    command, environment = [sys.executable, "-c", asking], {**os.environ, **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "script", ["echo 'No devices were found'", "echo 'NVIDIA-SMI has failed' >&2; exit 9", "echo 'GPU 0' >&2"]
)
def test_a_driver_without_a_card_is_nothing_to_speak_of(
    with_card: dict[str, str], tmp_path: Path, script: str
) -> None:
    assert "RTX 3060" in advice(with_card)
    assert advice({**with_card, "PATH": write_tool(tmp_path / "other", script)}) == "None\n"


def test_a_pytorch_with_cuda_needs_no_advice(with_card: dict[str, str], tmp_path: Path) -> None:
    version = tmp_path / "site" / "torch" / "version.py"
    version.write_text(FOR_THE_CPU.replace("cuda: str | None = None", "cuda: str | None = '12.8'"))
    assert advice(with_card) == "None\n"
