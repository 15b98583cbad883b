"""Pictures on their way, overlapped: read ahead, restored tile by tile, written behind.

    feeder    the main thread: pictures in order, decoded ahead; their tiles, in batches, to the workers
    workers   threads that restore batches: one for each device, two for a GPU, so that it never waits
    writers   threads that bring finished rows into a file

Queues are short: who is ahead waits. Tiles of a picture come back in any order, its rows leave in theirs.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..system.signals import OUR_THREADS, EndedBySignal
from .restoration import Restoration

log = logging.getLogger(__name__)


Item = TypeVar("Item")


Result = TypeVar("Result")


LARGEST_QUEUE = 2**25  # bytes of rows that wait for a writer
THREADS_PER_GPU = 2  # one hands work over while the other waits for its results
MOST_AHEAD = 2**26  # pixels of pictures that are decoded ahead


def prefetch(
    pool: ThreadPoolExecutor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    weight: Callable[[Item], int],
    depth: int,
    drop: Callable[[Item, Future[Result]], None] = lambda item, future: None,
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Each item with work(item), begun while earlier ones are used: `depth` at most, and MOST_AHEAD in weight.

    drop: called for what was begun and will not be used, when the generator is closed.
    """
    begun: deque[tuple[Item, Future[Result], int]] = deque()
    total = 0
    try:
        for item in items:
            heavy = weight(item)
            while begun and (len(begun) > depth or total + heavy > MOST_AHEAD):
                first, future, less = begun.popleft()
                yield first, future
                total -= less
            begun.append((item, pool.submit(work, item), heavy))
            total += heavy
        while begun:
            yield begun.popleft()[:2]
    finally:
        for item, future, _ in begun:
            drop(item, future)


@contextlib.contextmanager
def threads_for_workers() -> Iterator[int]:
    """Let this thread compute by itself, and give the number of PyTorch's threads to those that restore.

    Each thread that computes with several has a pool of its own, and where pools have more threads than there are
    processors, OpenMP lets them sleep between any two operations: lite's transformer took half as long again.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def set_thread_count(threads: int) -> None:
    """Let PyTorch use so many threads in this one, whatever others set.

    The question comes first: a thread that has never asked takes, at its first operation, what was set last anywhere.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)


@contextlib.contextmanager
def thread_pool(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads beside those that compute; waited for at the end, but not after a signal to end at once."""
    pool = ThreadPoolExecutor(count, OUR_THREADS + name, partial(set_thread_count, 1))
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=not isinstance(error, EndedBySignal), cancel_futures=True)
        raise
    pool.shutdown()


class OpenPicture:
    """A picture with the rows that wait for its writer. redone: tiles that were not finite at first."""

    def __init__(self, restoration: Restoration) -> None:
        self.restoration = restoration
        self.began = time.monotonic()
        # Tiles.
        self.redone, self.done = 0, 0
        self._adding = threading.Lock()
        self._change = threading.Condition()
        self._rows: deque[tuple[int, Tensor]] = deque()
        # Bytes of them.
        self._waiting = 0
        self.error: BaseException | None = None

    def add(self, number: int, restored: Tensor, redone: bool) -> None:
        """Take a restored tile; waits where the writer is behind."""
        # Rows leave in order.
        with self._adding:
            for top, rows in self.restoration.add(number, restored):
                self._put(top, rows.cpu())
            with self._change:
                self.redone += redone
                self.done += 1
                self._change.notify_all()

    def _put(self, top: int, rows: Tensor) -> None:
        size = rows.numel() * rows.element_size()
        with self._change:
            self._change.wait_for(
                lambda: self.error or not self._rows or self._waiting + size <= LARGEST_QUEUE
            )
            if self.error is None:
                self._rows.append((top, rows))
                self._waiting += size
                self._change.notify_all()

    @property
    def _complete(self) -> bool:
        return self.done == self.restoration.tiles

    @property
    def computed(self) -> bool:
        """Whether its writer is all that it waits for."""
        return self._complete or self.error is not None

    def fail(self, error: BaseException) -> None:
        """Nothing more will come, and why. What waits is dropped."""
        with self._change:
            self.error = self.error or error
            self._rows.clear()
            self._change.notify_all()

    def rows(self) -> Iterator[Any]:
        """In the writer: rows of the output as they become final, (n, W, channels). Raises what `fail` was told."""
        while True:
            with self._change:
                self._change.wait_for(lambda: self.error or self._rows or self._complete)
                if self.error is not None:
                    raise self.error
                if not self._rows:
                    return
                top, rows = self._rows.popleft()
                self._waiting -= rows.numel() * rows.element_size()
                self._change.notify_all()
            yield self.restoration.output_rows(top, rows)


@dataclass(frozen=True)
class TileTask:
    """One tile of one picture."""

    picture: OpenPicture
    number: int

    @property
    def view(self) -> Tensor:
        """What the network sees."""
        return self.picture.restoration.tiled.view(self.number)


class Workers:
    """Threads that take batches of tiles from a short queue, one or two of them for each device."""

    def __init__(
        self, restore: Callable[[int, list[TileTask]], None], devices: int, per_device: int, threads: int
    ) -> None:
        """restore: called in the threads with the number of a device and a batch of tasks; it must not raise.

        threads: of PyTorch, for all together.
        """
        self._queue: queue.Queue[list[TileTask] | None] = queue.Queue(maxsize=per_device * devices)
        each = max(1, threads // devices)
        self._threads = [
            threading.Thread(
                target=partial(self._work, restore, number, each), name=OUR_THREADS + "restore", daemon=True
            )
            for number in range(devices)
            for _ in range(per_device)
        ]

    def __enter__(self) -> Workers:  # noqa: PYI034  (typing.Self is of 3.11)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *how: object) -> None:
        """Wait for what was given to them, but not after a signal to end at once."""
        if kind is not None and issubclass(kind, EndedBySignal):
            return
        for _ in self._threads:
            self._queue.put(None)
        for worker in self._threads:
            worker.join()

    def put(self, tasks: list[TileTask]) -> None:
        """Have tiles of one shape restored; waits while all threads are busy."""
        self._queue.put(tasks)

    def _work(self, restore: Callable[[int, list[TileTask]], None], number: int, threads: int) -> None:
        set_thread_count(threads)
        with torch.inference_mode():
            while (tasks := self._queue.get()) is not None:
                restore(number, tasks)


def batches(tasks: Iterable[TileTask], size: Callable[[], int]) -> Iterator[list[TileTask]]:
    """Tasks in order, in lists of at most size() whose tiles and conditions are of the same shape."""
    batch: list[TileTask] = []
    for task in tasks:
        if batch and (len(batch) >= size() or shape_of(batch[0]) != shape_of(task)):
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def shape_of(task: TileTask) -> tuple[int, ...]:
    """What tiles of one batch have in common."""
    restoration = task.picture.restoration
    tile = restoration.tiled.tiles[task.number]
    return (tile.height, tile.width, *restoration.cond.shape[1:])
