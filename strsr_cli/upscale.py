"""`strsr upscale`, the page to read first: how one picture is restored, and the loop over a batch."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strsr_models import OneStepPipeline, load_pipeline
from strsr_models.devices import resolve_device, resolve_precision
from strsr_models.errors import ImageError, StrsrError
from strsr_models.pipelines.base import TileCallback, enlarge
from strsr_models.spectrum import verdict

from .images import Picture, decode_image, encode_image, read_image
from .inspection import finite, sampled_report, to_tensor
from .journal import whole_file
from .plan import Job
from .report import Reporter

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
    check_grid: bool = False  # look for a printed grid in what was made
    grid_limit: float | None = None  # dB of score to warn above; None: where the verdict is "grid"


def upscale_image(
    pipeline: OneStepPipeline,
    picture: Picture,
    options: UpscaleOptions,
    precision: str,
    on_tile: TileCallback,
) -> Picture:
    """Restore one picture at `scale` times its size: gray stays gray, 16 bits stay 16, alpha comes along."""
    lq = to_tensor(picture.color).expand(-1, 3, -1, -1)
    hq = pipeline.upscale(
        lq,
        options.scale,
        tile=options.tile,
        overlap=options.overlap,
        precision=precision,
        steps=options.steps,
        on_tile=on_tile,
    )
    if picture.color.shape[2] == 1:
        hq = hq.mean(1, keepdim=True)
    alpha = None
    if picture.alpha is not None:
        alpha = to_pixels(enlarge(to_tensor(picture.alpha), *hq.shape[-2:]), picture.alpha.dtype)
    return Picture(to_pixels(hq, picture.color.dtype), alpha, picture.icc, picture.format)


def upscale_batch(jobs: list[Job], options: UpscaleOptions, reporter: Reporter) -> None:
    """Do all jobs; one that fails is reported with its reason, and the rest go on."""
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    pipeline = load_pipeline(options.model, options.weights, str(device))
    log.debug("model %s on %s in %s", options.model, device, precision)
    reporter.start(len(jobs))
    for job in jobs:
        began = time.monotonic()
        try:
            picture = read_picture(job)
            restored = upscale_image(pipeline, picture, options, precision, reporter.tile)
            write_picture(job, restored, options.quality)
            found = look_for_grid(job, restored, options.grid_limit) if options.check_grid else {}
        except ImageError as error:
            reporter.failed(job.name, str(error))
        except (torch.OutOfMemoryError, MemoryError):
            reporter.failed(
                job.name, f"{job.name}: out of memory on {device}; use a smaller --tile or --scale"
            )
        except RuntimeError as error:  # torch's word for anything from a full CPU to a lost device
            reporter.failed(job.name, f"{job.name}: {str(error).splitlines()[0]}")
        else:
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
        period = report.periods[report.excess.index(score)]
        log.warning(
            "%s: a grid of %d px stands out by %.1f dB; look: strsr fft-inspect --out sheet.png %s",
            job.target_name,
            period,
            score,
            job.target_name,
        )
    return {"verdict": word, "score_db": round(score, 3)}


def read_picture(job: Job) -> Picture:
    """The job's input, from its file or from standard input."""
    if job.source is None:
        return decode_image(sys.stdin.buffer.read(), "standard input")
    return read_image(job.source)


def write_picture(job: Job, picture: Picture, quality: int) -> None:
    """Write the job's output, whole or not at all; missing folders are made."""
    try:
        data = encode_image(picture, job.kind, quality)
        if job.target is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(job.target) as file:
            file.write(data)
    except StrsrError as error:
        raise ImageError(f"{job.name}: {error}") from error
    except OSError as error:
        raise ImageError(f"{job.target_name}: cannot be written: {error.strerror or error}") from error


def to_pixels(image: Tensor, dtype: np.dtype) -> np.ndarray:
    """(1, c, h, w) in [0, 1] -> (h, w, c) of an unsigned integer type, rounded."""
    values = image[0].permute(1, 2, 0).cpu().numpy().astype(np.float64) * np.iinfo(dtype).max
    return np.rint(values).astype(dtype)
