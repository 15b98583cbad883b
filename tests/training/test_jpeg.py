from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from strsr_cli.training.data.jpeg import jpeg

TURBO = features.check_feature("libjpeg_turbo")


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def by_libjpeg(pixels: np.ndarray, quality: int) -> torch.Tensor:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return to_tensor(np.array(image))


def assert_equals_libjpeg(pixels: np.ndarray, quality: int) -> None:
    """To the bit where Pillow has libjpeg-turbo; other builds may interpolate chroma in another way."""
    ours, reference = jpeg(to_tensor(pixels), [quality]), by_libjpeg(pixels, quality)
    assert ours.shape == reference.shape
    error = ours - reference
    assert error.abs().mean() < 1 / 255
    assert -10 * torch.log10(error.square().mean() + 1e-12) > 40
    if TURBO:
        assert (error.abs().max() * 255).round() == 0


@pytest.mark.parametrize("quality", [1, 30, 49, 50, 75, 95, 100])
@pytest.mark.parametrize("size", [(120, 160), (61, 45), (32, 33), (17, 16), (7, 5)])
def test_jpeg_equals_libjpeg_on_a_photo(photo: np.ndarray, size: tuple[int, int], quality: int) -> None:
    assert_equals_libjpeg(photo[30 : 30 + size[0], 40 : 40 + size[1]], quality)


@given(
    st.integers(1, 50),
    st.integers(5, 50),
    st.integers(30, 95),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 51, 255]),
)
def test_jpeg_equals_libjpeg_on_noise(height: int, width: int, quality: int, seed: int, step: int) -> None:
    """Steps of 255: every colour saturated, the largest coefficients there can be."""
    noise = np.random.default_rng(seed).integers(0, 256 // step + 1, (height, width, 3)) * step
    pixels = np.minimum(noise, 255).astype(np.uint8)
    ours, reference = jpeg(to_tensor(pixels), [quality]), by_libjpeg(pixels, quality)
    assert (ours - reference).abs().mean() < 1 / 255
    if TURBO:
        assert ((ours - reference).abs().max() * 255).round() == 0


def test_flat_gray_survives_every_quality() -> None:
    flat = torch.full((3, 3, 19, 23), 128 / 255)
    assert torch.equal(jpeg(flat, [1, 50, 100]), flat)


def test_images_have_their_qualities_and_ignore_each_other(photo: np.ndarray) -> None:
    images = torch.cat([to_tensor(photo[top : top + 50, :71]) for top in (0, 20, 40)])
    qualities = [30, 95, 60]
    together = jpeg(images, qualities)
    for row, quality in enumerate(qualities):
        assert torch.equal(together[row : row + 1], jpeg(images[row : row + 1], [quality]))


def test_input_is_rounded_and_clamped_to_eight_bits(photo: np.ndarray) -> None:
    image = to_tensor(photo[:40, :40])
    disturbed = image + (torch.rand_like(image) - 0.5) * 0.9 / 255
    assert torch.equal(jpeg(disturbed, [90]), jpeg(image, [90]))
    assert torch.equal(jpeg(torch.full((1, 3, 8, 8), 1.7), [90]), jpeg(torch.ones(1, 3, 8, 8), [90]))


def test_memory_format_does_not_matter(photo: np.ndarray) -> None:
    image = to_tensor(photo)
    assert torch.equal(jpeg(image.to(memory_format=torch.channels_last), [70]), jpeg(image, [70]))


@pytest.mark.gpu
def test_a_gpu_makes_the_same_bits(photo: np.ndarray) -> None:
    image = to_tensor(photo)
    assert torch.equal(jpeg(image.cuda(), [70]).cpu(), jpeg(image, [70]))
