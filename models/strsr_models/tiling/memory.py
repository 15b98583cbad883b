"""Tiles that do not fit the memory: fewer at once, then smaller ones, without losing what is done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_BATCH = 16  # tiles: enough to keep any GPU busy
SPARE_SHARE = 0.2  # of the free memory, for what others take meanwhile
SMALLEST_TILE = 128  # output px: below it there is little left to save, and much to see at borders


@dataclass
class MemoryBudget:
    """The limits that the memory has turned out to have. Shared by all who use one device; never grow again.

    batch: tiles at once. tile: largest side of a tile in output px; None: as they come.
    """

    batch: int
    tile: int | None = None

    def too_large(self, view: Tensor) -> bool:
        """Whether a tile (b, 3, H, W) has turned out not to fit by itself, so that it must be cut."""
        return self.tile is not None and max(view.shape[-2:]) > self.tile

    @contextlib.contextmanager
    def shrinking(self, views: list[Tensor], multiple_of: int) -> Iterator[None]:
        """A context in which tiles of one shape are computed together: if they do not fit, the budget shrinks.

        Raises what was raised inside where that is something else, or nothing smaller is left to try. The
        memory of the attempt is free only after the `with`: see `release`.
        """
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            side = max(views[0].shape[-2:])
            if not is_out_of_memory(error) or not self.shrink(len(views), side, multiple_of):
                raise

    def shrink(self, count: int, side: int, multiple_of: int) -> bool:
        """Make the budget smaller than `count` tiles of `side` px, which did not fit; False if nothing is left."""
        if count > 1:
            self.batch = min(self.batch, count // 2)
            return True
        half = -(-(side // 2) // multiple_of) * multiple_of
        if half < SMALLEST_TILE or half >= side:
            return False
        self.tile = half if self.tile is None else min(self.tile, half)
        return True


def fitting_batch(device: torch.device, restore_one: Callable[[], object], threads: int) -> int:
    """The number of tiles at once that fit the free memory of a GPU, by the peak of `restore_one`.

    threads: how many of them will compute tiles at a time.
    """
    # The first tile also makes what is made only once, such as workspaces: it is not counted.
    restore_one()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    restore_one()
    torch.cuda.synchronize(device)
    tile_bytes = max(torch.cuda.max_memory_allocated(device) - before, 1)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = (torch.cuda.mem_get_info(device)[0] + unused) * (1 - SPARE_SHARE)
    return max(1, min(LARGEST_BATCH, int(free / tile_bytes / threads)))


def release() -> None:
    """Give back what PyTorch keeps of an attempt that has failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is some library's word for too little memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
