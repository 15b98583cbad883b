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
from .certainty import certainty
from .interpolation import Interpolation, find_interpolation
from .phase import coherence
from .survey import (
    AXES,
    CROSS,
    SEAMS,
    Survey,
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
SUSPECT_CERTAINTY = 2.3  # one picture in two hundred by chance, for each of a few kinds of sums
ONE_AXIS = 0.45  # below GRID_COHERENCE: what is coherent on one axis alone is no grid
FLAT_LINES = 256  # at least, that are looked at for equal pixels
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
    certainty: tuple[
        float, ...
    ] = ()  # -log10 of the chance that noise has a print of such phases; nan as above
    trace: tuple[float, ...] = ()  # dB: of seams along one axis alone, or of an enlargement's; 0: none
    interpolation: Interpolation | None = None  # a plain enlargement, whose traces are not counted above
    flat: float = 0.0  # share of pixels that are equal to the next, along both axes: much in what was drawn


@torch.no_grad()
def inspect_lattice(
    image: Tensor, periods: Sequence[int] = (4, 8, 16), channel: str = "luma"
) -> LatticeReport:
    """Look for lattices in one image (1, 3 or 1, h, w) in [0, 1].

    excess is `spectrum.lattice_excess`, but of a plain enlargement, whose own traces do not count: see
    `_judge_enlargement`. coherence is the greatest of three, of the harmonics on the axes, of all cross-points and of
    the seams, each as in `phase.coherence`. Memory beyond the image's own grows with a tenth of its pixels. region
    is None where the verdict is "clean". Raises UsageError for what is no image, more than one, an unknown channel,
    and periods less than 2.
    """
    y = one_channel(image, channel)
    return inspect_plane(y, clipped_pixels(image), periods)


def clipped_pixels(image: Tensor) -> Tensor:
    """Where an image (b, c, h, w) is black or white in any channel: (h, w) bool, of the first of the batch."""
    return ((image[0] <= 0) | (image[0] >= 1)).any(0)


@torch.no_grad()
def inspect_plane(y: Tensor, clipped: Tensor, periods: Sequence[int]) -> LatticeReport:
    """Look for lattices as `inspect_lattice` does, in one channel y (1, h, w). clipped: as of `clipped_pixels`."""
    if y.shape[0] != 1:
        raise UsageError(f"expected one image, got {y.shape[0]}")
    for period in periods:
        check_period(period)
    signals = (seam_signal(y), seam_signal(y.transpose(1, 2)))
    interpolation = find_interpolation(y, clipped)
    lattices = [_inspect_period(y, period, signals, interpolation) for period in periods]
    report = LatticeReport(
        periods=tuple(periods),
        excess=tuple(lattice.excess for lattice in lattices),
        coherence=tuple(lattice.coherence for lattice in lattices),
        origin_aligned=tuple(lattice.aligned for lattice in lattices),
        peaks=_strongest([peak for lattice in lattices for peak in lattice.peaks]),
        region=None,
        certainty=tuple(lattice.certainty for lattice in lattices),
        trace=tuple(lattice.trace for lattice in lattices),
        interpolation=interpolation,
        flat=_flat_share(y),
    )
    main = main_period(report)
    if main not in report.periods:
        return report
    return replace(report, region=lattices[report.periods.index(main)].region)


def _flat_share(y: Tensor) -> float:
    """The share of pixels of y (1, h, w) that are equal to the next one, along the axis that has fewer of them.

    Of large images some lines are looked at.
    """
    shares = []
    for lines in (y[0], y[0].T):
        some = lines[:: max(1, len(lines) // FLAT_LINES)]
        if some.shape[1] > 1:
            shares.append(float((some[:, 1:] == some[:, :-1]).float().mean()))
    return min(shares, default=0.0)


def _strongest(peaks: list[Peak]) -> tuple[Peak, ...]:
    """The MOST_PEAKS strongest peaks of each axis, the strongest first."""
    kept: list[Peak] = []
    for axis in ("x", "y", "xy"):
        on_axis = [peak for peak in peaks if peak.axis == axis]
        kept += sorted(on_axis, key=lambda peak: -peak.excess)[:MOST_PEAKS]
    return tuple(sorted(kept, key=lambda peak: -peak.excess))


def verdict(report: LatticeReport) -> str:
    """The worst that any period gives: "grid", "suspect" or "clean".

    grid: an excess of GRID_DB with a coherence of GRID_COHERENCE, or blocks of equal pixels (nearest neighbour).
    suspect: one number clearly, SUSPECT_DB, SUSPECT_COHERENCE or SUSPECT_CERTAINTY; not in a plain enlargement, whose
    own spectrum is not smooth. Periods that the image is too small for count as clean.
    """
    if _has_blocks(report):
        return "grid"
    return ("clean", "suspect", "grid")[max(_ranks(report), default=0)]


def main_period(report: LatticeReport) -> int | None:
    """The period that the verdict is about, in px; None where it is "clean".

    The longest of those that give it: what repeats after 16 px has harmonics that a lattice of 8 or 4 would have too.
    Blocks of equal pixels that none of them shows have their own side, which need not be one of them.
    """
    ranks = _ranks(report)
    worst = max(ranks, default=0)
    if worst < 2 and report.interpolation is not None and report.interpolation.blocks:
        return report.interpolation.factor
    if worst == 0:
        return None
    return max(period for period, rank in zip(report.periods, ranks, strict=True) if rank == worst)


def _has_blocks(report: LatticeReport) -> bool:
    """Whether the image was enlarged by nearest neighbour."""
    return report.interpolation is not None and report.interpolation.blocks


def check_period(period: int) -> None:
    """Raise UsageError for a period of less than 2 px."""
    if period < 2:
        raise UsageError(f"lattice period {period}: must be at least 2 px")


def _ranks(report: LatticeReport) -> list[int]:
    """The rank of each period: 0 for clean, 1 for suspect, 2 for grid; nan compares as false."""
    certain = report.certainty or (0.0,) * len(report.periods)
    plain = report.interpolation is not None and not report.interpolation.blocks
    return [_rank(*numbers, plain) for numbers in zip(report.excess, report.coherence, certain, strict=True)]


def _rank(excess: float, coherent: float, certain: float, enlarged: bool) -> int:
    """The rank of one period."""
    if excess >= GRID_DB and coherent >= GRID_COHERENCE:
        return 2
    if enlarged:
        return 0
    return int(excess >= SUSPECT_DB or coherent >= SUSPECT_COHERENCE or certain >= SUSPECT_CERTAINTY)


@dataclass(frozen=True)
class _Lattice:
    """What the image shows of one period."""

    excess: float
    coherence: float
    aligned: bool
    peaks: tuple[Peak, ...]
    region: tuple[int, int, int, int] | None
    certainty: float
    trace: float


def _inspect_period(
    y: Tensor, period: int, signals: tuple[Tensor, Tensor], interpolation: Interpolation | None
) -> _Lattice:
    """Look for a lattice of one period in y (1, h, w). signals: `seam_signal` of y and of y transposed."""
    if side_of_blocks(y.shape, period) == 0:
        return _Lattice(math.nan, math.nan, False, (), None, math.nan, 0.0)
    printed = survey_print(y, period, closely=True)
    assert printed.values is not None
    if not bool(printed.values.any()):
        # All blocks are flat, or ramps: rounding makes stairs of these, which have seams.
        return _Lattice(0.0, 0.0, False, (), None, 0.0, 0.0)
    seams = survey_seams(y, period, closely=True, signals=signals)
    if interpolation is not None and not interpolation.blocks:
        return _judge_enlargement(printed, seams, period)
    by_kind = kinds(printed, seams, period)[0]
    axes, cross, diagonal = _places(printed, period)
    of_cells, of_seams = _both_ways(seams, 0.0), _both_ways(seams, ONE_AXIS)
    of_cross = max(coherence(printed, pick) for pick in (cross, diagonal))
    coherent = max(_both_ways(printed, ONE_AXIS), of_cross, of_seams)
    choices = {
        AXES: (printed, axes),
        CROSS: (printed, diagonal),
        SEAMS: (seams, [*range(len(seams.harmonics))]),
    }
    survey, pick = choices[int(by_kind.argmax())]
    return _Lattice(
        excess=float(by_kind.max()),
        coherence=coherent,
        aligned=of_cells > 0 and all(_aligned(seams, axis, period) for axis in "xy"),
        peaks=_peaks(printed, period),
        region=_best_block(survey, pick),
        certainty=certainty(y, period),
        trace=_trace(seams) if of_cells < SUSPECT_COHERENCE else 0.0,
    )


def _judge_enlargement(printed: Survey, seams: Survey, period: int) -> _Lattice:
    """What a plain enlargement shows beyond itself.

    Its roughness repeats with its factor, so that it has seams; and images of low frequencies lie beside multiples
    of 1 / factor, whose phases follow the picture. A print on top of it has one phase, on both axes, and stands far
    out, since nothing else is left at high frequencies. What has less than GRID_COHERENCE is the enlargement's own
    and its excess no lattice's.
    """
    by_kind = kinds(printed, seams, period)[0, :SEAMS]
    axes, cross, diagonal = _places(printed, period)
    coherent = max(
        _both_ways(printed, 0.0, either_sign=False),
        *(coherence(printed, pick, either_sign=False) for pick in (cross, diagonal)),
    )
    steady = coherent >= GRID_COHERENCE
    excess = float(by_kind.max())
    return _Lattice(
        excess=excess if steady else min(excess, 0.0),
        coherence=coherent if steady else 0.0,
        aligned=False,
        peaks=_peaks(printed, period) if steady else (),
        region=_best_block(printed, (axes, diagonal)[int(by_kind.argmax())]),
        certainty=0.0,
        trace=max(0.0, float(seams.excess.mean())),
    )


def _places(printed: Survey, period: int) -> tuple[list[int], list[int], list[int]]:
    """The numbers of harmonics on the axes, at cross-points, and on the diagonals among these."""
    axes = [i for i, point in enumerate(printed.harmonics) if point.axis != "xy"]
    cross = [i for i, point in enumerate(printed.harmonics) if point.axis == "xy"]
    return axes, cross, [i for i in cross if on_diagonal(printed.harmonics[i], period)]


def _by_axis(survey: Survey) -> tuple[list[int], list[int]]:
    """The numbers of harmonics on the axis of columns, and on that of rows."""
    down, across = ([i for i, point in enumerate(survey.harmonics) if point.axis == axis] for axis in "yx")
    return down, across


def _both_ways(survey: Survey, alone: float, either_sign: bool = True) -> float:
    """The coherence on both axes. alone: as much as what is coherent on one of them counts, as slats and courses are."""
    down, across = _by_axis(survey)
    lesser = min(coherence(survey, pick, either_sign) for pick in (down, across))
    if not alone:
        return lesser
    return max(lesser, min(coherence(survey, down + across, either_sign), alone))


def _trace(seams: Survey) -> float:
    """The excess of seams along the axis that has them, in dB; 0 where neither axis' seams are coherent."""
    return max(
        (
            max(0.0, float(seams.excess[0, pick].mean()))
            for pick in _by_axis(seams)
            if coherence(seams, pick) >= SUSPECT_COHERENCE
        ),
        default=0.0,
    )


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
