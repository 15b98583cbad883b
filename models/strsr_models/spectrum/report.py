"""The report on an image: which lattice stands out, by how much and where, and whether it is a grid."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import UsageError
from .blocks import one_channel
from .survey import (
    AXES,
    CROSS,
    SEAMS,
    Survey,
    coherence,
    kinds,
    on_diagonal,
    seam_signal,
    side_of_blocks,
    survey_print,
    survey_seams,
)

PEAK_DB = 3.0  # of excess: what is less is no peak
MOST_PEAKS = 8  # of each axis
GRID_DB, GRID_COHERENCE = 2.0, 0.5  # docs/developing/grid-estimator.md has the figures behind these
SUSPECT_DB, SUSPECT_COHERENCE = 6.0, 0.15  # dB: as much as a line of another period, one bin aside, can give
ONE_AXIS = 0.45  # below GRID_COHERENCE: what is coherent on one axis alone is no grid
ALIGNED = 0.75  # px by which seams may seem to lie beside the image's own origin


@dataclass(frozen=True)
class Peak:
    """A harmonic that stands out of the image's mean spectrum: fy, fx in cycles per pixel, fx in 0 ... 0.5."""

    fy: float
    fx: float
    period: int  # px: of the lattice that it belongs to
    excess: float  # dB
    axis: str  # "x": stripes across columns, "y": across rows, "xy": a cross-point


@dataclass(frozen=True)
class LatticeReport:
    """What was measured of one image; the entries of a tuple are those of `periods`."""

    periods: tuple[int, ...]  # px
    excess: tuple[float, ...]  # dB: the score; nan where the image holds less than four periods
    coherence: tuple[float, ...]  # 0 to 1; 1: the same phase in all blocks. nan as above
    origin_aligned: tuple[bool, ...]  # cells end where a lattice that begins at pixel 0 would have them end
    peaks: tuple[Peak, ...]  # the strongest first
    region: tuple[int, int, int, int] | None  # x, y, w, h of the block that shows `main_period` best


@torch.no_grad()
def inspect_lattice(
    image: Tensor, periods: Sequence[int] = (4, 8, 16), channel: str = "luma"
) -> LatticeReport:
    """Look for lattices in one image (1, 3 or 1, h, w) in [0, 1].

    excess is `spectrum.lattice_excess`. coherence is the greatest of three, of the harmonics on the axes, of all
    cross-points and of the seams, each as in `survey.coherence`. Memory beyond the image's own grows with a
    tenth of its pixels. region is None where the verdict is "clean". Raises UsageError for what is no
    image, more than one, an unknown channel, and periods less than 2.
    """
    y = one_channel(image, channel)
    if y.shape[0] != 1:
        raise UsageError(f"expected one image, got {y.shape[0]}")
    for period in periods:
        check_period(period)
    signals = (seam_signal(y), seam_signal(y.transpose(1, 2)))
    lattices = [_inspect_period(y, period, signals) for period in periods]
    report = LatticeReport(
        periods=tuple(periods),
        excess=tuple(lattice.excess for lattice in lattices),
        coherence=tuple(lattice.coherence for lattice in lattices),
        origin_aligned=tuple(lattice.aligned for lattice in lattices),
        peaks=_strongest([peak for lattice in lattices for peak in lattice.peaks]),
        region=None,
    )
    main = main_period(report)
    if main is None:
        return report
    return replace(report, region=lattices[report.periods.index(main)].region)


def _strongest(peaks: list[Peak]) -> tuple[Peak, ...]:
    """The MOST_PEAKS strongest peaks of each axis, the strongest first."""
    kept: list[Peak] = []
    for axis in ("x", "y", "xy"):
        on_axis = [peak for peak in peaks if peak.axis == axis]
        kept += sorted(on_axis, key=lambda peak: -peak.excess)[:MOST_PEAKS]
    return tuple(sorted(kept, key=lambda peak: -peak.excess))


def verdict(report: LatticeReport) -> str:
    """The worst that any period gives: "grid", "suspect" or "clean".

    grid: an excess of GRID_DB with a coherence of GRID_COHERENCE. suspect: one of them clearly, SUSPECT_DB or
    SUSPECT_COHERENCE. Periods that the image is too small for count as clean.
    """
    return ("clean", "suspect", "grid")[max(_ranks(report), default=0)]


def main_period(report: LatticeReport) -> int | None:
    """The period that the verdict is about, in px; None where it is "clean".

    The longest of those that give it: what repeats after 16 px has harmonics that a lattice of 8 or 4 would have too.
    """
    ranks = _ranks(report)
    worst = max(ranks, default=0)
    if worst == 0:
        return None
    return max(period for period, rank in zip(report.periods, ranks, strict=True) if rank == worst)


def check_period(period: int) -> None:
    """Raise UsageError for a period of less than 2 px."""
    if period < 2:
        raise UsageError(f"lattice period {period}: must be at least 2 px")


def _ranks(report: LatticeReport) -> list[int]:
    """The rank of each period."""
    return [_rank(excess, coherent) for excess, coherent in zip(report.excess, report.coherence, strict=True)]


def _rank(excess: float, coherent: float) -> int:
    """The rank 0 for clean, 1 for suspect, 2 for grid; nan compares as false."""
    if excess >= GRID_DB and coherent >= GRID_COHERENCE:
        return 2
    return int(excess >= SUSPECT_DB or coherent >= SUSPECT_COHERENCE)


@dataclass(frozen=True)
class _Lattice:
    """What the image shows of one period."""

    excess: float
    coherence: float
    aligned: bool
    peaks: tuple[Peak, ...]
    region: tuple[int, int, int, int] | None


def _inspect_period(y: Tensor, period: int, signals: tuple[Tensor, Tensor]) -> _Lattice:
    """Look for a lattice of one period in y (1, h, w). signals: `seam_signal` of y and of y transposed."""
    if side_of_blocks(y.shape, period) == 0:
        return _Lattice(math.nan, math.nan, False, (), None)
    printed = survey_print(y, period, closely=True)
    seams = survey_seams(y, period, closely=True, signals=signals)
    by_kind = kinds(printed, seams, period)[0]
    axes = [i for i, point in enumerate(printed.harmonics) if point.axis != "xy"]
    cross = [i for i, point in enumerate(printed.harmonics) if point.axis == "xy"]
    whole = list(range(len(seams.harmonics)))
    of_seams = _both_ways(seams)
    diagonal = [i for i in cross if on_diagonal(printed.harmonics[i], period)]
    of_cross = max(coherence(printed, pick) for pick in (cross, diagonal))
    coherent = max(_both_ways(printed), of_cross, of_seams)
    choices = {AXES: (printed, axes), CROSS: (printed, diagonal), SEAMS: (seams, whole)}
    survey, pick = choices[int(by_kind.argmax())]
    aligned = of_seams > 0 and all(_aligned(seams, axis, period) for axis in "xy")
    region = _best_block(survey, pick)
    return _Lattice(
        excess=float(by_kind.max()),
        coherence=coherent,
        aligned=aligned,
        peaks=_peaks(printed, period),
        region=region,
    )


def _both_ways(survey: Survey) -> float:
    """The coherence on both axes; on one alone, as of slats, blinds and courses of bricks, it counts up to ONE_AXIS."""
    down, across = ([i for i, point in enumerate(survey.harmonics) if point.axis == axis] for axis in "yx")
    lesser = min(coherence(survey, down), coherence(survey, across))
    return max(lesser, min(coherence(survey, down + across), ONE_AXIS))


def _aligned(seams: Survey, axis: str, period: int) -> bool:
    """Whether seams across an axis lie where a lattice from pixel 0 has them: by the phase of their period."""
    assert seams.values is not None
    first = next(i for i, p in enumerate(seams.harmonics) if p.axis == axis and max(p.down, p.across) == 1)
    return abs(cmath.phase(complex(seams.values[:, first].sum()))) * period / (2 * math.pi) <= ALIGNED


def _best_block(survey: Survey, pick: list[int]) -> tuple[int, int, int, int]:
    """The block in which the harmonics that stand out of the mean spectrum stand out most."""
    assert survey.standing is not None
    weights = survey.excess[0, pick].clamp_min(0)
    return survey.boxes[int((survey.standing[:, pick] @ weights).argmax())]


def _peaks(printed: Survey, period: int) -> tuple[Peak, ...]:
    """The harmonics of a period that stand out by PEAK_DB or more."""
    peaks = []
    for point, excess in zip(printed.harmonics, printed.excess[0].tolist(), strict=True):
        if excess >= PEAK_DB:
            down = point.down - period if 2 * point.down > period else point.down
            peaks.append(Peak(down / period, point.across / period, period, excess, point.axis))
    return tuple(peaks)
