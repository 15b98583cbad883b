from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from strsr_models import UsageError, WeightsError, load_pipeline
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.tiling import tiles
from strsr_models.tiling.enlargement import Enlargement, enlarge, rectangles_of
from strsr_models.tiling.memory import MemoryBudget


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
        "49 of 49 tiles were not finite in bf16: computed again"
    ]


def test_tiles_are_blended_as_they_come_and_clamped_once(
    tiny: LitePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The released checkpoints' tiles are blended so: what one overshoots counts until the sum is made."""
    calls: list[Tensor] = []

    def black_then_too_white(latents: Tensor, lq_up: Tensor) -> Tensor:
        calls.append(lq_up)
        return torch.full_like(lq_up, 3.0 if len(calls) > 1 else 0.0)

    monkeypatch.setattr(tiny, "decode_latents", black_then_too_white)
    hq = tiny.upscale(torch.rand(1, 3, 16, 24), 4, tile=64, overlap=32)
    part = (torch.arange(32) + 0.5) / 32
    ramp = part**2 * (3 - 2 * part)
    assert len(calls) == 2
    torch.testing.assert_close(hq[0, 0, 0, 32:64], (3 * ramp).clamp(0, 1))


def test_what_is_final_is_clamped_and_what_was_given_stays(tiny: LitePipeline) -> None:
    lq = torch.rand(1, 3, 16, 24)
    tiled = tiny.tiled(rectangles_of(lq), (16, 24), 4, 64, 32)
    given = [3 * torch.randn(1, 3, tile.height, tile.width) for tile in tiled.tiles]
    kept = [tile.clone() for tile in given]
    for number, tile in enumerate(given):
        for _, _, final in tiled.add(number, tile):
            assert 0 <= float(final.min()) <= float(final.max()) <= 1
    assert all(map(torch.equal, given, kept))


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


def test_images_are_reflected_beyond_their_borders_even_if_tiny() -> None:
    row = torch.tensor([0.0, 1.0, 2.0]).expand(1, 1, 1, 3)

    def extended(image: Tensor, height: int, width: int) -> Tensor:
        size = image.shape[-2], image.shape[-1]
        whole = Enlargement(size, size, (height, width))
        return whole.crop(rectangles_of(image), slice(0, height), slice(0, width))

    assert extended(row, 8, 8)[0, 0, 5].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert extended(torch.ones(1, 1, 16, 16), 16, 16).equal(torch.ones(1, 1, 16, 16))


def test_enlarging_is_torch_bicubic_clamped() -> None:
    for height, width in ((27, 21), (22, 7), (100, 9)):
        image = torch.rand(1, 3, 9, 7)
        expected = torch.nn.functional.interpolate(
            image, (height, width), mode="bicubic", align_corners=False
        )
        torch.testing.assert_close(enlarge(image, height, width), expected.clamp(0, 1), atol=2e-5, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(1, 5), st.randoms(use_true_random=False))
def test_a_rectangle_of_an_enlargement_is_that_of_the_whole(
    height: int, width: int, scale: float, choose: random.Random
) -> None:
    image = torch.rand(1, 3, height, width)
    target = round(height * scale), round(width * scale)
    canvas = target[0] + choose.randrange(20), target[1] + choose.randrange(20)
    enlargement = Enlargement((height, width), target, canvas)
    whole = enlargement.crop(rectangles_of(image), slice(0, canvas[0]), slice(0, canvas[1]))
    rows, columns = (slice(*sorted(choose.sample(range(side + 1), 2))) for side in canvas)
    assert enlargement.crop(rectangles_of(image), rows, columns).equal(whole[..., rows, columns])


def test_tiles_in_any_order_give_the_same_bits(tiny: LitePipeline) -> None:
    lq = torch.rand(1, 3, 50, 60)
    expected = tiny.upscale(lq, 4, tile=96, overlap=32)
    tiled = tiny.tiled(rectangles_of(lq), (50, 60), 4, 96, 32)
    order = list(range(len(tiled.tiles)))
    random.Random(1).shuffle(order)
    hq = torch.zeros_like(expected)
    with torch.inference_mode():
        cond = tiny.encode_condition(lq)
        for number in order:
            ((restored, _),) = tiny.restore_tiles([tiled.view(number)], [cond], "fp32", 1, MemoryBudget(1))
            for top, left, final in tiled.add(number, restored):
                hq[..., top : top + final.shape[-2], left : left + final.shape[-1]] = final
    assert hq.equal(expected)


class Cramped:
    """Restores what is small enough, and counts what it was asked to do."""

    def __init__(self, pixels: int) -> None:
        self.pixels, self.done = pixels, list[int]()

    def __call__(
        self, views: list[Tensor], conds: list[Tensor], precision: str, steps: int
    ) -> list[tuple[Tensor, str]]:
        if sum(view.numel() for view in views) > 3 * self.pixels:
            raise torch.OutOfMemoryError("too much")
        self.done.append(len(views))
        return [(view, precision) for view in views]


def test_memory_shortage_halves_the_batch_then_the_tile(
    tiny: LitePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [torch.rand(1, 3, 256, 256) for _ in range(8)]
    conds = [torch.zeros(1, 1, 1)] * 8
    budget, cramped = MemoryBudget(8), Cramped(3 * 256**2)
    monkeypatch.setattr(tiny, "restore_together", cramped, raising=False)
    done = tiny.restore_tiles(views, conds, "fp32", 1, budget)
    assert budget == MemoryBudget(2)
    assert cramped.done == [2, 2, 2, 2]
    assert all(got.equal(view) for (got, _), view in zip(done, views, strict=True))
    budget = MemoryBudget(8)
    monkeypatch.setattr(tiny, "restore_together", Cramped(128**2))
    done = tiny.restore_tiles(views[:2], conds[:2], "fp32", 1, budget)
    assert budget == MemoryBudget(1, 128)
    for (got, _), view in zip(done, views, strict=False):
        torch.testing.assert_close(got, view, atol=1e-6, rtol=0)
    monkeypatch.setattr(tiny, "restore_together", Cramped(64**2))
    with pytest.raises(torch.OutOfMemoryError):
        tiny.restore_tiles(views[:1], conds[:1], "fp32", 1, MemoryBudget(1))


def test_a_cut_tile_is_of_the_precision_that_some_part_needed(
    tiny: LitePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = iter(["bf16", "fp32", "bf16", "bf16"])

    def restore(views: list[Tensor], *_: object) -> list[tuple[Tensor, str]]:
        return [(view, next(words)) for view in views]

    monkeypatch.setattr(tiny, "restore_together", restore, raising=False)
    view, cond = torch.rand(1, 3, 192, 192), torch.zeros(1, 1, 1)
    ((_, used),) = tiny.restore_tiles([view], [cond], "bf16", 1, MemoryBudget(1, 128))
    assert used == "fp32"


def test_errors_of_other_kinds_are_not_taken_for_little_memory(
    tiny: LitePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[tuple[Tensor, str]]:
        raise RuntimeError("device lost")

    monkeypatch.setattr(tiny, "restore_together", broken, raising=False)
    with pytest.raises(RuntimeError, match="device lost"):
        tiny.restore_tiles([torch.rand(1, 3, 8, 8)], [torch.zeros(1)], "fp32", 1, MemoryBudget(4))
