"""The second-order degradation of Real-ESRGAN (arXiv 2107.10833) on batches, as pure functions.

Numbers are drawn first, then followed by `degrade`. `draw_sizes` draws what the samples of one kind
share in a step, since a batch has one size; `draw_recipe` draws what each sample has of its own. Two
pictures degraded by one recipe and the same sizes look as if they came through the same camera and
the same web site. Images are float (b, 3, h, w) in [0, 1] on any device with float64; no function
here knows a global random state.

Where this differs from the published code on purpose: resizing is antialiased, JPEG is libjpeg's
arithmetic instead of a differentiable stand-in, and photon noise is that of 255 photons at white,
where the published one counts the grey levels in use. Blur is drawn for a reduction by 4, as published; for smaller
ones its kernels are narrowed, so that a low-quality pixel is always blurred alike (`kernels.narrowed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from strsr_models.spectrum.blocks import BT601

from .jpeg import jpeg
from .kernels import blur, draw_kernel, draw_side, narrowed, sinc_kernel
from .seeds import happens, uniform

KINDS = ("clean", "mild", "lens", "medium", "severe")
MODES = ("area", "bilinear", "bicubic")
PUBLISHED_SCALE = 4.0  # the reduction that widths of blur are drawn for
GAUSSIAN_PROB = 0.5  # of noise; the rest is photon noise
GRAY_PROB = 0.4  # of noise: the same in the three channels


@dataclass(frozen=True)
class PassConfig:
    """The ranges that the numbers of one pass are drawn from: blur, resize, noise, JPEG."""

    blur_prob: float
    blur_sigma: tuple[float, float]  # px
    sinc_prob: float  # of the blurs
    resize_prob: tuple[float, float, float]  # up, down, keep
    resize_range: tuple[float, float]
    noise_sigma: tuple[float, float]  # of 255
    poisson_scale: tuple[float, float]
    jpeg_quality: tuple[float, float]

    def __post_init__(self) -> None:
        spans = {"blur_sigma": (0.01, 100), "resize_range": (0.01, 10), "jpeg_quality": (1, 100)}
        spans |= {"noise_sigma": (0, 255), "poisson_scale": (0, 255)}
        for name, (lowest, highest) in spans.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"{name} [{low}, {high}]: must be in order, from {lowest} to {highest}")
        check_shares(self, "blur_prob", "sinc_prob")
        if min(self.resize_prob) < 0 or abs(sum(self.resize_prob) - 1) > 1e-6:
            raise ValueError(f"resize_prob {list(self.resize_prob)}: must not be negative and sum to 1")


def check_shares(config: object, *names: str) -> None:
    """Raise ValueError for one of these fields that is no share or probability."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} {getattr(config, name)}: must lie in [0, 1]")


@dataclass(frozen=True)
class DegradeConfig:
    """The shares of the kinds of degradation, from a mere reduction to the full pipeline, and the ranges of each."""

    clean_share: float = 0.34
    mild_share: float = 0.33
    lens_share: float = 0.0
    medium_share: float = 0.0
    scale: tuple[float, float] = (2.0, 4.0)
    scale_four_share: float = 0.75  # of the steps; the rest are uniform in `scale`
    first: PassConfig = field(
        default_factory=lambda: PassConfig(
            blur_prob=1.0,
            blur_sigma=(0.2, 3.0),
            sinc_prob=0.1,
            resize_prob=(0.2, 0.7, 0.1),
            resize_range=(0.15, 1.5),
            noise_sigma=(1.0, 30.0),
            poisson_scale=(0.05, 3.0),
            jpeg_quality=(30.0, 95.0),
        )
    )
    second: PassConfig = field(
        default_factory=lambda: PassConfig(
            blur_prob=0.8,
            blur_sigma=(0.2, 1.5),
            sinc_prob=0.1,
            resize_prob=(0.3, 0.4, 0.3),
            resize_range=(0.3, 1.2),
            noise_sigma=(1.0, 25.0),
            poisson_scale=(0.05, 2.5),
            jpeg_quality=(30.0, 95.0),
        )
    )
    final_sinc_prob: float = 0.8
    # A photo that was scaled once and saved once, well.
    mild: PassConfig = field(
        default_factory=lambda: PassConfig(
            blur_prob=0.7,
            blur_sigma=(0.2, 1.2),
            sinc_prob=0.0,
            resize_prob=(0.0, 0.0, 1.0),
            resize_range=(1.0, 1.0),
            noise_sigma=(0.0, 8.0),
            poisson_scale=(0.02, 0.4),
            jpeg_quality=(60.0, 98.0),
        )
    )
    # What a camera's lens does to a photo that was saved well: blur of any width, and little else.
    lens: PassConfig = field(
        default_factory=lambda: PassConfig(
            blur_prob=1.0,
            blur_sigma=(0.5, 4.0),
            sinc_prob=0.0,
            resize_prob=(0.0, 0.0, 1.0),
            resize_range=(1.0, 1.0),
            noise_sigma=(0.0, 3.0),
            poisson_scale=(0.0, 0.15),
            jpeg_quality=(85.0, 100.0),
        )
    )
    # One pass of all that the full pipeline has, each at a medium strength.
    medium: PassConfig = field(
        default_factory=lambda: PassConfig(
            blur_prob=0.9,
            blur_sigma=(0.3, 3.0),
            sinc_prob=0.05,
            resize_prob=(0.1, 0.4, 0.5),
            resize_range=(0.5, 1.3),
            noise_sigma=(0.0, 15.0),
            poisson_scale=(0.02, 1.2),
            jpeg_quality=(35.0, 95.0),
        )
    )
    sharpen: float = 0.0  # weight of an unsharp mask on the target; Real-ESRGAN trains with 0.5

    def __post_init__(self) -> None:
        shares = {f"{kind}_share": getattr(self, f"{kind}_share") for kind in KINDS[:-1]}
        check_shares(self, *shares, "scale_four_share", "final_sinc_prob")
        if sum(shares.values()) > 1 + 1e-9:
            what = ", ".join(f"{name} {value}" for name, value in shares.items() if value)
            raise ValueError(f"{what}: must sum to at most 1")
        if not 1 <= self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {list(self.scale)}: must be two numbers from 1 on, in order")
        if self.sharpen < 0:
            raise ValueError(f"sharpen {self.sharpen}: must not be negative")


@dataclass(frozen=True)
class Sizes:
    """The sizes that all samples of a kind share in a step."""

    scale: float  # of the crop to the low-quality image
    resizes: tuple[tuple[float, str], ...]  # factor and mode of each pass
    final_mode: str  # of the resize to the target size


@dataclass(frozen=True)
class Pass:
    """A pass of one sample, with all its numbers drawn."""

    kernel: Tensor | None  # (21, 21)
    gaussian: bool
    strength: float  # sigma / 255, or the scale of photon noise
    gray: bool
    quality: int


@dataclass(frozen=True)
class Recipe:
    """The degradation of one sample, but for the noise itself. kind: one of KINDS."""

    kind: str
    passes: tuple[Pass, ...]
    sinc: Tensor | None = None  # final, (21, 21)
    jpeg_last: bool = True  # or before the last resize and sinc filter


def draw_sizes(rng: torch.Generator, config: DegradeConfig, kind: str) -> Sizes:
    """Draw what the samples of a kind share."""
    scale = 4.0 if happens(rng, config.scale_four_share) else uniform(rng, *config.scale)
    resizes = tuple((draw_factor(rng, ranges), draw_mode(rng)) for ranges in passes_of(kind, config))
    return Sizes(scale, resizes, draw_mode(rng))


def passes_of(kind: str, config: DegradeConfig) -> tuple[PassConfig, ...]:
    """The passes that pictures of a kind go through."""
    if kind == "clean":
        return ()
    if kind == "severe":
        return (config.first, config.second)
    return (getattr(config, kind),)


def draw_factor(rng: torch.Generator, config: PassConfig) -> float:
    """Draw by how much a pass resizes."""
    up, down, _ = config.resize_prob
    kind = uniform(rng, 0.0, 1.0)
    if kind < up:
        return uniform(rng, 1.0, max(1.0, config.resize_range[1]))
    if kind < up + down:
        return uniform(rng, config.resize_range[0], 1.0)
    return 1.0


def draw_mode(rng: torch.Generator) -> str:
    """Draw one of MODES."""
    return MODES[int(uniform(rng, 0, len(MODES)))]


def draw_recipe(rng: torch.Generator, config: DegradeConfig) -> Recipe:
    """Draw what a sample has of its own, its kind first."""
    kind = draw_kind(rng, config)
    passes = tuple(draw_pass(rng, ranges) for ranges in passes_of(kind, config))
    if kind != "severe":
        return Recipe(kind, passes)
    sinc = sinc_kernel(rng, draw_side(rng)) if happens(rng, config.final_sinc_prob) else None
    return Recipe("severe", passes, sinc, jpeg_last=happens(rng, 0.5))


def draw_kind(rng: torch.Generator, config: DegradeConfig) -> str:
    """Draw one of KINDS by their shares."""
    place, end = uniform(rng, 0.0, 1.0), 0.0
    for kind in KINDS[:-1]:
        end += getattr(config, f"{kind}_share")
        if place < end:
            return kind
    return KINDS[-1]


def draw_pass(rng: torch.Generator, config: PassConfig) -> Pass:
    """Draw the numbers of one pass."""
    kernel = draw_kernel(rng, config.sinc_prob, config.blur_sigma) if happens(rng, config.blur_prob) else None
    gaussian = happens(rng, GAUSSIAN_PROB)
    span = config.noise_sigma if gaussian else config.poisson_scale
    strength = uniform(rng, *span) / (255 if gaussian else 1)
    gray = happens(rng, GRAY_PROB)
    return Pass(kernel, gaussian, strength, gray, round(uniform(rng, *config.jpeg_quality)))


def degrade(
    images: Tensor,
    recipes: Sequence[Recipe],
    sizes: Sizes,
    rngs: Sequence[torch.Generator],
    scale: float | None = None,
) -> Tensor:
    """Follow recipes of one kind: (b, 3, H, W) -> (b, 3, round(H / scale), round(W / scale)), in 8-bit steps.

    recipes, rngs: one for each image; the generators make the noise and live on the images' device.
    scale: used in place of that of `sizes`.
    """
    scale = sizes.scale if scale is None else scale
    target = scaled(images.shape[-2:], 1 / scale)
    if not sizes.resizes:
        return quantise(resize(images, target, "bicubic"))
    x, last = images, len(sizes.resizes) - 1
    width = sizes.scale / PUBLISHED_SCALE
    for number, (factor, mode) in enumerate(sizes.resizes):
        passes = [recipe.passes[number] for recipe in recipes]
        x = blur_some(x, [narrowed(sample.kernel, width) for sample in passes])
        # The last pass goes to the neighbourhood of the target, the first to that of its input.
        x = resize(x, scaled(target if number == last else x.shape[-2:], factor), mode)
        x = add_noise(x, passes, rngs)
        if number < last:
            x = jpeg(x, [sample.quality for sample in passes])
    x = jpeg_some(x, [None if recipe.jpeg_last else recipe.passes[-1].quality for recipe in recipes])
    x = resize(x, target, sizes.final_mode)
    # The final sinc filter works at the target's own size.
    x = blur_some(x, [recipe.sinc for recipe in recipes])
    x = jpeg_some(x, [recipe.passes[-1].quality if recipe.jpeg_last else None for recipe in recipes])
    return quantise(x)


def scaled(size: Sequence[int], factor: float) -> tuple[int, int]:
    """Multiply (h, w) by a factor: rounded, at least 1."""
    h, w = (max(1, round(side * factor)) for side in size)
    return h, w


def quantise(images: Tensor) -> Tensor:
    """Round to 8-bit steps, clamped to [0, 1]."""
    return (images.clamp(0, 1) * 255).round() / 255


def resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize images to (h, w) px by area, bilinear or bicubic, with antialias; clamped to [0, 1]."""
    if tuple(images.shape[-2:]) == size:
        return images
    if mode == "area":
        return F.interpolate(images, size, mode="area")
    return F.interpolate(images, size, mode=mode, align_corners=False, antialias=True).clamp(0, 1)


def blur_some(images: Tensor, kernels: Sequence[Tensor | None]) -> Tensor:
    """Filter each image with its kernel (21, 21), or leave it as it is."""
    present = {row: kernel for row, kernel in enumerate(kernels) if kernel is not None}
    return on_rows(images, list(present), lambda x: blur(x, torch.stack(list(present.values())).to(x.device)))


def jpeg_some(images: Tensor, qualities: Sequence[int | None]) -> Tensor:
    """Compress each image as JPEG at its quality, or leave it as it is."""
    present = {row: quality for row, quality in enumerate(qualities) if quality is not None}
    return on_rows(images, list(present), lambda x: jpeg(x, list(present.values())))


def on_rows(images: Tensor, rows: list[int], function: Callable[[Tensor], Tensor]) -> Tensor:
    """The images, those at `rows` replaced by what the function makes of them."""
    if not rows:
        return images
    if len(rows) == len(images):
        return function(images)
    result = images.clone()
    result[rows] = function(images[rows])
    return result


def add_noise(images: Tensor, passes: Sequence[Pass], rngs: Sequence[torch.Generator]) -> Tensor:
    """Add Gaussian noise of sigma `strength`, or `strength` times photon noise, to (b, 3, h, w); clamped to [0, 1]."""
    b, _, h, w = images.shape
    unit = torch.empty_like(images)
    for row, (sample, rng) in enumerate(zip(passes, rngs, strict=True)):
        channels = 1 if sample.gray else 3
        unit[row] = torch.randn((channels, h, w), generator=rng, device=images.device)
    photons = [row for row, sample in enumerate(passes) if not sample.gaussian]
    gray = torch.tensor([passes[row].gray for row in photons], device=images.device).view(-1, 1, 1, 1)
    if photons:
        unit = on_rows(unit, photons, lambda x: photon_noise(images[photons], x, gray))
    strength = torch.tensor([sample.strength for sample in passes], device=images.device)
    return (images + strength.view(b, 1, 1, 1) * unit).clamp(0, 1)


def photon_noise(images: Tensor, unit: Tensor, gray: Tensor) -> Tensor:
    """Counts of photons less their mean, divided by 255, when white is 255 photons.

    unit: standard normal (b, 3, h, w), bent to the mean, variance and skew of a Poisson distribution
    by the Cornish-Fisher expansion, x = m + sqrt(m) z + (z^2 - 1) / 6: as fast as Gaussian noise and
    the same on every device. gray (b, 1, 1, 1): where the mean is the luma's, so that equal `unit`
    make equal noise in the three channels.
    """
    weights = torch.tensor(BT601, device=images.device).view(1, 3, 1, 1)
    light = torch.where(gray, (images * weights).sum(1, keepdim=True), images)
    mean = (light.clamp(0, 1) * 255).round()
    bent = mean.sqrt() * unit + (unit * unit - 1) / 6
    return torch.where(mean > 0, bent, 0.0) / 255


def sharpen(images: Tensor, weight: float) -> Tensor:
    """Sharpen (b, 3, h, w) by an unsharp mask of sigma 8 px where it changes more than 10 of 255, softly; in [0, 1].

    Real-ESRGAN sharpens its targets in this way.
    """
    axis = torch.arange(51, dtype=torch.float32, device=images.device) - 25
    line = torch.exp(-((axis / 8) ** 2) / 2)
    kernels = (line[:, None] * line / line.sum() ** 2).expand(len(images), -1, -1)
    residual = images - blur(images, kernels)
    mask = blur((residual.abs() * 255 > 10).float(), kernels)
    return torch.lerp(images, (images + weight * residual).clamp(0, 1), mask)
