"""The page to read first: what becomes of each picture of a batch.

    load      networks with their weights; for zimage and flux2 first what all pictures mean (conditions.py)
    read      a file to a Picture, in a reader's thread, ahead of time
    begin     a Picture to a Restoration: its tiles, and what the network knows of the whole
    restore   a batch of tiles, perhaps of several pictures, in a worker's thread: the network
    write     rows to a file, in a writer's thread, as they become final

Many pictures are under way at once; workers.py has the threads and queues. Files do not depend on the number of
readers, workers and writers, nor on how many tiles are computed together: to the bit on a CPU in float32.
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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strsr_models import OneStepPipeline, load_pipeline
from strsr_models.checkpoints.locations import cache_dir, weights_folder
from strsr_models.compute.devices import resolve_devices, resolve_precision
from strsr_models.errors import StrsrError
from strsr_models.tiling.memory import MemoryBudget, fitting_batch

from ..batch.job import Job
from ..batch.report import Reporter
from ..batch.state import BatchState
from ..images.color import network_input
from ..images.metadata import Metadata
from ..images.picture import Picture, split_alpha
from ..images.rows import RowLayout
from ..images.write import EncodeSettings
from ..system.machine import cores
from .conditions import Conditions
from .failures import Abandoned, reporting_failures
from .files import Inputs, grid_scores, provenance, write_output
from .options import UpscaleOptions
from .restoration import Restoration, begin
from .workers import (
    THREADS_PER_GPU,
    OpenPicture,
    TileTask,
    Workers,
    batches,
    prefetch,
    thread_pool,
    threads_for_workers,
)

log = logging.getLogger(__name__)


def upscale_batch(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter, state: BatchState | None = None
) -> None:
    """Do all jobs; one that fails is reported with its reason, and the rest go on.

    state: is asked and told of each image, so that a later run knows it and other processes leave it; and is
    asked whether to stop.
    """
    with threads_for_workers() as threads:
        loaded = load_stages(jobs, options, reporter, state or BatchState(), threads)
        if loaded is not None:
            stages, jobs = loaded
            stages.run(jobs)


def load_stages(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter, state: BatchState, threads: int
) -> tuple[Stages, list[Job]] | None:
    """Weights on the devices, and the jobs that can go on; None where none can.

    threads: of PyTorch, for all workers together.
    """
    devices = resolve_devices(options.device, options.local)
    device = devices[0]
    weights = weights_folder(options.weights) if options.weights else None
    inputs = Inputs(options.scale, options.max_pixels)
    conditions: Conditions | None = None
    if options.big is None:
        precision: str | None = resolve_precision(options.precision, device)
        load: Callable[..., OneStepPipeline] = partial(load_pipeline, options.model, weights)
        reporter.start(len(jobs))
    else:
        # What the pictures mean, before the transformer comes into memory.
        conditions = Conditions(options.model, weights, options.big, options.precision, device)
        reporter.start(len(jobs))
        torch.set_num_threads(threads)
        jobs = conditions.make(jobs, lambda job: network_input(inputs.read(job)), reporter)
        torch.set_num_threads(1)
        if not jobs:
            return None
        load = conditions.load_pipeline
        precision = None
    loaded = {str(device): load(device=str(device)) for device in devices}
    pipelines = [loaded[str(device)] for device in devices]
    precision = precision or pipelines[0].native_precision
    if options.compile:
        set_up_compiler()
        for pipeline in loaded.values():
            pipeline.compile()
    log.debug("model %s on %s in %s", options.model, ", ".join(map(str, devices)), precision)
    made_by = None
    if options.provenance:
        made_by = provenance(options.model, weights, options.big, options.scale)
    stages = Stages(
        options=options,
        reporter=reporter,
        state=state,
        inputs=inputs,
        conditions=conditions,
        pipelines=pipelines,
        precision=precision,
        made_by=made_by,
        threads=threads,
    )
    return stages, jobs


def set_up_compiler() -> None:
    """Keep what torch.compile makes, for the next start."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))


@dataclass
class Stages:
    """One run over many pictures."""

    options: UpscaleOptions
    reporter: Reporter
    state: BatchState
    inputs: Inputs
    conditions: Conditions | None
    pipelines: list[OneStepPipeline]
    precision: str
    made_by: str | None
    threads: int  # of PyTorch, for all workers together
    open: set[OpenPicture] = field(default_factory=set)  # pictures under way
    closing: threading.Condition = field(default_factory=threading.Condition)  # of one of them
    fatal: StrsrError | None = None  # of the model or a device: it has ended the work for all pictures
    unforeseen: BaseException | None = None  # in a writer's thread

    def __post_init__(self) -> None:
        self.budgets = [MemoryBudget(self.options.batch or each.tiles_at_once) for each in self.pipelines]
        self.measured = self.options.batch is not None or self.device.type != "cuda"
        self.jobs = self.options.jobs or max(1, cores() // 2)

    def run(self, jobs: list[Job]) -> None:
        """Read ahead, restore, write behind."""
        with (
            thread_pool(self.jobs, "read") as readers,
            thread_pool(self.jobs, "write") as writers,
            self.workers() as workers,
        ):
            opened = prefetch(readers, self.read, jobs, self.inputs.pixels, 2 * self.jobs, self.drop)
            try:
                for tasks in batches(self.tasks(opened, writers), self.batch_size):
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

    def workers(self) -> Workers:
        """Threads that call `restore`: one for each device, two for a GPU, so that it never waits."""
        per_device = THREADS_PER_GPU if self.device.type == "cuda" else 1
        return Workers(self.restore, len(self.pipelines), per_device, self.threads)

    def batch_size(self) -> int:
        """How many tiles are given to a worker at once."""
        return min(budget.batch for budget in self.budgets)

    def abandon(self) -> None:
        """Let nobody wait for what will not come."""
        with self.closing:
            open_pictures = list(self.open)
        for open_picture in open_pictures:
            open_picture.fail(Abandoned())

    def tasks(
        self, opened: Generator[tuple[Job, Future[Picture | None]], None, None], writers: ThreadPoolExecutor
    ) -> Iterator[TileTask]:
        """All tiles of all pictures, in order, until there is a wish to stop."""
        with contextlib.closing(opened):
            for job, future in opened:
                self.wait_for_writers()
                if self.state.stop.requested:
                    self.drop(job, future)
                    return
                open_picture = self.start(job, future, writers)
                if open_picture is not None:
                    for number in range(open_picture.restoration.tiles):
                        if open_picture.error is None:
                            yield TileTask(open_picture, number)
                if self.state.stop.requested:
                    return

    def wait_for_writers(self) -> None:
        """Begin no picture while many are computed and not written: they are in memory, and claimed.

        Those that still wait for tiles are few by themselves, and to wait for them here might be for ever.
        """
        with self.closing:
            self.closing.wait_for(lambda: sum(each.computed for each in self.open) < 2 * self.jobs)

    def read(self, job: Job) -> Picture | None:
        """In a reader's thread: a job's input; None where the job is left, for ever or to another process."""
        if self.state.stop.requested:
            return None
        return self.inputs.read(job) if self.state.take(job) else None

    def drop(self, job: Job, future: Future[Picture | None]) -> None:
        """Leave to others what was read ahead and will not be used."""
        if not future.cancel():
            future.add_done_callback(lambda _: self.state.release(job))

    def start(
        self, job: Job, future: Future[Picture | None], writers: ThreadPoolExecutor
    ) -> OpenPicture | None:
        """A picture gets tiles and a writer, unless it cannot be read or is another process's."""
        with reporting_failures(job, self.reporter, self.device):
            try:
                picture = future.result()
                if picture is None:
                    return None
                open_picture = OpenPicture(self.begin(job, picture))
            except BaseException:
                self.state.release(job)
                raise
            with self.closing:
                self.open.add(open_picture)
            writers.submit(self.write, job, open_picture)
            return open_picture
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
        view, cond, steps = restoration.tiled.view(0), restoration.cond, self.options.steps
        for pipeline, budget in zip(self.pipelines, self.budgets, strict=True):
            # Networks that take turns.
            if pipeline.tiles_at_once > 1:
                continue
            one = partial(pipeline.restore_tiles, [view], [cond], self.precision, steps, MemoryBudget(1))
            budget.batch = fitting_batch(pipeline.device, one, THREADS_PER_GPU)
            log.debug("%d tiles at once on %s", budget.batch, pipeline.device)

    def restore(self, number: int, tasks: list[TileTask]) -> None:
        """In a worker's thread: a batch of tiles through the network on the device of that number.

        All of one shape, of one or several pictures. Raises nothing: an error of the model or the device ends the
        work for all pictures, any other the picture that it comes from.
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
            for task, (restored, used) in zip(tasks, tiles, strict=True):
                self.hand_over(task, restored, used)

    def restore_apart(self, number: int, tasks: list[TileTask], error: Exception) -> None:
        """A batch has failed: restore its pictures one by one, since one of them may be the cause."""
        pictures = {id(task.picture): task.picture for task in tasks}
        if len(pictures) == 1:
            fail_all(tasks, error)
            return
        log.debug("a batch of %d pictures failed (%s)", len(pictures), error)
        for picture in pictures.values():
            self.restore(number, [task for task in tasks if task.picture is picture])

    def hand_over(self, task: TileTask, restored: Tensor, used: str) -> None:
        """A restored tile goes to its picture's rows. used: the precision that made it finite."""
        try:
            task.picture.add(task.number, restored, used != self.precision)
            self.reporter.tile(task.picture.done, task.picture.restoration.tiles)
        except Exception as error:  # noqa: BLE001  (raised again where the picture is written)
            task.picture.fail(error)

    def write(self, job: Job, open_picture: OpenPicture) -> None:
        """In a writer's thread: a picture's rows into its file, as they come."""
        try:
            with reporting_failures(job, self.reporter, self.device):
                scores = self.write_rows(job, open_picture)
                tiled, seconds = open_picture.restoration.tiled, time.monotonic() - open_picture.began
                self.reporter.done(job.name, job.target_name, tiled.width, tiled.height, seconds, **scores)
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

    def write_rows(self, job: Job, open_picture: OpenPicture) -> dict[str, Any]:
        """Write the output, whole or not at all. Returns the scores of its grid, where they are asked for."""
        restoration, options = open_picture.restoration, self.options
        picture, kept = restoration.picture, []
        metadata = Metadata() if options.strip else picture.metadata
        if self.made_by is not None:
            metadata = replace(metadata, software=self.made_by)
        tiled, channels = restoration.tiled, restoration.color_restorer.channels
        layout = RowLayout(tiled.height, tiled.width, channels, picture.color.dtype, picture.icc, metadata)

        def rows() -> Iterator[np.ndarray]:
            for band in open_picture.rows():
                if options.check_grid:
                    kept.append(split_alpha(band)[0])
                yield band

        settings = EncodeSettings(options.quality, options.png_compression)
        write_output(job, layout, rows(), settings, self.state.recorder(job))
        if open_picture.redone:
            message = "%s: %d of %d tiles were not finite in %s: computed again"
            log.warning(message, job.name, open_picture.redone, restoration.tiles, self.precision)
        return grid_scores(job, np.concatenate(kept), options.grid_limit) if options.check_grid else {}

    @property
    def device(self) -> torch.device:
        """Of the first pipeline."""
        return self.pipelines[0].device


def fail_all(tasks: list[TileTask], error: BaseException) -> None:
    """Tell the pictures of these tiles that nothing more will come, and why."""
    for task in tasks:
        task.picture.fail(error)
