"""Amplitudes, phases and powers of images and feature maps.

Letters: b batch, c channels, h w pixels, s side of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .blocks import BLOCK, block_spectra, luma, starts


def amplitude_and_phase(x: Tensor) -> tuple[Tensor, Tensor]:
    """Amplitude and phase, each (..., h, w), of the 2-D DFT of real maps x (..., h, w).

    The DFT is not normalised: white noise of variance v has amplitudes of about sqrt(h * w * v).
    The phase lies in [-pi, pi]. Where the amplitude is nothing but rounding, below 8 eps of the
    map's root mean square amplitude, the phase is 0 and neither has a gradient: the angle of a
    number near 0 says nothing, and its gradient, 1 / amplitude, would drown all others. All
    gradients are finite; there are no second ones. Half precision is computed in float32.
    """
    return _AmplitudeAndPhase.apply(x if x.dtype == torch.float64 else x.float())  # type: ignore[no-any-return]


class _AmplitudeAndPhase(torch.autograd.Function):
    """With its gradient by hand: half of autograd's time and memory, and defined at zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = torch.fft.fft2(x)
        amplitude = spectrum.abs()
        info = torch.finfo(x.dtype)
        floor = 8 * info.eps * amplitude.square().mean((-2, -1), keepdim=True).sqrt()
        vanishing = amplitude <= floor.clamp_min(info.tiny**0.5)
        ctx.save_for_backward(spectrum, amplitude, vanishing)
        return amplitude, spectrum.angle().masked_fill_(vanishing, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_amplitude: Tensor, by_phase: Tensor) -> Tensor:
        spectrum, amplitude, vanishing = ctx.saved_tensors
        inverse = amplitude.reciprocal().masked_fill_(vanishing, 0)
        # d|F| = Re(conj(u) dF) and d angle(F) = Im(conj(u) dF) / |F|, with the direction u = F / |F|.
        by_spectrum = torch.complex(by_amplitude, by_phase * inverse).mul_(spectrum).mul_(inverse)
        gradient: Tensor = torch.fft.ifft2(by_spectrum, norm="forward").real
        return gradient


def power_spectrum(image: Tensor, side: int = BLOCK) -> Tensor:
    """Power (b, s, s/2 + 1) of the luma of (b, 3 or 1, h, w), averaged over blocks: Welch's method.

    Square blocks of `side` px, or of the image's shorter side, overlap by half at least and cover
    the image; each loses the plane that fits it best, then is weighted by a Hann window, so that borders do
    not ring. White noise of variance v has power v in every bin. Layout of torch.fft.rfft2.
    """
    y = luma(image)
    side = min(side, *y.shape[-2:])
    total = y.new_zeros(y.shape[0], side, side // 2 + 1)
    tops = starts(y.shape[-2], side)
    # One row of blocks at a time: memory does not grow with the height.
    for top in tops:
        total += block_spectra(y[:, top : top + side], side).mean(1)
    return total / len(tops)


def radial_profile(image: Tensor, side: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Power by frequency, over all directions: (n,) cycles per pixel and (b, n) dB.

    image: (b, 3 or 1, h, w) in [0, 1]; n is half of `side`, or of the image's shorter side.
    Frequencies are the centres of rings up to 0.5, whose mean power is taken; the corners of the
    spectrum beyond are left out. White noise of variance v is flat at 10 log10(v) dB; rounding to
    8 bits alone lies at -59 dB.
    """
    power = power_spectrum(image, side)  # (b, s, s/2 + 1)
    side = power.shape[1]
    fy, fx = (f(side, device=power.device) for f in (torch.fft.fftfreq, torch.fft.rfftfreq))
    # The radius in bins.
    ring = (torch.hypot(fy[:, None], fx) * side).round().long().flatten()
    # Columns but the first and the last stand for their mirror image too.
    weight = (1 + ((fx > 0) & (fx < 0.5)).to(power)).expand(side, -1).flatten()
    count = int(ring.max()) + 1
    sums = power.new_zeros(power.shape[0], count).index_add_(1, ring, power.flatten(1) * weight)
    weights = weight.new_zeros(count).index_add_(0, ring, weight)
    # Ring 0 is the mean, which was taken away.
    rings = slice(1, side // 2 + 1)
    frequency = torch.arange(count, device=power.device)[rings] / side
    return frequency, 10 * torch.log10((sums / weights)[:, rings] + 1e-12)
