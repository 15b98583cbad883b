"""A batch of `strsr upscale` taken apart for `strsr bench`: the whole as it is, its network alone, each stage alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from strsr_models.errors import ImageError
from strsr_models.tiling.memory import MemoryBudget

from ..batch.job import Job
from ..batch.report import Reporter
from ..upscale.restoration import Restoration
from ..upscale.stages import Stages
from ..upscale.workers import OpenPicture, TileTask, batches

PREPARED, PREPARED_ON_GPU = 2**28, 2**31  # bytes of tiles that wait for the network
SAMPLE_EVERY = 0.01  # seconds


class BenchReporter(Reporter):
    """A reporter that says nothing; it remembers the first failure, and when the first phase had ended.

    conditions_ready: the time at which the last condition of zimage or flux2 was there; None for lite.
    """

    reason: str | None = None
    conditions_ready: float | None = None

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def looked(self, done: int, total: int) -> None:
        """Remember the time: the first of the two phases of zimage and flux2 has come so far."""
        self.conditions_ready = time.perf_counter()

    def failed(self, source: str, reason: str) -> None:
        """Remember the reason: without this picture the figures would be wrong."""
        self.reason = self.reason or reason

    def say(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def check(self) -> None:
        """Raise ImageError for the first picture that has failed."""
        if self.reason is not None:
            raise ImageError(f"{self.reason}; a benchmark needs pictures that can be made")


@dataclass(frozen=True)
class PreparedTile(TileTask):
    """A tile whose pixels are there already, where the network computes."""

    prepared_view: Tensor

    @property
    def view(self) -> Tensor:
        """The enlarged pixels that the network sees, (1, 3, H, W) in [0, 1]."""
        return self.prepared_view


class DiscardedPicture(OpenPicture):
    """A picture of which nothing is kept."""

    def add(self, number: int, restored: Tensor, redone: bool) -> None:
        """Drop a restored tile."""


class SteppedPicture(OpenPicture):
    """A picture that is restored by whoever asks for its rows, with seconds by stage; one thread does all."""

    def __init__(self, restoration: Restoration, stages: Stages, seconds: dict[str, float]) -> None:
        super().__init__(restoration)
        self.stages, self.seconds = stages, seconds

    def rows(self) -> Iterator[np.ndarray]:
        """Yield rows of the output as they become final."""
        stages, restoration, budget = self.stages, self.restoration, MemoryBudget(1)
        pipeline, cond = stages.pipelines[0], restoration.cond
        for number in range(restoration.tiles):
            with adding_seconds(self.seconds, "enlarge"):
                view = pipeline.placed(restoration.tiled.view(number))
            with adding_seconds(self.seconds, "network"):
                steps = stages.options.steps
                ((restored, _),) = pipeline.restore_tiles([view], [cond], stages.precision, steps, budget)
            with adding_seconds(self.seconds, "blend"):
                output_rows = [
                    restoration.output_rows(top, rows.cpu())
                    for top, rows in restoration.add(number, restored)
                ]
            yield from output_rows


def seconds_end_to_end(stages: Stages, jobs: list[Job], reporter: BenchReporter) -> float:
    """The seconds of the batch as it is, from files to files. Raises ImageError where a picture fails."""
    for job in jobs:
        if isinstance(job.target, Path):
            job.target.unlink(missing_ok=True)
    fresh = replace(stages, open=set(), fatal=None, unforeseen=None)
    began = time.perf_counter()
    fresh.run(jobs)
    seconds = time.perf_counter() - began
    reporter.check()
    return seconds


def network_alone(stages: Stages, jobs: list[Job]) -> float:
    """The seconds of the batch's workers on its tiles, which lie ready before; results are dropped."""
    return sum(network_seconds(stages, stages.budgets, tasks) for tasks in prepared_tiles(stages, jobs))


def network_seconds(stages: Stages, budgets: list[MemoryBudget], tasks: list[TileTask]) -> float:
    """The seconds of the batch's workers on tiles that lie ready. Raises what fails."""
    fresh = replace(stages, open=set(), fatal=None, unforeseen=None)
    fresh.budgets = budgets
    began = time.perf_counter()
    with fresh.workers() as workers:
        for batch in batches(tasks, fresh.batch_size):
            workers.put(batch)
    seconds = time.perf_counter() - began
    for failure in filter(None, [fresh.fatal, *(task.picture.error for task in tasks)]):
        raise failure
    return seconds


def prepared_tiles(stages: Stages, jobs: list[Job]) -> Iterator[list[TileTask]]:
    """Yield all tiles of all pictures, as many at a time as there is room for."""
    tasks: list[TileTask] = []
    size = 0
    most_bytes = PREPARED if stages.device.type == "cpu" else PREPARED_ON_GPU
    for job in jobs:
        restoration = stages.begin(job, stages.inputs.read(job))
        open_picture = DiscardedPicture(restoration)
        for number in range(restoration.tiles):
            view = network_view(stages, restoration, number)
            tasks.append(PreparedTile(open_picture, number, view))
            size += view.numel() * view.element_size()
            if size >= most_bytes:
                yield tasks
                tasks, size = [], 0
    if tasks:
        yield tasks


@torch.inference_mode()
def network_view(stages: Stages, restoration: Restoration, number: int) -> Tensor:
    """A tile as the network sees it, (1, 3, H, W) in [0, 1], where the network computes."""
    return stages.pipelines[0].placed(restoration.tiled.view(number))


def stage_seconds(stages: Stages, jobs: list[Job]) -> dict[str, float]:
    """The seconds per output megapixel of each stage by itself, one after the other, by one worker."""
    seconds: dict[str, float] = {}
    megapixels = 0.0
    for job in jobs:
        began, before = time.perf_counter(), sum(seconds.values())
        with adding_seconds(seconds, "read"):
            picture = stages.inputs.read(job)
        with adding_seconds(seconds, "look"):
            restoration = stages.begin(job, picture)
        with torch.inference_mode():
            stages.write_rows(job, SteppedPicture(restoration, stages, seconds))
        inner_stages = sum(seconds.values()) - before
        seconds["write"] = seconds.get("write", 0.0) + time.perf_counter() - began - inner_stages
        megapixels += restoration.tiled.height * restoration.tiled.width / 1e6
    return {stage: spent / megapixels for stage, spent in seconds.items()}


@contextmanager
def adding_seconds(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time that the context takes to a stage's seconds."""
    began = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began


class Peak:
    """A context that measures memory, in bytes, by samples of this process and PyTorch's count of a CUDA device.

    before: resident at its beginning. resident: the most within it. on_device: the most on the device, or None.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._process, self._ended = psutil.Process(), threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Peak:  # noqa: PYI034  (typing.Self is of 3.11)
        self.before = self.resident = self._process.memory_info().rss
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._sampler.start()
        return self

    def __exit__(self, *how: object) -> None:
        self._ended.set()
        self._sampler.join()
        cuda = self.device.type == "cuda"
        self.on_device = torch.cuda.max_memory_allocated(self.device) if cuda else None

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY):
            self.resident = max(self.resident, self._process.memory_info().rss)
