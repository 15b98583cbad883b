"""Notes beside a verdict: where else a lattice may come from, and what looks like one and is none."""

from __future__ import annotations

import math
from dataclasses import replace

from strsr_models.spectrum import LatticeReport, verdict

JPEG_PERIOD, WEBP_PERIOD = 8, 4  # px
SHARED = 3.0  # dB: what blocks of 8 px may show at the periods 4 and 2 more than at their own
DRAWN = (
    0.5  # share of pixels that equal the next one: less in photos, but for those that are mostly blown out
)
TRACE_DB = 1.0  # of seams along one axis: less is not worth a note


def lattice_note(report: LatticeReport) -> str:
    """The note on a report, several divided by semicolons; empty where there is nothing to say."""
    interpolation = report.interpolation
    if interpolation is not None and not interpolation.smooth:
        if interpolation.blocks:
            return f"blocks of {interpolation.factor} px: nearest neighbour"
        return f"interpolated x{interpolation.factor}, {interpolation.gain:.1f} dB"
    notes = [f"{name} blocks?" for name in [_codec(report)] if name]
    if report.flat >= DRAWN and verdict(report) != "clean":
        notes.append(f"screenshot or drawing? {report.flat:.0%} flat")
    strongest = max(report.trace, default=0.0)
    if strongest >= TRACE_DB:
        period = report.periods[report.trace.index(strongest)]
        notes.append(f"roughness changes every {period} px along one axis, {strongest:.1f} dB: no print")
    return "; ".join(notes)


def _codec(report: LatticeReport) -> str:
    """The format whose blocks stand out where those of a file would; empty where none do."""
    if _has_blocks(report, JPEG_PERIOD):
        return "JPEG"
    return "WebP" if _has_blocks(report, WEBP_PERIOD) else ""


def _has_blocks(report: LatticeReport, side: int) -> bool:
    """Whether seams of a period stand out at multiples of it from pixel 0, and no lattice that contains it."""
    if side not in report.periods:
        return False
    number = report.periods.index(side)
    excess = report.excess[number]
    rivals = []
    for period, rival in zip(report.periods, report.excess, strict=True):
        if period != side and math.isfinite(rival):
            rivals.append(rival - SHARED if side % period == 0 else rival)
    alone = replace(
        report,
        periods=(side,),
        excess=(excess,),
        coherence=(report.coherence[number],),
        certainty=report.certainty[number : number + 1],
    )
    stands_out_most = excess >= max(rivals, default=-math.inf)
    return report.origin_aligned[number] and stands_out_most and verdict(alone) != "clean"
