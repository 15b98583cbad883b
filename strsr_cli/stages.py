"""Many pictures in overlapped stages: what each stage does with each of them; `flow` has the threads."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strsr_models import OneStepPipeline
from strsr_models.memory import Room, fitting_batch

from .big_models import BigModelOptions
from .color import network_input
from .conditions import Conditions
from .encode import EncodeSettings, Sheet
from .failures import Abandoned, told
from .flow import THREADS_PER_GPU, Errand, Task, Workers, ahead, batches, side_threads
from .formats import MAX_PIXELS
from .images import Picture, split_alpha
from .inputs import Inputs
from .ledger import Ledger
from .machine import cores
from .metadata import Metadata
from .outputs import look_for_grid, write_output
from .plan import Job
from .report import Reporter
from .restoration import Restoration, begin

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpscaleOptions:
    """Everything that decides what an output looks like, and how fast it comes."""

    scale: float
    model: str
    weights: Path | None
    tile: int | None  # output px; None: chosen to fit each image
    overlap: int | None  # output px; None: the model's
    device: str
    precision: str
    quality: int
    steps: int = 1  # of the network
    big: BigModelOptions | None = None  # of zimage and flux2; None: lite
    check_grid: bool = False  # look for a printed grid in what was made
    grid_limit: float | None = None  # dB of score to warn above; None: where the verdict is "grid"
    max_pixels: int = MAX_PIXELS  # of an input
    strip: bool = False  # of all metadata but the colour profile
    provenance: bool = False  # whether the output says what made it
    jobs: int | None = None  # pictures decoded, and encoded, at a time; None: by the cores
    batch: int | None = None  # tiles at once; None: what fits the memory
    compile: bool = False  # the networks
    png_compression: int = 1
    local: int | None = None  # this process's number among those of its machine, for `--device auto`


@dataclass
class Stages:
    """One run over many pictures."""

    options: UpscaleOptions
    reporter: Reporter
    ledger: Ledger
    inputs: Inputs
    conditions: Conditions | None
    pipelines: list[OneStepPipeline]
    precision: str
    made_by: str | None
    threads: int  # of PyTorch, for all workers together
    open: set[Errand] = field(default_factory=set)  # pictures under way
    closing: threading.Condition = field(default_factory=threading.Condition)  # of one of them
    unforeseen: BaseException | None = None  # in a writer's thread

    def __post_init__(self) -> None:
        self.rooms = [Room(self.options.batch or each.tiles_at_once) for each in self.pipelines]
        self.measured = self.options.batch is not None or self.device.type != "cuda"
        self.jobs = self.options.jobs or max(1, cores() // 2)

    def run(self, jobs: list[Job]) -> None:
        """Read ahead, restore, write behind."""
        workers = Workers(
            self.pipelines, self.rooms, self.precision, self.options.steps, self.threads, self.tell
        )
        with side_threads(self.jobs, "read") as readers, side_threads(self.jobs, "write") as writers, workers:
            opened = ahead(readers, self.read, jobs, self.inputs.pixels, 2 * self.jobs, self.drop)
            try:
                for tasks in batches(self.tasks(opened, writers), lambda: workers.batch):
                    if self.unforeseen is not None:
                        break
                    workers.put(tasks)
            except BaseException:
                self.abandon()
                raise
            if self.unforeseen is not None:
                self.abandon()
        if error := self.unforeseen or workers.fatal:
            raise error

    def abandon(self) -> None:
        """Let nobody wait for what will not come."""
        with self.closing:
            errands = list(self.open)
        for errand in errands:
            errand.fail(Abandoned())

    def tasks(
        self, opened: Generator[tuple[Job, Future[Picture | None]], None, None], writers: ThreadPoolExecutor
    ) -> Iterator[Task]:
        """All tiles of all pictures, in order, until there is a wish to stop."""
        with contextlib.closing(opened):
            for job, future in opened:
                self.wait_for_writers()
                if self.ledger.stop.requested:
                    self.drop(job, future)
                    return
                errand = self.start(job, future, writers)
                if errand is not None:
                    for number in range(errand.restoration.tiles):
                        if errand.error is None:
                            yield Task(errand, number)
                if self.ledger.stop.requested:
                    return

    def wait_for_writers(self) -> None:
        """Begin no picture while many are computed and not written: they are in memory, and claimed.

        Those that still wait for tiles are few by themselves, and to wait for them here might be for ever.
        """
        with self.closing:
            self.closing.wait_for(lambda: sum(each.computed for each in self.open) < 2 * self.jobs)

    def read(self, job: Job) -> Picture | None:
        """In a reader's thread: a job's input; None where the job is left, for ever or to another process."""
        if self.ledger.stop.requested:
            return None
        return self.inputs.read(job) if self.ledger.take(job) else None

    def drop(self, job: Job, future: Future[Picture | None]) -> None:
        """Leave to others what was read ahead and will not be used."""
        if not future.cancel():
            future.add_done_callback(lambda _: self.ledger.release(job))

    def start(self, job: Job, future: Future[Picture | None], writers: ThreadPoolExecutor) -> Errand | None:
        """A picture gets tiles and a writer, unless it cannot be read or is another process's."""
        with told(job, self.reporter, self.device):
            try:
                picture = future.result()
                if picture is None:
                    return None
                errand = Errand(self.begin(job, picture))
            except BaseException:
                self.ledger.release(job)
                raise
            with self.closing:
                self.open.add(errand)
            writers.submit(self.write, job, errand)
            return errand
        return None

    @torch.inference_mode()
    def begin(self, job: Job, picture: Picture) -> Restoration:
        """Cut a picture into tiles; at the first one, find out how many of them fit the memory of a GPU."""
        cond = self.conditions.of(job, network_input(picture)) if self.conditions else None
        options = self.options
        restoration = begin(
            self.pipelines[0],
            picture,
            options.scale,
            self.precision,
            tile=options.tile,
            overlap=options.overlap,
            one_shape=self.one_shape,
            cond=cond,
        )
        if not self.measured:
            self.measured = True
            self.measure(restoration)
        return restoration

    @property
    def one_shape(self) -> bool:
        """Whether tiles of all pictures are of one shape.

        For lite on a GPU, whose tiles are too small to fill it one by one, and for all that is compiled. It
        changes pixels a little, near borders, so that it must not depend on how large batches are.
        """
        return self.options.compile or (self.device.type == "cuda" and self.options.big is None)

    def measure(self, restoration: Restoration) -> None:
        """Make batches as large as fits."""
        view, cond, steps = restoration.walk.view(0), restoration.cond, self.options.steps
        for pipeline, room in zip(self.pipelines, self.rooms, strict=True):
            if pipeline.tiles_at_once > 1:  # networks that take turns
                continue
            one = partial(pipeline.restore_tiles, [view], [cond], self.precision, steps, Room(1))
            room.batch = fitting_batch(pipeline.device, one, THREADS_PER_GPU)
            log.debug("%d tiles at once on %s", room.batch, pipeline.device)

    def tell(self, task: Task) -> None:
        """A tile is done."""
        self.reporter.tile(task.errand.done, task.errand.restoration.tiles)

    def write(self, job: Job, errand: Errand) -> None:
        """In a writer's thread: a picture's rows into its file, as they come."""
        try:
            with told(job, self.reporter, self.device):
                found = self.write_rows(job, errand)
                walk, seconds = errand.restoration.walk, time.monotonic() - errand.began
                self.reporter.done(job.name, job.target_name, walk.width, walk.height, seconds, **found)
        except Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
            self.unforeseen = error
        finally:
            errand.fail(Abandoned())  # where it was not finished, nothing more of it is computed
            self.ledger.release(job)
            with self.closing:
                self.open.discard(errand)
                self.closing.notify()

    def write_rows(self, job: Job, errand: Errand) -> dict[str, Any]:
        """Write the output, whole or not at all. Returns what was found out about it."""
        restoration, options = errand.restoration, self.options
        picture, kept = restoration.picture, []
        metadata = Metadata() if options.strip else picture.metadata
        if self.made_by is not None:
            metadata = replace(metadata, software=self.made_by)
        walk, channels = restoration.walk, restoration.repainting.channels
        sheet = Sheet(walk.height, walk.width, channels, picture.color.dtype, picture.icc, metadata)

        def rows() -> Iterator[np.ndarray]:
            for band in errand.rows():
                if options.check_grid:
                    kept.append(split_alpha(band)[0])
                yield band

        settings = EncodeSettings(options.quality, options.png_compression)
        write_output(job, sheet, rows(), settings, self.ledger.recorder(job))
        if errand.redone:
            message = "%s: %d of %d tiles were not finite in %s: computed again"
            log.warning(message, job.name, errand.redone, restoration.tiles, self.precision)
        return look_for_grid(job, np.concatenate(kept), options.grid_limit) if options.check_grid else {}

    @property
    def device(self) -> torch.device:
        """Of the first pipeline."""
        return self.pipelines[0].device
