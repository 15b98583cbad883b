"""`strsr upscale`, the page to read first: how one picture is restored, and the batch."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from strsr_models import OneStepPipeline, load_pipeline
from strsr_models.devices import resolve_device, resolve_precision
from strsr_models.errors import ImageError, StrsrError
from strsr_models.memory import Room
from strsr_models.pipelines.base import TileCallback
from strsr_models.spectrum import main_period, verdict

from .big_models import BigModelOptions
from .color import network_input, revealed
from .conditions import Conditions
from .encode import EncodeSettings, Sheet, write_image
from .failures import told
from .flow import Abandoned, Errand, Task, Workers, ahead, batches
from .formats import MAX_PIXELS
from .images import Picture, decode_image, read_image, read_size, split_alpha, without_remarks
from .inspection import finite, sampled_report
from .journal import whole_file
from .machine import cores
from .metadata import Metadata
from .plan import Job, fitting_size
from .provenance import provenance
from .report import Reporter
from .restoration import Restoration, begin
from .runs import weights_folder

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


def upscale_image(
    pipeline: OneStepPipeline,
    picture: Picture,
    options: UpscaleOptions,
    precision: str,
    on_tile: TileCallback = lambda done, total: None,
    cond: Tensor | None = None,
) -> Picture:
    """Restore one picture at `scale` times its size: gray stays gray, 16 bits stay 16, alpha comes along.

    The batch below does the same steps in several threads. cond: the pipeline's condition of this
    picture, where it was made before.
    """
    with torch.inference_mode():
        one = begin(
            pipeline,
            revealed(picture),
            options.scale,
            precision,
            tile=options.tile,
            overlap=options.overlap,
            cond=cond,
        )
        finished, room = [], Room(1)
        for number in range(one.tiles):
            view = one.walk.view(number)
            ((restored, _),) = pipeline.restore_tiles([view], [one.cond], precision, options.steps, room)
            finished += [one.finished(top, rows) for top, rows in one.add(number, restored)]
            on_tile(number + 1, one.tiles)
    color, alpha = split_alpha(np.concatenate(finished))
    return replace(picture, color=color, alpha=alpha)


def upscale_batch(jobs: list[Job], options: UpscaleOptions, reporter: Reporter) -> None:
    """Do all jobs; one that fails is reported with its reason, and the rest go on."""
    loaded = load_batch(jobs, options, reporter)
    if loaded is not None:
        batch, jobs = loaded
        batch.run(jobs)


def load_batch(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter
) -> tuple[Batch, list[Job]] | None:
    """Weights on the device, and the jobs that can go on; None where none can."""
    device = resolve_device(options.device)
    weights = weights_folder(options.weights) if options.weights else None
    inputs = Inputs(options.scale, options.max_pixels)
    conditions: Conditions | None = None
    if options.big is None:
        precision = resolve_precision(options.precision, device)
        pipeline = load_pipeline(options.model, weights, str(device))
        reporter.start(len(jobs))
    else:  # what the pictures mean, before the transformer comes into memory
        conditions = Conditions(options.model, weights, options.big, options.precision, device)
        reporter.start(len(jobs))
        jobs = conditions.make(jobs, lambda job: network_input(inputs.read(job)), reporter)
        if not jobs:
            return None
        pipeline = conditions.load_pipeline()
        precision = pipeline.native_precision
    log.debug("model %s on %s in %s", options.model, device, precision)
    made_by = None
    if options.provenance:
        made_by = provenance(options.model, weights, options.big, options.scale)
    return Batch(options, reporter, inputs, conditions, [pipeline], precision, made_by), jobs


@dataclass
class Batch:
    """One run over many pictures, in overlapped stages; see `flow`."""

    options: UpscaleOptions
    reporter: Reporter
    inputs: Inputs
    conditions: Conditions | None
    pipelines: list[OneStepPipeline]
    precision: str
    made_by: str | None
    open: set[Errand] = field(default_factory=set)  # pictures under way
    written: list[Future[None]] = field(default_factory=list)

    def run(self, jobs: list[Job]) -> None:
        """Read ahead, restore, write behind."""
        count = self.options.jobs or max(1, cores() // 2)
        one_thread = partial(torch.set_num_threads, 1)
        rooms = [Room(pipeline.tiles_at_once) for pipeline in self.pipelines]
        threads = torch.get_num_threads()
        workers = Workers(self.pipelines, rooms, self.precision, self.options.steps, self.tell)
        with (
            ThreadPoolExecutor(count, "strsr-read", one_thread) as readers,
            ThreadPoolExecutor(count, "strsr-write", one_thread) as writers,
            workers,
        ):
            opened = ahead(readers, self.inputs.read, jobs, self.inputs.pixels, 2 * count)
            try:
                for tasks in batches(self.tasks(opened, writers), lambda: workers.batch):
                    workers.put(tasks)
            except BaseException:
                for errand in self.open:
                    errand.fail(Abandoned())
                raise
        torch.set_num_threads(threads)  # what later threads begin with
        if workers.fatal is not None:
            raise workers.fatal
        for written in self.written:
            written.result()  # raises what nobody has foreseen

    def tasks(
        self, opened: Iterator[tuple[Job, Future[Picture]]], writers: ThreadPoolExecutor
    ) -> Iterator[Task]:
        """All tiles of all pictures, in order; each picture gets a writer as its tiles begin."""
        for job, future in opened:
            with told(job, self.reporter, self.device):
                errand = Errand(self.begin(job, future.result()))
                self.open.add(errand)
                self.written.append(writers.submit(self.write, job, errand))
                for number in range(errand.restoration.tiles):
                    if errand.error is None:
                        yield Task(errand, number)

    @torch.inference_mode()
    def begin(self, job: Job, picture: Picture) -> Restoration:
        """Cut a picture into tiles."""
        cond = self.conditions.of(job, network_input(picture)) if self.conditions else None
        options, pipeline = self.options, self.pipelines[0]
        return begin(
            pipeline,
            picture,
            options.scale,
            self.precision,
            tile=options.tile,
            overlap=options.overlap,
            cond=cond,
        )

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
        finally:
            self.open.discard(errand)
            errand.fail(Abandoned())  # where it was not finished, nothing more of it is computed

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

        write_output(job, sheet, rows(), EncodeSettings(options.quality))
        if errand.redone:
            message = "%s: %d of %d tiles were not finite in %s: computed again"
            log.warning(message, job.name, errand.redone, restoration.tiles, self.precision)
        return look_for_grid(job, np.concatenate(kept), options.grid_limit) if options.check_grid else {}

    @property
    def device(self) -> torch.device:
        """Of the first pipeline."""
        return self.pipelines[0].device


def look_for_grid(job: Job, color: np.ndarray, limit: float | None) -> dict[str, Any]:
    """Scores of an output (h, w, 1 or 3) for its "done" event; a warning where it prints a grid.

    See `strsr fft-inspect`.
    """
    report = sampled_report(color)
    word, scores = verdict(report), finite(report.excess)
    if not scores:
        return {"verdict": None, "score_db": None}  # smaller than four periods
    score = max(scores)
    if word == "grid" if limit is None else score > limit:
        period = main_period(report) if limit is None else None
        at = report.excess.index(score) if period is None else report.periods.index(period)
        log.warning(
            "%s: a grid of %d px stands out by %.1f dB; look: strsr fft-inspect --out sheet.png %s",
            job.target_name,
            report.periods[at],
            report.excess[at],
            job.target_name,
        )
    return {"verdict": word, "score_db": round(score, 3)}


@dataclass
class Inputs:
    """The pictures of a batch, each of which may be read twice; standard input itself only once."""

    scale: float
    max_pixels: int
    stream: bytes | None = None
    known: set[Job] = field(default_factory=set)

    def read(self, job: Job) -> Picture:
        """The job's input, from its file or from standard input; remarked upon the first time."""
        with without_remarks(job in self.known):
            self.known.add(job)
            if job.source is not None:
                picture = read_image(job.source, self.max_pixels)
            else:
                if self.stream is None:
                    self.stream = sys.stdin.buffer.read()
                picture = decode_image(self.stream, "standard input", self.max_pixels)
        height, width = picture.color.shape[:2]
        fitting_size(job, height, width, self.scale)  # before any network sees it
        return revealed(picture)

    def pixels(self, job: Job) -> int:
        """How many the job's input has, as far as can be told without reading it."""
        try:
            return math.prod(read_size(job.source, self.max_pixels)) if job.source is not None else 0
        except ImageError:
            return 0


def write_output(job: Job, sheet: Sheet, rows: Iterator[np.ndarray], settings: EncodeSettings) -> None:
    """Write rows into the job's output, whole or not at all; missing folders are made."""
    try:
        if job.target is None:
            with tempfile.NamedTemporaryFile() as whole:
                file = cast(BinaryIO, whole)
                write_image(file, job.kind, sheet, rows, settings)
                file.seek(0)
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(job.target) as output:
            write_image(cast(BinaryIO, output), job.kind, sheet, rows, settings)
    except StrsrError as error:
        raise ImageError(f"{job.name}: {error}") from error
    except OSError as error:
        raise ImageError(f"{job.target_name}: cannot be written: {error.strerror or error}") from error
