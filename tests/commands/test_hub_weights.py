"""`--weights hf:owner/name`: exports of one's own, fetched from a hub of our own into the cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

import strsr as library
from strsr_cli.setup.cache import cache_folder

from ..helpers.fake_hub import COMMIT, FakeHub
from .test_models import hub as hub  # noqa: PLC0414  (a fixture)
from .test_models import one_line

Run = Callable[..., Result]
NAME = "someone/tiny"


@pytest.fixture
def exported(hub: FakeHub, tiny_weights: Path) -> FakeHub:
    """The hub with an export of the tiny network, beside files that are not wanted."""
    files = {path.name: path.read_bytes() for path in tiny_weights.iterdir()}
    hub.repositories[NAME] = {**files, "README.md": b"a card", "pytorch_model.bin": b"not wanted"}
    return hub


@pytest.fixture
def upscale(strsr: Run, tmp_path: Path, photo: object) -> Callable[..., Result]:
    """Enlarge a small picture into another file."""
    Image.new("RGB", (12, 10), "teal").save(tmp_path / "a.png")

    def run(weights: object, out: str = "b.png") -> Result:
        words = ("upscale", tmp_path / "a.png", tmp_path / out, "--scale", 2, "--device", "cpu")
        return strsr(*words, "--precision", "fp32", "--weights", weights)

    return run


def test_exports_are_fetched_once_and_work_offline(
    exported: FakeHub,
    upscale: Callable[..., Result],
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = upscale(f"hf:{NAME}")
    assert result.exit_code == 0, result.output
    assert [path for path, _ in exported.requests] == ["config.json", "model.safetensors"]
    assert upscale(tiny_weights, "same.png").exit_code == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "same.png").read_bytes()
    assert not (tmp_path / "models").exists()

    exported.requests.clear()
    assert upscale(f"hf:{NAME}@{COMMIT}", "c.png").exit_code == 0
    assert upscale(f"hf:{NAME}@main", "d.png").exit_code == 0
    assert library.upscale(tmp_path / "a.png", 2, weights=f"hf:{NAME}", device="cpu").size == (24, 20)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert upscale(f"hf:{NAME}", "e.png").exit_code == 0
    # Nor does it matter that nobody answers.
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert upscale(f"hf:{NAME}", "f.png").exit_code == 0
    assert exported.requests == []


def test_what_cannot_be_fetched_takes_one_line(
    exported: FakeHub, upscale: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "expected hf:owner/name" in one_line(upscale("hf:tiny"), 2)
    assert "expected hf:owner/name" in one_line(upscale("hf:a/b/c"), 2)
    assert "someone/other: not at" in one_line(upscale("hf:someone/other"))
    assert "has no such revision" in one_line(upscale(f"hf:{NAME}@v9"))
    exported.gated.add(NAME)
    assert "licence must be accepted first" in one_line(upscale(f"hf:{NAME}"))
    exported.gated.clear()
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert "offline (HF_HUB_OFFLINE is set), and config.json is not in" in one_line(upscale(f"hf:{NAME}"))
        patch.delenv("HF_HUB_OFFLINE")
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert "cannot be pulled from http://127.0.0.1:9" in one_line(upscale(f"hf:{NAME}"))
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"README.md": b"a"}, "it has no config.json"),
        ({"config.json": b'{"family": "lite"}', "pytorch_model.bin": b"x"}, "it has no model.safetensors"),
        ({"config.json": b'{"model_type": "bert"}', "model.safetensors": b"x"}, "is of no model of strsr"),
        ({"config.json": b"<html>", "model.safetensors": b"x"}, "is of no model of strsr"),
        (
            {"config.json": b'{"family": "flux2"}', "lora.safetensors": b"x"},
            "it has no projector.safetensors",
        ),
    ],
)
def test_repositories_of_something_else_are_told(
    files: dict[str, bytes], words: str, hub: FakeHub, upscale: Callable[..., Result]
) -> None:
    hub.repositories[NAME] = files
    message = one_line(upscale(f"hf:{NAME}"))
    assert "is no export of strsr" in message
    assert words in message
    assert not [path for path, _ in hub.requests if path.endswith((".bin", "model.safetensors"))]


def test_exports_that_come_damaged_are_not_kept(exported: FakeHub, upscale: Callable[..., Result]) -> None:
    exported.damaged.add("model.safetensors")
    assert "came damaged" in one_line(upscale(f"hf:{NAME}"))
    exported.damaged.clear()
    assert upscale(f"hf:{NAME}").exit_code == 0
    shutil.rmtree(cache_folder())
    exported.portal = "files"
    one_line(upscale(f"hf:{NAME}", "c.png"))
