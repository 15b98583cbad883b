from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from strsr_cli.training.data.degrade import (
    DegradeConfig,
    Pass,
    Recipe,
    Sizes,
    add_noise,
    degrade,
    draw_recipe,
    draw_sizes,
    resize,
    sharpen,
)
from strsr_cli.training.data.jpeg import jpeg
from strsr_cli.training.data.kernels import blur, blur_kernel, narrowed, sinc_kernel
from strsr_cli.training.data.seeds import generator_for

CLEAN = DegradeConfig(clean_share=1.0, mild_share=0.0, scale_four_share=1.0)
MILD = DegradeConfig(clean_share=0.0, mild_share=1.0, scale_four_share=1.0)
SEVERE = DegradeConfig(clean_share=0.0, mild_share=0.0, scale_four_share=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def image(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float().contiguous() / 255


def test_clean_is_an_antialiased_bicubic_reduction(image: torch.Tensor) -> None:
    sizes = draw_sizes(generator(), CLEAN, "clean")
    lq = degrade(image, [draw_recipe(generator(), CLEAN)], sizes, [generator()])
    expected = F.interpolate(image, (30, 40), mode="bicubic", antialias=True).clamp(0, 1)
    assert (lq - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal((lq * 255).round() / 255, lq)


@pytest.mark.parametrize("seed", range(30))
def test_severe_keeps_size_and_range(seed: int, image: torch.Tensor) -> None:
    recipe, sizes = draw_recipe(generator(seed), SEVERE), draw_sizes(generator(seed), SEVERE, "severe")
    lq = degrade(image, [recipe], sizes, [generator(seed)])
    assert lq.shape == (1, 3, 30, 40)
    assert torch.isfinite(lq).all()
    assert lq.min() >= 0
    assert lq.max() <= 1
    assert torch.equal((lq * 255).round() / 255, lq)
    assert degrade(image, [recipe], sizes, [generator(seed)], scale=1.0).shape == image.shape


@pytest.mark.parametrize(("config", "kind"), [(CLEAN, "clean"), (MILD, "mild"), (SEVERE, "severe")])
def test_the_smallest_images_come_through(config: DegradeConfig, kind: str) -> None:
    for seed, shape in enumerate([(1, 1), (2, 9), (5, 3), (4, 4)]):
        lq = degrade(
            torch.rand(1, 3, *shape, generator=generator()),
            [draw_recipe(generator(seed), config)],
            draw_sizes(generator(seed), config, kind),
            [generator(seed)],
        )
        assert lq.shape == (1, 3, max(1, round(shape[0] / 4)), max(1, round(shape[1] / 4)))
        assert torch.isfinite(lq).all()


def test_kinds_are_ever_farther_from_the_original(image: torch.Tensor) -> None:
    errors = []
    for kind, config in zip(("clean", "mild", "severe"), (CLEAN, MILD, SEVERE), strict=True):
        total = 0.0
        for seed in range(12):
            sizes = draw_sizes(generator(seed), config, kind)
            lq = degrade(image, [draw_recipe(generator(seed), config)], sizes, [generator(seed)])
            total += float((lq - resize(image, (30, 40), "bicubic")).square().mean())
        errors.append(total)
    assert errors == sorted(errors)


def test_the_same_seeds_make_the_same_pixels(image: torch.Tensor) -> None:
    sizes = draw_sizes(generator(1), SEVERE, "severe")
    first, second = (
        degrade(image, [draw_recipe(generator(5), SEVERE)], sizes, [generator(6)]) for _ in range(2)
    )
    assert torch.equal(first, second)
    other = degrade(image, [draw_recipe(generator(7), SEVERE)], sizes, [generator(6)])
    assert not torch.equal(first, other)


def test_a_batch_is_its_images_one_by_one(image: torch.Tensor) -> None:
    """Within one 8-bit step on nearly all pixels: a Fourier transform's last bit may hang on the batch."""
    images = torch.cat([image, image.flip(-1), image.flip(-2), 1 - image])
    recipes = [draw_recipe(generator(seed), SEVERE) for seed in range(4)]
    sizes = Sizes(4.0, ((0.5, "area"), (1.1, "bilinear")), "bicubic")
    together = degrade(images, recipes, sizes, [generator(seed) for seed in range(4)])
    for row in range(4):
        alone = degrade(images[row : row + 1], [recipes[row]], sizes, [generator(row)])
        difference = (together[row : row + 1] - alone).abs()
        assert difference.mean() < 1e-4


def test_the_order_of_the_last_steps_is_the_recipe_s(image: torch.Tensor) -> None:
    """Without blur and noise, what is left is JPEG, resize and sinc in the order asked for."""
    nothing = Pass(None, True, 0.0, False, 50)
    sinc, sizes = sinc_kernel(generator(2), 21), Sizes(2.0, ((1.0, "area"), (2.0, "bicubic")), "area")
    small = jpeg(image, [50])
    late, early = (
        degrade(image, [Recipe("severe", (nothing, nothing), sinc, last)], sizes, [generator()])
        for last in (True, False)
    )
    reduced = resize(small, (60, 80), "area")
    torch.testing.assert_close(late, jpeg(blur(reduced, sinc[None]), [50]), atol=1e-6, rtol=0)
    reduced = blur(resize(jpeg(small, [50]), (60, 80), "area"), sinc[None])
    torch.testing.assert_close(early, (reduced * 255).round() / 255, atol=1e-6, rtol=0)


# --- what is drawn ---------------------------------------------------------------------------------


def test_recipes_follow_the_published_probabilities() -> None:
    """Real-ESRGAN's numbers, within four standard errors of 1000 draws."""
    recipes = [draw_recipe(generator_for("test", number), SEVERE) for number in range(1000)]
    first, second = ([recipe.passes[number] for recipe in recipes] for number in (0, 1))

    def share(found: list[bool]) -> float:
        return sum(found) / len(found)

    assert all(step.kernel is not None for step in first)
    assert share([step.kernel is not None for step in second]) == pytest.approx(0.8, abs=0.051)
    # Of all kernels, sinc filters alone go below zero.
    assert share([bool((step.kernel < -1e-4).any()) for step in first]) == pytest.approx(0.1, abs=0.038)
    assert share([recipe.sinc is not None for recipe in recipes]) == pytest.approx(0.8, abs=0.051)
    assert share([recipe.jpeg_last for recipe in recipes]) == pytest.approx(0.5, abs=0.064)
    for steps, sigma, photons in ((first, 30, 3), (second, 25, 2.5)):
        assert share([step.gaussian for step in steps]) == pytest.approx(0.5, abs=0.064)
        assert share([step.gray for step in steps]) == pytest.approx(0.4, abs=0.062)
        assert {step.quality for step in steps} == set(range(30, 96))
        strengths = [step.strength * 255 for step in steps if step.gaussian]
        assert 1 <= min(strengths) < 1.5
        assert sigma - 0.5 < max(strengths) <= sigma
        strengths = [step.strength for step in steps if not step.gaussian]
        assert 0.05 <= min(strengths) < 0.1
        assert photons - 0.05 < max(strengths) <= photons


def test_sizes_follow_the_published_probabilities() -> None:
    drawn = [draw_sizes(generator_for("test", number), DegradeConfig(), "severe") for number in range(1500)]
    for number, up, down, low, high in ((0, 0.2, 0.7, 0.15, 1.5), (1, 0.3, 0.4, 0.3, 1.2)):
        factors = [sizes.resizes[number][0] for sizes in drawn]
        assert sum(factor > 1 for factor in factors) / 1500 == pytest.approx(up, abs=0.048)
        assert sum(factor < 1 for factor in factors) / 1500 == pytest.approx(down, abs=0.051)
        assert low <= min(factors) < low + 0.01
        assert high - 0.01 < max(factors) <= high
    assert {sizes.final_mode for sizes in drawn} == {"area", "bilinear", "bicubic"}
    assert sum(sizes.scale == 4 for sizes in drawn) / 1500 == pytest.approx(0.75, abs=0.045)
    assert all(2 <= sizes.scale <= 4 for sizes in drawn)


def test_kinds_come_in_their_shares() -> None:
    config = DegradeConfig(clean_share=0.5, mild_share=0.2)
    kinds = [draw_recipe(generator_for("test", number), config).kind for number in range(1500)]
    for kind, share in (("clean", 0.5), ("mild", 0.2), ("severe", 0.3)):
        assert kinds.count(kind) / 1500 == pytest.approx(share, abs=0.052)


def test_draws_stay_what_they_were() -> None:
    """Golden: runs that are resumed after an update must see the samples they would have seen."""
    recipe = draw_recipe(generator_for("recipe", 0, 11), DegradeConfig())
    assert (recipe.kind, recipe.jpeg_last, recipe.sinc is not None) == ("severe", False, True)
    assert [(step.gaussian, step.gray, step.quality) for step in recipe.passes] == [
        (False, False, 65),
        (True, False, 67),
    ]
    assert [step.strength for step in recipe.passes] == pytest.approx([2.849814, 0.091494], abs=1e-6)
    sizes = draw_sizes(generator_for("sizes", 0, 7, "severe"), DegradeConfig(), "severe")
    assert (sizes.scale, sizes.final_mode) == (4.0, "bicubic")
    assert [mode for _, mode in sizes.resizes] == ["bilinear", "bicubic"]
    assert [factor for factor, _ in sizes.resizes] == pytest.approx([0.208957, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clean_share": 0.8, "mild_share": 0.4},
        {"clean_share": -0.1},
        {"scale": (4.0, 2.0)},
        {"scale": (0.5, 4.0)},
        {"sharpen": -1.0},
    ],
)
def test_impossible_configurations_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DegradeConfig(**wrong)


@pytest.mark.parametrize(
    ("name", "span"),
    [
        ("blur_sigma", (0.0, 3.0)),
        ("jpeg_quality", (0.0, 95.0)),
        ("jpeg_quality", (30.0, 101.0)),
        ("resize_range", (0.0, 1.5)),
        ("noise_sigma", (30.0, 1.0)),
        ("poisson_scale", (float("nan"), 3.0)),
    ],
)
def test_impossible_ranges_are_refused(name: str, span: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=name):
        replace(SEVERE.first, **{name: span})


# --- the steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_kernels_sum_to_one_and_are_centred(seed: int) -> None:
    side = 7 + 2 * (seed % 8)
    for kernel in (blur_kernel(generator(seed), side, (0.2, 3.0)), sinc_kernel(generator(seed), side)):
        assert kernel.shape == (21, 21)
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(kernel, kernel.flip(0, 1), atol=1e-6, rtol=0)
        assert kernel.argmax() == 21 * 10 + 10
        frame = (21 - side) // 2
        outside = kernel.clone()
        outside[frame : 21 - frame, frame : 21 - frame] = 0
        assert not outside.any()


def test_a_sinc_filter_passes_what_is_below_its_cut_off() -> None:
    response = torch.fft.fft2(sinc_kernel(generator(3), 21, math.pi * 0.5), s=(64, 64)).abs()
    assert response[0, 8] == pytest.approx(1, abs=0.15)  # a quarter of the highest frequency
    drawn = math.pi * 0.5 + math.pi * 0.5 * float(torch.rand((), generator=generator(3)))
    beyond = round(64 * drawn / (2 * math.pi)) + 5
    assert beyond <= 32
    assert response[0, beyond] < 0.15


def test_blur_is_correlation_with_each_kernel(image: torch.Tensor) -> None:
    images = torch.cat([image, image.flip(-1)])
    kernels = torch.stack([blur_kernel(generator(seed), 21, (0.5, 3.0)) for seed in (4, 11)])
    padded = F.pad(images, (10, 10, 10, 10), mode="reflect")
    expected = [
        F.conv2d(padded[row].unsqueeze(1), kernels[row].view(1, 1, 21, 21)).squeeze(1) for row in (0, 1)
    ]
    torch.testing.assert_close(blur(images, kernels), torch.stack(expected), atol=2e-6, rtol=0)


def test_blur_with_a_single_pixel_changes_nothing(image: torch.Tensor) -> None:
    pulse = torch.zeros(1, 21, 21)
    pulse[:, 10, 10] = 1
    torch.testing.assert_close(blur(image, pulse), image, atol=1e-6, rtol=0)
    tiny = image[..., :3, :1]
    torch.testing.assert_close(blur(tiny, pulse), tiny, atol=1e-6, rtol=0)


def noise(flat: torch.Tensor, strength: float, gaussian: bool, gray: bool = False) -> torch.Tensor:
    return add_noise(flat, [Pass(None, gaussian, strength, gray, 90)], [generator()]) - flat


def test_noise_is_as_strong_as_it_says() -> None:
    flat = torch.full((1, 3, 200, 200), 0.5)
    assert float(noise(flat, 10 / 255, True).std()) == pytest.approx(10 / 255, rel=0.02)
    assert float(noise(flat, 1.0, False).std()) == pytest.approx((0.5 * 255) ** 0.5 / 255, rel=0.02)
    assert float(noise(flat, 0.2, False).std()) == pytest.approx(0.2 * (0.5 * 255) ** 0.5 / 255, rel=0.02)


@pytest.mark.parametrize("gaussian", [True, False])
def test_gray_noise_is_one_for_all_channels(gaussian: bool) -> None:
    colour = torch.tensor([0.7, 0.3, 0.5]).view(1, 3, 1, 1).expand(1, 3, 50, 50)
    gray, coloured = (noise(colour, 0.05, gaussian, gray) for gray in (True, False))
    torch.testing.assert_close(gray[:, 0], gray[:, 2], atol=1e-6, rtol=0)
    assert not torch.allclose(coloured[:, 0], coloured[:, 2], atol=1e-3)


@pytest.mark.parametrize("photons", [3, 10, 100])
def test_photon_noise_is_distributed_like_counts(photons: int) -> None:
    """Mean and spread closely, skew nearly."""
    flat = torch.full((1, 3, 400, 400), photons / 255)
    counts = noise(flat, 1.0, False) * 255 + photons
    reference = torch.poisson(torch.full((480_000,), float(photons)), generator=generator(1))
    assert moments(counts)[:2] == pytest.approx(moments(reference)[:2], rel=0.02)
    assert moments(counts)[2] == pytest.approx(moments(reference)[2], abs=0.06)


def moments(numbers: torch.Tensor) -> tuple[float, float, float]:
    centred = numbers.double() - numbers.double().mean()
    spread = centred.square().mean().sqrt()
    return float(numbers.double().mean()), float(spread), float((centred / spread).pow(3).mean())


def test_photon_noise_leaves_the_dark_alone() -> None:
    assert torch.equal(noise(torch.zeros(1, 3, 40, 40), 3.0, False), torch.zeros(1, 3, 40, 40))


def test_area_and_bicubic_keep_the_mean(image: torch.Tensor) -> None:
    for mode in ("area", "bilinear", "bicubic"):
        assert float(resize(image, (60, 80), mode).mean()) == pytest.approx(float(image.mean()), abs=2e-3)


def test_sharpening_steepens_edges_and_leaves_flats_alone(image: torch.Tensor) -> None:
    edge = torch.full((1, 3, 64, 64), 0.3)
    edge[..., 32:] = 0.7
    sharp = sharpen(edge, 0.5)
    assert sharp.max() > 0.75
    assert sharp.min() < 0.25
    assert torch.allclose(sharp[..., 31].mean(), 1 - sharp[..., 32].mean(), atol=1e-3)
    flat = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(sharpen(flat, 0.5), flat, atol=1e-5, rtol=0)
    torch.testing.assert_close(sharpen(image, 0.0), image, atol=1e-6, rtol=0)
    assert 0 <= sharpen(image, 3.0).min() <= sharpen(image, 3.0).max() <= 1


def test_a_config_can_change_a_pass(image: torch.Tensor) -> None:
    """Without blur, resizing and noise and with the best JPEG, the severe kind is a reduction."""
    harmless = replace(
        SEVERE.first,
        blur_prob=0.0,
        resize_prob=(0.0, 0.0, 1.0),
        noise_sigma=(0.0, 0.0),
        poisson_scale=(0.0, 0.0),
        jpeg_quality=(100.0, 100.0),
    )
    config = replace(SEVERE, first=harmless, second=harmless, final_sinc_prob=0.0)
    sizes = draw_sizes(generator(), config, "severe")
    lq = degrade(image, [draw_recipe(generator(), config)], sizes, [generator()])
    assert (lq - resize(image, (30, 40), sizes.resizes[1][1])).abs().mean() < 0.01


@pytest.mark.parametrize("factor", [0.25, 0.4, 0.5, 0.75])
def test_narrowed_kernels_are_narrower_by_the_factor(factor: float) -> None:
    def width(kernel: torch.Tensor) -> float:
        place = torch.arange(len(kernel)) - len(kernel) // 2
        return float((kernel.sum(0) * place**2).sum().sqrt())

    place = torch.arange(21) - 10
    line = torch.exp(-(place**2) / 2 / 3.0**2)
    wide = line[:, None] * line / line.sum() ** 2
    narrow = narrowed(wide, factor)
    assert narrow is not None
    assert narrow.shape == (21, 21)
    assert float(narrow.sum()) == pytest.approx(1, abs=1e-5)
    assert width(narrow) == pytest.approx(factor * width(wide), rel=0.15, abs=0.3)
    assert torch.allclose(narrow, narrow.flip(0, 1), atol=1e-6)
    assert narrowed(wide, 1.0) is wide
    assert narrowed(None, factor) is None
