"""The files of a job: its picture read, its rows written whole or not at all, and the output checked for a grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from strsr_models.checkpoints.locations import weights_file
from strsr_models.errors import ImageError, StrsrError, WeightsError
from strsr_models.spectrum import main_period, verdict
from strsr_models.spectrum.sample import finite, sampled_report

from .. import __version__
from ..batch.job import STREAM, Job
from ..batch.plan import fitting_size
from ..batch.report import about
from ..batch.target_size import TargetSize
from ..images.color.restorer import fill_transparent, to_tensor
from ..images.picture import Picture
from ..images.places import RemoteFile
from ..images.read import decode_image, read_frame, read_image, read_size, without_remarks
from ..images.rows import RowLayout
from ..images.write import EncodeSettings, write_image
from ..system.atomic import passing_file, sha256_of, whole_file
from .options import BigModelOptions

log = logging.getLogger(__name__)

BYTES_PER_PIXEL = 8  # of --max-pixels: larger objects are not read into memory


@dataclass
class Inputs:
    """The inputs of a batch, each of which may be read twice; standard input itself is read only once.

    stream: the bytes of standard input. known: the jobs that were read before.
    """

    size: TargetSize
    max_pixels: int
    stream: bytes | None = None
    known: set[Job] = field(default_factory=set)

    def read(self, job: Job) -> Picture:
        """Read a job's input, from its file or from standard input; remarks on it are made the first time only."""
        again = job in self.known
        self.known.add(job)
        name = "standard input" if job.name == STREAM else job.name
        with without_remarks(again), about(name):
            if isinstance(job.source, RemoteFile):
                data = job.source.read(BYTES_PER_PIXEL * self.max_pixels)
                picture = decode_image(data, name, self.max_pixels)
            elif job.source is not None and job.frame is not None:
                picture = read_frame(job.source, job.frame, self.max_pixels)
            elif job.source is not None:
                picture = read_image(job.source, self.max_pixels)
            else:
                if self.stream is None:
                    self.stream = job.read_stream()
                picture = decode_image(self.stream, name, self.max_pixels)
        height, width = picture.color.shape[:2]
        # A picture that is too large fails before any network sees it.
        fitting_size(job, height, width, self.size)
        return fill_transparent(picture)

    def pixels(self, job: Job) -> int:
        """The number of pixels of a job's input, as far as can be told without reading it; else 0."""
        try:
            if job.source is None:
                return 0
            if isinstance(job.source, RemoteFile):
                # Photos have about so many pixels for a byte.
                return min(4 * (job.source.size or 0), self.max_pixels)
            return math.prod(read_size(job.source, self.max_pixels, job.frame))
        except (ImageError, MemoryError):
            # The image will fail for that when it is read.
            return 0


def write_output(
    job: Job,
    layout: RowLayout,
    rows: Iterator[np.ndarray],
    settings: EncodeSettings,
    before: Callable[[Path], None] | None = None,
    keep_times: bool = False,
) -> None:
    """Write rows into a job's output, whole or not at all; missing folders are made.

    before: see `whole_file`. keep_times: whether the output gets the times of the input's file.
    """
    with about("standard output" if job.target_name == STREAM else job.target_name):
        _write_output(job, layout, rows, settings, before, keep_times)


def _write_output(
    job: Job,
    layout: RowLayout,
    rows: Iterator[np.ndarray],
    settings: EncodeSettings,
    before: Callable[[Path], None] | None,
    keep_times: bool,
) -> None:
    """Write rows as `write_output` does. Raises ImageError that names the job or its target."""
    try:
        if isinstance(job.target, RemoteFile):
            with passing_file() as passing:
                write_image(cast(BinaryIO, passing), job.kind, layout, rows, settings)
                passing.flush()
                assert before is not None
                # It is recorded and put there, at once.
                before(Path(passing.name))
            return
        if job.target is None:
            # A stream gets nothing of an image that fails.
            with passing_file() as passing:
                file = cast(BinaryIO, passing)
                write_image(file, job.kind, layout, rows, settings)
                file.seek(0)
                job.write_stream(file)
            return
        job.target.parent.mkdir(parents=True, exist_ok=True)
        times = file_times(job) if keep_times else None
        with whole_file(job.target, before, times) as output:
            write_image(cast(BinaryIO, output), job.kind, layout, rows, settings)
    except StrsrError as error:
        raise ImageError(f"{job.name}: {error}") from error
    except BrokenPipeError:
        # Nobody reads our output any more, which is not this image's fault.
        raise
    except OSError as error:
        raise ImageError(f"{job.target_name}: cannot be written: {error.strerror or error}") from error


def file_times(job: Job) -> tuple[int, int] | None:
    """The times, in ns, of the last use and change of a job's input; None for a stream, or a file that is gone."""
    try:
        state = job.source.stat() if isinstance(job.source, Path) else None
    except OSError:
        return None
    return None if state is None else (state.st_atime_ns, state.st_mtime_ns)


def grid_scores(job: Job, color: np.ndarray, limit: float | None) -> dict[str, Any]:
    """The scores of an output (h, w, 1 or 3) for its "done" event; a warning where it shows a grid.

    limit: dB of score to warn above; None: where the verdict is "grid". See `strsr fft-inspect`.
    """
    report = sampled_report(
        (color.shape[0], color.shape[1]), lambda rows, columns: to_tensor(color[rows, columns])
    )
    word, scores = verdict(report), finite(report.excess)
    if not scores:
        # Smaller than four periods.
        return {"verdict": None, "score_db": None}
    score = max(scores)
    if limit is None:
        too_high, period = word == "grid", main_period(report)
    else:
        too_high, period = score > limit, None
    if too_high:
        number = report.excess.index(score) if period is None else report.periods.index(period)
        log.warning(
            "%s: a grid of %d px stands out by %.1f dB; look: strsr fft-inspect --out sheet.png %s",
            job.target_name,
            report.periods[number],
            report.excess[number],
            job.target_name,
        )
    return {"verdict": word, "score_db": round(score, 3)}


def provenance(model: str, weights: Path | None, big: BigModelOptions | None, size: TargetSize) -> str:
    """One line on how an output was made: version, model, hash of the weights, size. Raises WeightsError."""
    path = weights_file(model, weights, big.models_dir if big else None)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    return f"strsr {__version__}; model {model}; weights sha256:{digest}; {size.words}"
