"""Rectangles, feather weights and blending: arithmetic only, knows no model and no file.

Tiles of one shape cover an image with overlaps; inside an overlap the tiles cross-fade, linearly or
smoothly.
The weights of all tiles sum to one at every pixel (a partition of unity), axis by axis, so that
a network that changes nothing gives the image back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError


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
    """The starts of tiles on an axis: every tile - overlap pixels, the last one shifted inward."""
    if length <= tile:
        return [0]
    if not 0 <= overlap < tile:
        raise UsageError(f"overlap {overlap} must be at least 0 and smaller than the tile, {tile}")
    stride = tile - overlap
    return [*range(0, length - tile, stride), length - tile]


def axis_weights(
    length: int, tile: int, starts: list[int], overlap: int, smooth: bool = False
) -> list[Tensor]:
    """The weight vectors (tile,), one for each start; at every pixel of the axis they sum to one.

    Each tile rises over its first `overlap` pixels and falls over its last, but not at the image's
    own borders. Where a tile was shifted inward, neighbours share more than that: in between both count alike.
    smooth: by 3 t^2 - 2 t^3 in place of t, which takes less of what lies close to a tile's border.
    """
    tile = min(tile, length)
    rise = (torch.arange(overlap, dtype=torch.float64) + 0.5) / max(overlap, 1)
    if smooth:
        rise = rise**2 * (3 - 2 * rise)
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
    """Return all tiles (rows x columns, row by row) of at most `tile` = (height, width) pixels."""
    rows = axis_starts(height, tile[0], overlap)
    columns = axis_starts(width, tile[1], overlap)
    h, w = min(tile[0], height), min(tile[1], width)
    return [
        Tile(top=top, left=left, height=h, width=w, row=row, column=column)
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
    """A sum of weighted tiles of an image of height x width px, which gives pixels away as they become final.

    In memory are one tile and, of the row of tiles above, what the next row overlaps.
    """

    def __init__(
        self, height: int, width: int, tile: tuple[int, int], overlap: int, smooth: bool = False
    ) -> None:
        self._tops = axis_starts(height, tile[0], overlap)
        self._lefts = axis_starts(width, tile[1], overlap)
        self._rows = axis_weights(height, tile[0], self._tops, overlap, smooth)
        self._columns = axis_weights(width, tile[1], self._lefts, overlap, smooth)
        self._width = width
        # The sums at the place of the last tile.
        self._sums: Tensor | None = None
        # Pixel rows of the previous row of tiles that the current row reaches.
        self._above: Tensor | None = None
        # Pixel rows of the current row of tiles that the next row reaches.
        self._below: Tensor | None = None
        self._next, self._waiting = 0, dict[int, Tensor]()

    def add(self, number: int, pixels: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Add the tile of that number in `plan`, (b, c, h, w), feathered.

        Gives (top, left, pixels (b, c, n, m) float32) of what is final now: of each row of tiles the same
        pixel rows, from left to right. The caller may change them; the blender does not read them again. Tiles may
        come in any order: they are summed in that of the plan, so that the sum, which depends on it in its last
        bit, is always the same.
        """
        self._waiting[number] = pixels
        while self._next in self._waiting:
            row, column = divmod(self._next, len(self._lefts))
            yield self._sum(row, column, self._waiting.pop(self._next).float())
            self._next += 1

    def _sum(self, row: int, column: int, pixels: Tensor) -> tuple[int, int, Tensor]:
        """Sum one tile (b, c, h, w) with its neighbours; returns (top, left, pixels) of what is final now."""
        height, width = pixels.shape[-2:]
        top, left = self._tops[row], self._lefts[column]
        if column == 0:
            # A new row of tiles begins.
            self._sums, self._above = None, self._below
            reached = 0 if row + 1 == len(self._tops) else top + height - self._tops[row + 1]
            self._below = pixels.new_empty((*pixels.shape[:-2], reached, self._width))
        rows, columns = self._rows[row].to(pixels), self._columns[column].to(pixels)
        sums = pixels * (rows[:, None] * columns)
        # The number of columns that the previous tile has begun.
        known = 0
        if self._sums is not None:
            known = self._lefts[column - 1] + width - left
            sums[..., :known] += self._sums[..., width - known :]
        if self._above is not None:
            sums[..., : self._above.shape[-2], known:] += self._above[..., left + known : left + width]
        self._sums = sums

        assert self._below is not None
        final_rows = height - self._below.shape[-2]
        last = column + 1 == len(self._lefts)
        final_columns = width if last else self._lefts[column + 1] - left
        self._below[..., left : left + final_columns] = sums[..., final_rows:, :final_columns]
        return top, left, sums[..., :final_rows, :final_columns]


def paste(whole: Tensor, pieces: Iterable[tuple[int, int, Tensor]]) -> None:
    """Put pieces (top, left, pixels (b, c, n, m)) where they belong in an image (b, c, H, W)."""
    for top, left, pixels in pieces:
        n, m = pixels.shape[-2:]
        whole[..., top : top + n, left : left + m] = pixels
