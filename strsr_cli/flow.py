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
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from strsr_models import OneStepPipeline
from strsr_models.errors import StrsrError
from strsr_models.memory import Room

from .failures import Abandoned
from .restoration import Restoration
from .signals import OUR_THREADS, EndedBySignal

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
LARGEST_QUEUE = 2**25  # bytes of rows that wait for a writer
THREADS_PER_GPU = 2  # one hands work over while the other waits for its results
MOST_AHEAD = 2**26  # pixels of pictures that are decoded ahead


def ahead(
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


def compute_with(threads: int) -> None:
    """Let PyTorch use so many threads in this one, whatever others set.

    The question comes first: a thread that has never asked takes, at its first operation, what was set last anywhere.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)


@contextlib.contextmanager
def side_threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads beside those that compute; waited for at the end, but not after a signal to end at once."""
    pool = ThreadPoolExecutor(count, OUR_THREADS + name, partial(compute_with, 1))
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=not isinstance(error, EndedBySignal), cancel_futures=True)
        raise
    pool.shutdown()


class Errand:
    """A picture with the rows that wait for its writer. redone: tiles that were not finite at first."""

    def __init__(self, restoration: Restoration) -> None:
        self.restoration = restoration
        self.began = time.monotonic()
        self.redone, self.done = 0, 0  # tiles
        self._adding = threading.Lock()
        self._change = threading.Condition()
        self._rows: deque[tuple[int, Tensor]] = deque()
        self._waiting = 0  # bytes of them
        self.error: BaseException | None = None

    def add(self, number: int, restored: Tensor, redone: bool) -> None:
        """Take a restored tile; waits where the writer is behind."""
        with self._adding:  # rows leave in order
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
            yield self.restoration.finished(top, rows)


@dataclass(frozen=True)
class Task:
    """One tile of one picture."""

    errand: Errand
    number: int

    @property
    def view(self) -> Tensor:
        """What the network sees."""
        return self.errand.restoration.walk.view(self.number)


@dataclass
class Workers:
    """Threads that restore batches of tiles on one or several devices.

    pipelines: one for each device, of the same weights. rooms: of each. threads: of
    PyTorch, for all together. on_tile: told of each tile that is done.
    fatal: what has ended the work for all pictures.
    """

    pipelines: list[OneStepPipeline]
    rooms: list[Room]
    precision: str
    steps: int
    threads: int
    on_tile: Callable[[Task], None]
    fatal: StrsrError | None = None
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Workers:  # noqa: PYI034  (typing.Self is of 3.11)
        each = THREADS_PER_GPU if self.pipelines[0].device.type == "cuda" else 1
        self._queue: queue.Queue[list[Task] | None] = queue.Queue(maxsize=each * len(self.pipelines))
        threads = max(1, self.threads // len(self.pipelines))
        for pipeline, room in zip(self.pipelines, self.rooms, strict=True):
            for _ in range(each):
                work = partial(self._work, pipeline, room, threads)
                self._threads.append(threading.Thread(target=work, name=OUR_THREADS + "restore", daemon=True))
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

    @property
    def batch(self) -> int:
        """How many tiles to give at once."""
        return min(room.batch for room in self.rooms)

    def put(self, tasks: list[Task]) -> None:
        """Have tiles of one shape restored; waits while all are busy. Raises what has ended the work."""
        if self.fatal is not None:
            raise self.fatal
        self._queue.put(tasks)

    def _work(self, pipeline: OneStepPipeline, room: Room, threads: int) -> None:
        compute_with(threads)
        with torch.inference_mode():
            while (tasks := self._queue.get()) is not None:
                self._restore(pipeline, room, [task for task in tasks if task.errand.error is None])

    def _restore(self, pipeline: OneStepPipeline, room: Room, tasks: list[Task]) -> None:
        if not tasks or self.fatal is not None:
            for task in tasks:
                task.errand.fail(Abandoned())
            return
        try:
            views = [task.view for task in tasks]
            conds = [task.errand.restoration.cond for task in tasks]
            done = pipeline.restore_tiles(views, conds, self.precision, self.steps, room)
        except StrsrError as error:  # of the model or the device: no picture can be made
            self.fatal = error
            for task in tasks:
                task.errand.fail(Abandoned())
            return
        except Exception as error:  # noqa: BLE001  (raised again where the picture is written)
            self._part(pipeline, room, tasks, error)
            return
        for task, (restored, used) in zip(tasks, done, strict=True):
            try:
                task.errand.add(task.number, restored, used != self.precision)
                self.on_tile(task)
            except Exception as error:  # noqa: BLE001  (as above)
                task.errand.fail(error)

    def _part(self, pipeline: OneStepPipeline, room: Room, tasks: list[Task], error: Exception) -> None:
        """A batch failed: the pictures in it one by one, since one of them may be the cause."""
        errands = {id(task.errand): task.errand for task in tasks}
        if len(errands) == 1:
            tasks[0].errand.fail(error)
            return
        log.debug("a batch of %d pictures failed (%s)", len(errands), error)
        for errand in errands.values():
            self._restore(pipeline, room, [task for task in tasks if task.errand is errand])


def batches(tasks: Iterable[Task], size: Callable[[], int]) -> Iterator[list[Task]]:
    """Tasks in order, in lists of at most size() whose tiles and conditions are of the same shape."""
    batch: list[Task] = []
    for task in tasks:
        if batch and (len(batch) >= size() or shape_of(batch[0]) != shape_of(task)):
            yield batch
            batch = []
        batch.append(task)
    if batch:
        yield batch


def shape_of(task: Task) -> tuple[int, ...]:
    """What tiles of one batch have in common."""
    restoration = task.errand.restoration
    tile = restoration.walk.tiles[task.number]
    return (tile.height, tile.width, *restoration.cond.shape[1:])
