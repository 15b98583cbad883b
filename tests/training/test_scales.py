"""Weights for small scales, from their training to the pictures that they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import Result

import strsr as library

Run = Callable[..., Result]

SETTINGS = [
    "trains=decoder",
    "coach=none",
    "fdl_weight=0",
    "perceptual_weight=0",
    "steps=2",
    "warmup_steps=1",
    "learning_rate=0.01",
    "batch_size=2",
    "crop_size=64",
    "judge_shift=0",
    "ema_decay=0",
    "workers=0",
    "device=cpu",
    "precision=fp32",
    "tensorboard=false",
]


@pytest.fixture
def train(strsr: Run, photos: Path, tmp_path: Path) -> Callable[..., Path]:
    """Run `strsr distill` from a folder of weights; returns the run."""

    def run(student: Path, name: str, *settings: str) -> Path:
        out = tmp_path / name
        words = ("distill", "--data", photos, "--student", student, "--out", out)
        result = strsr(*words, *(word for entry in [*SETTINGS, *settings] for word in ("--set", entry)))
        assert result.exit_code == 0, result.output
        return out

    return run


@pytest.fixture
def weights(train: Callable[..., Path], strsr: Run, tiny_weights: Path, tmp_path: Path) -> Path:
    """The tiny weights with those for x2 and x1 that runs from there made."""
    second = train(tiny_weights, "second")
    first = train(second / "model", "first", "seed=3")
    result = strsr("export", tiny_weights, tmp_path / "weights", "--x2", second, "--x1", first)
    assert result.exit_code == 0, result.output
    return tmp_path / "weights"


@pytest.fixture
def pictures(photo: np.ndarray, tmp_path: Path) -> Path:
    """A folder of pictures of 32, 64 and 120 px."""
    folder = tmp_path / "in"
    folder.mkdir()
    for side in (32, 64, 120):
        Image.fromarray(photo[:side, :side]).save(folder / f"{side}.png")
    return folder


def test_an_export_has_decoders_for_small_scales(weights: Path, tiny_weights: Path) -> None:
    own, start = (load_file(folder / "model.safetensors") for folder in (weights, tiny_weights))
    assert all(own[name].equal(start[name]) for name in start)
    for name in ("x2", "x1"):
        tensors = load_file(weights / f"{name}.safetensors")
        assert all(key.startswith("decoder.") for key in tensors)
        assert any(not tensor.equal(own[key]) for key, tensor in tensors.items())


def test_each_picture_of_a_folder_has_the_weights_of_its_scale(
    strsr: Run, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    """They are enlarged by 4, 2 and 1.07, and come out as each of them alone, by the library as well."""
    options = ("--width", "128", "--weights", weights, "--tile", "64")
    assert strsr("upscale", pictures, tmp_path / "out", *options).exit_code == 0
    upscaler = library.Upscaler(weights=weights, tile=64)
    for side, scale in ((32, 4), (64, 2), (120, 128 / 120)):
        alone = tmp_path / f"{side}.png"
        assert strsr("upscale", pictures / alone.name, alone, *options).exit_code == 0
        made = np.asarray(Image.open(tmp_path / "out" / alone.name))
        assert np.array_equal(made, np.asarray(Image.open(alone)))
        assert np.array_equal(made, np.asarray(upscaler.upscale(pictures / alone.name, scale)))


def test_small_scales_have_their_own_weights_and_four_has_not(
    strsr: Run, weights: Path, tiny_weights: Path, pictures: Path, tmp_path: Path
) -> None:
    made = {}
    for name, folder in (("all", weights), ("plain", tiny_weights)):
        for scale in ("1", "2", "3", "4"):
            out = tmp_path / f"{name}-{scale}.png"
            command = ("upscale", pictures / "32.png", out, "--scale", scale, "--weights", folder)
            assert strsr(*command).exit_code == 0
            made[name, scale] = out.read_bytes()
    assert [made["all", scale] == made["plain", scale] for scale in "1234"] == [False, False, False, True]


def test_other_weights_for_a_scale_make_pictures_again(
    strsr: Run, weights: Path, pictures: Path, tmp_path: Path
) -> None:
    command = ("upscale", pictures, tmp_path / "out", "--scale", "2", "--weights", weights)
    assert "3 done" in strsr(*command).output
    assert "3 skipped" in strsr(*command).output
    (weights / "x2.safetensors").write_bytes((weights / "x1.safetensors").read_bytes())
    assert "3 done" in strsr(*command).output


def test_export_refuses_runs_that_are_not_of_the_decoder_alone(
    strsr: Run, train: Callable[..., Path], tiny_weights: Path, tmp_path: Path
) -> None:
    run = train(tiny_weights, "all", "trains=all")
    result = strsr("export", tiny_weights, tmp_path / "out", "--x2", run)
    assert result.exit_code == 2
    assert 'more than its decoder was trained; train it with trains="decoder"' in result.stderr
    same = strsr("export", tiny_weights, tmp_path / "out", "--x1", tiny_weights)
    assert (same.exit_code, "--x1" in same.stderr, "has the very weights of" in same.stderr) == (
        2,
        True,
        True,
    )
    assert not (tmp_path / "out").exists()
