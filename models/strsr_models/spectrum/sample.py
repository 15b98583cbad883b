"""A quick look for a lattice: squares that stand for a whole image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..tiling.enlargement import ReadRectangle
from .report import LatticeReport, inspect_lattice

SAMPLE = 512  # px: side of the squares that stand for a large image where time counts
SMALL_SAMPLE, SAMPLE_PIXELS, MOST_SAMPLES = 192, 4_000_000, 16  # below as many pixels one small square does
USUAL_PERIODS = (4, 8, 16)  # px


def finite(values: Sequence[float]) -> list[float]:
    """The values that are finite numbers."""
    return [value for value in values if math.isfinite(value)]


@torch.inference_mode()
def sampled_report(size: tuple[int, int], read: ReadRectangle) -> LatticeReport:
    """A quick look at an image of `size` = (h, w) px: means over squares spread over it.

    read: rectangles (rows, columns) of the image, (1, 3 or 1, h, w) in [0, 1].

    A square of SAMPLE px per SAMPLE_PIXELS, MOST_SAMPLES at most, so that it takes a small part of the time
    that the image took to make. nan where the image is too small to judge. No peaks, no region.
    """
    height, width = size
    count = min(MOST_SAMPLES, height * width // SAMPLE_PIXELS)
    side = min(SAMPLE if count else SMALL_SAMPLE, height, width)
    down = max(1, round(math.sqrt(count * height / width)))
    reports = []
    for top in spread(height - side, down):
        for left in spread(width - side, max(1, count // down)):
            square = read(slice(top, top + side), slice(left, left + side))
            reports.append(inspect_lattice(square, USUAL_PERIODS))
    excess, coherence = (
        tuple(float(value) for value in np.mean([getattr(each, name) for each in reports], axis=0))
        for name in ("excess", "coherence")
    )
    aligned = tuple(all(each) for each in zip(*(report.origin_aligned for report in reports), strict=True))
    return LatticeReport(USUAL_PERIODS, excess, coherence, aligned, (), None)


def spread(room: int, count: int) -> list[int]:
    """Places in 0..room, evenly spread away from the ends, each a multiple of the longest usual period."""
    longest = max(USUAL_PERIODS)
    return [round(room * (number + 0.5) / count) // longest * longest for number in range(count)]
