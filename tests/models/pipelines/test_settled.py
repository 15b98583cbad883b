"""Lite with weights that are rounded once, and the enlargement of its velocity by products."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from strsr_models import load_pipeline
from strsr_models.networks.autoencoder import enlarge
from strsr_models.networks.dit import cut_patches
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.pipelines.options import LiteOptions

PICTURE = torch.rand(2, 3, 37, 50, generator=torch.Generator().manual_seed(3))


def load(folder: Path | None, settled: str | None = None) -> LitePipeline:
    pipeline = load_pipeline("lite", folder, options=LiteOptions(settled=settled))
    assert isinstance(pipeline, LitePipeline)
    return pipeline


@pytest.mark.parametrize("settled", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_settled_weights_give_the_same_pictures(settled: str, precision: str) -> None:
    plain, rounded = load(None), load(None, settled)
    expected = plain.upscale(PICTURE, 2, precision=precision)
    assert torch.equal(rounded.upscale(PICTURE, 2, precision=precision), expected)
    assert rounded.state_dict().keys() == plain.state_dict().keys()


def test_settled_weights_are_those_that_compute(tiny_weights: Path) -> None:
    pipeline = load(tiny_weights, "bf16")
    expected = {name: pipeline.upscale(PICTURE, 2, precision=name) for name in ("bf16", "fp32")}
    for tensor in pipeline.decoder.parameters():
        tensor.zero_()
    assert torch.equal(pipeline.upscale(PICTURE, 2, precision="bf16"), expected["bf16"])
    assert not torch.equal(pipeline.upscale(PICTURE, 2, precision="fp32"), expected["fp32"])


def test_a_tile_that_overflows_is_done_again_in_float32(tiny_weights: Path) -> None:
    pipeline = load(tiny_weights, "bf16")
    (narrow,) = pipeline.narrow.values()
    next(narrow.decoder.parameters()).fill_(torch.inf)
    cond = pipeline.condition(PICTURE, "bf16")
    expected = load(tiny_weights).upscale(PICTURE, 2, precision="fp32", cond=cond)
    assert torch.equal(pipeline.upscale(PICTURE, 2, precision="bf16", cond=cond), expected)


@pytest.mark.parametrize("shape", [(1, 64, 17, 17), (2, 3, 5, 9), (1, 1, 1, 4), (3, 8, 8, 1)])
@pytest.mark.parametrize("factor", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_enlarging_is_bilinear(shape: tuple[int, ...], factor: int, dtype: torch.dtype) -> None:
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert torch.equal(enlarge(x, factor), expected)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        larger = enlarge(x.to(memory_format=torch.channels_last), factor)
    torch.testing.assert_close(larger, expected, atol=1e-6 if dtype == torch.float32 else 1e-14, rtol=0)
    assert larger.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(1, 64, 16, 24), (2, 3, 8, 8), (1, 1, 4, 4), (3, 5, 4, 12)])
def test_patches_are_the_same_with_and_without_gradients(shape: tuple[int, ...]) -> None:
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = cut_patches(latents, 4)
    with torch.no_grad():
        for form in (torch.contiguous_format, torch.channels_last):
            assert torch.equal(cut_patches(latents.to(memory_format=form), 4), expected)
