"""GeoTIFF: where on earth a picture's pixels lie, made true of an enlarged picture."""

from __future__ import annotations

import struct

from .directories import DOUBLE, Exif, Tag

PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, KEYS = 33550, 33922, 34264, 34735
GEOGRAPHY = (PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, KEYS, 34736, 34737)
RASTER_TYPE, POINTS = 1025, 2  # the key that says what a place in px is of: a pixel's corner, or its middle


def has_geography(exif: Exif) -> bool:
    """Whether the first directory says where pixels lie."""
    return any(tag in exif.first.tags for tag in GEOGRAPHY)


def drop_geography(exif: Exif) -> None:
    """Take out what says where pixels lie."""
    for tag in GEOGRAPHY:
        exif.first.tags.pop(tag, None)


def scale_geography(exif: Exif, across: float, down: float) -> None:
    """Make places in px those of a picture that is enlarged by those factors."""
    shift = 0.5 if _has_points(exif) else 0.0
    tags = exif.first.tags
    for tag, change in (
        (PIXEL_SCALE, lambda values: [values[0] / across, values[1] / down, *values[2:]]),
        (TIE_POINTS, lambda values: _move_points(values, across, down, shift)),
        (TRANSFORMATION, lambda values: _divide_columns(values, across, down, shift)),
    ):
        entry = tags.get(tag)
        if entry is None or entry.kind != DOUBLE or entry.count < 2:
            continue
        values = change(list(entry.numbers(exif.order)))
        tags[tag] = Tag(DOUBLE, struct.pack(f"{exif.order}{len(values)}d", *values))


def _has_points(exif: Exif) -> bool:
    """Whether places in px are of pixels' middles; the keys are four numbers each, after a header of four."""
    entry = exif.first.tags.get(KEYS)
    numbers = () if entry is None else entry.numbers(exif.order)
    return any(
        numbers[at] == RASTER_TYPE and numbers[at + 3] == POINTS for at in range(4, len(numbers) - 3, 4)
    )


def _move_points(values: list[float], across: float, down: float, shift: float) -> list[float]:
    """Scale the first two of every six numbers: i, j, k in px, then x, y, z on earth."""
    for at in range(0, len(values) - 5, 6):
        values[at] = (values[at] + shift) * across - shift
        values[at + 1] = (values[at + 1] + shift) * down - shift
    return values


def _divide_columns(values: list[float], across: float, down: float, shift: float) -> list[float]:
    """Change a matrix of 4 x 4, row by row, that takes places in px to places on earth."""
    for at in range(0, len(values) - 3, 4):
        left, up = values[at] / across, values[at + 1] / down
        # The old place of the new picture's first pixel.
        values[at + 3] += shift * (left - values[at]) + shift * (up - values[at + 1])
        values[at : at + 2] = left, up
    return values
