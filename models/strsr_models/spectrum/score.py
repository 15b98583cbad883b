"""How far a lattice stands out of an image's spectrum, in dB."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from .blocks import (
    BLOCK,
    HANN_LOBE,
    ROUNDING,
    bins_of,
    cut_blocks,
    excess,
    hann,
    harmonics_of,
    luma,
    starts,
    without_line,
)
from .report import check_period
from .survey import LEAST_PERIODS, lattice_scores

FARTHEST_NEIGHBOUR = 6  # bins from a harmonic: farther, and the fall of a photo's spectrum would count


def lattice_excess(image: Tensor, periods: Sequence[int] = (4, 8, 16), where: str = "all") -> Tensor:
    """The excess (b, len(periods)) in dB: how far a lattice of each period stands out of an image; 0 is none.

    image: (b, 3, h, w) or (b, 1, h, w) in [0, 1]; only luma counts. Differentiable. docs/developing/grid-estimator.md has the formula.
    For each harmonic of a period: log-power less the median of its neighbours' log-powers, averaged over
    overlapping blocks. The score is the greatest of three means: over the harmonics on both axes of the
    spectrum, over those on its diagonals (checkerboards), and over those of the seams (`survey.seam_signal`:
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
    """The excess (b, len(periods)) in dB on the axes of y (b, h, w).

    Blocks are a multiple of the period, so that harmonics fall on bins.
    """
    shorter = min(y.shape[-2:])
    axes_by_side: dict[int, Tensor] = {}
    columns = []
    for period in periods:
        side = _block_side(shorter, period)
        if not side:
            columns.append(y.new_full((y.shape[0],), math.nan))
            continue
        if side not in axes_by_side:
            both = [_axis_log_power(lines, side) for lines in (y, y.transpose(1, 2))]
            axes_by_side[side] = torch.stack(both, dim=1)  # (b, 2, s/2 + 1)
        columns.append(_excess(axes_by_side[side], side, period))
    return torch.stack(columns, dim=1)


def _block_side(shorter: int, period: int) -> int:
    """The side of the blocks that a period is looked for in; 0: the image is too small."""
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
    """Mean dB (b,) by which the harmonics of a period stand above their neighbours, on both axes (b, 2, s/2 + 1)."""
    points = tuple(point for point in harmonics_of(period) if point.axis == "x")
    far = min(side // period // 2, FARTHEST_NEIGHBOUR)
    index = bins_of(points, period, side, log_power.device, rows=1, farthest=far)
    columns = excess(_lines(log_power, side).flatten(0, 1), index, limited=False)
    return columns.view(*log_power.shape[:2], -1).mean((1, 2))


def _lines(log_power: Tensor, side: int) -> Tensor:
    """Log-powers (b, 2, s/2 + 1), each as far as a line on the very bin explains it; see `excess`."""
    # The spectrum mirrors at its ends; where the side is odd, the last bin lies beside its own image.
    after = log_power[..., -1:] if side % 2 else log_power[..., -2:-1]
    padded = torch.cat([log_power[..., 1:2], log_power, after], dim=-1)
    beside = torch.minimum(padded[..., :-2], padded[..., 2:]) + HANN_LOBE
    return torch.minimum(log_power, beside)
