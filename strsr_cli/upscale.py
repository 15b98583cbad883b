"""`strsr upscale`, the page to read first: how one picture is restored, and the loop over a batch."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from strsr_models import OneStepPipeline, load_pipeline
from strsr_models.devices import resolve_device, resolve_precision
from strsr_models.errors import ImageError, StrsrError
from strsr_models.pipelines.base import TileCallback, enlarge
from strsr_models.spectrum import main_period, verdict

from .big_models import BigModelOptions
from .color import network_input, restored_color, to_tensor
from .conditions import Conditions
from .encode import encode_image
from .failures import told
from .formats import MAX_PIXELS
from .images import Picture, decode_image, read_image, without_remarks
from .inspection import finite, sampled_report
from .journal import whole_file
from .ledger import Ledger
from .metadata import Metadata
from .plan import Job, fitting_size
from .provenance import provenance
from .report import Reporter
from .runs import weights_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpscaleOptions:
    """Everything that decides what an output looks like."""

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
    local: int | None = None  # this process's number among those of its machine, for `--device auto`


def upscale_image(
    pipeline: OneStepPipeline,
    picture: Picture,
    options: UpscaleOptions,
    precision: str,
    on_tile: TileCallback,
    cond: Tensor | None = None,
) -> Picture:
    """Restore one picture at `scale` times its size: gray stays gray, 16 bits stay 16, alpha comes along.

    cond: the pipeline's condition of this picture, where it was made before.
    """
    lq = lq_of(picture)
    hq = pipeline.upscale(
        lq,
        options.scale,
        tile=options.tile,
        overlap=options.overlap,
        precision=precision,
        steps=options.steps,
        on_tile=on_tile,
        cond=cond,
    )
    color = restored_color(picture, lq, hq)
    alpha = None
    if picture.alpha is not None:
        alpha = to_pixels(enlarge(to_tensor(picture.alpha), *hq.shape[-2:]), picture.alpha.dtype)
    return replace(picture, color=to_pixels(color, picture.color.dtype), alpha=alpha)


def upscale_batch(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter, ledger: Ledger | None = None
) -> None:
    """Do all jobs; one that fails is reported with its reason, and the rest go on.

    ledger: of each image, before its input is read and after its output is written (take, recorder,
    release), so that a later run knows it and other processes leave it; and whether to stop.
    """
    ledger = ledger or Ledger()
    device = resolve_device(options.device, options.local)
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
        jobs = conditions.make(jobs, lambda job: lq_of(inputs.read(job)), reporter)
        if not jobs:
            return
        pipeline = conditions.load_pipeline()
        precision = pipeline.native_precision
    log.debug("model %s on %s in %s", options.model, device, precision)
    made_by = None
    if options.provenance:
        made_by = provenance(options.model, weights, options.big, options.scale)
    for job in jobs:
        if ledger.stop.requested:
            break
        began = time.monotonic()
        with ledger.hold(job) as mine, told(job, reporter, device):
            if not mine:
                continue
            picture = inputs.read(job)
            cond = conditions.of(job, lq_of(picture)) if conditions else None
            restored = upscale_image(pipeline, picture, options, precision, reporter.tile, cond)
            if options.strip:
                restored = replace(restored, metadata=Metadata())
            if made_by is not None:
                restored = replace(restored, metadata=replace(restored.metadata, software=made_by))
            write_picture(job, restored, options.quality, ledger.recorder(job))
            found = look_for_grid(job, restored, options.grid_limit) if options.check_grid else {}
            height, width = restored.color.shape[:2]
            reporter.done(job.name, job.target_name, width, height, time.monotonic() - began, **found)


def look_for_grid(job: Job, picture: Picture, limit: float | None) -> dict[str, Any]:
    """Scores of an output for its "done" event; a warning where it prints a grid. See `strsr fft-inspect`."""
    report = sampled_report(picture.color)
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
        return picture


def write_picture(
    job: Job, picture: Picture, quality: int, before: Callable[[Path], None] | None = None
) -> None:
    """Write the job's output, whole or not at all; missing folders are made. before: see `whole_file`."""
    try:
        data = encode_image(picture, job.kind, quality)
        if job.target is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(job.target, before) as file:
            file.write(data)
    except StrsrError as error:
        raise ImageError(f"{job.name}: {error}") from error
    except BrokenPipeError:  # not this image's fault: nobody reads any more
        raise
    except OSError as error:
        raise ImageError(f"{job.target_name}: cannot be written: {error.strerror or error}") from error


def lq_of(picture: Picture) -> Tensor:
    """What the networks see of a picture: (1, 3, h, w) in [0, 1]."""
    return network_input(picture)


def to_pixels(image: Tensor, dtype: np.dtype) -> np.ndarray:
    """(1, c, h, w) in [0, 1] -> (h, w, c) of an unsigned integer type, rounded; floats as they are."""
    values = image[0].permute(1, 2, 0).cpu().numpy()
    if dtype == np.float32:
        return np.ascontiguousarray(values, np.float32)
    top = np.iinfo(dtype).max
    return np.asarray(np.rint((values.astype(np.float64) * top).clip(0, top)), dtype)
