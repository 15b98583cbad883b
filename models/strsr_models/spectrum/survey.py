"""The traces that a lattice of period p leaves in the blocks of an image: strength and phase at its harmonics.

Two things are looked at. The *print*: a pattern added to the image, the same in each cell, is energy at
multiples of 1/p cycles per pixel, on the axes and at cross-points. The *seams*: where cells were made
one by one, as JPEG's are, and where a weave changes its sign from place to place, nothing of the kind need be
there, yet neighbouring pixels differ more (or less) across the borders of cells than inside them. So the
same is asked of the size of the third difference, along rows and along columns.

Letters: b batch, h w pixels, n blocks, s side of a block, p period, k harmonics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import (
    ROUNDING,
    Bins,
    Harmonic,
    bins_of,
    excess,
    hann,
    harmonics_of,
    lopsidedness,
    starts,
    without_line,
    without_plane,
)

MOST_PERIODS = 8  # a block holds: a line moved aside by up to 1/16 of 1/p stays within its harmonic's bins
LEAST_PERIODS = 4  # fewer, and a harmonic has no neighbours of its own
MOST_BLOCKS = 4096  # per period: where more would be needed to cover an image, they move apart, evenly
STRIP = 16  # px: lines over which seams are averaged first
KNEE = 4 / 255  # third differences count up to about here, or else the few strong edges would rule
SEAM_FLOOR = 1e-6  # variance of the seam signal, which lies in [0, 1]: what is weaker is not seen
QUIET = (
    0.15 / 255**2
)  # variance of a block: rounding makes 1 / 12 of an 8-bit step squared, in patterns of any kind
AXES, CROSS, SEAMS = range(3)


@dataclass
class Survey:
    """What blocks of one kind show of each harmonic: mean log-power over its neighbours', and each block's value."""

    harmonics: tuple[Harmonic, ...]
    excess: Tensor  # (b, k) dB
    lopsided: Tensor  # (b, k) dB: between the bins beside the harmonic; much where a line lies aside
    # (n, k) complex: of the first image; phases relative to a lattice from pixel 0.
    values: Tensor | None = None
    standing: Tensor | None = None  # (n, k) dB: each block's log-power less its neighbours' mean
    boxes: tuple[tuple[int, int, int, int], ...] = ()  # x, y, w, h of the n blocks
    floor: float = ROUNDING  # power below which nothing is seen
    real: bool = False  # whether values are: period 2's, all of whose harmonics mirror themselves
    overlap: float = (
        1.0  # by which chance sums of overlapping blocks are stronger than those of separate ones
    )


def on_diagonal(point: Harmonic, period: int) -> bool:
    """Whether a cross-point lies as far along one axis as along the other; the score counts those alone."""
    return point.axis == "xy" and point.across in (point.down, period - point.down)


def lattice_scores(y: Tensor, period: int) -> Tensor:
    """The score (b,) in dB of y (b, h, w): see `score.lattice_excess`. NaN where y is too small."""
    if side_of_blocks(y.shape, period) == 0:
        return y.new_full((y.shape[0],), math.nan)
    return kinds(survey_print(y, period), survey_seams(y, period), period).amax(1)


def kinds(printed: Survey, seams: Survey, period: int) -> Tensor:
    """Mean excess (b, 3) in dB: of the harmonics on the axes, of those on the diagonals, of the seams."""
    axes = [i for i, point in enumerate(printed.harmonics) if point.axis != "xy"]
    diagonal = [i for i, point in enumerate(printed.harmonics) if on_diagonal(point, period)]
    groups = (printed.excess[:, axes], printed.excess[:, diagonal], seams.excess)
    return torch.stack([group.mean(1) for group in groups], dim=1)


def side_of_blocks(shape: torch.Size, period: int) -> int:
    """The side in px of blocks: up to eight periods, half the shorter side or four periods; 0: the image is too small."""
    shorter = min(shape[-2:])
    if shorter < LEAST_PERIODS * period:
        return 0
    return period * max(LEAST_PERIODS, min(MOST_PERIODS, shorter // (2 * period)))


def grid_of_blocks(height: int, width: int, side: int) -> tuple[list[int], list[int]]:
    """Tops and lefts of blocks over an image, half a side apart, or farther apart on a large image."""
    tops, lefts = starts(height, side), starts(width, side)
    if len(tops) * len(lefts) <= MOST_BLOCKS:
        return tops, lefts
    down = min(len(tops), max(1, round(math.sqrt(MOST_BLOCKS * len(tops) / len(lefts)))))
    return starts(height, side, down), starts(width, side, MOST_BLOCKS // down)


def survey_print(y: Tensor, period: int, closely: bool = False) -> Survey:
    """Survey the image itself.

    closely: keep each block's values too, for the first image of the batch; and count a block as flat that holds no
    more than rounding may have left there, which prints patterns of its own into ramps.
    """
    side, points = side_of_blocks(y.shape, period), harmonics_of(period)
    index = bins_of(points, period, side, y.device)
    tops, lefts = grid_of_blocks(y.shape[-2], y.shape[-1], side)
    total = y.new_zeros(y.shape[0], side * (side // 2 + 1))
    values, standing = [], []
    for top, spectra in _spectra(
        y, side, tops, lefts, QUIET if closely else 0.0
    ):  # (b, across, s * (s/2 + 1))
        power = 10 * torch.log10(spectra.real.square() + spectra.imag.square() + ROUNDING)
        total = total + power.sum(1)
        if closely:
            turns = [[(p.down * top + p.across * left) / period for p in points] for left in lefts]
            values.append(
                spectra[0][:, index.at] * unturn(torch.tensor(turns, dtype=torch.float64)).to(y.device)
            )
            standing.append(_standing(power[0], index))
    mean = total / (len(tops) * len(lefts))
    survey = Survey(points, excess(mean, index), lopsidedness(mean, index), real=period == 2)
    if closely:
        survey.values, survey.standing = torch.cat(values), torch.cat(standing)
        survey.boxes = tuple((left, top, side, side) for top in tops for left in lefts)
        survey.overlap = _overlap(tops, side) * _overlap(lefts, side)
    return survey


def _spectra(
    y: Tensor, side: int, tops: list[int], lefts: list[int], quiet: float
) -> Iterator[tuple[int, Tensor]]:
    """Tops and spectra (b, across, s * (s/2 + 1)) of a row of blocks at a time; white noise has the power of its variance.

    quiet: variance below which blocks are taken for flat. Memory does not grow with the height.
    """
    weights = hann(side, y)[:, None] * hann(side, y)
    weights = weights / weights.square().sum().sqrt()
    for top in tops:
        rows = y[:, top : top + side]
        pieces = torch.stack([rows[..., left : left + side] for left in lefts], dim=1)  # (b, across, s, s)
        pieces = without_plane(pieces) * weights
        if quiet:
            pieces = pieces * (pieces.square().sum((-2, -1), keepdim=True) > quiet)
        yield top, torch.fft.rfft2(pieces).flatten(2)


def seam_signal(y: Tensor) -> Tensor:
    """The roughness between pixels of a row, (b, h / 16, w) in [0, 1], of y (b, h, w): means over 16 rows.

    At x: the third difference of pixels x - 1 ... x + 2, so between x and x + 1.
    """
    height = y.shape[1]
    strip = min(STRIP, height)
    strips = []
    for top in range(0, height - strip + 1, strip):
        rows = F.pad(y[:, top : top + strip], (1, 2), mode="replicate")
        first = rows[..., 1:] - rows[..., :-1]
        third = (first[..., 2:] + first[..., :-2] - 2 * first[..., 1:-1]).abs()
        strips.append((third / (third + KNEE)).mean(1))
    return torch.stack(strips, dim=1)


def survey_seams(
    y: Tensor, period: int, closely: bool = False, signals: tuple[Tensor, Tensor] | None = None
) -> Survey:
    """Survey seams between columns, then between rows. signals: `seam_signal` of y and of y transposed, if known."""
    side = side_of_blocks(y.shape, period)
    down, across = signals or (seam_signal(y), seam_signal(y.transpose(1, 2)))
    columns, rows = (_seams_of(signal, period, side, closely) for signal in (down, across))
    points = (*columns.harmonics, *(Harmonic(p.across, 0, "y") for p in rows.harmonics))
    survey = Survey(
        points,
        torch.cat([columns.excess, rows.excess], dim=1),
        torch.cat([columns.lopsided, rows.lopsided], dim=1),
        floor=SEAM_FLOOR,
        real=columns.real,
    )
    if columns.values is not None and columns.standing is not None:
        assert rows.values is not None
        assert rows.standing is not None
        survey.values = _side_by_side(columns.values, rows.values)
        survey.standing = _side_by_side(columns.standing, rows.standing)
        turned = tuple((y0, x0, h, w) for x0, y0, w, h in rows.boxes)
        survey.boxes, survey.overlap = (*columns.boxes, *turned), max(columns.overlap, rows.overlap)
    return survey


def _side_by_side(columns: Tensor, rows: Tensor) -> Tensor:
    """(n + m, 2k) of (n, k) and (m, k): blocks that do not know the other's harmonics have 0 there."""
    right, left = columns.new_zeros(len(columns), rows.shape[1]), rows.new_zeros(len(rows), columns.shape[1])
    return torch.cat([torch.cat([columns, right], dim=1), torch.cat([left, rows], dim=1)])


def seam_values(y: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """What each block shows of the seams between columns, then between rows: (b, n, k), complex, for y (b, h, w).

    Phases are relative to seams before pixel 0. Differentiable. The blocks are those of `survey_seams`; y holds four
    periods.
    """
    side = side_of_blocks(y.shape, period)
    columns, rows = (_cut_seams(seam_signal(lines), period, side) for lines in (y, y.transpose(1, 2)))
    return columns.values, rows.values


@dataclass(frozen=True)
class _SeamBlocks:
    """Blocks of a seam signal."""

    points: tuple[Harmonic, ...]
    spectra: Tensor  # (b, n, s/2 + 1)
    values: Tensor  # (b, n, k): at the harmonics, turned to phases relative to seams before pixel 0
    index: Bins
    lefts: list[int]
    count: int  # of rows of blocks
    height: int  # px


def _cut_seams(signal: Tensor, period: int, side: int) -> _SeamBlocks:
    """Cut a signal (b, strips, length) into blocks as long as `side`, and look at their spectra."""
    points = tuple(point for point in harmonics_of(period) if point.axis == "x")
    index = bins_of(points, period, side, signal.device, rows=1)
    # To a block.
    strips = min(max(1, side // STRIP), signal.shape[1])
    count = signal.shape[1] // strips
    lefts = starts(signal.shape[2], side)
    lines = (
        signal[:, : count * strips].reshape(signal.shape[0], count, strips, -1).mean(2)
    )  # (b, down, length)
    pieces = torch.stack([lines[..., left : left + side] for left in lefts], dim=2)  # (b, down, across, s)
    window = hann(side, signal)
    spectra = torch.fft.rfft(without_line(pieces) * window / window.square().sum().sqrt()).flatten(1, 2)
    # A seam before pixel 0 lies at -1 here: as much farther on as the pattern begins earlier.
    turns = [[p.across * (left + 1) / period for p in points] for _ in range(count) for left in lefts]
    values = spectra[..., index.at] * unturn(torch.tensor(turns, dtype=torch.float64)).to(signal.device)
    return _SeamBlocks(points, spectra, values, index, lefts, count, STRIP * strips)


def _seams_of(signal: Tensor, period: int, side: int, closely: bool) -> Survey:
    """Survey seams across one axis; signal (b, strips, length)."""
    blocks = _cut_seams(signal, period, side)
    power = 10 * torch.log10(blocks.spectra.real.square() + blocks.spectra.imag.square() + SEAM_FLOOR)
    mean, index = power.mean(1), blocks.index
    survey = Survey(blocks.points, excess(mean, index), lopsidedness(mean, index), real=period == 2)
    if closely:
        height = blocks.height
        survey.values, survey.standing = blocks.values[0], _standing(power[0], index)
        survey.boxes = tuple(
            (left, row * height, side, height) for row in range(blocks.count) for left in blocks.lefts
        )
        survey.overlap = _overlap(blocks.lefts, side)
    return survey


def _standing(power: Tensor, index: Bins) -> Tensor:
    """The excess of single blocks, coarsely: (n, k) dB of log-powers (n, bins), with means for medians."""
    columns = power.new_zeros(power.shape[0], len(index.at))
    for rows, near in index.near:
        weights = power.new_zeros(power.shape[1], len(rows))
        weights.scatter_add_(0, near.T, weights.new_full(near.T.shape, 1 / near.shape[1]))
        columns[:, rows] = power[:, index.at[rows]] - power @ weights
    return columns


def unturn(turns: Tensor) -> Tensor:
    """Factors exp(-2 pi i turns), of float64, which take the place of a block out of its phases; complex64."""
    angle = -2 * math.pi * turns.remainder(1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def _overlap(begins: list[int], side: int) -> float:
    """The variance of a sum over blocks of noise, over that of as many separate blocks, along one axis."""
    if len(begins) < 2:
        return 1.0
    window = hann(side, torch.empty(0))
    hop = round((begins[-1] - begins[0]) / (len(begins) - 1))
    shared = float((window[hop:] * window[: max(side - hop, 0)]).sum() / window.square().sum())
    return 1 + 2 * shared * (1 - 1 / len(begins))
