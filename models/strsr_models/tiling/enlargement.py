"""Bicubic enlargement, whole or any rectangle of it, with the same numbers either way.

A picture of a hundred megapixels is never there as a whole: every tile, and every finished row, asks for
the rectangle that it needs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# A rectangle (rows, columns) of an image -> its pixels (b, c, rows, columns).
ReadRectangle = Callable[[slice, slice], Tensor]
SHARPNESS = -0.75  # of the cubic kernel, as in PyTorch and OpenCV


class Enlargement:
    """Of (h, w) pixels to (H, W), half-pixel centres, borders repeated, no antialias: PyTorch's "bicubic".

    canvas: (height, width) to which the result is extended to the right and below by reflection, again
    where there is little to reflect.
    """

    def __init__(
        self, size: tuple[int, int], target: tuple[int, int], canvas: tuple[int, int] | None = None
    ) -> None:
        canvas = canvas or target
        self._rows, self._columns = (
            tuple(part[_reflection(target[n], canvas[n])] for part in _taps(size[n], target[n]))
            for n in (0, 1)
        )

    def crop(self, see: ReadRectangle, rows: slice, columns: slice) -> Tensor:
        """A rectangle (b, c, rows, columns) of the enlarged image, not clamped, where `see` gives its pixels.

        see: rectangles of the original; asked once, for no more than is needed.
        """
        top, bottom, at_rows, row_weights = _cut(self._rows, rows)
        left, right, at_columns, column_weights = _cut(self._columns, columns)
        region = see(slice(top, bottom), slice(left, right))
        # An axis that lies first is gathered several times faster than one that lies last.
        turned = region.movedim(-1, 0).contiguous()  # (w, b, c, h)
        wide = _gather(turned, at_columns, column_weights).movedim(0, -1)  # (b, c, h, W)
        tall = _gather(wide.movedim(-2, 0).contiguous(), at_rows, row_weights)  # (H, b, c, W)
        return tall.movedim(0, -2).contiguous()


def enlarge(image: Tensor, height: int, width: int) -> Tensor:
    """(b, c, h, w) to (b, c, height, width), clamped to [0, 1]: the step that does the scaling."""
    enlargement = Enlargement((image.shape[-2], image.shape[-1]), (height, width))
    return enlargement.crop(rectangles_of(image), slice(0, height), slice(0, width)).clamp(0, 1)


def rectangles_of(image: Tensor) -> ReadRectangle:
    """Rectangles of an image (b, c, h, w) that is in memory."""
    return lambda rows, columns: image[..., rows, columns]


def _taps(size: int, length: int) -> tuple[Tensor, Tensor]:
    """For each of `length` places on an axis the four of `size` it is made of, and their weights (length, 4)."""
    place = (torch.arange(length, dtype=torch.float64) + 0.5) * size / length - 0.5
    first = place.floor()
    t, a = place - first, SHARPNESS

    def near(x: Tensor) -> Tensor:  # up to 1 px away
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:  # 1 to 2 px away
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    index = (first.long()[:, None] + torch.arange(-1, 3)).clamp(0, size - 1)
    return index, torch.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], dim=1).float()


def _reflection(length: int, total: int) -> Tensor:
    """Indices 0..length-1, length-2..0, 1.. and so on, `total` of them."""
    period = max(2 * (length - 1), 1)
    index = torch.arange(total) % period
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)


def _cut(taps: tuple[Tensor, ...], part: slice) -> tuple[int, int, Tensor, Tensor]:
    """First and last + 1 place of the original that a part of an axis needs; taps from there; weights."""
    index, weights = (values[part] for values in taps)
    first, last = int(index.min()), int(index.max()) + 1
    return first, last, index - first, weights


def _gather(lines: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """(n, ...) to (length, ...): sums of four weighted lines each."""
    index, weights = index.to(lines.device), weights.to(lines)
    shape = (-1, *[1] * (lines.ndim - 1))
    total = lines.index_select(0, index[:, 0]).mul_(weights[:, 0].view(shape))
    for tap in range(1, 4):
        total += lines.index_select(0, index[:, tap]).mul_(weights[:, tap].view(shape))
    return total
