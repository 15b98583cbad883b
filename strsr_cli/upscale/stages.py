"""The page to read first: the way of every picture of a batch, from file to file.

    load      the networks get their weights; with zimage and flux2, conditions.py first asks what each picture means
    read      a file becomes a Picture, ahead of time, in a reader's thread
    begin     a Picture becomes a Restoration: its tiles, and what the network knows of the whole picture
    restore   a batch of tiles, perhaps of several pictures, goes through the network in a worker's thread
    write     rows go into a file as they become final, in a writer's thread

`upscale_batch` is the door. `load_stages` loads; `Stages.run` takes the pictures through the other four, which are
methods of the same names. Many pictures are under way at once; workers.py has the threads and queues. The files
are the same whatever the number of readers, workers and writers, and however many tiles are computed together: to
the last bit on a CPU in float32.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from strsr_models import OneStepPipeline, load_pipeline
from strsr_models.checkpoints.locations import cache_dir
from strsr_models.compute.devices import resolve_devices, resolve_precision
from strsr_models.errors import StrsrError
from strsr_models.pipelines.options import LiteOptions
from strsr_models.tiling.memory import MemoryBudget

from ..batch.job import Job
from ..batch.report import Reporter
from ..batch.state import BatchState
from ..images.color.restorer import network_input
from ..images.metadata.carried import Metadata
from ..images.picture import Picture
from ..images.write import EncodeSettings
from .backends import use_backend, workers_of_cpu
from .failures import Abandoned, reporting_failures
from .files import Inputs, grid_scores, provenance, write_output
from .options import UpscaleOptions
from .restoration import Reduction, Restoration, are_of_one_shape, begin, fit_batch, warn_of_redone
from .workers import (
    THREADS_PER_GPU,
    OpenPicture,
    ReducedPicture,
    TileTask,
    Workers,
    batches,
    fail_all,
    pool_size,
    prefetch,
    thread_pool,
    threads_for_workers,
)

if TYPE_CHECKING:
    from .conditions import Conditions

log = logging.getLogger(__name__)


def upscale_batch(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter, state: BatchState | None = None
) -> None:
    """Upscale all pictures; one that fails is reported with its reason, and the rest go on.

    state: knows which pictures are done, which belong to other processes, and whether the batch is to stop; it
    records what becomes of each picture.
    """
    with threads_for_workers(2 * min(pool_size(options.jobs), len(jobs)) + 1) as threads:
        loaded = load_stages(jobs, options, reporter, state or BatchState(), threads)
        if loaded is not None:
            stages, jobs = loaded
            stages.run(jobs)


def load_stages(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter, state: BatchState, threads: int
) -> tuple[Stages, list[Job]] | None:
    """Load the weights onto the devices. Returns the stages and the jobs that can go on, or None where no job can.

    threads: the number of PyTorch's threads for all workers together.
    """
    devices = resolve_devices(options.device, options.local)
    first_device = devices[0]
    inputs = Inputs(options.size, options.max_pixels)
    if options.device == "auto" and first_device.type == "cpu":
        devices *= workers_of_cpu(options, threads, jobs, inputs.pixels)
    weights = options.weights_folder
    conditions: Conditions | None = None
    if options.big is None:
        precision: str | None = resolve_precision(options.float_precision, first_device)
        own = LiteOptions(options.fidelity, options.draft, settled=None if options.compile else precision)
        load: Callable[..., OneStepPipeline] = partial(load_pipeline, options.model, weights, options=own)
        reporter.start(len(jobs))
    else:
        from .conditions import Conditions

        # The language model has done its work, and left the memory, before the transformer comes.
        conditions = Conditions(options.model, weights, options.big, options.precision, first_device)
        reporter.start(len(jobs))
        torch.set_num_threads(threads)
        jobs = conditions.make(jobs, lambda job: network_input(inputs.read(job)), reporter)
        torch.set_num_threads(1)
        if not jobs:
            return None
        load = conditions.load_pipeline
        precision = None
    # A device that is named twice has two workers, but its weights only once.
    by_device = {str(device): load(device=str(device)) for device in devices}
    pipelines = [by_device[str(device)] for device in devices]
    precision = precision or pipelines[0].native_precision
    # CPUs are one device, however often it is named.
    state.backend = use_backend(pipelines[0], options, precision, threads, len(devices))
    if options.compile:
        # What torch.compile makes is kept for the next start.
        with contextlib.suppress(StrsrError):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
        for pipeline in by_device.values():
            pipeline.compile()
    where = ", ".join(map(str, devices))
    shown = "int8" if options.in_int8 else precision
    log.debug("model %s on %s in %s by %s", options.model, where, shown, state.backend)
    software = provenance(options) if options.provenance else None
    stages = Stages(
        options=options,
        reporter=reporter,
        state=state,
        inputs=inputs,
        conditions=conditions,
        pipelines=pipelines,
        precision=precision,
        software=software,
        threads=threads,
    )
    return stages, jobs


@dataclass
class Stages:
    """One run over many pictures, with its networks loaded."""

    options: UpscaleOptions
    reporter: Reporter
    state: BatchState
    inputs: Inputs
    conditions: Conditions | None  # of zimage and flux2
    pipelines: list[OneStepPipeline]  # one for each device, in the order of their numbers
    precision: str
    software: str | None  # what an output says of its making
    threads: int  # of PyTorch, for all workers together
    open: set[OpenPicture] = field(default_factory=set)  # pictures under way
    closing: threading.Condition = field(default_factory=threading.Condition)  # of one of them
    fatal: StrsrError | None = None  # of the model or a device: it has ended the work for all pictures
    unforeseen: BaseException | None = None  # in a writer's thread

    def __post_init__(self) -> None:
        batch = self.options.batch
        self.budgets = [MemoryBudget(batch or pipeline.tiles_at_once) for pipeline in self.pipelines]
        self.batches_fitted = batch is not None or self.device.type != "cuda"
        self.pool_size = pool_size(self.options.jobs)

    def run(self, jobs: list[Job]) -> None:
        """Take all pictures through the stages: read ahead, restored tile by tile, written behind."""
        with (
            thread_pool(self.pool_size, "read") as readers,
            thread_pool(self.pool_size, "write") as writers,
            self.workers() as workers,
        ):
            readings = prefetch(
                readers, self.read, jobs, weight=self.inputs.pixels, depth=2 * self.pool_size, drop=self.drop
            )
            try:
                for tasks in batches(self.tasks(readings, writers), self.batch_size):
                    if self.unforeseen is not None:
                        break
                    if self.fatal is not None:
                        raise self.fatal
                    workers.put(tasks)
            except BaseException:
                self.abandon()
                raise
            if self.unforeseen is not None:
                self.abandon()
        if error := self.unforeseen or self.fatal:
            raise error

    # --- the four stages of a picture ---

    def read(self, job: Job) -> Picture | None:
        """Read a job's input, in a reader's thread. None where the job is left, for ever or to another process."""
        if self.state.stop.requested:
            return None
        return self.inputs.read(job) if self.state.take(job) else None

    @torch.inference_mode()
    def begin(self, job: Job, picture: Picture) -> Restoration:
        """Cut a picture into tiles; at the first one, find out how many tiles fit the memory of a GPU."""
        cond = self.conditions.get(job, network_input(picture)) if self.conditions else None
        restoration = begin(
            self.pipelines[0],
            picture,
            self.options.size.factor(*picture.color.shape[:2]),
            self.precision,
            tile=self.options.tile,
            overlap=self.options.overlap,
            one_shape=self.one_shape,
            cond=cond,
        )
        if not self.batches_fitted:
            self.batches_fitted = True
            self.fit_batches(restoration)
        return restoration

    def restore(self, number: int, tasks: list[TileTask]) -> None:
        """Take a batch of tiles through the network on the device of that number, in a worker's thread.

        The tiles are of one shape, and of one or several pictures. Raises nothing: an error of the model or the
        device ends the work for all pictures, any other the picture that it comes from.
        """
        tasks = [task for task in tasks if task.picture.error is None]
        if self.fatal is not None:
            fail_all(tasks, Abandoned())
            return
        pipeline, budget = self.pipelines[number], self.budgets[number]
        views = [task.view for task in tasks]
        conds = [task.picture.restoration.cond for task in tasks]
        try:
            tiles = pipeline.restore_tiles(views, conds, self.precision, self.options.steps, budget)
        except StrsrError as error:
            self.fatal = error
            fail_all(tasks, Abandoned())
        # Any other error is raised again where the picture is written.
        except Exception as error:  # noqa: BLE001
            self.restore_apart(number, tasks, error)
        else:
            for task, (restored, precision) in zip(tasks, tiles, strict=True):
                self.hand_over(task, restored, precision)

    def write(self, job: Job, open_picture: OpenPicture) -> None:
        """Write a picture's rows into its file as they come, in a writer's thread; then close the picture."""
        try:
            with reporting_failures(job, self.reporter, self.device):
                scores = self.write_rows(job, open_picture)
                height, width = open_picture.restoration.size
                seconds = time.monotonic() - open_picture.began
                written = job.written()
                self.reporter.done(job.name, job.target_name, width, height, seconds, written, **scores)
        except Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
            self.unforeseen = error
        finally:
            # Where it was not finished, nothing more of it is computed.
            open_picture.fail(Abandoned())
            self.state.release(job)
            with self.closing:
                self.open.discard(open_picture)
                self.closing.notify()

    # --- from reading to restoring: the main thread ---

    def tasks(
        self, readings: Generator[tuple[Job, Future[Picture | None]], None, None], writers: ThreadPoolExecutor
    ) -> Iterator[TileTask]:
        """Yield all tiles of all pictures, in order, until there is a wish to stop."""
        with contextlib.closing(readings):
            for job, reading in readings:
                self.wait_for_writers()
                if self.state.stop.requested:
                    self.drop(job, reading)
                    return
                open_picture = self.start(job, reading, writers)
                if open_picture is not None:
                    for number in range(open_picture.restoration.tiles):
                        if open_picture.error is None:
                            yield TileTask(open_picture, number)
                if self.state.stop.requested:
                    return

    def start(
        self, job: Job, reading: Future[Picture | None], writers: ThreadPoolExecutor
    ) -> OpenPicture | None:
        """Give a picture its tiles and a writer. None where it cannot be read or is another process's."""
        open_picture = None
        try:
            with reporting_failures(job, self.reporter, self.device):
                picture = reading.result()
                if picture is None:
                    return None
                open_picture = self.opened(job, picture)
        finally:
            # Given back only when its failure is recorded, so that others need not fail at it too.
            if open_picture is None:
                self.state.release(job)
        if open_picture is None:
            return None
        with self.closing:
            self.open.add(open_picture)
        writers.submit(self.write, job, open_picture)
        return open_picture

    def opened(self, job: Job, picture: Picture) -> OpenPicture:
        """Take a picture up; one that is larger than its output goes by the network."""
        height, width = picture.color.shape[:2]
        if self.options.size.factor(height, width) < 1:
            return ReducedPicture(Reduction(picture, self.options.size.output_size(height, width)))
        return OpenPicture(self.begin(job, picture))

    def wait_for_writers(self) -> None:
        """Begin no picture while many are computed and not written: they are in memory, and claimed.

        Those that still wait for tiles are few by themselves, and to wait for them here might be for ever.
        """
        with self.closing:
            while sum(open_picture.computed for open_picture in self.open) >= 2 * self.pool_size:
                self.closing.wait()

    def drop(self, job: Job, reading: Future[Picture | None]) -> None:
        """Leave to other processes a picture that was read ahead and will not be used."""
        if not reading.cancel():
            reading.add_done_callback(lambda _: self.state.release(job))

    def abandon(self) -> None:
        """Let nobody wait for what will not come."""
        with self.closing:
            open_pictures = list(self.open)
        for open_picture in open_pictures:
            open_picture.fail(Abandoned())

    # --- tiles: the workers' threads ---

    def workers(self) -> Workers:
        """Threads that call `restore`: one for each device, two for a GPU, so that it never waits."""
        per_device = THREADS_PER_GPU if self.device.type == "cuda" else 1
        return Workers(self.restore, len(self.pipelines), per_device, self.threads)

    def batch_size(self) -> int:
        """The number of tiles that a worker is given at once."""
        return min(budget.batch for budget in self.budgets)

    def fit_batches(self, restoration: Restoration) -> None:
        """Make batches as large as the memory of each GPU allows, by a tile of this picture."""
        for pipeline, budget in zip(self.pipelines, self.budgets, strict=True):
            fit_batch(pipeline, budget, restoration, self.precision, self.options.steps, THREADS_PER_GPU)

    def restore_apart(self, number: int, tasks: list[TileTask], error: Exception) -> None:
        """Restore the pictures of a batch that has failed one by one, since one of them may be the cause."""
        pictures = {id(task.picture): task.picture for task in tasks}
        if len(pictures) == 1:
            fail_all(tasks, error)
            return
        log.debug("a batch of %d pictures failed (%s)", len(pictures), error)
        for picture in pictures.values():
            self.restore(number, [task for task in tasks if task.picture is picture])

    def hand_over(self, task: TileTask, restored: Tensor, precision: str) -> None:
        """Give a restored tile to its picture. precision: the one that made it finite."""
        try:
            task.picture.add(task.number, restored, precision != self.precision)
            self.reporter.tile(task.picture.done, task.picture.restoration.tiles)
        except Exception as error:  # noqa: BLE001  (raised again where the picture is written)
            task.picture.fail(error)

    @property
    def one_shape(self) -> bool:
        """Whether tiles of all pictures are of one shape; see `are_of_one_shape`."""
        return are_of_one_shape(self.options, self.device)

    @property
    def device(self) -> torch.device:
        """The device of the first pipeline."""
        return self.pipelines[0].device

    # --- rows: the writers' threads ---

    def write_rows(self, job: Job, open_picture: OpenPicture) -> dict[str, Any]:
        """Write the output, whole or not at all. Returns the scores of its grid, where they are wanted."""
        restoration, options = open_picture.restoration, self.options
        metadata = Metadata() if options.strip else restoration.picture.metadata
        if self.software is not None:
            metadata = replace(metadata, software=self.software)
        bands: list[np.ndarray] = []

        def rows() -> Iterator[np.ndarray]:
            for band in open_picture.rows():
                if options.check_grid:
                    bands.append(band)
                yield band

        settings = EncodeSettings(options.quality, options.png_compression)
        before, keep_times = self.state.recorder(job), options.keep_times
        write_output(job, restoration.layout(metadata), rows(), settings, before, keep_times=keep_times)
        warn_of_redone(job.name, open_picture.redone, restoration.tiles, self.precision)
        return grid_scores(job, np.concatenate(bands), options.grid_limit) if options.check_grid else {}
