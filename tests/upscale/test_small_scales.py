"""Scales below 4: lite makes a picture four times larger and reduces it, or computes a draft at its own size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import Result

import strsr as library
from strsr_cli.batch.target_size import TargetSize
from strsr_cli.upscale.options import UpscaleOptions
from strsr_cli.upscale.preflight import network_megapixels
from strsr_models import load_pipeline
from strsr_models.pipelines.lite import LiteConfig, LitePipeline
from strsr_models.pipelines.options import LiteOptions

Run = Callable[..., Result]

PICTURE = torch.rand(1, 3, 30, 41, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def upscale(strsr: Run, tiny_weights: Path, photo: np.ndarray, tmp_path: Path) -> Run:
    """Run `strsr upscale` from a folder of two pictures into another; the tiny weights."""
    (tmp_path / "in").mkdir()
    for name, side in (("a", 32), ("b", 45)):
        Image.fromarray(photo[:side, :40]).save(tmp_path / "in" / f"{name}.png")

    def run(*options: object) -> Result:
        words = ("upscale", tmp_path / "in", tmp_path / "out", "--weights", tiny_weights, "--json")
        return strsr(*words, *options)

    return run


def counts(result: Result) -> tuple[int, int]:
    """How many pictures were made and skipped."""
    assert result.exit_code in (0, 2), result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    return summary["done"], summary["skipped"]


@pytest.mark.parametrize("scale", [1, 1.5, 2, 3.3])
def test_a_small_output_is_the_large_one_reduced(tiny_weights: Path, scale: float) -> None:
    pipeline = load_pipeline("lite", tiny_weights)
    size = [round(side * scale) for side in PICTURE.shape[-2:]]
    large = pipeline.upscale(PICTURE, 4, tile=64).clamp(0, 1)
    expected = F.interpolate(large, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    torch.testing.assert_close(pipeline.upscale(PICTURE, scale, tile=64), expected, atol=1e-5, rtol=0)


def test_a_draft_is_computed_at_its_own_size(tiny_weights: Path) -> None:
    whole = load_pipeline("lite", tiny_weights)
    draft = load_pipeline("lite", tiny_weights, options=LiteOptions(draft=True))
    assert torch.equal(draft.upscale(PICTURE, 4), whole.upscale(PICTURE, 4))
    assert not torch.equal(draft.upscale(PICTURE, 2), whole.upscale(PICTURE, 2))
    sizes = []
    for pipeline in (whole, draft):
        tiled = pipeline.tiled(lambda rows, columns: PICTURE[..., rows, columns], (30, 41), 2)
        sizes.append(tiled.view(0).shape[-1])
    assert sizes[1] < sizes[0]


def test_weights_say_what_they_are_made_for(tiny: LitePipeline, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    tiny.save(folder, {})
    config = json.loads((folder / "config.json").read_text())
    assert config["least_scale"] == 4
    (folder / "config.json").write_text(json.dumps(config | {"least_scale": 2}))
    assert load_pipeline("lite", folder).least_scale == 2
    with pytest.raises(ValueError, match=r"least_scale 0\.5: must lie between 1 and 16"):
        LiteConfig(least_scale=0.5)


def test_a_draft_is_another_picture_below_four_alone(upscale: Run, tmp_path: Path) -> None:
    out = tmp_path / "out" / "a.png"
    assert counts(upscale("--scale", "2")) == (2, 0)
    fine = out.read_bytes()
    assert counts(upscale("--scale", "2", "--draft")) == (2, 0)
    assert out.read_bytes() != fine
    assert counts(upscale("--scale", "2", "--draft")) == (0, 2)
    assert counts(upscale("--scale", "2")) == (2, 0)
    assert out.read_bytes() == fine
    assert counts(upscale()) == (2, 0)
    assert counts(upscale("--draft")) == (0, 2)


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("size", [("--scale", "2"), ("--width", "60"), ("--scale", "1")])
def test_the_library_makes_the_commands_pictures(
    upscale: Run, tiny_weights: Path, tmp_path: Path, draft: bool, size: tuple[str, str]
) -> None:
    flags = ("--draft",) if draft else ()
    assert counts(upscale(*size, *flags, "--tile", "64")) == (2, 0)
    upscaler = library.Upscaler(weights=tiny_weights, draft=draft, tile=64)
    wanted: dict[str, float] = {size[0].removeprefix("--"): float(size[1])}
    if "width" in wanted:
        wanted = {"width": 60}
    for name in ("a", "b"):
        made = upscaler.upscale(tmp_path / "in" / f"{name}.png", **wanted)
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert np.array_equal(np.asarray(image), np.asarray(made))


def test_provenance_names_a_draft(upscale: Run, tmp_path: Path) -> None:
    assert counts(upscale("--scale", "2", "--draft", "--provenance")) == (2, 0)
    assert b"; draft; scale 2" in (tmp_path / "out" / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("scale", "draft", "megapixels"),
    [
        (4, False, 16),
        (4, True, 16),
        (8, False, 64),
        (2, False, 16),
        (2, True, 4),
        (1, False, 16),
        (0.5, False, 0),
    ],
)
def test_the_forecast_counts_what_networks_make(scale: float, draft: bool, megapixels: float) -> None:
    side = round(1000 * scale)
    sizes: dict[str, int | str] = {"height": 1000, "width": 1000, "to_height": side, "to_width": side}
    options = UpscaleOptions(TargetSize(), "lite", None, None, None, "cpu", "fp32", 95, draft=draft)
    assert network_megapixels(sizes, options) == megapixels
    assert network_megapixels({}, options) == 0


def test_drafts_are_lites_alone(strsr: Run, photos: Path, tmp_path: Path) -> None:
    result = strsr("upscale", photos / "cat.png", tmp_path / "o.png", "--model", "zimage", "--draft")
    assert result.exit_code == 2
    assert "--draft: is for --model lite, not zimage" in result.stderr
