"""The second-order degradation of Real-ESRGAN (arXiv 2107.10833) on batches, as pure functions.

Numbers are drawn first, then followed by `degrade`. `draw_sizes` draws what the samples of one kind
share in a step, since a batch has one size; `draw_recipe` draws what each sample has of its own. Two
pictures degraded by one recipe and the same sizes look as if they came through the same camera and
the same web site. Images are float (b, 3, h, w) in [0, 1] on any device with float64; no function
here knows a global random state.

Where this differs from the published code on purpose: resizing is antialiased, JPEG is libjpeg's
arithmetic instead of a differentiable stand-in, and photon noise is that of 255 photons at white,
where the published one counts the grey levels in use. Blur is drawn for a reduction by 4, as published; for smaller
ones its kernels are narrowed, so that a low-quality pixel is always blurred alike (`narrowed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from .jpeg import jpeg
from .seeds import happens, uniform

KINDS = ("clean", "mild", "lens", "medium", "severe")
MODES = ("area", "bilinear", "bicubic")
KERNEL = 21  # px, side of the blur kernels as tensors; what is drawn inside has an odd side from 7 to 21
PUBLISHED_SCALE = 4.0  # the reduction that widths of blur are drawn for
GAUSSIAN_PROB = 0.5  # of noise; the rest is photon noise
GRAY_PROB = 0.4  # of noise: the same in the three channels
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class PassConfig:
    """Ranges of one pass: blur, resize, noise, JPEG."""

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
    """How often a picture is only reduced, degraded in one pass of some kind, or sent through the full pipeline."""

    clean_share: float = 0.34
    mild_share: float = 0.33
    lens_share: float = 0.0
    medium_share: float = 0.0
    scale: tuple[float, float] = (2.0, 4.0)
    scale_four_share: float = 0.75  # of the steps; the rest are uniform in `scale`
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
    # What a camera's lens does to a photo that was saved well: blur of any width, and little else.
    lens: PassConfig = field(
        default_factory=lambda: PassConfig(
            1.0, (0.5, 4.0), 0.0, (0.0, 0.0, 1.0), (1.0, 1.0), (0.0, 3.0), (0.0, 0.15), (85.0, 100.0)
        )
    )
    # One pass of all that the full pipeline has, each at a medium strength.
    medium: PassConfig = field(
        default_factory=lambda: PassConfig(
            0.9, (0.3, 3.0), 0.05, (0.1, 0.4, 0.5), (0.5, 1.3), (0.0, 15.0), (0.02, 1.2), (35.0, 95.0)
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
    """What all samples of a kind share in a step."""

    scale: float  # of the crop to the low-quality image
    resizes: tuple[tuple[float, str], ...]  # factor and mode of each pass
    final_mode: str  # of the resize to the target size


@dataclass(frozen=True)
class Pass:
    """One pass of one sample, all numbers drawn."""

    kernel: Tensor | None  # (21, 21)
    gaussian: bool
    strength: float  # sigma / 255, or the scale of photon noise
    gray: bool
    quality: int


@dataclass(frozen=True)
class Recipe:
    """All that one sample has of its own, but for the noise itself. kind: one of KINDS."""

    kind: str
    passes: tuple[Pass, ...]
    sinc: Tensor | None = None  # final, (21, 21)
    jpeg_last: bool = True  # or before the last resize and sinc filter


def draw_sizes(rng: torch.Generator, config: DegradeConfig, kind: str) -> Sizes:
    """Draw what the samples of a kind share."""
    four = happens(rng, config.scale_four_share)
    scale = 4.0 if four else uniform(rng, *config.scale)
    resizes = tuple((draw_factor(rng, step), draw_mode(rng)) for step in passes_of(kind, config))
    return Sizes(scale, resizes, draw_mode(rng))


def passes_of(kind: str, config: DegradeConfig) -> tuple[PassConfig, ...]:
    """The passes that pictures of a kind go through."""
    if kind == "clean":
        return ()
    return (config.first, config.second) if kind == "severe" else (getattr(config, kind),)


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
    passes = tuple(draw_pass(rng, step) for step in passes_of(kind, config))
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
    kernel = draw_kernel(rng, config) if happens(rng, config.blur_prob) else None
    gaussian = happens(rng, GAUSSIAN_PROB)
    span = config.noise_sigma if gaussian else config.poisson_scale
    strength = uniform(rng, *span) / (255 if gaussian else 1)
    gray = happens(rng, GRAY_PROB)
    return Pass(kernel, gaussian, strength, gray, round(uniform(rng, *config.jpeg_quality)))


def draw_kernel(rng: torch.Generator, config: PassConfig) -> Tensor:
    """Draw the blur kernel of a pass."""
    side = draw_side(rng)
    if happens(rng, config.sinc_prob):
        # A low cut-off rings farther than a small kernel reaches.
        return sinc_kernel(rng, side, math.pi / 3 if side < 13 else math.pi / 5)
    return blur_kernel(rng, side, config.blur_sigma)


def draw_side(rng: torch.Generator) -> int:
    """Draw an odd side from 7 to 21 px."""
    return 7 + 2 * int(uniform(rng, 0, 8))


def blur_kernel(rng: torch.Generator, side: int, sigma: tuple[float, float]) -> Tensor:
    """Gaussian, generalised Gaussian or plateau kernel, isotropic or not: (21, 21), sum 1, 0 beyond `side`."""
    kind = uniform(rng, 0.0, 1.0)
    # Published shares: iso .45, aniso .25, generalised .12/.03, plateau .12/.03.
    isotropic = kind < 0.45 or 0.70 <= kind < 0.82 or 0.85 <= kind < 0.97
    first = uniform(rng, *sigma)
    second = first if isotropic else uniform(rng, *sigma)
    angle = 0.0 if isotropic else uniform(rng, -math.pi, math.pi)
    axis = torch.arange(side, dtype=torch.float32) - side // 2
    y, x = axis[:, None], axis
    u = (x * math.cos(angle) + y * math.sin(angle)) / first
    v = (y * math.cos(angle) - x * math.sin(angle)) / second
    distance = u * u + v * v
    if kind < 0.70:
        return framed(torch.exp(-distance / 2))
    if kind < 0.85:
        return framed(torch.exp(-(distance ** draw_shape(rng, 0.5, 4.0)) / 2))
    return framed(1 / (1 + distance ** draw_shape(rng, 1.0, 2.0)))


def draw_shape(rng: torch.Generator, low: float, high: float) -> float:
    """An exponent below 1 as often as above it; `low` may be 1."""
    return uniform(rng, low, 1.0) if happens(rng, 0.5) else uniform(rng, 1.0, high)


def sinc_kernel(rng: torch.Generator, side: int, lowest: float = math.pi / 3) -> Tensor:
    """Circular low-pass with a cut-off in [lowest, pi): the source of ringing. (21, 21), sum 1, 0 beyond `side`."""
    cutoff = uniform(rng, lowest, math.pi)
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    radius = torch.sqrt(axis[:, None] ** 2 + axis**2)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[side // 2, side // 2] = cutoff**2 / (4 * math.pi)
    return framed(kernel).float()


def framed(kernel: Tensor) -> Tensor:
    """Sum 1, and zeros around it up to (21, 21)."""
    return F.pad(kernel / kernel.sum(), ((KERNEL - len(kernel)) // 2,) * 4)


def degrade(
    images: Tensor,
    recipes: Sequence[Recipe],
    sizes: Sizes,
    rngs: Sequence[torch.Generator],
    scale: float | None = None,
) -> Tensor:
    """Follow recipes of one kind: (b, 3, H, W) -> (b, 3, round(H / scale), round(W / scale)), 8-bit steps.

    recipes, rngs: one for each image; the generators make the noise and live on the images' device.
    scale: in place of that of `sizes`.
    """
    scale = sizes.scale if scale is None else scale
    target = scaled(images.shape[-2:], 1 / scale)
    if not sizes.resizes:
        return quantise(resize(images, target, "bicubic"))
    x, last = images, len(sizes.resizes) - 1
    wide = sizes.scale / PUBLISHED_SCALE
    for number, (factor, mode) in enumerate(sizes.resizes):
        steps = [recipe.passes[number] for recipe in recipes]
        x = blur_some(x, [narrowed(step.kernel, wide) for step in steps])
        # The last pass goes to the neighbourhood of the target, the first to that of its input.
        x = resize(x, scaled(target if number == last else x.shape[-2:], factor), mode)
        x = add_noise(x, steps, rngs)
        if number < last:
            x = jpeg(x, [step.quality for step in steps])
    x = jpeg_some(x, [None if recipe.jpeg_last else recipe.passes[-1].quality for recipe in recipes])
    x = resize(x, target, sizes.final_mode)
    # At the target's own size.
    x = blur_some(x, [recipe.sinc for recipe in recipes])
    x = jpeg_some(x, [recipe.passes[-1].quality if recipe.jpeg_last else None for recipe in recipes])
    return quantise(x)


def narrowed(kernel: Tensor | None, factor: float) -> Tensor | None:
    """A kernel (21, 21) made narrower by a factor below 1, its sum 1; as it is for others.

    What is sharp at a quarter of the size after a blur of 4 px has lost all of its detail at full size: as an input that
    is only cleaned, not enlarged, it would teach a network to take what is smooth for blurred.
    """
    if kernel is None or factor >= 1:
        return kernel
    side = max(1, 2 * round((KERNEL * factor - 1) / 2) + 1)
    small = F.interpolate(
        kernel[None, None], (side, side), mode="bilinear", antialias=True, align_corners=False
    )
    return framed(small[0, 0])


def scaled(size: Sequence[int], factor: float) -> tuple[int, int]:
    """(h, w) times a factor, rounded, at least 1."""
    h, w = (max(1, round(side * factor)) for side in size)
    return h, w


def quantise(images: Tensor) -> Tensor:
    """Round to 8-bit steps, clamped to [0, 1]."""
    return (images.clamp(0, 1) * 255).round() / 255


def resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """To (h, w) px by area, bilinear or bicubic, with antialias; clamped to [0, 1]."""
    if tuple(images.shape[-2:]) == size:
        return images
    if mode == "area":
        return F.interpolate(images, size, mode="area")
    return F.interpolate(images, size, mode=mode, align_corners=False, antialias=True).clamp(0, 1)


def blur_some(images: Tensor, kernels: Sequence[Tensor | None]) -> Tensor:
    """Filter each image with its kernel (21, 21), or leave it as it is."""
    found = {row: kernel for row, kernel in enumerate(kernels) if kernel is not None}
    return on_rows(images, list(found), lambda x: blur(x, torch.stack(list(found.values())).to(x.device)))


def jpeg_some(images: Tensor, qualities: Sequence[int | None]) -> Tensor:
    """JPEG each image at its quality, or leave it as it is."""
    found = {row: quality for row, quality in enumerate(qualities) if quality is not None}
    return on_rows(images, list(found), lambda x: jpeg(x, list(found.values())))


def on_rows(images: Tensor, rows: list[int], function: Callable[[Tensor], Tensor]) -> Tensor:
    """The images, those at `rows` replaced by what the function makes of them."""
    if len(rows) in (0, len(images)):
        return function(images) if rows else images
    result = images.clone()
    result[rows] = function(images[rows])
    return result


def blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter (b, 3, h, w) with kernels (b, k, k), k odd, borders reflected; clamped to [0, 1].

    Kernels equal themselves turned by 180 degrees, so that convolution is correlation.
    """
    h, w = images.shape[-2:]
    margin = kernels.shape[-1] // 2
    # Reflection can reach no farther than the picture.
    mode = "reflect" if min(h, w) > margin else "replicate"
    padded = F.pad(images, (margin,) * 4, mode=mode)
    # The transform's wrap-around only touches the first 2 * margin rows and columns, which are cut off.
    size = (fast_length(h + 2 * margin), fast_length(w + 2 * margin))
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernels, s=size)[:, None]
    filtered: Tensor = torch.fft.irfft2(spectrum, s=size)
    return filtered[..., 2 * margin : 2 * margin + h, 2 * margin : 2 * margin + w].clamp(0, 1)


def fast_length(length: int) -> int:
    """The next even length without prime factors above 5, which FFTs are fast at."""
    candidate = length + length % 2
    while True:
        rest = candidate
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return candidate
        candidate += 2


def add_noise(images: Tensor, steps: Sequence[Pass], rngs: Sequence[torch.Generator]) -> Tensor:
    """Gaussian noise of sigma `strength`, or `strength` times photon noise; clamped to [0, 1]."""
    b, _, h, w = images.shape
    unit = torch.empty_like(images)
    for row, (step, rng) in enumerate(zip(steps, rngs, strict=True)):
        channels = 1 if step.gray else 3
        unit[row] = torch.randn((channels, h, w), generator=rng, device=images.device)
    photons = [row for row, step in enumerate(steps) if not step.gaussian]
    gray = torch.tensor([steps[row].gray for row in photons], device=images.device).view(-1, 1, 1, 1)
    if photons:
        unit = on_rows(unit, photons, lambda x: photon_noise(images[photons], x, gray))
    strength = torch.tensor([step.strength for step in steps], device=images.device).view(b, 1, 1, 1)
    return (images + strength * unit).clamp(0, 1)


def photon_noise(images: Tensor, unit: Tensor, gray: Tensor) -> Tensor:
    """Counts of photons less their mean, over 255, when white is 255 photons.

    unit: standard normal (b, 3, h, w), bent to the mean, variance and skew of a Poisson distribution
    by the Cornish-Fisher expansion, x = m + sqrt(m) z + (z^2 - 1) / 6: as fast as Gaussian noise and
    the same on every device. gray (b, 1, 1, 1): where the mean is the luma's, so that equal `unit`
    make equal noise in the three channels.
    """
    weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
    light = torch.where(gray, (images * weights).sum(1, keepdim=True), images)
    mean = (light.clamp(0, 1) * 255).round()
    bent = mean.sqrt() * unit + (unit * unit - 1) / 6
    return torch.where(mean > 0, bent, 0.0) / 255


def sharpen(images: Tensor, weight: float) -> Tensor:
    """Unsharp mask of sigma 8 px on (b, 3, h, w) where it changes more than 10 of 255, softly; in [0, 1].

    As Real-ESRGAN sharpens its targets.
    """
    axis = torch.arange(51, dtype=torch.float32, device=images.device) - 25
    line = torch.exp(-((axis / 8) ** 2) / 2)
    kernels = (line[:, None] * line / line.sum() ** 2).expand(len(images), -1, -1)
    residual = images - blur(images, kernels)
    mask = blur((residual.abs() * 255 > 10).float(), kernels)
    return torch.lerp(images, (images + weight * residual).clamp(0, 1), mask)
