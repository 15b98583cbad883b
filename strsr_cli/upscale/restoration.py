"""One picture under way: the tiles that a network sees, and rows in the picture's own colours as they become final."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from strsr_models import OneStepPipeline
from strsr_models.encoders.lite import reduced, reduction
from strsr_models.tiling.memory import MemoryBudget, fitting_batch
from strsr_models.tiling.walk import TiledPicture

from ..images.color.restorer import ColorRestorer, network_input
from ..images.metadata.carried import Metadata
from ..images.picture import Picture, reduced_picture
from ..images.rows import RowLayout
from .options import UpscaleOptions

log = logging.getLogger(__name__)

ROWS = 64  # of the output, finished at a time


@dataclass
class Restoration:
    """A picture's tiles and what becomes of them. cond: what the network knows of the whole picture, (1, m, d)."""

    picture: Picture
    tiled: TiledPicture
    cond: Tensor
    color_restorer: ColorRestorer
    _band: Tensor | None = None  # rows that wait for their last pixels

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        return len(self.tiled.tiles)

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of the output in px."""
        return self.tiled.height, self.tiled.width

    def add(self, number: int, restored: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take a restored tile; yield (first row, rows) of what is final now, for `output_rows`, ROWS at a time."""
        for top, left, pixels in self.tiled.add(number, restored):
            part = self.color_restorer.keep_needed(pixels)
            height, width = part.shape[-2:]
            if self._band is None:
                self._band = part.new_empty((*part.shape[:-1], self.tiled.width))
            self._band[..., left : left + width] = part
            if left + width == self.tiled.width:
                band, self._band = self._band, None
                for start in range(0, height, ROWS):
                    yield top + start, band[..., start : start + ROWS, :]

    def output_rows(self, top: int, rows: Tensor) -> np.ndarray:
        """The rows of the output from row `top` on: (n, W, channels), of the picture's own type."""
        return self.color_restorer.output_rows(top, rows)

    def layout(self, metadata: Metadata) -> RowLayout:
        """The layout of the output's rows, with the metadata that the output is to have."""
        return layout_of(self.picture, self.size, metadata)


@dataclass
class Reduction:
    """A picture that is larger than its output, and so no network's business. size: (height, width) of the output."""

    picture: Picture
    size: tuple[int, int]
    tiles: ClassVar[int] = 0

    def layout(self, metadata: Metadata) -> RowLayout:
        """The layout of the output's rows, with the metadata that the output is to have."""
        return layout_of(self.picture, self.size, metadata)

    def rows(self) -> Iterator[np.ndarray]:
        """Yield the rows of the output, (n, W, channels), of the picture's own type."""
        smaller = reduced_picture(self.picture, self.size)
        channels = [smaller.color] if smaller.alpha is None else [smaller.color, smaller.alpha]
        pixels = np.concatenate(channels, axis=2)
        for top in range(0, len(pixels), ROWS):
            yield pixels[top : top + ROWS]


def layout_of(picture: Picture, size: tuple[int, int], metadata: Metadata) -> RowLayout:
    """The layout of the rows of a picture's output of (height, width) px."""
    channels = picture.color.shape[2] + (picture.alpha is not None)
    return RowLayout(
        height=size[0],
        width=size[1],
        channels=channels,
        dtype=picture.color.dtype,
        icc=picture.icc,
        color_chunks=picture.color_chunks,
        metadata=metadata,
        white=picture.white,
    )


def are_of_one_shape(options: UpscaleOptions, device: torch.device) -> bool:
    """Whether tiles of all pictures are of one shape.

    They are for lite on a GPU, whose tiles are too small to fill it one by one, and for all that is compiled.
    It changes pixels a little, near borders, so that it must not depend on how large batches are.
    """
    return options.compile or (device.type == "cuda" and options.big is None)


def fit_batch(
    pipeline: OneStepPipeline,
    budget: MemoryBudget,
    restoration: Restoration,
    precision: str,
    steps: int,
    threads: int,
) -> None:
    """Make a budget's batch as large as the memory of a GPU allows, by a tile of this picture.

    threads: how many give tiles to that GPU at a time.
    """
    # Networks that take turns in memory say themselves how many tiles make that worth while.
    if pipeline.tiles_at_once > 1:
        return
    view, cond = restoration.tiled.view(0), restoration.cond
    restore_one = partial(pipeline.restore_tiles, [view], [cond], precision, steps, MemoryBudget(1))
    budget.batch = fitting_batch(pipeline.device, restore_one, threads)
    log.debug("%d tiles at once on %s", budget.batch, pipeline.device)


def warn_of_redone(name: str, redone: int, tiles: int, precision: str) -> None:
    """Warn where tiles of a picture had to be computed again in a safer precision."""
    if redone:
        message = "%s: %d of %d tiles were not finite in %s: computed again"
        log.warning(message, name, redone, tiles, precision)


def begin(
    pipeline: OneStepPipeline,
    picture: Picture,
    scale: float,
    precision: str,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    one_shape: bool = False,
    cond: Tensor | None = None,
) -> Restoration:
    """Cut a picture into tiles; see `OneStepPipeline.tiled`. cond: the condition, where it was made before."""
    height, width = picture.color.shape[:2]
    tiled = pipeline.tiled(
        lambda rows, columns: network_input(picture, rows, columns),
        (height, width),
        scale,
        tile,
        overlap,
        one_shape=one_shape,
    )
    if cond is None:
        cond = pipeline.condition(overview(picture), precision)
    return Restoration(picture, tiled, cond, ColorRestorer(picture, (tiled.height, tiled.width)))


def overview(picture: Picture) -> Tensor:
    """The whole picture as (1, 3, h, w) in [0, 1]; a very large one is reduced as lite's semantic encoder would."""
    height, width = picture.color.shape[:2]
    factor = reduction(height, width)
    if factor == 1:
        return network_input(picture)
    step = 256 * factor
    bands = [
        reduced(network_input(picture, slice(top, top + step)), factor) for top in range(0, height, step)
    ]
    return torch.cat(bands, dim=2)
