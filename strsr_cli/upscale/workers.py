"""The threads and queues of a batch: pictures are read ahead, restored tile by tile, written behind.

    readers   threads that decode pictures, in order and ahead of time
    feeder    the main thread, which gives the pictures' tiles, in batches, to the workers
    workers   threads that restore batches: one for each device, two for a GPU, so that it never waits
    writers   threads that bring finished rows into a file

Queues are short: whoever is ahead waits. The tiles of a picture come back in any order, its rows leave in theirs.
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
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..system.limits import require_threads
from ..system.machine import cores
from ..system.signals import OUR_THREADS, EndedBySignal
from .restoration import Reduction, Restoration

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
    """Yield each item with the future of work(item), which is begun while earlier items are used.

    At most `depth` items are begun ahead, and at most MOST_AHEAD in weight. drop: called, when the generator is
    closed, for what was begun and will not be used.
    """
    begun: deque[tuple[Item, Future[Result], int]] = deque()
    total = 0
    try:
        for item in items:
            item_weight = weight(item)
            while begun and (len(begun) > depth or total + item_weight > MOST_AHEAD):
                earlier, future, earlier_weight = begun.popleft()
                yield earlier, future
                total -= earlier_weight
            begun.append((item, pool.submit(work, item), item_weight))
            total += item_weight
        while begun:
            earlier, future, _ = begun.popleft()
            yield earlier, future
    finally:
        for item, future, _ in begun:
            drop(item, future)


@contextlib.contextmanager
def threads_for_workers(beside: int = 0) -> Iterator[int]:
    """Let this thread compute by itself, and yield the number of PyTorch's threads for those that restore.

    beside: the number of other threads that will be wanted. Raises DeviceError where that is too many here.

    Each thread that computes with several has a pool of its own, and where pools have more threads than there are
    processors, OpenMP lets them sleep between any two operations: lite's transformer took half as long again.
    """
    threads = torch.get_num_threads()
    require_threads(threads + beside)
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def set_thread_count(threads: int) -> None:
    """Let PyTorch compute with so many threads in the calling thread, whatever other threads set.

    The number is read before it is set: a thread that has never read it takes, at its first operation, the number
    that was set last in any thread.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)


def pool_size(jobs: int | None) -> int:
    """The number of threads that read, and of those that write; jobs: the number asked for, None: by the cores."""
    return jobs or max(1, cores() // 2)


@contextlib.contextmanager
def thread_pool(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads beside those that compute; waited for at the end, but not after a signal to end at once."""
    pool = ThreadPoolExecutor(count, OUR_THREADS + name, partial(set_thread_count, 1))
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=not isinstance(error, EndedBySignal), cancel_futures=True)
        raise
    pool.shutdown()


class OpenPicture:
    """A picture under way, and the rows that wait for its writer.

    done: the number of tiles that came back. redone: the number of those that were not finite at first.
    """

    def __init__(self, restoration: Restoration) -> None:
        self.restoration = restoration
        self.began = time.monotonic()
        self.done, self.redone = 0, 0
        self._adding = threading.Lock()
        self._change = threading.Condition()
        self._rows: deque[tuple[int, Tensor]] = deque()
        self._waiting_bytes = 0
        self.error: BaseException | None = None

    def add(self, number: int, restored: Tensor, redone: bool) -> None:
        """Take a restored tile; wait where the writer is behind."""
        # One tile at a time, so that rows leave in order.
        with self._adding:
            for top, rows in self.restoration.add(number, restored):
                self._put(top, rows.cpu())
            with self._change:
                if redone:
                    self.redone += 1
                self.done += 1
                self._change.notify_all()

    def _put(self, top: int, rows: Tensor) -> None:
        size = rows.numel() * rows.element_size()
        with self._change:
            self._change.wait_for(
                lambda: self.error or not self._rows or self._waiting_bytes + size <= LARGEST_QUEUE
            )
            if self.error is None:
                self._rows.append((top, rows))
                self._waiting_bytes += size
                self._change.notify_all()

    @property
    def _complete(self) -> bool:
        return self.done == self.restoration.tiles

    @property
    def computed(self) -> bool:
        """Whether the picture waits for nothing but its writer."""
        return self._complete or self.error is not None

    def fail(self, error: BaseException) -> None:
        """Say that nothing more will come, and why. Rows that wait are dropped."""
        with self._change:
            self.error = self.error or error
            self._rows.clear()
            self._change.notify_all()

    def rows(self) -> Iterator[Any]:
        """Yield rows of the output as they become final, (n, W, channels), in the writer's thread.

        Raises the error that `fail` was given.
        """
        while True:
            with self._change:
                self._change.wait_for(lambda: self.error or self._rows or self._complete)
                if self.error is not None:
                    raise self.error
                if not self._rows:
                    return
                top, rows = self._rows.popleft()
                self._waiting_bytes -= rows.numel() * rows.element_size()
                self._change.notify_all()
            yield self.restoration.output_rows(top, rows)


class ReducedPicture(OpenPicture):
    """A picture that only has to be reduced, by its writer."""

    def __init__(self, reduction: Reduction) -> None:
        # It has no tiles, and so nobody asks for what only those need.
        super().__init__(cast(Restoration, reduction))
        self._reduction = reduction

    def rows(self) -> Iterator[Any]:
        """Yield rows of the output, (n, W, channels), in the writer's thread. Raises the error that `fail` was given."""
        for rows in self._reduction.rows():
            if self.error is not None:
                raise self.error
            yield rows


@dataclass(frozen=True)
class TileTask:
    """One tile of one picture."""

    picture: OpenPicture
    number: int

    @property
    def view(self) -> Tensor:
        """The enlarged pixels that the network sees, (1, 3, H, W) in [0, 1]."""
        return self.picture.restoration.tiled.view(self.number)


def fail_all(tasks: list[TileTask], error: BaseException) -> None:
    """Tell the pictures of these tiles that nothing more will come, and why."""
    for task in tasks:
        task.picture.fail(error)


class Workers:
    """Threads that take batches of tiles from a short queue, one or two of them for each device."""

    def __init__(
        self, restore: Callable[[int, list[TileTask]], None], devices: int, per_device: int, threads: int
    ) -> None:
        """Prepare the threads; `with` starts and ends them.

        restore: called in them with the number of a device and a batch of tasks; it must not raise. devices: the
        number of devices. per_device: threads for each. threads: PyTorch's threads for all devices together.
        """
        self._queue: queue.Queue[list[TileTask] | None] = queue.Queue(maxsize=per_device * devices)
        torch_threads = max(1, threads // devices)
        self._threads = [
            threading.Thread(
                target=partial(self._work, restore, number, torch_threads),
                name=OUR_THREADS + "restore",
                daemon=True,
            )
            for number in range(devices)
            for _ in range(per_device)
        ]

    def __enter__(self) -> Workers:  # noqa: PYI034  (typing.Self is of 3.11)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *how: object) -> None:
        """Wait until the threads have done what they were given, but not after a signal to end at once."""
        if kind is not None and issubclass(kind, EndedBySignal):
            return
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def put(self, tasks: list[TileTask]) -> None:
        """Have tiles of one shape restored; waits while all threads are busy."""
        self._queue.put(tasks)

    def _work(self, restore: Callable[[int, list[TileTask]], None], number: int, threads: int) -> None:
        set_thread_count(threads)
        with torch.inference_mode():
            while (tasks := self._queue.get()) is not None:
                restore(number, tasks)


def batches(tasks: Iterable[TileTask], size: Callable[[], int]) -> Iterator[list[TileTask]]:
    """Yield the tasks in order, in lists of at most size() whose tiles and conditions are of the same shape."""
    batch: list[TileTask] = []
    for task in tasks:
        if batch and (len(batch) >= size() or shape_of(batch[0]) != shape_of(task)):
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def shape_of(task: TileTask) -> tuple[int, ...]:
    """The shape that tiles of one batch have in common: height and width in px, and the condition's (m, d)."""
    restoration = task.picture.restoration
    tile = restoration.tiled.tiles[task.number]
    return (tile.height, tile.width, *restoration.cond.shape[1:])
