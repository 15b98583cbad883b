"""The quarter shape: flat fields stay flat whatever the weights, colours stay, small scales change little."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from strsr_models import load_pipeline
from strsr_models.networks.autoencoder import (
    BalancedShuffle,
    PyramidConfig,
    QuarterConfig,
    QuarterDecoder,
    level,
)
from strsr_models.networks.dit import DiT, DiTConfig
from strsr_models.pipelines.lite import LiteConfig, LitePipeline, sound
from strsr_models.pipelines.options import LiteOptions
from strsr_models.tiling.enlargement import enlarge

PERIODS = (4, 8, 16, 32)
BORDER = 96  # px that zero padding may be seen in
SMALL = LiteConfig(
    autoencoder=QuarterConfig(16, 1, 2),
    dit=DiTConfig(16, patch_size=8, width=32, depth=2, heads=2, hidden=32, unpatchify="smooth"),
)
OLD = LiteConfig(
    autoencoder=PyramidConfig(16, 32, 1, (32, 16, 8), (1, 1, 1), 4),
    dit=DiTConfig(16, patch_size=2, width=32, depth=2, heads=2, hidden=32),
)


def randomised(pipeline: LitePipeline) -> LitePipeline:
    """With no layer left at zero or at the identity, and a detail as strong as that of trained weights."""
    with torch.no_grad():
        for name, parameter in pipeline.named_parameters():
            if "norm" not in name:
                parameter.add_(0.5 * torch.randn_like(parameter) / max(parameter[0].numel(), 1) ** 0.5)
    return pipeline.eval()


def phase_spread(detail: Tensor, period: int) -> float:
    """How far apart the means over the phases of a period are, in levels of 255, inside of the border."""
    inside = detail[..., BORDER:-BORDER, BORDER:-BORDER]
    side = inside.shape[-1] // period * period
    cells = inside[..., :side, :side].unflatten(-1, (-1, period)).unflatten(-3, (-1, period))
    means = cells.mean((-2, -4))  # over the cells: (b, 3, period, period)
    return float(255 * (means.amax((-1, -2)) - means.amin((-1, -2))).max())


def flat_detail(config: LiteConfig) -> Tensor:
    torch.manual_seed(3)
    pipeline = randomised(LitePipeline(config))
    flat = torch.tensor([0.7, 0.4, 0.2]).view(1, 3, 1, 1).expand(1, 3, 416, 416).contiguous()
    with torch.no_grad():
        return pipeline(flat, flat[..., :128, :128]) - flat


def test_a_balanced_shuffle_answers_a_flat_field_alike() -> None:
    shuffle = BalancedShuffle(8, 3, 4)
    torch.nn.init.normal_(shuffle.weight)
    torch.nn.init.normal_(shuffle.bias)
    flat = torch.randn(1, 8, 1, 1).expand(1, 8, 12, 12)
    with torch.no_grad():
        inside = shuffle(flat)[..., 8:-8, 8:-8]
    assert float(inside.std((-1, -2)).max()) < 1e-6 * float(inside.abs().max())
    assert float(inside.abs().max()) > 0.1


def test_balancing_twice_changes_nothing_and_training_unfolds() -> None:
    shuffle, x = BalancedShuffle(8, 3, 4).eval(), torch.randn(2, 8, 6, 6)
    before = shuffle(x)
    shuffle.fold()
    assert torch.allclose(shuffle(x), before, atol=1e-6)
    assert torch.allclose(shuffle.balanced_weight(), shuffle.weight, atol=1e-6)
    shuffle.train()
    assert not shuffle.folded
    torch.nn.init.normal_(shuffle.weight)
    assert not torch.equal(shuffle.balanced_weight(), shuffle.weight)


def test_a_decoder_alone_gives_a_constant_inside() -> None:
    decoder = QuarterDecoder(QuarterConfig(8, 0, 1, level_cell=0)).eval()
    with torch.no_grad():
        inside = decoder(torch.randn(1, 8, 1, 1).expand(1, 8, 24, 24))[..., 24:-24, 24:-24]
    assert float(inside.std((-1, -2)).max()) < 1e-6


@pytest.mark.parametrize(("level_cell", "grain_maps"), [(0, 0), (0, 4), (32, 0)])
def test_flat_fields_get_no_period_printed_into_them(level_cell: int, grain_maps: int) -> None:
    config = LiteConfig(autoencoder=QuarterConfig(16, 1, 2, level_cell, grain_maps), dit=SMALL.dit)
    detail = flat_detail(config)
    assert [phase_spread(detail, period) < 0.05 for period in PERIODS] == [True] * 4
    if not level_cell:  # it is not that there were no detail
        assert float(detail.abs().max()) > 1 / 255


def test_the_old_shape_prints_its_patches() -> None:
    assert phase_spread(flat_detail(OLD), 16) > 0.5


def test_a_smooth_velocity_has_no_places_in_a_patch() -> None:
    dit = DiT(SMALL.dit).eval()
    torch.nn.init.normal_(dit.patch_out.weight)
    with torch.no_grad():
        velocity = dit(torch.ones(1, 16, 64, 64), torch.tensor([800.0]), torch.zeros(1, 0, 32))
    assert velocity.shape == (1, 16, 64, 64)
    inside = velocity[..., 24:40, 24:40]
    assert float(inside.std((-1, -2)).max()) < 0.02 * float(inside.abs().max())


def test_level_is_the_mean_of_what_varies_slowly() -> None:
    flat = torch.full((1, 3, 70, 50), 0.3)
    assert torch.allclose(level(flat, 32), flat)
    noise = torch.randn(1, 3, 256, 256)
    assert float(level(noise, 32).abs().max()) < 0.2
    assert (
        float((level(flat + noise[..., :70, :50], 32) - level(noise[..., :70, :50], 32) - flat).abs().max())
        < 1e-5
    )


def test_plain_fields_come_back_exactly() -> None:
    pipeline = load_pipeline("lite")
    for color in [(0.0, 1.0, 0.0), (0.8, 0.1, 0.1), (0.5, 0.5, 0.5), (0.1, 0.3, 0.9)]:
        field = torch.tensor(color).view(1, 3, 1, 1).expand(1, 3, 64, 64)
        hq = pipeline.upscale(field, 4)
        assert float((hq - torch.tensor(color).view(1, 3, 1, 1))[..., 96:-96, 96:-96].abs().max()) < 1 / 255


@pytest.mark.parametrize("width", [0.3, 0.6])
def test_a_smooth_blob_stays_what_it_is(width: float) -> None:
    line = torch.linspace(-1, 1, 128)
    blob = torch.exp(-(line[:, None] ** 2 + line**2) / 2 / width**2)
    lq = (0.1 + torch.tensor([0.8, 0.6, 0.3]).view(1, 3, 1, 1) * blob).mul(255).round() / 255
    hq = load_pipeline("lite").upscale(lq, 4)
    assert float((hq - enlarge(lq, *hq.shape[-2:])).abs().max()) < 6 / 255


@pytest.mark.parametrize("scale", [1, 1.5, 2])
def test_smooth_blobs_stay_at_small_scales(scale: float) -> None:
    """Round Gaussians from level 40 to 220: whatever the width, at most 4 of 255 off bicubic."""
    line = torch.linspace(-1, 1, 128)
    for width in (0.2, 0.3, 0.4, 0.6):
        blob = torch.exp(-(line[:, None] ** 2 + line**2) / 2 / width**2)
        lq = ((40 + 180 * blob).round() / 255).expand(1, 3, -1, -1).contiguous()
        hq = load_pipeline("lite").upscale(lq, scale)
        assert float((hq - enlarge(lq, *hq.shape[-2:])).abs().max()) <= 4 / 255


@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
def test_soft_dark_spots_on_strong_colours_stay_what_they_are(fidelity: float) -> None:
    """On these very pictures a decoder once made a black box of the spot: each block enlarged what came before it."""
    pipeline = load_pipeline("lite", options=LiteOptions(fidelity))
    line = torch.linspace(-1, 1, 64)
    y, x = line[:, None], line[None]
    magenta, green, white, gray = (1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)
    for colors, width in (((magenta, white), 0.2), ((magenta, white), 0.25), ((green, gray), 0.2)):
        first, last = (torch.tensor(color)[:, None, None] for color in colors)
        spot = 0.9 * torch.exp(-((x + 0.4) ** 2 + (y + 0.2) ** 2) / 2 / width**2)
        lq = ((first + (x + 1) / 2 * (last - first)) * (1 - spot))[None].mul(255).round() / 255
        hq = pipeline.upscale(lq)
        assert float((hq - enlarge(lq, 256, 256))[..., 16:-16, 16:-16].abs().max()) < 12 / 255


def test_detail_that_cannot_be_is_left_out() -> None:
    detail = torch.full((4, 3, 8, 8), 0.1)
    detail[1, 0, 2, 2], detail[2, 1, 3, 3], detail[3, 2, 4, 4] = -1.6, torch.inf, torch.nan
    kept = sound(detail)
    assert torch.equal(kept[0], detail[0])
    assert float(kept[1].abs().max()) == 0
    assert kept[2].isinf().any()
    assert kept[3].isnan().any()
