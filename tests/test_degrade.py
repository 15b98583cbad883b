from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from strsr_cli.data import Crops, batches
from strsr_cli.degrade import (
    DegradeConfig,
    Pass,
    add_noise,
    blur_kernel,
    degrade,
    draw_recipe,
    jpeg,
    resize,
    sinc_kernel,
)

CLEAN = DegradeConfig(clean_share=1.0, mild_share=0.0, scale_four_share=1.0)
SEVERE = DegradeConfig(clean_share=0.0, mild_share=0.0, scale_four_share=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image(photo) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255


def test_clean_is_an_antialiased_bicubic_reduction(image: torch.Tensor) -> None:
    lq = degrade(image, draw_recipe(generator(), CLEAN), generator())
    expected = F.interpolate(image, (30, 40), mode="bicubic", antialias=True).clamp(0, 1)
    assert (lq - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal((lq * 255).round() / 255, lq)


@pytest.mark.parametrize("seed", range(40))
def test_severe_keeps_size_and_range(seed: int, image: torch.Tensor) -> None:
    recipe = draw_recipe(generator(seed), SEVERE)
    lq = degrade(image, recipe, generator(seed))
    assert lq.shape == (1, 3, 30, 40)
    assert torch.isfinite(lq).all()
    assert lq.min() >= 0
    assert lq.max() <= 1
    assert degrade(image, recipe, generator(seed), scale=1.0).shape == image.shape


def test_one_seed_one_result(image: torch.Tensor) -> None:
    first, second = (degrade(image, draw_recipe(generator(5), SEVERE), generator(6)) for _ in range(2))
    assert torch.equal(first, second)
    other = degrade(image, draw_recipe(generator(7), SEVERE), generator(6))
    assert not torch.equal(first, other)


@pytest.mark.parametrize("seed", range(20))
def test_kernels_sum_to_one_and_are_centred(seed: int) -> None:
    for kernel in (blur_kernel(generator(seed), (0.2, 3.0)), sinc_kernel(generator(seed))):
        assert kernel.shape == (21, 21)
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(kernel, kernel.flip(0, 1), atol=1e-6, rtol=0)
        assert kernel.argmax() == 21 * 10 + 10


def test_noise_is_as_strong_as_it_says() -> None:
    flat = torch.full((1, 3, 200, 200), 0.5)
    gaussian = add_noise(flat, Pass(None, 1, "area", True, 10 / 255, False, 90), generator()) - flat
    assert float(gaussian.std()) == pytest.approx(10 / 255, rel=0.02)
    photon = add_noise(flat, Pass(None, 1, "area", False, 1.0, False, 90), generator()) - flat
    assert float(photon.std()) == pytest.approx((0.5 * 255) ** 0.5 / 255, rel=0.02)
    gray = add_noise(flat, Pass(None, 1, "area", True, 10 / 255, True, 90), generator()) - flat
    assert torch.equal(gray[:, 0], gray[:, 2])


def test_jpeg_hurts_more_at_lower_quality(image: torch.Tensor) -> None:
    errors = [float((jpeg(image, quality) - image).square().mean()) for quality in (95, 60, 30)]
    assert errors == sorted(errors)
    assert errors[0] > 0


def test_area_and_bicubic_keep_the_mean(image: torch.Tensor) -> None:
    for mode in ("area", "bilinear", "bicubic"):
        assert float(resize(image, (60, 80), mode).mean()) == pytest.approx(float(image.mean()), abs=2e-3)


def test_batches_do_not_depend_on_workers(photo) -> None:  # type: ignore[no-untyped-def]
    crops = Crops([photo], 32, seed=3, config=DegradeConfig())
    alone, helped = (list(batches(crops, 2, 4, 3, workers)) for workers in (0, 2))
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.hq, b.hq)
        assert torch.equal(a.lq_up, b.lq_up)
        assert torch.equal(a.picture, b.picture)
    assert alone[0].hq.shape == (3, 3, 32, 32)
    assert alone[0].picture.shape == (3, 3, 128, 128)
