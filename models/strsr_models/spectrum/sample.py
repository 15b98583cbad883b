"""A look for a lattice at a picture that comes in bands of rows, so that it need not be held as floats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..tiling.enlargement import ReadRectangle
from .blocks import one_channel
from .report import LatticeReport, clipped_pixels, inspect_plane, verdict

BAND = 256  # rows that are floats of all channels at a time
USUAL_PERIODS = (4, 8, 16)  # px


def finite(values: Sequence[float]) -> list[float]:
    """The values that are finite numbers."""
    return [value for value in values if math.isfinite(value)]


def verdict_and_score(report: LatticeReport) -> tuple[str | None, float | None]:
    """The verdict of a report and the score in dB that is named with it; None for an image that is too small."""
    scores = finite(report.excess)
    return (verdict(report), max(scores)) if scores else (None, None)


@torch.no_grad()
def report_by_bands(
    size: tuple[int, int], read: ReadRectangle, periods: Sequence[int] = USUAL_PERIODS
) -> LatticeReport:
    """The report on an image of `size` = (h, w) px: that of `inspect_lattice` on the whole of it.

    read: rectangles (rows, columns) of the image, (1, 3 or 1, h, w) in [0, 1]. nan where it is too small to judge.
    """
    height, width = size
    y = torch.empty(1, height, width)
    clipped = torch.empty(height, width, dtype=torch.bool)
    for top in range(0, height, BAND):
        rows = slice(top, min(top + BAND, height))
        band = read(rows, slice(0, width))
        y[:, rows] = one_channel(band, "luma")
        clipped[rows] = clipped_pixels(band)
    return inspect_plane(y, clipped, periods)
