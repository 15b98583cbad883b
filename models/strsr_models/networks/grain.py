"""Grain: random numbers for a decoder, which follow from a picture's own pixels.

A network that has to make texture up where its input is smooth repeats itself: each place sees what its neighbour sees,
and regular meshes come out. Random numbers at every place make it do so less (StyleGAN, arXiv 1812.04948, section 3.2). These are
a hash of the enlarged picture in 8 bits, so that a picture has one result, tiles agree where they overlap, and nothing
has to know where a tile lies. A flat field has the same numbers everywhere, and stays flat.

Letters: b batch, n maps, f px of a cell.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

# Some runtimes compute whole numbers in float32, which is exact up to 2**24.
PRIME = 2887  # twice its square is below that
LARGEST_FACTOR = 1024  # times 48 pixels of 255 steps is, too
ROUNDS = 2  # of mixing
SPREAD = 3**0.5  # numbers from -SPREAD to SPREAD have variance 1


def grain(image: Tensor, maps: int, cell: int) -> Tensor:
    """Random numbers (b, n, H/f, W/f) from -1.73 to 1.73, mean 0, variance 1, of an image (b, 3, H, W) in [0, 1].

    cell: f, of which H and W are multiples. Each number depends on the f x f pixels of its own cell alone. Whole numbers
    of 32 bits are computed with, which all devices and runtimes do alike; rounding of pixels that lie between two of the
    256 steps may differ.
    """
    b, channels, height, width = image.shape
    steps = (255 * image.float()).round().int()
    # Views and a sum: a pixel unshuffle of whole numbers is not known to all runtimes.
    cells = steps.reshape(b, channels, height // cell, cell, width // cell, cell)
    factors, offsets = (table.to(image.device) for table in _tables(channels * cell**2, maps))
    weighted = cells * factors.view(channels, 1, cell, 1, cell)
    numbers = weighted.sum((1, 3, 5), dtype=torch.int32)[:, None].remainder(PRIME)  # (b, 1, H/f, W/f)
    for offset in offsets.view(ROUNDS, maps, 1, 1):
        numbers = (numbers * (numbers + offset) + offset).remainder(PRIME)  # (b, n, H/f, W/f)
    return SPREAD * (2 / (PRIME - 1) * numbers.float() - 1)


@lru_cache
def _tables(pixels: int, maps: int) -> tuple[Tensor, Tensor]:
    """Factors (pixels,) and offsets (ROUNDS, maps), from 1 to LARGEST_FACTOR: the same on every machine."""
    number, drawn = 1, []
    # Lehmer's generator, since PyTorch's need not stay as it is.
    for _ in range(pixels + ROUNDS * maps):
        number = number * 48271 % (2**31 - 1)
        drawn.append(1 + number % LARGEST_FACTOR)
    table = torch.tensor(drawn, dtype=torch.int32)
    return table[:pixels], table[pixels:].view(ROUNDS, maps)
