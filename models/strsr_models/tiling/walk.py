"""One picture's way through a network: the tiles it is cut into, and its pixels as they become final.

Knows neither files nor networks: whoever has tiles restored, in whatever batches and order, gives them back.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from . import tiles
from .enlargement import Enlargement, ReadRectangle
from .reduction import Reduction


class TiledPicture:
    """The tiles of one enlarged picture.

    read: gives rectangles of the low-quality image (b, 3, h, w) of `size` = (h, w), in [0, 1]. made: size of what
    networks make of it. target: size of the output; what is made larger is reduced. canvas: size of what tiles of
    `shape` cover, at least what is made; what is beyond that is reflected. device: where pixels are enlarged,
    blended and reduced, so that only original pixels go there. smooth: how tiles cross-fade (`tiles.axis_weights`).
    """

    def __init__(
        self,
        read: ReadRectangle,
        size: tuple[int, int],
        made: tuple[int, int],
        target: tuple[int, int],
        canvas: tuple[int, int],
        shape: tuple[int, int],
        overlap: int,
        device: torch.device,
        smooth: bool = False,
    ) -> None:
        self.height, self.width = target
        self.tiles = tiles.plan(*canvas, shape, overlap)
        self.device = device
        # Whatever floats a picture is made of, its enlargement and its sums are of float32.
        self._read = lambda rows, columns: read(rows, columns).to(device, torch.float32)
        self._made = made
        self._enlargement = Enlargement(size, made, canvas)
        self._reduction = None if made == target else Reduction(made, target)
        self._blender = tiles.Blender(*canvas, shape, overlap, smooth)

    def view(self, number: int) -> Tensor:
        """The enlarged pixels that a network sees of a tile: (b, 3, H, W) in [0, 1]."""
        return self._enlargement.crop(self._read, *self.tiles[number].slices).clamp_(0, 1)

    def add(self, number: int, restored: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Take a restored tile, and give (top, left, pixels (b, 3, n, m) in [0, 1]) of what is final now.

        In each row of tiles these are the same pixel rows, from left to right; where pixels are reduced, all of these
        rows at once. Tiles are blended as they come from the decoder, and their sum is clamped once, as with the
        released checkpoints (StrSR, arXiv 2603.06275).
        """
        height, width = self._made
        for top, left, pixels in self._blender.add(number, restored.to(self.device)):
            if top < height and left < width:
                # In place: the blender does not read again what is final.
                final = pixels[..., : height - top, : width - left].clamp_(0, 1)
                if self._reduction is None:
                    yield top, left, final
                    continue
                # The cubic kernel overshoots.
                for row, column, reduced in self._reduction.add(left, final):
                    yield row, column, reduced.clamp_(0, 1)
