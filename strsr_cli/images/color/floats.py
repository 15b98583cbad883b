"""Floats beyond [0, 1]: which number of a file is white, and whether there are highlights."""

from __future__ import annotations

import numpy as np

# The largest numbers of 8, 10, 12, 14 and 16 bits, which programs leave in floats.
WHITES = (255, 1_023, 4_095, 16_383, 65_535)
OVERSHOOT = 1.1  # beyond white, as sharpening and enlarging leave it
LEAST = 32  # of numbers with fractions, from which on their white is one of WHITES
LARGEST = 1e30  # of floats: sums of a few must be finite too
BAND = 256  # rows that are looked at at a time


def white_of(pixels: np.ndarray) -> float:
    """Return the number that is white among floats (h, w[, c]); 1 for those of [0, 1] with or without highlights.

    Floats are of another range where all of them are whole numbers, or more than half of those that are not
    0 lie beyond 1: photographs whose white is 1 have fewer highlights than that. White is then the largest
    number of 8, 10, 12, 14 or 16 bits, or where none of these fits, the largest in the picture.
    """
    largest = float(pixels.max())
    if largest <= 1:
        return 1.0
    bands = [pixels[top : top + BAND] for top in range(0, len(pixels), BAND)]
    whole = all((band == np.rint(band)).all() for band in bands)
    beyond = sum(int(np.count_nonzero(band > 1)) for band in bands)
    if not whole and 2 * beyond <= sum(int(np.count_nonzero(band)) for band in bands):
        return 1.0
    if whole or largest >= LEAST:
        for white in WHITES:
            if largest <= OVERSHOOT * white:
                return float(white)
    return largest


def scale_to_white(pixels: np.ndarray, has_alpha: bool) -> tuple[float, float]:
    """Bring floats (h, w, c) to a white of 1, in place; return what was white, of colours and of alpha.

    has_alpha: whether the last channel is alpha. Raises ValueError for numbers that are not finite or too large.
    """
    if not -LARGEST < pixels.min() <= pixels.max() < LARGEST:
        raise ValueError(f"some of its pixels are not finite numbers, or beyond {LARGEST:.0e}")
    colors = pixels[..., :-1] if has_alpha else pixels
    white = white_of(colors)
    # Where colours go to 255, alpha may still end at 1.
    opaque = white if has_alpha and pixels[..., -1].max() > 1 else 1.0
    if white != 1:
        colors /= white
    if opaque != 1:
        pixels[..., -1] /= opaque
    return white, opaque


def has_highlights(pixels: np.ndarray) -> bool:
    """Whether pixels are floats, and some of them lie outside of [0, 1]."""
    return pixels.dtype == np.float32 and bool(pixels.size) and not 0 <= pixels.min() <= pixels.max() <= 1
