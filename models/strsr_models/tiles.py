"""Rectangles, feather weights and blending: arithmetic only, knows no model and no file.

Tiles of one shape cover an image with overlaps; inside an overlap the tiles cross-fade linearly.
The weights of all tiles sum to one at every pixel (a partition of unity), axis by axis, so that
a network that changes nothing gives the image back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import UsageError


@dataclass(frozen=True)
class Tile:
    """A rectangle in output pixels, and its number on each axis."""

    top: int
    left: int
    height: int
    width: int
    row: int
    column: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the rectangle in an image's last two axes."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def axis_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin on an axis: every tile - overlap pixels, the last one shifted inward."""
    if length <= tile:
        return [0]
    if not 0 <= overlap < tile:
        raise UsageError(f"overlap {overlap} must be at least 0 and smaller than the tile, {tile}")
    stride = tile - overlap
    return [*range(0, length - tile, stride), length - tile]


def axis_weights(length: int, tile: int, starts: list[int], overlap: int) -> list[Tensor]:
    """One weight vector (tile,) for each start; at every pixel of the axis they sum to one.

    Each tile rises over its first `overlap` pixels and falls over its last, but not at the image's
    own borders. Where a tile was shifted inward, neighbours share more than that: in between both count alike.
    """
    tile = min(tile, length)
    rise = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
    ramps = []
    for number in range(len(starts)):
        ramp = torch.ones(tile, dtype=torch.float64)
        if number > 0:
            ramp[:overlap] = rise
        if number < len(starts) - 1:
            ramp[tile - overlap :] = torch.minimum(ramp[tile - overlap :], rise.flip(0))
        ramps.append(ramp)
    total = torch.zeros(length, dtype=torch.float64)
    for start, ramp in zip(starts, ramps, strict=True):
        total[start : start + tile] += ramp
    pairs = zip(starts, ramps, strict=True)
    return [(ramp / total[start : start + tile]).float() for start, ramp in pairs]


def plan(height: int, width: int, tile: tuple[int, int], overlap: int) -> list[Tile]:
    """All tiles (rows x columns, row by row) of at most `tile` = (height, width) pixels."""
    rows = axis_starts(height, tile[0], overlap)
    columns = axis_starts(width, tile[1], overlap)
    h, w = min(tile[0], height), min(tile[1], width)
    return [
        Tile(top, left, h, w, row, column)
        for row, top in enumerate(rows)
        for column, left in enumerate(columns)
    ]


def fit_tile(length: int, largest: int, overlap: int, multiple_of: int) -> int:
    """The smallest tile that covers `length` with as few tiles as tiles of `largest` would.

    Shifting the last tile inward computes pixels twice; a tile that fits wastes nothing but the
    overlaps. `length` and the result are multiples of `multiple_of`.
    """
    if length <= largest:
        return length
    count = len(axis_starts(length, largest, overlap))
    exact = -(-(length + (count - 1) * overlap) // count)
    return -(-exact // multiple_of) * multiple_of


class Blender:
    """Sums weighted tiles into an image (b, 3, height, width)."""

    def __init__(self, like: Tensor, tile: tuple[int, int], overlap: int) -> None:
        self.image = torch.zeros_like(like, dtype=torch.float32)
        h, w = like.shape[-2:]
        self._rows = axis_weights(h, tile[0], axis_starts(h, tile[0], overlap), overlap)
        self._columns = axis_weights(w, tile[1], axis_starts(w, tile[1], overlap), overlap)

    def add(self, tile: Tile, pixels: Tensor) -> None:
        """Add pixels (b, 3, tile.height, tile.width), feathered."""
        weight = self._rows[tile.row][:, None] * self._columns[tile.column][None]
        target = self.image[(..., *tile.slices)]
        target += pixels.to(target) * weight.to(target)
