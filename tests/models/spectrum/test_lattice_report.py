"""The report on lattices: planted ones of any kind are found and told from texture, and the numbers keep their meaning."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from strsr_models import UsageError
from strsr_models.spectrum import LatticeReport, inspect_lattice, lattice_excess, main_period, verdict

SIDE = 384


def as_image(y: np.ndarray) -> Tensor:
    """(1, 1, h, w) of (h, w) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(y, np.float32))[None, None]


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """Half as large as it was, so that no file format's blocks are left: (1, 1, 384, 384)."""
    camera = Image.fromarray(data.camera()).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return as_image(np.asarray(camera) / 255)


def tiled(period: int, rms: float, shift: tuple[int, int] = (0, 0), side: int = SIDE) -> Tensor:
    """A cell of random numbers, again and again, as a pixel shuffle's biases print it; (side, side)."""
    cell = torch.randn(period, period, generator=torch.Generator().manual_seed(period))
    down, across = (torch.arange(side) + s for s in shift)
    pattern = cell[down[:, None] % period, across % period]
    pattern = pattern - pattern.mean()
    return rms / 255 * pattern / pattern.square().mean().sqrt()


def checkers(period: int, rms: float, side: int = SIDE) -> Tensor:
    steps = torch.arange(side) // (period // 2)
    return rms / 255 * ((steps[:, None] + steps) % 2 * 2.0 - 1)


def of(report: LatticeReport, period: int) -> tuple[float, float]:
    at = report.periods.index(period)
    return report.excess[at], report.coherence[at]


def test_a_clean_photo_is_clean(photo: Tensor) -> None:
    report = inspect_lattice(photo)
    assert verdict(report) == "clean"
    assert main_period(report) is None
    assert report.region is None
    assert max(report.excess) < 2
    assert max(report.coherence) < 0.1


@pytest.mark.parametrize("period", [4, 8, 16])
@pytest.mark.parametrize("pattern", [tiled, checkers])
def test_a_planted_lattice_is_a_grid_of_its_period(photo: Tensor, period: int, pattern: object) -> None:
    report = inspect_lattice(photo + pattern(period, 2))  # type: ignore[operator]
    assert verdict(report) == "grid"
    assert main_period(report) == period
    assert report.region is not None
    assert all(peak.excess >= 3 for peak in report.peaks)
    assert report.peaks[0].period <= period


def test_period_two_is_judged_by_the_signs_of_its_real_values(photo: Tensor) -> None:
    noise = torch.rand(1, 1, 160, 200, generator=torch.Generator().manual_seed(0))
    for clean in (photo, noise):
        assert verdict(inspect_lattice(clean, (2,))) == "clean"
    assert verdict(inspect_lattice(photo + checkers(2, 1), (2,))) == "grid"


@pytest.mark.parametrize("period", [8, 16])
def test_a_grid_of_one_step_of_eight_bits_is_noticed(photo: Tensor, period: int) -> None:
    eight_bits = ((photo + tiled(period, 1)) * 255).round() / 255
    assert verdict(inspect_lattice(eight_bits)) != "clean"


def test_the_score_is_that_of_lattice_excess(photo: Tensor) -> None:
    image = (photo + tiled(8, 1)).expand(-1, 3, -1, -1)
    excess = lattice_excess(image, (3, 4, 8, 16))[0]
    assert inspect_lattice(image, (3, 4, 8, 16)).excess == pytest.approx(excess.tolist(), abs=1e-3)


def test_the_score_of_a_lattice_in_noise_is_what_theory_says() -> None:
    """Stripes a * cos, deviation s of white noise: a line of a^2 / 4 on a noise of s^2 per bin, gathered by a
    Hann window of 64 px on 2-D blocks: 10 log10(1 + 64^2 * (2 / 3)^2 * a^2 / 4 / s^2). Log-power's mean over noise
    is 2.5 dB below its power's, which the line's is not."""
    noise = 0.02 * torch.randn(1, 1, 640, 640)
    across = torch.arange(640)
    for amplitude in (0.01, 0.02):
        wave = torch.cos(2 * math.pi * across / 8)
        both = (wave + wave[:, None]) * amplitude
        rest = torch.cos(2 * math.pi * 3 * across / 8)
        image = 0.5 + noise + both + (rest + rest[:, None]) * amplitude
        line = 64**2 * (2 / 3) ** 2 * (amplitude / 2) ** 2 / 0.02**2
        assert float(lattice_excess(image, (8,))) == pytest.approx(10 * math.log10(1 + line) + 2.5, abs=0.5)


@pytest.mark.parametrize("factor", [0.25, 0.5])
def test_prints_do_not_depend_on_contrast(factor: float) -> None:
    image = 0.2 * torch.randn(1, 1, 256, 256) + tiled(16, 20, side=256)
    assert inspect_lattice(factor * image).peaks[0].excess == pytest.approx(
        inspect_lattice(image).peaks[0].excess, abs=0.05
    )


def test_scores_do_not_depend_on_where_a_lattice_begins(photo: Tensor) -> None:
    found = [of(inspect_lattice(photo + tiled(8, 2, shift), (8,)), 8) for shift in ((0, 0), (3, 5), (7, 1))]
    excess, coherent = zip(*found, strict=True)
    assert max(excess) - min(excess) < 0.6
    assert max(coherent) - min(coherent) < 0.05


def test_coherence_is_one_where_nothing_hides_a_lattice() -> None:
    assert of(inspect_lattice(0.5 + tiled(8, 1)[None, None]), 8)[1] == pytest.approx(1, abs=0.01)
    assert of(inspect_lattice(0.5 + tiled(16, 1)[None, None]), 16)[1] == pytest.approx(1, abs=0.01)


def test_texture_of_that_period_is_no_grid() -> None:
    """Courses of bricks, whose height varies, in patches that do not know of each other."""
    rng = np.random.default_rng(0)
    courses = np.repeat(rng.random(60), rng.integers(6, 11, 60))[:SIDE]  # 8 px, give or take two
    bricks = np.tile(courses[:, None], (1, SIDE))
    report = inspect_lattice(as_image(0.3 + 0.4 * bricks + 0.01 * rng.standard_normal(bricks.shape)))
    assert verdict(report) != "grid"
    assert of(report, 8)[1] < 0.3
    phases = rng.random((7, 7))
    patches = [[np.cos(2 * np.pi * (np.indices((53, 53)).sum(0) / 8 + p)) for p in row] for row in phases]
    report = inspect_lattice(as_image(0.5 + 0.1 * np.block(patches)))
    assert of(report, 8)[0] > 6
    assert of(report, 8)[1] < 0.5
    assert verdict(report) == "suspect"


def test_slats_of_the_very_period_are_suspect_and_no_grid(photo: Tensor) -> None:
    blinds = 0.1 * (torch.arange(SIDE) % 16 < 8).float()[:, None]
    report = inspect_lattice(photo + blinds)
    assert of(report, 16)[0] > 6
    assert verdict(report) == "suspect"


def test_a_weave_whose_lines_a_beat_moves_aside_is_seen(photo: Tensor) -> None:
    across = torch.arange(SIDE)
    weave = 4 / 255 * torch.cos(2 * math.pi * across / 40) * torch.cos(math.pi * across / 2)
    assert float(lattice_excess(photo + weave, (4,), "axes") - lattice_excess(photo, (4,), "axes")) < 1
    report = inspect_lattice(photo + weave + weave[:, None])
    assert of(report, 4)[0] > 4
    assert verdict(report) == "grid"


def test_jpeg_is_a_grid_of_eight_from_the_origin(photo: Tensor) -> None:
    file = io.BytesIO()
    eight_bits = (photo[0, 0] * 255).round().to(torch.uint8).numpy()
    Image.fromarray(eight_bits).save(file, "JPEG", quality=60)
    decoded = as_image(np.asarray(Image.open(file)) / 255)
    report = inspect_lattice(decoded)
    assert verdict(report) == "grid"
    assert main_period(report) == 8
    assert report.origin_aligned == (True, True, False)
    assert inspect_lattice(decoded[..., 3:, 5:]).origin_aligned == (False, False, False)


def test_the_region_is_where_the_lattice_is() -> None:
    image = 0.5 + 0.05 * torch.randn(1, 1, 400, 600)
    image[..., 160:400, 300:540] += tiled(8, 20, side=240)
    region = inspect_lattice(image, (8,)).region
    assert region is not None
    x, y, w, h = region
    assert 300 - w // 4 <= x <= 540 - 3 * w // 4
    assert 160 - h // 4 <= y <= 400 - 3 * h // 4


def test_peaks_are_where_the_waves_are() -> None:
    down, across = torch.arange(256)[:, None], torch.arange(256)
    image = 0.5 + 0.02 * torch.randn(1, 1, 256, 256)
    image += 0.02 * torch.cos(2 * math.pi * (3 * down - 5 * across) / 16)
    first, second, *noise = inspect_lattice(image + 0.04 * torch.cos(2 * math.pi * down / 8)).peaks
    assert all(peak.excess < 5 for peak in noise)
    assert (first.fy, first.fx, first.period, first.axis) == (1 / 8, 0, 8, "y")
    assert (second.fy, second.fx, second.period, second.axis) == (-3 / 16, 5 / 16, 16, "xy")


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(16, 16), (17, 131), (200, 301)])
def test_a_constant_image_is_clean(value: float, shape: tuple[int, int]) -> None:
    report = inspect_lattice(torch.full((1, 3, *shape), value))
    known = [(e, c) for e, c in zip(report.excess, report.coherence, strict=True) if not math.isnan(e)]
    assert known
    assert all(pair == pytest.approx((0, 0), abs=1e-4) for pair in known)
    assert verdict(report) == "clean"
    assert report.peaks == ()


def test_periods_that_do_not_fit_four_times_are_not_judged() -> None:
    report = inspect_lattice(torch.rand(1, 1, 33, 63))
    assert [math.isnan(number) for number in report.excess] == [False, False, True]
    assert verdict(inspect_lattice(torch.rand(1, 1, 3, 3))) == "clean"


def test_gradients_are_finite_and_point_uphill() -> None:
    image = (0.5 + tiled(8, 1, side=128)[None, None]).repeat(2, 3, 1, 1)
    image[0] = 0.5
    image.requires_grad_()
    lattice_excess(image).sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert float((image.grad[1] * tiled(8, 1, side=128)).sum()) > 0


def test_a_batch_is_judged_image_by_image() -> None:
    images = torch.rand(3, 1, 140, 170)
    apart = torch.cat([lattice_excess(image[None]) for image in images])
    torch.testing.assert_close(lattice_excess(images), apart, atol=1e-3, rtol=0)


def test_blocks_that_move_apart_on_large_images_tell_the_same(photo: Tensor) -> None:
    image = photo + tiled(4, 2)
    whole = inspect_lattice(image, (4,))
    sampled = inspect_lattice(
        image.repeat(1, 1, 5, 3), (4,)
    )  # more than 8,000 blocks, of which 4,096 are looked at
    assert sampled.excess != whole.excess
    assert sampled.excess == pytest.approx(whole.excess, abs=1)
    assert sampled.coherence == pytest.approx(whole.coherence, abs=0.1)


def test_a_channel_can_be_looked_at_alone(photo: Tensor) -> None:
    image = photo.repeat(1, 3, 1, 1)
    image[:, 2] += tiled(8, 2)
    assert verdict(inspect_lattice(image, (8,), channel="red")) == "clean"
    assert verdict(inspect_lattice(image, (8,), channel="blue")) == "grid"
    assert verdict(inspect_lattice(image, (8,), channel="cb")) == "grid"


def test_inputs_that_cannot_be_judged_are_refused() -> None:
    with pytest.raises(UsageError, match="channel 'alpha': must be one of luma, red"):
        inspect_lattice(torch.rand(1, 3, 64, 64), channel="alpha")
    with pytest.raises(UsageError, match="one image, got 2"):
        inspect_lattice(torch.rand(2, 3, 64, 64))
    with pytest.raises(UsageError, match="period 1"):
        inspect_lattice(torch.rand(1, 3, 64, 64), (1,))
    with pytest.raises(UsageError, match="where='everywhere'"):
        lattice_excess(torch.rand(1, 3, 64, 64), where="everywhere")


def test_gradients_after_a_look_without_them() -> None:
    with torch.inference_mode():
        lattice_excess(torch.rand(1, 1, 96, 96), (8,))
    image = torch.rand(1, 1, 96, 96, requires_grad=True)
    lattice_excess(image, (8,)).sum().backward()
    assert image.grad is not None
