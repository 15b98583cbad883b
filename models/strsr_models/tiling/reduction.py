"""Bicubic reduction of a picture that comes piece by piece, with the same numbers as of the whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .enlargement import far, near

SHARPNESS = -0.5  # of the cubic kernel, as in PyTorch with antialias and in Pillow
SUPPORT = 2  # px of the output, to both sides


class Reduction:
    """The reduction of (H, W) pixels to (h, w) by PyTorch's "bicubic" with antialias, not clamped.

    In memory are one row of pieces, already narrower, and what the next one needs of it.
    """

    def __init__(self, size: tuple[int, int], target: tuple[int, int]) -> None:
        """size: (H, W) of what comes. target: (h, w) of what leaves, neither of them larger."""
        self._rows, self._columns = (_Axis(*sides) for sides in zip(size, target, strict=True))
        self._target = target
        self._down = _Stream(self._rows, -2)
        self._across = _Stream(self._columns, -1)
        self._band: Tensor | None = None

    def add(self, left: int, pixels: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Take the next piece (b, c, n, m), and give (top, left, pixels) of what is final now: rows of the whole width.

        left: the column at which the piece begins. Pieces come in rows of pieces from the top, and from left to right;
        those of one row have the same pixel rows, and each begins where the one before it ended.
        """
        if left == 0:
            self._across = _Stream(self._columns, -1)
            self._band = pixels.new_empty((*pixels.shape[:-1], self._target[1]))
        assert self._band is not None
        first, columns = self._across.add(pixels)
        self._band[..., first : first + columns.shape[-1]] = columns
        if self._across.done < self._target[1]:
            return
        top, rows = self._down.add(self._band)
        self._band = None
        if rows.shape[-2]:
            yield top, 0, rows


class _Axis:
    """The places of `length` that each of `target` on an axis is made of, and their weights."""

    def __init__(self, length: int, target: int) -> None:
        ratio = length / target
        centers = (torch.arange(target, dtype=torch.float64) + 0.5) * ratio
        reach = SUPPORT * max(ratio, 1.0)
        self.first = (centers - reach + 0.5).long().clamp(min=0)  # (target,)
        self.end = (centers + reach + 0.5).long().clamp(max=length)
        taps = torch.arange(int((self.end - self.first).max()))
        places = self.first[:, None] + taps  # (target, taps)
        weights = _kernel((places - centers[:, None] + 0.5) / max(ratio, 1.0))
        weights = weights * (places < self.end[:, None])
        self.places = places
        self.weights = (weights / weights.sum(1, keepdim=True)).float()

    def ready(self, known: int) -> int:
        """How many of `target` are made of no more than the first `known` places."""
        return int(torch.searchsorted(self.end, known, right=True))

    def matrix(self, first: int, last: int, origin: int, count: int) -> Tensor:
        """The weights (last - first, count) of `count` places from `origin` on."""
        places = (self.places[first:last] - origin).clamp(max=count - 1)
        matrix = torch.zeros(last - first, count, dtype=torch.float32)
        return matrix.scatter_add_(1, places, self.weights[first:last])


class _Stream:
    """The reduction along one axis, the last one (-1) or the last but one (-2)."""

    def __init__(self, axis: _Axis, dim: int) -> None:
        self._axis, self._dim = axis, dim
        self._origin = 0  # the place of the first pixel that is kept
        self._kept: Tensor | None = None
        self.done = 0

    def add(self, pixels: Tensor) -> tuple[int, Tensor]:
        """Take the next pixels along the axis; returns the place of the first one that is final now, and these."""
        known = pixels if self._kept is None else torch.cat([self._kept, pixels], self._dim)
        count = known.shape[self._dim]
        first, self.done = self.done, self._axis.ready(self._origin + count)
        weights = self._axis.matrix(first, self.done, self._origin, count).to(known)
        final = weights @ known if self._dim == -2 else known @ weights.T
        start = count
        if self.done < len(self._axis.first):
            start = int(self._axis.first[self.done]) - self._origin
        # A copy, or else all of `known` would stay in memory.
        self._kept = known.narrow(self._dim, start, count - start).clone()
        self._origin += start
        return first, final


def _kernel(x: Tensor) -> Tensor:
    """The cubic kernel."""
    x = x.abs()
    outer = torch.where(x < SUPPORT, far(x, SHARPNESS), torch.zeros_like(x))
    return torch.where(x < 1, near(x, SHARPNESS), outer)
