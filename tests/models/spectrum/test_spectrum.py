from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from strsr_cli.images.read import read_image
from strsr_models import UsageError
from strsr_models.spectrum import amplitude_and_phase, lattice_excess, luma, power_spectrum, radial_profile

from ...conftest import EXAMPLES

PHOTOS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".png", ".jpg", ".webp"))


def load(path: Path) -> Tensor:
    """(1, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(read_image(path).rgb8())).permute(2, 0, 1)[None] / 255


def lattice(height: int, width: int, period: int, shift: int = 0, thickness: int | None = None) -> Tensor:
    """Boxes (h, w) in [0, 1]: half a period light, half dark; or light lines of some thickness."""
    y, x = (torch.arange(side) + shift for side in (height, width))
    if thickness is not None:
        return ((y[:, None] % period < thickness) | (x % period < thickness)).float()
    return ((y[:, None] % period < period // 2).float() + (x % period < period // 2).float()) / 2


def test_amplitude_and_phase_are_those_of_numpy() -> None:
    x = torch.randn(2, 3, 7, 10, dtype=torch.float64)
    amplitude, phase = amplitude_and_phase(x)
    expected = np.fft.fft2(x.numpy())
    np.testing.assert_allclose(amplitude.numpy(), np.abs(expected), rtol=1e-9)
    np.testing.assert_allclose(np.exp(1j * phase.numpy()), expected / np.abs(expected), atol=1e-9)


def test_spectrum_gradients_are_those_of_finite_differences() -> None:
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(amplitude_and_phase, (x,))


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-20, 1.0, 1e15])
@pytest.mark.parametrize("kind", ["constant", "dot", "noise"])
def test_gradients_are_finite_where_the_amplitude_is_zero(kind: str, scale: float) -> None:
    x = {"constant": torch.ones(1, 1, 24, 20), "dot": torch.zeros(1, 1, 24, 20), "noise": None}[kind]
    x = torch.randn(1, 1, 24, 20) if x is None else x
    x[..., 3, 5] += kind == "dot"
    x = (x * scale).requires_grad_()
    amplitude, phase = amplitude_and_phase(x)
    (amplitude.sum() + phase.sum()).backward()
    assert torch.isfinite(amplitude).all()
    assert torch.isfinite(x.grad).all()
    if kind == "constant":
        assert phase.count_nonzero() == 0  # rounding has no phase


def test_half_precision_is_computed_in_float32() -> None:
    x = torch.rand(1, 1, 16, 16).bfloat16()
    for half, full in zip(amplitude_and_phase(x), amplitude_and_phase(x.float()), strict=True):
        assert half.dtype == torch.float32
        assert torch.equal(half, full)


def test_luma_weighs_colours_and_keeps_grey() -> None:
    red, grey = torch.zeros(1, 3, 2, 2), torch.rand(2, 1, 3, 4)
    red[:, 0] = 1
    assert luma(red).flatten().tolist() == pytest.approx([0.299] * 4)
    torch.testing.assert_close(luma(grey.expand(-1, 3, -1, -1)), grey[:, 0])
    assert torch.equal(luma(grey), grey[:, 0])


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 2, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)])
def test_tensors_that_are_no_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="expected an image"):
        lattice_excess(torch.zeros(shape))


def test_power_of_white_noise_is_its_variance() -> None:
    power = power_spectrum(0.5 + 0.1 * torch.randn(4, 1, 300, 420), side=64)
    assert power.shape == (4, 64, 33)
    assert power[:, 4:60, 4:].mean() == pytest.approx(0.01, rel=0.03)
    assert power[:, 0, 0].max() < 0.01  # the mean is removed: it would be 900 times that


def test_a_slope_and_a_border_do_not_ring() -> None:
    ramp = torch.linspace(0, 1, 200).expand(1, 1, 150, 200)
    assert power_spectrum(ramp).max() < 1e-8
    # Half a wave: its two ends do not meet, which without a window would show at all frequencies.
    half_wave = torch.cos(math.pi * torch.arange(128.0) / 128).expand(1, 1, 128, 128)
    power = power_spectrum(half_wave)[0, 0]
    assert power[1] > 1
    assert power[16:].max() < 1e-6 * power[1]


def test_the_radial_profile_finds_a_wave_from_any_direction() -> None:
    y, x = torch.arange(160.0)[:, None], torch.arange(200.0)
    for angle in (0.0, 0.5, 1.2):
        wave = torch.cos(2 * math.pi * 0.25 * (x * math.cos(angle) + y * math.sin(angle)))
        frequency, profile = radial_profile(0.5 + 0.1 * wave[None, None])
        assert frequency[profile[0].argmax()] == pytest.approx(0.25, abs=1 / 128)


def test_the_radial_profile_of_noise_is_flat_in_every_direction() -> None:
    noise = 0.1 * torch.randn(1, 3, 260, 390)
    frequency, profile = radial_profile(noise)
    turned = radial_profile(noise.transpose(2, 3))[1]
    assert frequency[0] == 1 / 128
    assert frequency[-1] == 0.5
    variance = float(luma(noise).var())
    torch.testing.assert_close(
        profile[:, 4:], torch.full_like(profile[:, 4:], 10 * math.log10(variance)), atol=1.0, rtol=0
    )
    torch.testing.assert_close(profile, turned, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("height", "width", "count"), [(5, 9, 2), (64, 70, 32), (1, 1, 0)])
def test_the_radial_profile_is_defined_for_a_small_image(height: int, width: int, count: int) -> None:
    frequency, profile = radial_profile(torch.rand(2, 3, height, width))
    assert frequency.shape == (count,)
    assert profile.shape == (2, count)
    assert torch.isfinite(profile).all()


def test_white_noise_has_no_lattice() -> None:
    # The floor: single scores scatter by 0.4 dB at 512 px (16 and 8) and by 0.7 to 1.4 at 256.
    excess = lattice_excess(torch.rand(40, 1, 256, 256))
    assert excess.shape == (40, 3)
    assert excess.mean(0).abs().max() < 0.5
    assert excess.abs().max() < 6
    assert lattice_excess(torch.rand(2, 1, 640, 512)).abs().max() < 2


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_a_photo_has_hardly_any_lattice(path: Path) -> None:
    assert lattice_excess(load(path), where="axes").max() < 2
    excess = lattice_excess(load(path))[0]
    saved_in_blocks = 1 if path.suffix == ".png" else 2  # 4 and 8 px: JPEG's and WebP's own
    assert excess[saved_in_blocks:].max() < 2


@pytest.mark.parametrize("thickness", [None, 1, 3])
def test_a_planted_lattice_shows_the_more_the_stronger_it_is(thickness: int | None) -> None:
    photo = load(EXAMPLES / "rocket.jpg")  # smooth: texture hides a weak lattice, from the eye as well
    planted = lattice(184, 160, 16, thickness=thickness)
    scores = [float(lattice_excess(photo + a / 255 * planted)[0, 2]) for a in (0, 0.5, 1, 2, 4, 8, 16)]
    assert scores == sorted(scores)
    assert scores[2] > scores[0] + 1  # one grey level
    assert scores[5] > 10


def test_a_planted_lattice_shows_in_texture_too() -> None:
    photo = load(EXAMPLES / "cat.png")
    scores = [float(lattice_excess(photo + a / 255 * lattice(120, 160, 16))[0, 2]) for a in (0, 2, 4, 8, 16)]
    assert scores == sorted(scores)
    assert scores[-1] > 8


@pytest.mark.parametrize("thickness", [None, 1])
def test_a_lattice_of_one_grey_level_shows_in_a_flat_image(thickness: int | None) -> None:
    flat = torch.full((1, 1, 200, 300), 0.5)
    assert lattice_excess(flat).tolist() == [[0, 0, 0]]
    planted = lattice_excess(flat + lattice(200, 300, 16, thickness=thickness) / 255)
    assert planted[0, 2] > 20


def test_scores_do_not_depend_on_where_a_lattice_begins() -> None:
    noise = 0.02 * torch.randn(1, 1, 256, 256)
    scores = [
        float(lattice_excess(noise + 4 / 255 * lattice(256, 256, 16, shift))[0, 2]) for shift in range(16)
    ]
    assert max(scores) - min(scores) < 1.5
    assert min(scores) > 12


@pytest.mark.parametrize("period", [5, 7, 9, 11])
def test_a_lattice_of_another_period_is_not_taken_for_sixteen(period: int) -> None:
    image = 0.5 + 4 / 255 * lattice(512, 512, period)[None, None]
    other, sixteen = lattice_excess(image, (period, 16))[0].tolist()
    assert other > 30
    assert sixteen < 3


def test_a_frequency_belongs_to_one_period_only() -> None:
    def scores(period: int, thickness: int | None) -> list[float]:
        image = 0.5 + 4 / 255 * lattice(256, 256, period, thickness=thickness)[None, None]
        return [float(score) for score in lattice_excess(image)[0]]

    four, eight, sixteen = scores(4, 1)
    assert four > 40
    assert max(abs(eight), abs(sixteen)) < 0.01
    four, eight, sixteen = scores(8, None)  # boxes have odd harmonics only: 1/8, 3/8
    assert eight > 30
    assert abs(sixteen) < 0.01
    assert four > 30  # and a seam every 4 px
    boxes = 0.5 + 4 / 255 * lattice(256, 256, 8)[None, None]
    assert abs(float(lattice_excess(boxes, (4,), where="axes"))) < 0.01
    four, eight, sixteen = scores(
        16, 1
    )  # thin lines have all harmonics, but between other lines none stands out
    assert sixteen > 40
    assert max(four, eight) < sixteen - 30


def test_a_score_does_not_depend_on_other_scores_or_the_batch() -> None:
    images = torch.rand(3, 3, 150, 180)
    together = lattice_excess(images, (4, 7, 16, 8))
    for column, period in enumerate((4, 7, 16, 8)):
        alone = torch.cat([lattice_excess(image[None], (period,)) for image in images])
        torch.testing.assert_close(together[:, column], alone[:, 0], atol=1e-3, rtol=0)


def test_rows_and_columns_count_alike() -> None:
    image = torch.rand(1, 1, 140, 230)
    torch.testing.assert_close(lattice_excess(image), lattice_excess(image.transpose(2, 3)))


def test_an_image_smaller_than_four_periods_is_not_judged() -> None:
    excess = lattice_excess(torch.rand(2, 3, 63, 200))
    assert torch.isfinite(excess[:, :2]).all()
    assert torch.isnan(excess[:, 2]).all()
    assert torch.isfinite(lattice_excess(torch.rand(1, 1, 64, 64))).all()
    assert torch.isnan(lattice_excess(torch.rand(1, 3, 1, 1))).all()


@pytest.mark.parametrize("period", [1, 0, -4])
def test_a_period_below_two_is_refused(period: int) -> None:
    with pytest.raises(UsageError, match=f"period {period}"):
        lattice_excess(torch.rand(1, 1, 64, 64), (16, period))
