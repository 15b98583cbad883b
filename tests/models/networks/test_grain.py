"""Grain: numbers that look random and follow from the pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from strsr_models.networks.autoencoder import QuarterConfig, QuarterDecoder
from strsr_models.networks.grain import SPREAD, grain
from strsr_models.tiling.enlargement import enlarge

from ...helpers.random_lite import made, quarter


def enlarged(side: int = 64, depth: float = 1.0) -> Tensor:
    """Soft noise of a given depth around the middle, enlarged by 4."""
    small = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return enlarge(0.5 + depth * (small - 0.5), 4 * side, 4 * side)


@pytest.mark.parametrize("depth", [1.0, 0.05])
def test_numbers_look_random(depth: float) -> None:
    numbers = grain(enlarged(depth=depth), 8, 4)
    assert numbers.shape == (1, 8, 64, 64)
    assert float(numbers.abs().max()) <= SPREAD + 1e-6
    assert numbers.mean((0, 2, 3)).abs().max() < 0.1
    assert (numbers.square().mean((0, 2, 3)) - 1).abs().max() < 0.1
    flat = numbers[0].flatten(1)
    assert (flat @ flat.T / flat.shape[1] - torch.eye(8)).abs().max() < 0.1
    for move in ((0, 1), (1, 0), (1, 1)):
        assert (numbers * torch.roll(numbers, move, (2, 3))).mean((0, 2, 3)).abs().max() < 0.1


def test_numbers_stay_what_they_are() -> None:
    ramp = torch.linspace(0, 1, 3 * 8 * 8).view(1, 3, 8, 8)
    expected = torch.tensor([-0.6854, -0.731, 0.5113, -1.3155, -1.474, 0.713, 0.809, 0.701]).view(1, 2, 2, 2)
    assert torch.allclose(grain(ramp, 2, 4), expected, atol=1e-4)


def test_each_number_depends_on_its_own_cell_alone() -> None:
    image = enlarged(16)
    whole = grain(image, 4, 4)
    assert torch.equal(grain(image[..., 12:52, 8:40], 4, 4), whole[..., 3:13, 2:10])
    image[..., 20, 33] += 2 / 255
    changed = (grain(image, 4, 4) != whole).any(1)[0].nonzero().tolist()
    assert changed == [[5, 8]]


def test_steps_of_less_than_8_bits_change_nothing() -> None:
    image = (255 * enlarged(16)).round() / 255
    moved = image + 0.4 / 255 * torch.rand_like(image)
    assert torch.equal(grain(moved, 4, 4), grain(image, 4, 4))


def test_flat_fields_have_one_number() -> None:
    for level in (0, 77, 255):
        flat = enlarge(torch.full((1, 3, 9, 11), level / 255), 36, 44)
        assert (grain(flat, 4, 4).flatten(2).std(-1) == 0).all()


def test_a_decoder_starts_as_one_without() -> None:
    torch.manual_seed(0)
    plain = QuarterDecoder(QuarterConfig(8, 0, 5)).eval()
    grained = QuarterDecoder(QuarterConfig(8, 0, 5, grain_maps=4)).eval()
    missing = grained.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["grain.0.weight", "grain.1.weight"]  # before the first block and the fifth
    latents = torch.randn(1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(grained(latents, torch.randn(1, 4, 8, 8)), plain(latents))


def test_grain_changes_a_picture_and_tiles_agree() -> None:
    pipeline = made(quarter(2))
    lq = torch.rand(1, 3, 48, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, tiled = pipeline.upscale(lq, 4), pipeline.upscale(lq, 4, tile=96)
        for conv in pipeline.decoder.grain:
            conv.weight.zero_()
        plain, plain_tiled = pipeline.upscale(lq, 4), pipeline.upscale(lq, 4, tile=96)
    assert float((whole - plain).abs().max()) > 2 / 255
    # What zero padding at tiles' borders changes is all that does.
    assert float((tiled - whole).abs().max()) < 1.2 * float((plain_tiled - plain).abs().max())
