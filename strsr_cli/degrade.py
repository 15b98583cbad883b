"""The second-order degradation of Real-ESRGAN (arXiv 2107.10833), as pure functions.

A recipe is drawn first (`draw_recipe`), then followed (`degrade`): two pictures degraded by one
recipe look as if they came through the same camera and the same web site. Images are float
(1, 3, h, w) in [0, 1]; every random number comes from the `rng` given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

KERNEL = 21  # px, side of the blur kernels


@dataclass(frozen=True)
class PassConfig:
    """Ranges of one pass: blur, resize, noise, JPEG."""

    blur_prob: float
    blur_sigma: tuple[float, float]  # px
    sinc_prob: float
    resize_prob: tuple[float, float, float]  # up, down, keep
    resize_range: tuple[float, float]
    noise_sigma: tuple[float, float]  # of 255
    poisson_scale: tuple[float, float]
    jpeg_quality: tuple[float, float]


@dataclass(frozen=True)
class DegradeConfig:
    """How often a picture is only reduced, mildly degraded or sent through the full pipeline."""

    clean_share: float = 0.34
    mild_share: float = 0.33
    scale: tuple[float, float] = (2.0, 4.0)
    scale_four_share: float = 0.75  # of the pictures; the rest are uniform in `scale`
    first: PassConfig = field(
        default_factory=lambda: PassConfig(
            1.0, (0.2, 3.0), 0.1, (0.2, 0.7, 0.1), (0.15, 1.5), (1.0, 30.0), (0.05, 3.0), (30.0, 95.0)
        )
    )
    second: PassConfig = field(
        default_factory=lambda: PassConfig(
            0.8, (0.2, 1.5), 0.1, (0.3, 0.4, 0.3), (0.3, 1.2), (1.0, 25.0), (0.05, 2.5), (30.0, 95.0)
        )
    )
    final_sinc_prob: float = 0.8
    # A photo that was scaled once and saved once, well.
    mild: PassConfig = field(
        default_factory=lambda: PassConfig(
            0.7, (0.2, 1.2), 0.0, (0.0, 0.0, 1.0), (1.0, 1.0), (0.0, 8.0), (0.02, 0.4), (60.0, 98.0)
        )
    )


@dataclass(frozen=True)
class Pass:
    """One pass, all numbers drawn."""

    kernel: Tensor | None  # (21, 21)
    factor: float
    mode: str
    gaussian: bool
    strength: float  # sigma / 255, or the Poisson scale
    gray: bool
    quality: int


@dataclass(frozen=True)
class Recipe:
    """All numbers of one degradation."""

    scale: float
    passes: tuple[Pass, ...]
    sinc: Tensor | None = None  # final, (21, 21)
    jpeg_last: bool = True


def uniform(rng: torch.Generator, low: float, high: float) -> float:
    """One number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=rng))


def chance(rng: torch.Generator, probability: float) -> bool:
    """True with the given probability."""
    return float(torch.rand((), generator=rng)) < probability


def draw_recipe(rng: torch.Generator, config: DegradeConfig) -> Recipe:
    """Draw everything that is random about a degradation but the noise itself."""
    four = chance(rng, config.scale_four_share)
    scale = 4.0 if four else uniform(rng, *config.scale)
    kind = uniform(rng, 0.0, 1.0)
    if kind < config.clean_share:
        return Recipe(scale, ())
    if kind < config.clean_share + config.mild_share:
        return Recipe(scale, (draw_pass(rng, config.mild),))
    passes = (draw_pass(rng, config.first), draw_pass(rng, config.second))
    sinc = sinc_kernel(rng) if chance(rng, config.final_sinc_prob) else None
    return Recipe(scale, passes, sinc, jpeg_last=chance(rng, 0.5))


def draw_pass(rng: torch.Generator, config: PassConfig) -> Pass:
    """Draw the numbers of one pass."""
    kernel = None
    if chance(rng, config.blur_prob):
        sinc = chance(rng, config.sinc_prob)
        kernel = sinc_kernel(rng) if sinc else blur_kernel(rng, config.blur_sigma)
    up, down, _ = config.resize_prob
    kind, factor = uniform(rng, 0.0, 1.0), 1.0
    if kind < up:
        factor = uniform(rng, 1.0, max(1.0, config.resize_range[1]))
    elif kind < up + down:
        factor = uniform(rng, config.resize_range[0], 1.0)
    mode = ("area", "bilinear", "bicubic")[int(uniform(rng, 0, 3))]
    gaussian = chance(rng, 0.5)
    span = config.noise_sigma if gaussian else config.poisson_scale
    strength = uniform(rng, *span) / (255 if gaussian else 1)
    quality = round(uniform(rng, *config.jpeg_quality))
    return Pass(kernel, factor, mode, gaussian, strength, chance(rng, 0.4), quality)


def degrade(image: Tensor, recipe: Recipe, rng: torch.Generator, scale: float | None = None) -> Tensor:
    """Follow a recipe: (1, 3, H, W) in [0, 1] -> (1, 3, round(H / scale), round(W / scale)), 8-bit steps.

    scale: in place of the recipe's.
    """
    scale = recipe.scale if scale is None else scale
    h, w = (max(1, round(side / scale)) for side in image.shape[-2:])
    if not recipe.passes:
        return quantise(resize(image, (h, w), "bicubic"))
    x = image
    for number, step in enumerate(recipe.passes):
        last = number == len(recipe.passes) - 1
        if step.kernel is not None:
            x = blur(x, step.kernel)
        # The last pass resizes straight to the target, as a web site would.
        factor = step.factor if not last else step.factor * math.sqrt(h * w / (x.shape[-2] * x.shape[-1]))
        size = (max(1, round(x.shape[-2] * factor)), max(1, round(x.shape[-1] * factor)))
        x = resize(x, (h, w) if last and len(recipe.passes) == 1 else size, step.mode)
        x = add_noise(x, step, rng)
        if not last:
            x = jpeg(x, step.quality)
    final = recipe.passes[-1].quality
    if recipe.jpeg_last:
        x = resize(x, (h, w), "bicubic")
        return jpeg(x if recipe.sinc is None else blur(x, recipe.sinc), final)
    x = resize(jpeg(x, final), (h, w), "bicubic")
    return quantise(x if recipe.sinc is None else blur(x, recipe.sinc))


def quantise(image: Tensor) -> Tensor:
    """Round to 8-bit steps, clamped to [0, 1]."""
    return (image.clamp(0, 1) * 255).round() / 255


def resize(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """To (h, w) px by area, bilinear or bicubic, with antialias; clamped to [0, 1]."""
    if tuple(image.shape[-2:]) == size:
        return image
    if mode == "area":
        return F.interpolate(image, size, mode="area")
    return F.interpolate(image, size, mode=mode, align_corners=False, antialias=True).clamp(0, 1)


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Filter each channel of (1, 3, h, w) with a (k, k) kernel, borders reflected; clamped to [0, 1]."""
    pixels = cv2.filter2D(to_array(image), -1, kernel.numpy(), borderType=cv2.BORDER_REFLECT)
    return to_tensor(pixels).clamp(0, 1)


def add_noise(image: Tensor, step: Pass, rng: torch.Generator) -> Tensor:
    """Gaussian noise of sigma `strength`, or Poisson noise of `strength` times 8-bit photon noise."""
    shape = list(image.shape)
    if step.gray:
        shape[1] = 1
    if step.gaussian:
        noise = step.strength * torch.randn(shape, generator=rng)
    else:
        light = image.mean(1, keepdim=True) if step.gray else image
        counts = (light.clamp(0, 1) * 255).round()
        noise = step.strength * (torch.poisson(counts, generator=rng) - counts) / 255
    return (image + noise).clamp(0, 1)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Through libjpeg and back at `quality` (1 to 100), 4:2:0."""
    pixels = np.rint(to_array(image) * 255).astype(np.uint8)[..., ::-1]
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded a line above
    return to_tensor(np.ascontiguousarray(decoded[..., ::-1], dtype=np.float32) / 255)


def to_array(image: Tensor) -> np.ndarray:
    """(1, 3, h, w) -> (h, w, 3)."""
    return np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(h, w, 3) -> (1, 3, h, w)."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def blur_kernel(rng: torch.Generator, sigma: tuple[float, float]) -> Tensor:
    """Gaussian, generalised Gaussian or plateau kernel (21, 21), isotropic or not, sum 1."""
    kind = uniform(rng, 0.0, 1.0)
    # Published shares: iso .45, aniso .25, generalised .12/.03, plateau .12/.03.
    isotropic = kind < 0.45 or 0.70 <= kind < 0.82 or 0.85 <= kind < 0.97
    first = uniform(rng, *sigma)
    second = first if isotropic else uniform(rng, *sigma)
    angle = 0.0 if isotropic else uniform(rng, -math.pi, math.pi)
    axis = torch.arange(KERNEL, dtype=torch.float32) - KERNEL // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u = (x * math.cos(angle) + y * math.sin(angle)) / first
    v = (y * math.cos(angle) - x * math.sin(angle)) / second
    distance = u * u + v * v
    if kind < 0.70:
        kernel = torch.exp(-distance / 2)
    elif kind < 0.85:
        kernel = torch.exp(-((distance + 1e-12) ** uniform(rng, 0.5, 4.0)) / 2)
    else:
        kernel = 1 / (1 + (distance + 1e-12) ** uniform(rng, 1.0, 2.0))
    return kernel / kernel.sum()


def sinc_kernel(rng: torch.Generator) -> Tensor:
    """Circular low-pass (21, 21) with a cut-off in [pi/3, pi): the source of ringing; sum 1."""
    cutoff = uniform(rng, math.pi / 3, math.pi)
    axis = torch.arange(KERNEL, dtype=torch.float64) - KERNEL // 2
    radius = torch.sqrt(axis[:, None] ** 2 + axis[None] ** 2)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[KERNEL // 2, KERNEL // 2] = cutoff**2 / (4 * math.pi)
    normalised: Tensor = kernel / kernel.sum()
    return normalised.float()
