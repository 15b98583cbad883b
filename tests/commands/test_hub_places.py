"""INPUT on a hub (hf://): a dataset on loopback, and real processes, as the library reads the hub's address once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ..helpers.dataset_hub import DATASET, TOKEN, dataset_hub
from ..helpers.object_store import encoded

pytestmark = pytest.mark.slow
ADDRESS = f"hf://datasets/{DATASET}"


@pytest.fixture
def files(photo: np.ndarray) -> dict[str, bytes]:
    pictures = {f"in/{'sub/' if n % 2 else ''}{n} b.png": encoded(photo[n : n + 16, :20]) for n in range(4)}
    return {**pictures, "in/notes.txt": b"no picture", "README.md": b"no picture"}


@pytest.fixture
def upscale(tiny_weights: Path, tmp_path: Path) -> Callable[..., tuple[int, dict, str]]:
    """Run the command with that hub; returns its exit code, its last event and its errors."""

    def run(hub: str, *arguments: object, token: str = "") -> tuple[int, dict, str]:
        command = [sys.executable, "-m", "strsr_cli", "upscale", *arguments, "--scale", "2", "--json"]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_HOME": str(tmp_path / "hub"),
            "HF_ENDPOINT": hub,
            "HF_TOKEN": token,
        }
        process = subprocess.run(
            list(map(str, [*command, "--weights", tiny_weights])),
            capture_output=True,
            text=True,
            env=environment,
            timeout=200,
            check=False,
        )
        lines = process.stdout.splitlines()
        return process.returncode, json.loads(lines[-1]) if lines else {}, process.stderr

    return run


def test_datasets_are_read_without_a_copy_on_disk(
    upscale: Callable[..., tuple[int, dict, str]], files: dict[str, bytes], tmp_path: Path
) -> None:
    with dataset_hub(files) as (hub, requests):
        code, run, _ = upscale(hub, f"{ADDRESS}/in", tmp_path / "out")
        assert (code, run["done"], run["passed_over"]) == (0, 4, {"other": 1})
        assert sorted(
            str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")
        ) == [
            "0 b.png",
            "2 b.png",
            "sub/1 b.png",
            "sub/3 b.png",
        ]
        assert not list((tmp_path / "hub").rglob("*.png"))
        requests.clear()
        files["in/2 b.png"] = files["in/0 b.png"]
        code, run, _ = upscale(hub, f"{ADDRESS}/in/", tmp_path / "out")
        assert (code, run["done"], run["skipped"]) == (0, 1, 3)
        assert [request for request in requests if "/resolve/" in request] == [
            f"GET /datasets/{DATASET}/resolve/main/in/2 b.png"
        ]
        code, run, _ = upscale(hub, f"{ADDRESS}/in/0 b.png", tmp_path / "one.png")
        assert (code, run["done"]) == (0, 1)


def test_what_a_hub_has_not_is_said_in_one_line(
    upscale: Callable[..., tuple[int, dict, str]], files: dict[str, bytes], tmp_path: Path
) -> None:
    with dataset_hub(files, private=True) as (hub, _):
        code, _, words = upscale(hub, f"{ADDRESS}/in", tmp_path / "out")
        assert (code, words.count("\n")) == (2, 1)
        assert f"{ADDRESS}/in: no such object or bucket; check the name; if it is private, log in" in words
        code, run, _ = upscale(hub, f"{ADDRESS}/in", tmp_path / "out", token=TOKEN)
        assert (code, run["done"]) == (0, 4)
        code, _, words = upscale(hub, f"{ADDRESS}/none", tmp_path / "out", token=TOKEN)
        assert code == 2
        assert "no images there" in words
    code, _, words = upscale(hub, f"{ADDRESS}/in", tmp_path / "out")
    assert (code, words.count("\n")) == (2, 1)
    assert "cannot be reached" in words
