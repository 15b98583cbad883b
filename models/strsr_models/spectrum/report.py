"""What `strsr fft-inspect` says of an image: which lattice stands out, by how much, where, and whether it is one."""

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
    """Of one image; a tuple's entries are those of `periods`."""

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
    cross-points and of the seams, each as in `lattice.coherence`. Memory beyond the image's own grows with a
    tenth of its pixels. region is None where the verdict is "clean". Raises UsageError for what is no
    image, more than one, an unknown channel, and periods less than 2.
    """
    y = one_channel(image, channel)
    if y.shape[0] != 1:
        raise UsageError(f"expected one image, got {y.shape[0]}")
    for period in periods:
        check_period(period)
    signals = (seam_signal(y), seam_signal(y.transpose(1, 2)))
    found = [_look(y, period, signals) for period in periods]
    peaks = sorted((peak for one in found for peak in one.peaks), key=lambda peak: -peak.excess)
    kept = [peak for axis in ("x", "y", "xy") for peak in [p for p in peaks if p.axis == axis][:MOST_PEAKS]]
    report = LatticeReport(
        periods=tuple(periods),
        excess=tuple(one.excess for one in found),
        coherence=tuple(one.coherence for one in found),
        origin_aligned=tuple(one.aligned for one in found),
        peaks=tuple(sorted(kept, key=lambda peak: -peak.excess)),
        region=None,
    )
    main = main_period(report)
    return report if main is None else replace(report, region=found[report.periods.index(main)].region)


def verdict(report: LatticeReport) -> str:
    """ "grid", "suspect" or "clean": the worst that any period gives.

    grid: an excess of GRID_DB with a coherence of GRID_COHERENCE. suspect: one of them clearly, SUSPECT_DB or
    SUSPECT_COHERENCE. Periods that the image is too small for count as clean.
    """
    pairs = zip(report.excess, report.coherence, strict=True)
    return ("clean", "suspect", "grid")[max((_rank(*pair) for pair in pairs), default=0)]


def main_period(report: LatticeReport) -> int | None:
    """The period that the verdict is about, in px; None where it is "clean".

    The longest of those that give it: what repeats after 16 px has harmonics that a lattice of 8 or 4 would have too.
    """
    ranks = [_rank(*pair) for pair in zip(report.excess, report.coherence, strict=True)]
    worst = max(ranks, default=0)
    return max(p for p, rank in zip(report.periods, ranks, strict=True) if rank == worst) if worst else None


def check_period(period: int) -> None:
    """Refuse what is no period."""
    if period < 2:
        raise UsageError(f"lattice period {period}: must be at least 2 px")


def _rank(excess: float, coherent: float) -> int:
    """0 clean, 1 suspect, 2 grid; nan compares as false."""
    if excess >= GRID_DB and coherent >= GRID_COHERENCE:
        return 2
    return int(excess >= SUSPECT_DB or coherent >= SUSPECT_COHERENCE)


@dataclass(frozen=True)
class _Found:
    """Of one period."""

    excess: float
    coherence: float
    aligned: bool
    peaks: tuple[Peak, ...]
    region: tuple[int, int, int, int] | None


def _look(y: Tensor, period: int, signals: tuple[Tensor, Tensor]) -> _Found:
    if side_of_blocks(y.shape, period) == 0:
        return _Found(math.nan, math.nan, False, (), None)
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
    survey, pick = {AXES: (printed, axes), CROSS: (printed, diagonal), SEAMS: (seams, whole)}[
        int(by_kind.argmax())
    ]
    aligned = of_seams > 0 and all(_aligned(seams, axis, period) for axis in "xy")
    region = _best_block(survey, pick)
    return _Found(float(by_kind.max()), coherent, aligned, _peaks(printed, period), region)


def _both_ways(survey: Survey) -> float:
    """Coherence on the axes. Slats, blinds and courses of bricks are coherent on one: up to ONE_AXIS that counts."""
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
    peaks = []
    for point, excess in zip(printed.harmonics, printed.excess[0].tolist(), strict=True):
        if excess >= PEAK_DB:
            down = point.down - period if 2 * point.down > period else point.down
            peaks.append(Peak(down / period, point.across / period, period, excess, point.axis))
    return tuple(peaks)
