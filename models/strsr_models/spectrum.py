"""Spectra of images and feature maps: what the frequency loss compares and what shows a lattice.

A lattice of period p is energy at multiples of 1/p cycles per pixel: a transformer on patches of
16 px prints one of period 16, a pixel shuffle one of period 2, 4 or 8. Photos have a spectrum that
falls smoothly, so a lattice shows as bins that stand above their neighbours.

Letters: b batch, c channels, h w pixels, s side of a block, p period.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .blocks import (
    BLOCK,
    HANN_LOBE,
    ROUNDING,
    block_spectra,
    cut_blocks,
    hann,
    luma,
    starts,
    without_line,
)
from .errors import UsageError
from .lattice import LEAST_PERIODS, lattice_scores
from .lattice_report import LatticeReport, Peak, check_period, inspect_lattice, main_period, verdict

__all__ = [
    "BLOCK",
    "ROUNDING",
    "LatticeReport",
    "Peak",
    "amplitude_and_phase",
    "block_spectra",
    "inspect_lattice",
    "lattice_excess",
    "luma",
    "main_period",
    "power_spectrum",
    "radial_profile",
    "verdict",
]

FARTHEST_NEIGHBOUR = 6  # bins from a harmonic: farther, and the fall of a photo's spectrum would count


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
    for top in tops:  # one row of blocks at a time: memory does not grow with the height
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
    ring = (torch.hypot(fy[:, None], fx) * side).round().long().flatten()  # in bins
    # Columns but the first and the last stand for their mirror image too.
    weight = (1 + ((fx > 0) & (fx < 0.5)).to(power)).expand(side, -1).flatten()
    count = int(ring.max()) + 1
    sums = power.new_zeros(power.shape[0], count).index_add_(1, ring, power.flatten(1) * weight)
    weights = weight.new_zeros(count).index_add_(0, ring, weight)
    rings = slice(1, side // 2 + 1)  # ring 0 is the mean, which is gone
    frequency = torch.arange(count, device=power.device)[rings] / side
    return frequency, 10 * torch.log10((sums / weights)[:, rings] + 1e-12)


def lattice_excess(image: Tensor, periods: Sequence[int] = (4, 8, 16), where: str = "all") -> Tensor:
    """How far a lattice of each period stands out of an image: (b, len(periods)) dB; 0 is none.

    image: (b, 3, h, w) or (b, 1, h, w) in [0, 1]; only luma counts. Differentiable. docs/fft.md has the formula.
    For each harmonic of a period: log-power less the median of its neighbours' log-powers, averaged over
    overlapping blocks. The score is the greatest of three means: over the harmonics on both axes of the
    spectrum, over those on its diagonals (checkerboards), and over those of the seams (`lattice.seam_signal`:
    JPEG's blocks, weaves that change their sign).

    Harmonics: k/p cycles per pixel for k up to p/2 without a common factor with p. So a frequency
    belongs to one period only: 1/16, 3/16, 5/16, 7/16 to 16; 1/8, 3/8 to 8; 1/4 to 4; 1/2 to 2. A
    lattice of period 4 leaves the scores of 8 and 16 alone, whereas one of period 8 with a full
    set of harmonics (JPEG's) shows under 4 as well: see `main_period`. 16 is the patch of a transformer.

    Blocks hold eight periods, so that a line that a beat moves aside stays in its harmonic's bins; four at least
    in small images. Log-power is averaged, not power: a lattice in a smooth sky counts though a textured block is a
    thousand times louder. Noise as weak as 8-bit rounding is added, so that flat blocks count as 0.

    where="axes": the measure of training curves and of the model cards: the axes of the image alone, in blocks of
    up to 128 px whatever the period. A checkerboard, a beat or JPEG's blocks are not seen.

    NaN where an image is smaller than four periods. Raises UsageError for periods less than 2.
    """
    y = luma(image)
    for period in periods:
        check_period(period)
    if where == "axes":
        return _axes_excess(y, periods)
    if where != "all":
        raise UsageError(f'where={where!r}: must be "all" or "axes"')
    return torch.stack([lattice_scores(y, period) for period in periods], dim=1)


def _axes_excess(y: Tensor, periods: Sequence[int]) -> Tensor:
    """Of y (b, h, w): (b, len(periods)) dB. Blocks are a multiple of the period, so that harmonics fall on bins."""
    shorter = min(y.shape[-2:])
    axes: dict[int, Tensor] = {}  # by side of the blocks
    columns = []
    for period in periods:
        side = _block_side(shorter, period)
        if not side:
            columns.append(y.new_full((y.shape[0],), math.nan))
            continue
        if side not in axes:
            both = [_axis_log_power(lines, side) for lines in (y, y.transpose(1, 2))]
            axes[side] = torch.stack(both, dim=1)  # (b, 2, s/2 + 1)
        columns.append(_excess(axes[side], side, period))
    return torch.stack(columns, dim=1)


def _block_side(shorter: int, period: int) -> int:
    """Side of the blocks that a period is looked for in; 0: the image is too small."""
    if shorter < LEAST_PERIODS * period:
        return 0
    return max(LEAST_PERIODS * period, min(BLOCK, shorter // 2) // period * period)


def _axis_log_power(y: Tensor, side: int) -> Tensor:
    """Mean log-power (b, s/2 + 1) in dB along rows of y (b, h, w) over overlapping square blocks.

    These are the bins of a block's 2-D spectrum with vertical frequency 0; a weighted mean over the
    rows of a block gives them without the rest.
    """
    window = hann(side, y)
    rows = torch.stack([window @ y[:, top : top + side] for top in starts(y.shape[1], side)], dim=1)
    pieces = without_line(cut_blocks(rows, side))  # (b, down, across, s)
    power = torch.fft.rfft(pieces * window).abs().square()  # (b, down, across, s/2 + 1)
    floor = ROUNDING * window.square().sum() ** 2
    return (10 * torch.log10(power + floor)).mean((1, 2))


def _excess(log_power: Tensor, side: int, period: int) -> Tensor:
    """Mean dB (b,) by which the harmonics of a period stand above their neighbours."""
    spacing = side // period
    far = min(spacing // 2, FARTHEST_NEIGHBOUR)
    near = torch.tensor([d for d in range(-far, far + 1) if abs(d) >= 2])  # 0 and +-1 are the line itself
    harmonics = [k * spacing for k in range(1, period // 2 + 1) if math.gcd(k, period) == 1]
    bins = torch.tensor(harmonics)  # (k,)
    at = partial(_peak, log_power, side)
    around = at(bins[:, None] + near).sort(dim=-1).values  # (b, 2, k, n), n even
    half = len(near) // 2
    median = around[..., half - 1 : half + 1].mean(-1)
    return (at(bins) - median).mean((1, 2))


def _peak(log_power: Tensor, side: int, bins: Tensor) -> Tensor:
    """Log-power at bins, as far as it can be due to a line on the very bin.

    A line on a bin is 6 dB lower in the bins beside it, by the Hann window. Where one of those is
    higher than that tells, the energy belongs to a frequency between bins: to another period.
    """

    def at(shifted: Tensor) -> Tensor:
        folded = shifted % side  # the spectrum repeats, and mirrors at s/2
        return log_power[..., torch.minimum(folded, side - folded).to(log_power.device)]

    beside = torch.minimum(at(bins - 1), at(bins + 1)) + HANN_LOBE
    return torch.minimum(at(bins), beside)
