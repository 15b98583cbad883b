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
BLOCK = 2**16  # numbers that a CPU's thread sums at a time: its cache holds them between the four taps


class Enlargement:
    """The enlargement of (h, w) pixels to (H, W) by PyTorch's "bicubic".

    It has half-pixel centres, repeated borders and no antialias. canvas: (height, width) to which the result
    is extended to the right and below by reflection, again and again where there is little to reflect.
    """

    def __init__(
        self, size: tuple[int, int], target: tuple[int, int], canvas: tuple[int, int] | None = None
    ) -> None:
        """Compute the taps of both axes.

        size: (h, w) of the original. target: (H, W) of the enlarged image.
        """
        canvas = canvas or target
        self._rows = _extended_taps(size[0], target[0], canvas[0])
        self._columns = _extended_taps(size[1], target[1], canvas[1])

    def crop(self, read: ReadRectangle, rows: slice, columns: slice) -> Tensor:
        """A rectangle (b, c, rows, columns) of the enlarged image, not clamped.

        read: gives rectangles of the original; called once, for no more than is needed.
        """
        top, bottom, at_rows, row_weights = _cut(self._rows, rows)
        left, right, at_columns, column_weights = _cut(self._columns, columns)
        region = read(slice(top, bottom), slice(left, right))  # (b, c, h, w)
        # An axis that lies first is gathered several times faster than one that lies last.
        columns_first = region.movedim(-1, 0).contiguous()  # (w, b, c, h)
        wide = _gather(columns_first, at_columns, column_weights, 0).movedim(0, -1)  # (b, c, h, W)
        return _gather(wide.contiguous(), at_rows, row_weights, 2)  # (b, c, H, W)

    def extremes(self, read: ReadRectangle, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """The least and the largest of the 4x4 px that each pixel of `crop` is made of, of its shape each."""
        top, bottom, at_rows, _ = _cut(self._rows, rows)
        left, right, at_columns, _ = _cut(self._columns, columns)
        region = read(slice(top, bottom), slice(left, right))  # (b, c, h, w)
        low, high = (
            _extreme(_extreme(region, at_rows, -2, pick), at_columns, -1, pick)
            for pick in (torch.minimum, torch.maximum)
        )
        return low, high


def enlarge(image: Tensor, height: int, width: int) -> Tensor:
    """Enlarge (b, c, h, w) to (b, c, height, width), clamped to [0, 1]: the step that does the scaling."""
    enlargement = Enlargement((image.shape[-2], image.shape[-1]), (height, width))
    return enlargement.crop(rectangles_of(image), slice(0, height), slice(0, width)).clamp_(0, 1)


def rectangles_of(image: Tensor) -> ReadRectangle:
    """Return a reader of the rectangles of an image (b, c, h, w) that is in memory."""
    return lambda rows, columns: image[..., rows, columns]


def _extended_taps(size: int, length: int, total: int) -> tuple[Tensor, Tensor]:
    """The taps and weights (total, 4) of an axis that is enlarged to `length` and reflected to `total`."""
    index, weights = _taps(size, length)
    reflection = _reflection(length, total)
    return index[reflection], weights[reflection]


def _taps(size: int, length: int) -> tuple[Tensor, Tensor]:
    """The four places of `size` that each of `length` on an axis is made of, and their weights (length, 4)."""
    place = (torch.arange(length, dtype=torch.float64) + 0.5) * size / length - 0.5
    first = place.floor()
    t, a = place - first, SHARPNESS
    index = (first.long()[:, None] + torch.arange(-1, 3)).clamp(0, size - 1)
    return index, torch.stack([far(t + 1, a), near(t, a), near(1 - t, a), far(2 - t, a)], dim=1).float()


def near(x: Tensor, a: float) -> Tensor:
    """The cubic kernel of sharpness `a` up to 1 px away."""
    return ((a + 2) * x - (a + 3)) * x * x + 1


def far(x: Tensor, a: float) -> Tensor:
    """The same from 1 to 2 px away."""
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a


def _reflection(length: int, total: int) -> Tensor:
    """The indices 0..length-1, length-2..0, 1.. and so on, `total` of them."""
    period = max(2 * (length - 1), 1)
    index = torch.arange(total) % period
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)


def _cut(taps: tuple[Tensor, Tensor], part: slice) -> tuple[int, int, Tensor, Tensor]:
    """The first and last + 1 place of the original that a part of an axis needs; taps from there; weights."""
    index, weights = taps[0][part], taps[1][part]
    first, last = int(index.min()), int(index.max()) + 1
    return first, last, index - first, weights


def _gather(lines: Tensor, index: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Return `lines` with `length` weighted sums of four of them each along an axis; index and weights: (length, 4)."""
    index, weights = index.to(lines.device), weights.to(lines)
    length = len(index)
    weights = weights.view(length, 4, *[1] * (lines.ndim - 1 - axis))
    sums = lines.new_empty(*lines.shape[:axis], length, *lines.shape[axis + 1 :])
    at_once = length
    # A GPU takes longer to be told of many parts than to compute them.
    if lines.device.type == "cpu":
        at_once = max(1, BLOCK * torch.get_num_threads() * lines.shape[axis] // lines.numel())
    for first in range(0, length, at_once):
        part = slice(first, first + at_once)
        total = sums.narrow(axis, first, len(index[part]))
        torch.mul(lines.index_select(axis, index[part, 0]), weights[part, 0], out=total)
        for tap in range(1, 4):
            total += lines.index_select(axis, index[part, tap]).mul_(weights[part, tap])
    return sums


def _extreme(image: Tensor, index: Tensor, axis: int, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return what `pick` leaves of the four lines of an axis, for each of (length, 4) indices."""
    index = index.to(image.device)
    best = image.index_select(axis, index[:, 0])
    for tap in range(1, 4):
        best = pick(best, image.index_select(axis, index[:, tap]))
    return best
