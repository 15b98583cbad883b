"""One picture under way: what a network sees of it, and its rows in its own colours as they become final."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from strsr_models import OneStepPipeline
from strsr_models.walk import Walk

from .color import Repainting, network_input
from .images import Picture

MOST_PIXELS = 2**24  # of a picture that lite's semantic encoder looks at; it reduces it to 128 px a side


@dataclass(frozen=True)
class Restoration:
    """A picture's tiles and what becomes of them. cond: what the network knows of the whole, (1, m, d)."""

    picture: Picture
    walk: Walk
    cond: Tensor
    repainting: Repainting

    @property
    def tiles(self) -> int:
        """How many there are."""
        return len(self.walk.tiles)

    def add(self, number: int, restored: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take a restored tile; gives (first row, rows) of what is final, for `finished`."""
        for top, rows in self.walk.add(number, restored):
            yield top, self.repainting.condensed(rows)

    def finished(self, top: int, rows: Tensor) -> np.ndarray:
        """Rows of the output: (n, W, channels) of the picture's own type."""
        return self.repainting.finished(top, rows)


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
    """Cut a picture into tiles; see `OneStepPipeline.walk`. cond: where it was made before."""
    height, width = picture.color.shape[:2]
    walk = pipeline.walk(
        lambda rows, columns: network_input(picture, rows, columns),
        (height, width),
        scale,
        tile,
        overlap,
        one_shape=one_shape,
    )
    if cond is None:
        cond = pipeline.look(overview(picture), precision)
    return Restoration(picture, walk, cond, Repainting(picture, (walk.height, walk.width)))


def overview(picture: Picture) -> Tensor:
    """(1, 3, h, w) in [0, 1] of the whole picture; very large ones reduced by a whole number, for lite."""
    height, width = picture.color.shape[:2]
    factor = math.ceil(math.sqrt(height * width / MOST_PIXELS))
    if factor == 1:
        return network_input(picture)
    step = 256 * factor
    bands = [
        F.avg_pool2d(network_input(picture, slice(top, top + step)), factor, ceil_mode=True)
        for top in range(0, height, step)
    ]
    return torch.cat(bands, dim=2)
