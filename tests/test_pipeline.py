from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from strsr_models import UsageError, WeightsError, load_pipeline, tiles
from strsr_models.pipelines.base import enlarge, reflect_pad
from strsr_models.pipelines.lite import LitePipeline


def as_image(photo: np.ndarray) -> Tensor:
    return torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (17, 33)])
@pytest.mark.parametrize("scale", [1, 1.37, 4])
def test_output_size_is_rounded_exactly(tiny: LitePipeline, size: tuple[int, int], scale: float) -> None:
    hq = tiny.upscale(torch.rand(1, 3, *size), scale)
    assert hq.shape[-2:] == tuple(int(side * scale + 0.5) for side in size)
    assert hq.min() >= 0
    assert hq.max() <= 1


def test_a_batch_equals_its_images_one_by_one(tiny: LitePipeline) -> None:
    images = torch.rand(3, 3, 20, 24)
    together = tiny.upscale(images, 2)
    for image, expected in zip(images, together, strict=True):
        torch.testing.assert_close(tiny.upscale(image[None], 2)[0], expected, atol=1e-5, rtol=0)


def test_the_verbs_compose_to_the_method(tiny: LitePipeline) -> None:
    """z_HQ = z_LQ - 0.8 v, one call, bicubic residual: METHOD in straight lines."""
    lq = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        lq_up = torch.nn.functional.interpolate(lq, scale_factor=4, mode="bicubic").clamp(0, 1)
        tokens = tiny.projector(tiny.semantic_encoder(2 * lq - 1))
        latents = tiny.structural_encoder(2 * lq_up - 1)
        velocity = tiny.dit(latents, torch.tensor([800.0]), tokens)
        expected = lq_up + tiny.decoder(latents - 0.8 * velocity) / 2
    torch.testing.assert_close(tiny.upscale(lq, 4), expected.clamp(0, 1), atol=1e-5, rtol=0)


def test_tiles_agree_with_the_whole_and_show_no_seams(photo: np.ndarray) -> None:
    """Near borders as elsewhere, to within a tenth of an 8-bit step."""
    lite = load_pipeline("lite")
    lq = as_image(photo)
    whole, tiled = lite.upscale(lq, 4, tile=640), lite.upscale(lq, 4, tile=256)
    difference = 255 * (whole - tiled).abs().mean((0, 1))
    assert float(difference.mean()) < 2
    height, width = difference.shape
    borders = torch.zeros_like(difference, dtype=torch.bool)
    for start in tiles.axis_starts(width, 256, lite.overlap)[1:]:
        borders[:, start : start + lite.overlap] = True
    for start in tiles.axis_starts(height, 256, lite.overlap)[1:]:
        borders[start : start + lite.overlap] = True
    assert float(difference[borders].mean()) <= float(difference[~borders].mean()) + 0.1


def test_the_smallest_tiles_overlap_by_half_unless_told(tiny: LitePipeline) -> None:
    assert tiny.tile_shape(480, 640, 64, None) == ((64, 64), 32)
    assert tiny.tile_shape(480, 640, 100, None) == ((112, 112), 56)
    assert tiny.tile_shape(480, 640, 100, 8) == ((112, 112), 8)


def test_memory_of_a_tile_does_not_depend_on_the_image(tiny: LitePipeline) -> None:
    seen = []
    tiny.structural_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    tiny.upscale(torch.rand(1, 3, 100, 300), 4, tile=128)
    tiny.upscale(torch.rand(1, 3, 300, 100), 4)
    assert set(seen[:1]) == {(128, 128)}
    assert all(h <= tiny.largest_tile and w <= tiny.largest_tile for h, w in seen)


def test_a_tile_that_overflows_is_done_again(
    tiny: LitePipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lq = torch.rand(1, 3, 64, 64)
    expected = tiny.upscale(lq, 2, tile=64)
    decode, calls = tiny.decode_latents, []

    def overflowing(latents: Tensor, lq_up: Tensor) -> Tensor:
        calls.append(torch.is_autocast_enabled("cpu"))
        out = decode(latents, lq_up)
        return out * float("inf") if calls[-1] else out

    monkeypatch.setattr(tiny, "decode_latents", overflowing)
    with caplog.at_level(logging.WARNING):
        hq = tiny.upscale(lq, 2, tile=64, precision="bf16")
    assert torch.isfinite(hq).all()
    assert (hq - expected).abs().mean() < 0.01
    assert [record.getMessage() for record in caplog.records] == [
        "9 of 9 tiles were not finite in bf16: computed again"
    ]


def test_tiles_are_clamped_before_they_are_blended(
    tiny: LitePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x_HQ is clamped tile by tile: what one tile overshoots must not bleed into its neighbour."""
    calls: list[Tensor] = []

    def black_then_too_white(latents: Tensor, lq_up: Tensor) -> Tensor:
        calls.append(lq_up)
        return torch.full_like(lq_up, 3.0 if len(calls) > 1 else 0.0)

    monkeypatch.setattr(tiny, "decode_latents", black_then_too_white)
    hq = tiny.upscale(torch.rand(1, 3, 32, 48), 2, tile=64, overlap=32)
    ramp = (torch.arange(32) + 0.5) / 32
    assert len(calls) == 2
    torch.testing.assert_close(hq[0, 0, 0, 32:64], ramp)


def test_damaged_weights_are_an_error_not_a_black_image(tiny: LitePipeline) -> None:
    with torch.no_grad():
        tiny.decoder.conv_out.weight.fill_(float("nan"))
    with pytest.raises(WeightsError, match="not finite even in float32"):
        tiny.upscale(torch.rand(1, 3, 8, 8), 2)


@pytest.mark.parametrize("scale", [0.5, 17, float("nan"), float("inf")])
def test_a_scale_out_of_range_is_refused(tiny: LitePipeline, scale: float) -> None:
    with pytest.raises(UsageError, match="must be between 1 and 16"):
        tiny.upscale(torch.rand(1, 3, 8, 8), scale)


def test_a_tensor_of_the_wrong_kind_is_refused(tiny: LitePipeline) -> None:
    for wrong in (torch.rand(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.rand(1, 3, 0, 8)):
        with pytest.raises(UsageError, match="expected a float tensor"):
            tiny.upscale(wrong)


def test_padding_reflects_even_when_there_is_little_to_reflect() -> None:
    row = torch.tensor([0.0, 1.0, 2.0]).expand(1, 1, 1, 3)
    assert reflect_pad(row, 8)[0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert reflect_pad(row, 8).shape[-2:] == (8, 8)
    assert reflect_pad(torch.ones(1, 1, 16, 16), 16).shape[-2:] == (16, 16)


def test_enlarging_is_torch_bicubic_clamped() -> None:
    image = torch.rand(1, 3, 9, 7)
    expected = torch.nn.functional.interpolate(image, scale_factor=3, mode="bicubic", align_corners=False)
    torch.testing.assert_close(enlarge(image, 27, 21), expected.clamp(0, 1))
