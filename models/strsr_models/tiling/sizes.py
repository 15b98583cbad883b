"""Sizes of outputs: arithmetic that planning needs before any network is loaded."""

from __future__ import annotations

import math

from ..errors import UsageError

SMALLEST_SCALE, LARGEST_SCALE = 1, 16
LEAST_SCALE = 4.0  # lite makes pictures as many times larger, at least; a smaller one is reduced from that


def check_scale(scale: float) -> None:
    """Raise UsageError unless scale is a number from 1 to 16."""
    try:
        # The comparison is false for NaN as well.
        is_good = bool(SMALLEST_SCALE <= scale <= LARGEST_SCALE)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(
            f"scale: must be a number from {SMALLEST_SCALE} to {LARGEST_SCALE}, not a {type(scale).__name__}"
        ) from None
    if not is_good:
        raise UsageError(f"scale {scale:g}: must be between {SMALLEST_SCALE} and {LARGEST_SCALE}")


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """The size (round(height * scale), round(width * scale)) of an output in px, halves rounded up."""
    check_scale(scale)
    return scaled_size(height, width, scale)


def scaled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """The size (round(height * factor), round(width * factor)), halves rounded up, at least 1 px; any factor above 0."""
    return max(1, math.floor(height * factor + 0.5)), max(1, math.floor(width * factor + 0.5))
