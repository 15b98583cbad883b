"""The faithful end of --fidelity, from its training to the pictures that it makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
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
def train(strsr: Run, photos: Path, tiny_weights: Path) -> Run:
    """Run `strsr distill` from the tiny weights into a folder, with settings of its own."""
    words = ("distill", "--data", photos, "--student", tiny_weights, "--out")

    def run(out: Path, *settings: str) -> Result:
        return strsr(*words, out, *(word for entry in [*SETTINGS, *settings] for word in ("--set", entry)))

    return run


@pytest.fixture
def weights(train: Run, strsr: Run, tiny_weights: Path, tmp_path: Path) -> Path:
    """The tiny weights with the faithful end that a run from there made."""
    result = train(tmp_path / "run")
    assert result.exit_code == 0, result.output
    result = strsr("export", tiny_weights, tmp_path / "weights", "--faithful", tmp_path / "run")
    assert result.exit_code == 0, result.output
    return tmp_path / "weights"


@pytest.fixture
def upscale(strsr: Run, weights: Path, photo: np.ndarray, tmp_path: Path) -> Run:
    """Run `strsr upscale` from a folder of two pictures into another, with those weights."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        Image.fromarray(photo[:40, :32]).save(tmp_path / "in" / f"{name}.png")
    return partial(strsr, "upscale", tmp_path / "in", tmp_path / "out", "--weights", weights, "--json")


def counts(result: Result) -> tuple[int, int]:
    """How many pictures were made and skipped."""
    assert result.exit_code in (0, 2), result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    return summary["done"], summary["skipped"]


def test_nothing_but_the_decoder_trains(weights: Path, tiny_weights: Path) -> None:
    faithful = load_file(weights / "faithful.safetensors")
    assert faithful
    assert all(name.startswith("decoder.") for name in faithful)
    own, start = (load_file(folder / "model.safetensors") for folder in (weights, tiny_weights))
    assert all(own[name].equal(start[name]) for name in start)


def test_fidelity_is_part_of_an_outputs_settings(upscale: Run, tmp_path: Path) -> None:
    assert counts(upscale("--fidelity", "1")) == (2, 0)
    faithful = (tmp_path / "out" / "a.png").read_bytes()
    assert counts(upscale("--fidelity", "1")) == (0, 2)
    assert counts(upscale()) == (2, 0)
    assert (tmp_path / "out" / "a.png").read_bytes() != faithful
    assert counts(upscale("--fidelity", "0")) == (0, 2)


def test_another_faithful_end_makes_pictures_again(
    upscale: Run, train: Run, strsr: Run, weights: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    assert counts(upscale("--fidelity", "0.5")) == (2, 0)
    assert train(tmp_path / "run2", "seed=9").exit_code == 0
    assert strsr("export", tiny_weights, tmp_path / "w2", "--faithful", tmp_path / "run2").exit_code == 0
    (tmp_path / "w2" / "faithful.safetensors").replace(weights / "faithful.safetensors")
    assert counts(upscale("--fidelity", "0.5")) == (2, 0)


def test_the_library_makes_the_commands_picture(upscale: Run, weights: Path, tmp_path: Path) -> None:
    assert upscale("--fidelity", "0.5").exit_code == 0
    made = library.upscale(tmp_path / "in" / "a.png", weights=weights, fidelity=0.5)
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(made))


def test_provenance_names_the_fidelity(upscale: Run, tmp_path: Path) -> None:
    assert upscale("--fidelity", "0.25", "--provenance").exit_code == 0
    assert b"; fidelity 0.25; scale 4" in (tmp_path / "out" / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--fidelity", "1.5"], 2, "less than or equal to 1"),
        (["--fidelity", "nan"], 2, "less than or equal to 1"),
        (["--fidelity", "0.5", "--model", "zimage"], 2, "--fidelity: is for --model lite, not zimage"),
    ],
)
def test_a_fidelity_that_cannot_be_is_one_line(
    strsr: Run, photos: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = strsr("upscale", photos / "cat.png", tmp_path / "out.png", *options)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out.png").exists()


def test_weights_without_a_faithful_end_are_refused_at_once(
    strsr: Run, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    result = strsr(
        "upscale", photos / "cat.png", tmp_path / "o.png", "--weights", tiny_weights, "--fidelity", "0.5"
    )
    assert result.exit_code == 3
    assert "these weights have no faithful end; leave --fidelity out" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_export_refuses_an_end_that_is_none(
    strsr: Run, train: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    same = strsr("export", tiny_weights, tmp_path / "out", "--faithful", tiny_weights)
    assert (same.exit_code, "has the very weights of" in same.stderr) == (2, True)
    nothing = strsr("export", tiny_weights, tmp_path / "out", "--faithful", tmp_path)
    assert (nothing.exit_code, "is not the folder of a run" in nothing.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_what_trains_is_a_known_word(train: Run, tmp_path: Path) -> None:
    result = train(tmp_path / "run", "trains=decodr")
    assert result.exit_code == 2
    assert "trains 'decodr': unknown; did you mean 'decoder'" in result.stderr
