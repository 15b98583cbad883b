"""Blur kernels: drawn at random, narrowed for smaller reductions, and images filtered with them.

Kernels are float32 (21, 21) with sum 1, whatever is drawn inside; `blur` takes any odd side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .seeds import happens, uniform

KERNEL = 21  # px, side of the blur kernels as tensors; what is drawn inside has an odd side from 7 to 21


def draw_kernel(rng: torch.Generator, sinc_prob: float, sigma: tuple[float, float]) -> Tensor:
    """Draw the blur kernel of a pass: a sinc kernel with the given probability, else one of a width in `sigma` px."""
    side = draw_side(rng)
    if happens(rng, sinc_prob):
        # A low cut-off rings farther than a small kernel reaches.
        return sinc_kernel(rng, side, math.pi / 3 if side < 13 else math.pi / 5)
    return blur_kernel(rng, side, sigma)


def draw_side(rng: torch.Generator) -> int:
    """Draw an odd side from 7 to 21 px."""
    return 7 + 2 * int(uniform(rng, 0, 8))


def blur_kernel(rng: torch.Generator, side: int, sigma: tuple[float, float]) -> Tensor:
    """Draw a Gaussian, generalised Gaussian or plateau kernel, isotropic or not: (21, 21), sum 1, 0 beyond `side`."""
    kind = uniform(rng, 0.0, 1.0)
    # The published shares are iso .45, aniso .25, generalised .12/.03, plateau .12/.03.
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
    """Draw an exponent, below 1 as often as above it; `low` may be 1."""
    return uniform(rng, low, 1.0) if happens(rng, 0.5) else uniform(rng, 1.0, high)


def sinc_kernel(rng: torch.Generator, side: int, lowest: float = math.pi / 3) -> Tensor:
    """Draw a circular low-pass kernel, the source of ringing: (21, 21), sum 1, 0 beyond `side`.

    Its cut-off lies in [lowest, pi).
    """
    cutoff = uniform(rng, lowest, math.pi)
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    radius = torch.sqrt(axis[:, None] ** 2 + axis**2)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[side // 2, side // 2] = cutoff**2 / (4 * math.pi)
    return framed(kernel).float()


def framed(kernel: Tensor) -> Tensor:
    """The kernel brought to a sum of 1, with zeros around it up to (21, 21)."""
    return F.pad(kernel / kernel.sum(), ((KERNEL - len(kernel)) // 2,) * 4)


def narrowed(kernel: Tensor | None, factor: float) -> Tensor | None:
    """A kernel (21, 21) made narrower by a factor below 1, its sum 1; as it is for other factors.

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
