"""The files of a job: its picture read, its rows written whole or not at all, and the output checked for a grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from strsr_models.checkpoints.locations import weights_file
from strsr_models.errors import ImageError, StrsrError, WeightsError

from .. import __version__
from ..batch.job import STREAM, Job
from ..batch.plan import fitting_size
from ..batch.report import about
from ..batch.target_size import TargetSize
from ..images.color.restorer import fill_transparent, to_tensor
from ..images.formats import OUTPUT_FORMATS
from ..images.picture import Picture, split_alpha, to_8bit, visible_color
from ..images.places import RemoteFile
from ..images.read import decode_image, read_frame, read_image, read_size, without_remarks
from ..images.rows import RowLayout
from ..images.write import EncodeSettings, write_image
from ..system.atomic import passing_file, sha256_of, whole_file
from .options import UpscaleOptions

if TYPE_CHECKING:
    from strsr_models.spectrum import LatticeReport

log = logging.getLogger(__name__)
LOSSY = (
    "jpg",
    "webp",
    "avif",
    "bmp",
)  # formats whose pixels may not be those that were written; BMP has no alpha

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


def grid_scores(job: Job, pixels: np.ndarray, limit: float | None) -> dict[str, Any]:
    """The scores of an output (h, w, 1 to 4), before it was encoded, for its "done" event; a warning where it shows a grid.

    The numbers are those of `strsr fft-inspect`. Where the format loses something the file is read again, and both
    stand under "before_encoding" and "after_encoding"; what went to standard output or a remote place is scored before alone.
    limit: dB of score to warn above; None: where the verdict is "grid".
    """
    form = OUTPUT_FORMATS[job.kind]
    report = report_on(*split_alpha(pixels), deep=form.deep)
    scores = score_values(report)
    if scores["score_db"] is None:
        # Smaller than four periods.
        return scores
    warn_of_grid(job, report, limit)
    if job.kind in LOSSY and isinstance(job.target, Path):
        picture = read_image(job.target, math.prod(pixels.shape[:2]))
        after = report_on(picture.color, picture.alpha, deep=form.deep)
        return {**scores, "before_encoding": scores, "after_encoding": score_values(after)}
    return scores


def file_scores(job: Job, max_pixels: int, limit: float | None) -> dict[str, Any]:
    """The scores of an output's file, for its "skipped" event; a warning where it shows a grid. Raises ImageError.

    The numbers are those of `strsr fft-inspect`. limit: as in `grid_scores`.
    """
    assert isinstance(job.target, Path)
    # Whatever is to be said of this file was said when it was made.
    with without_remarks(True):
        picture = read_image(job.target, max_pixels)
    report = report_on(picture.color, picture.alpha, deep=True)
    scores = score_values(report)
    if scores["score_db"] is not None:
        warn_of_grid(job, report, limit)
    return {**scores, "after_encoding": scores} if job.kind in LOSSY else scores


def report_on(color: np.ndarray, alpha: np.ndarray | None, deep: bool) -> LatticeReport:
    """The report on colours (h, w, 1 or 3); alpha (h, w, 1) hides some. deep: whether more than 8 bits are kept."""
    from strsr_models.spectrum.sample import report_by_bands

    color = visible_color(color if deep else to_8bit(color), alpha)
    size = (color.shape[0], color.shape[1])
    return report_by_bands(size, lambda rows, columns: to_tensor(color[rows, columns]))


def score_values(report: LatticeReport) -> dict[str, Any]:
    """The verdict of a report and the score that it is named with; None for an image that is too small."""
    from strsr_models.spectrum.sample import verdict_and_score

    word, score = verdict_and_score(report)
    return {"verdict": word, "score_db": None if score is None else round(score, 3)}


def warn_of_grid(job: Job, report: LatticeReport, limit: float | None) -> None:
    """Warn where the verdict is "grid", or the score above a limit."""
    from strsr_models.spectrum import main_period, verdict
    from strsr_models.spectrum.sample import finite

    score = max(finite(report.excess))
    period = main_period(report) if limit is None else None
    if not (verdict(report) == "grid" if limit is None else score > limit):
        return
    if period not in report.periods:
        period = report.periods[report.excess.index(score)]
    log.warning(
        "%s: a grid of %d px stands out by %.1f dB; look: strsr fft-inspect --out sheet.png %s",
        job.target_name,
        period,
        report.excess[report.periods.index(period)],
        job.target_name,
    )


def provenance(options: UpscaleOptions) -> str:
    """One line on how an output was made: version, model, hash of the weights, size. Raises WeightsError."""
    weights = options.weights_folder
    path = weights_file(options.model, weights, options.big.models_dir if options.big else None)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    fidelity = f"; fidelity {options.fidelity:g}" if options.fidelity else ""
    draft = "; draft" if options.draft else ""
    model = f"model {options.model}; weights sha256:{digest}{fidelity}{draft}"
    return f"strsr {__version__}; {model}; {options.size.words}"
