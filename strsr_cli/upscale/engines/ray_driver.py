"""The driver of a batch on Ray: hands chunks of images to workers, and outlives the loss of any of them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strsr_models.errors import DeviceError, ImageError, StrsrError

from ...batch.job import Job, Source
from ...batch.report import Reporter
from ...batch.state import BatchState
from ...images.places import RemoteFile
from ...images.read import read_size
from ...system.atomic import passing_file
from ...system.console import first_line
from ...system.signals import Stop
from ..options import UpscaleOptions
from ..preflight import Preflight
from .chunks import Chunks
from .events import LAST, Event, replay
from .order import Order, make_order
from .ray_cluster import LOST, cause_of, cluster, share_out
from .worker import Worker

RETRIES = 3  # of an image whose worker died
WHOLE_RETRIES = 1  # of a chunk whose worker died, before it is split
STARTS = 3  # of a worker that dies while it loads
PATIENCE = 60.0  # s without any worker, before that is said
LAST_MOMENT = 3.0  # s that workers have to leave nothing behind
CLAIMS_AT_ONCE = 32  # that are made or given back, each of which a store takes some ms for


def upscale_on_ray(
    forecast: Preflight,
    options: UpscaleOptions,
    reporter: Reporter,
    state: BatchState,
    *,
    workers: int | None,
    gpus_per_worker: float | None,
) -> None:
    """Have all images made by the workers of a Ray cluster; what becomes of each is reported here, as ever.

    workers, gpus_per_worker: as of `share_out`. Raises StrsrError for what ends the run: DeviceError, WeightsError.
    """
    reporter.start(len(forecast.pending))
    with ended_by_signals(state.stop), cluster() as ray:
        share = share_out(ray.nodes(), options.device, workers, gpus_per_worker)
        order = make_order(forecast.pending, options, reporter, state, share)
        crew = Crew(ray, order, state, forecast, min(share.workers, len(forecast.pending)))
        with crew:
            for event in crew.run():
                replay(event, reporter)


@contextlib.contextmanager
def ended_by_signals(stop: Stop) -> Iterator[None]:
    """Let a signal end the work as EndedBySignal, whatever Ray raises in its place or while it is taken down."""
    try:
        yield
    except BaseException as error:
        if stop.ended is None or error is stop.ended:
            raise
        raise stop.ended from error


def amounts(forecast: Preflight) -> list[float]:
    """Return how much work each image is, as far as known: output megapixels, of objects their bytes, else as if all alike.

    Only their relation counts, as the pace of workers is measured by them.
    """
    if any(forecast.areas):
        return forecast.areas
    sizes = [job.source.size if isinstance(job.source, RemoteFile) else None for job in forecast.pending]
    return [float(size or 1) / 1e6 for size in sizes] if any(sizes) else [1.0] * len(sizes)


def size_of_output(target: Source) -> tuple[int, int]:
    """Return (height, width) in px of a finished output. Raises ImageError."""
    if isinstance(target, Path):
        return read_size(target, sys.maxsize)
    with passing_file() as file:
        file.write(target.read(sys.maxsize))
        file.flush()
        return read_size(Path(file.name), sys.maxsize)


@dataclass
class Chunk:
    """Images that a worker has; those of which nothing is known yet, by their names."""

    jobs: dict[str, Job]
    amount: float  # of work, in the units of `amounts`
    deaths: int = 0  # of workers that had it


@dataclass
class Slot:
    """A worker's place: its actor, what it is at, and what is known of its pace."""

    actor: Any
    stream: Any = None  # of events; None: it has nothing to do
    chunk: Chunk | None = None  # None with a stream: it loads
    began: float = 0.0
    pace: float | None = None  # s for a unit of work
    starts: int = 0  # in a row that have failed


@dataclass
class Crew:
    """The workers of a batch. `run` is the loop; `with` ends them."""

    ray: Any
    order: Order
    state: BatchState
    forecast: Preflight
    size: int
    slots: list[Slot] = field(default_factory=list)
    # Chunks of workers that have died.
    again: deque[Chunk] = field(default_factory=deque)
    lost: bool = False  # whether any worker has died
    looked: int = 0  # images whose conditions are known

    def __post_init__(self) -> None:
        big = self.order.options.big is not None
        self.chunks = Chunks(amounts(self.forecast), self.size, whole=big)
        self.claimers = ThreadPoolExecutor(CLAIMS_AT_ONCE, "claims")

    def __enter__(self) -> Crew:  # noqa: PYI034  (typing.Self is of 3.11)
        """Have all workers started; each begins when it is ready, whatever the others do."""
        for _ in range(self.size):
            slot = Slot(None)
            self.slots.append(slot)
            self._start(slot)
        return self

    def __exit__(self, kind: type[BaseException] | None, *how: object) -> None:
        """End all workers: at once, but clean, where there was an error or a signal."""
        if kind is not None:
            leaving = [slot.actor.leave.remote() for slot in self.slots]
            self.ray.wait(leaving, num_returns=len(leaving), timeout=LAST_MOMENT)
        for slot in self.slots:
            self.ray.kill(slot.actor)
        # What is not given back by now is so when the state is closed.
        self.claimers.shutdown(cancel_futures=kind is not None)
        if self.lost or kind is not None:
            self.state.sweep(self.forecast.pending)

    def run(self) -> Iterator[Event]:
        """Yield all events until there is nothing more to do, or nothing more is wanted and what was begun is done."""
        heard, told, stopping = time.monotonic(), False, False
        while True:
            if self.state.stop.ended is not None:
                # It was raised where Ray lets nothing through, as while an object is let go of.
                raise self.state.stop.ended
            for slot in self.slots:
                if slot.stream is None:
                    self._hand_over(slot)
            if not any(slot.chunk for slot in self.slots) and not self._more():
                return
            streams = {slot.stream: slot for slot in self.slots if slot.stream is not None}
            ready, _ = self.ray.wait(list(streams), timeout=0.2)
            for stream in ready:
                yield from self._advance(streams[stream])
            now = time.monotonic()
            if ready:
                heard = now
            elif now - heard > PATIENCE and not told and not any(slot.chunk for slot in self.slots):
                told = True
                yield "note", ("no worker is ready: the cluster may have no room for one yet",), {}
            if self.state.stop.requested and not stopping:
                stopping = True
                for slot in self.slots:
                    slot.actor.stop.remote()

    def _more(self) -> bool:
        """Whether there is anything left that is to be begun."""
        return not self.state.stop.requested and bool(self.again or self.chunks.left)

    def _start(self, slot: Slot) -> None:
        """Have a new worker started in a slot."""
        actor = self.ray.remote(concurrency_groups={"work": 1})(Worker)
        slot.actor = actor.options(
            num_cpus=self.order.cpus, num_gpus=self.order.gpus, scheduling_strategy="SPREAD"
        ).remote(self.order)
        slot.stream, slot.chunk = self._stream(slot.actor.load), None

    def _stream(self, method: Any, *arguments: object) -> Any:
        """Begin a worker's method that yields events."""
        return method.options(num_returns="streaming", concurrency_group="work").remote(*arguments)

    def _hand_over(self, slot: Slot) -> None:
        """Give the next chunk to a worker that has nothing to do."""
        chunk = self._next_chunk(slot.pace)
        if chunk is not None:
            slot.chunk, slot.began = chunk, time.monotonic()
            slot.stream = self._stream(slot.actor.work, list(chunk.jobs.values()))

    def _next_chunk(self, pace: float | None) -> Chunk | None:
        """Return the next chunk, claimed for this process; None where there is none."""
        while self._more():
            if self.again:
                return self.again.popleft()
            places = self.chunks.take(pace)
            asked = [self.forecast.pending[place] for place in places]
            claimed = self.claimers.map(self._claim, asked)
            jobs = [job for job, own in zip(asked, claimed, strict=True) if own]
            if jobs:
                self.state.stop.working = True
                amount = sum(self.chunks.megapixels[place] for place in places)
                return Chunk({job.name: job for job in jobs}, amount)
        return None

    def _claim(self, job: Job) -> bool:
        """Claim a job for the workers; one of which a store cannot be asked fails, as it does without Ray."""
        try:
            return self.state.claim(job)
        except ImageError as error:
            if self.state.reporter is not None:
                self.state.reporter.failed(job.name, f"{job.name}: {error}")
            return False

    def _advance(self, slot: Slot) -> Iterator[Event]:
        """Yield what a worker has to report, or what follows from its end or its death."""
        try:
            events = self.ray.get(next(slot.stream))
        except StopIteration:
            # The events of a worker whose node is lost may end like those of one that is done.
            if slot.chunk is not None and slot.chunk.jobs and not self.state.stop.requested:
                yield from self._lose(slot, LOST)
            else:
                self._end(slot)
        except self.ray.exceptions.RayTaskError as error:
            raise StrsrError(
                f"{first_line(error.cause)}; this is a bug of strsr, please report it"
            ) from error
        except self.ray.exceptions.RayError as error:
            yield from self._lose(slot, cause_of(error))
        else:
            for event in events:
                yield from self._heed(slot, event)

    def _heed(self, slot: Slot, event: Event) -> Iterator[Event]:
        """Pass an event on. What is said of an image that is another worker's by now does not count."""
        name, arguments, _ = event
        if name == "fatal":
            raise arguments[0]
        if name in LAST:
            job = slot.chunk.jobs.pop(arguments[0], None) if slot.chunk is not None else None
            if job is None:
                return
            self.claimers.submit(self.state.release, job)
        if name == "looked":
            self.looked = min(self.looked + 1, len(self.forecast.pending))
            event = (name, (self.looked, len(self.forecast.pending)), {})
        yield event

    def _end(self, slot: Slot) -> None:
        """Take note that a worker has done what it was given."""
        if slot.chunk is not None and slot.chunk.amount:
            slot.pace = (time.monotonic() - slot.began) / slot.chunk.amount
        slot.stream, slot.chunk, slot.starts = None, None, 0

    def _lose(self, slot: Slot, cause: str) -> Iterator[Event]:
        """Replace a worker that has died, and see to it that its images are made, once and by somebody."""
        self.lost = True
        self.ray.kill(slot.actor)
        if slot.chunk is not None:
            yield from self._settle(slot.chunk, time.monotonic() - slot.began, cause)
        else:
            slot.starts += 1
        if slot.starts < STARTS:
            self._start(slot)
            return
        self.slots.remove(slot)
        if not self.slots:
            raise DeviceError(f"--engine ray: all workers die while they load: {cause}")

    def _settle(self, chunk: Chunk, seconds: float, cause: str) -> Iterator[Event]:
        """Yield the ends of images that a dead worker has made, or has died of too often; the others come again."""
        chunk.deaths += 1
        for name, job in list(chunk.jobs.items()):
            # What a store cannot say of an image is found out by who makes it again.
            with contextlib.suppress(ImageError):
                if self.state.made_meanwhile(job):
                    yield from self._late(chunk, name, job, seconds)
        jobs = list(chunk.jobs.items())
        if len(jobs) == 1 and chunk.deaths > RETRIES:
            (name, job), *_ = jobs
            self.state.release(job)
            times = f"its worker died {chunk.deaths} times while making it"
            yield "failed", (name, f"{name}: {times}: {cause}"), {}
            return
        parts = [jobs]
        if chunk.deaths > WHOLE_RETRIES:
            middle = len(jobs) // 2
            parts = [jobs[:middle], jobs[middle:]]
        for part in filter(None, parts):
            self.again.append(Chunk(dict(part), chunk.amount * len(part) / len(jobs), chunk.deaths))

    def _late(self, chunk: Chunk, name: str, job: Job, seconds: float) -> Iterator[Event]:
        """Yield the end of an image that was made, and whose worker died before it could say so."""
        assert job.target is not None
        try:
            height, width = size_of_output(job.target)
        except ImageError:
            return
        del chunk.jobs[name]
        self.state.release(job)
        yield "done", (name, job.target_name, width, height, seconds, job.written()), {}
