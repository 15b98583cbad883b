"""Tiles that do not fit the memory: fewer at once, then smaller ones, without losing what is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import tiles

LARGEST_BATCH = 16  # tiles: enough to keep any GPU busy
SPARED = 0.2  # of the free memory, for what others take meanwhile
SMALLEST_TILE = 128  # output px: below it there is little left to save, and much to see at borders

Restored = list[tuple[Tensor, str]]
Restore = Callable[[list[Tensor], list[Tensor]], Restored]


@dataclass
class Room:
    """What the memory has turned out to hold. Shared by all who use one device; never grows again.

    batch: tiles at once. tile: largest side of a tile in output px; None: as they come.
    """

    batch: int
    tile: int | None = None

    def shrink(self, count: int, side: int, multiple_of: int) -> bool:
        """Make it smaller than `count` tiles of `side` px, which did not fit; False where that is the least."""
        if count > 1:
            self.batch = min(self.batch, count // 2)
            return True
        half = -(-(side // 2) // multiple_of) * multiple_of
        if half < SMALLEST_TILE or half >= side:
            return False
        self.tile = half if self.tile is None else min(self.tile, half)
        return True


def fitting_batch(device: torch.device, restore_one: Callable[[], object], threads: int) -> int:
    """How many tiles at once fit the free memory of a GPU, by the peak of `restore_one`.

    threads: how many will do so at a time.
    """
    restore_one()  # what is made once, such as workspaces, is not counted
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    restore_one()
    torch.cuda.synchronize(device)
    each = max(torch.cuda.max_memory_allocated(device) - before, 1)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = (torch.cuda.mem_get_info(device)[0] + unused) * (1 - SPARED)
    return max(1, min(LARGEST_BATCH, int(free / each / threads)))


def within_memory(
    restore: Restore, views: list[Tensor], conds: list[Tensor], room: Room, multiple_of: int, overlap: int
) -> Restored:
    """restore(views, conds), in as many and as small parts as it takes. Raises what `restore` does.

    restore: tiles (b, 3, H, W) to their restored counterparts, each with a word on how. A tile that is cut is
    put together from parts that overlap by `overlap` px.
    """
    done: Restored = []
    while len(done) < len(views):
        some = slice(len(done), len(done) + room.batch)
        side = max(views[some.start].shape[-2:])
        if room.tile is not None and side > room.tile:
            done.append(_in_parts(restore, views[some.start], conds[some.start], room, multiple_of, overlap))
            continue
        part, failure = views[some], None
        try:
            done += restore(part, conds[some])
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or not room.shrink(len(part), side, multiple_of):
                raise
            failure = error.__class__.__name__
        if failure and torch.cuda.is_available():
            torch.cuda.empty_cache()  # here the memory of the attempt is free again, in the handler it is not
    return done


def _in_parts(
    restore: Restore, view: Tensor, cond: Tensor, room: Room, multiple_of: int, overlap: int
) -> tuple[Tensor, str]:
    """One tile (b, 3, H, W), put together from tiles of at most `room.tile` px."""
    assert room.tile is not None
    height, width = view.shape[-2:]
    overlap = min(overlap, room.tile // 2)
    shape = min(room.tile, height), min(room.tile, width)
    whole, words = torch.empty_like(view), []
    blender = tiles.Blender(height, width, shape, overlap)
    for number, tile in enumerate(tiles.plan(height, width, shape, overlap)):
        part = view[(..., *tile.slices)]
        (restored, word), *_ = within_memory(restore, [part], [cond], room, multiple_of, overlap)
        words.append(word)
        for top, left, final in blender.add(number, restored):
            n, m = final.shape[-2:]
            whole[..., top : top + n, left : left + m] = final
    changed = [word for word in words if word != words[0]]
    return whole, (changed or words)[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is some library's word for too little memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
