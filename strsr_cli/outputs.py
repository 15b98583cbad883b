"""What was made: written whole or not at all, and looked at for a grid."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from strsr_models.errors import ImageError, StrsrError
from strsr_models.spectrum import main_period, verdict

from .encode import EncodeSettings, Sheet, write_image
from .inspection import finite, sampled_report
from .journal import passing_file, whole_file
from .plan import Job

log = logging.getLogger(__name__)


def write_output(
    job: Job,
    sheet: Sheet,
    rows: Iterator[np.ndarray],
    settings: EncodeSettings,
    before: Callable[[Path], None] | None = None,
) -> None:
    """Write rows into the job's output, whole or not at all; missing folders are made. before: see `whole_file`."""
    try:
        if job.target is None:
            with passing_file() as whole:
                file = cast(BinaryIO, whole)
                write_image(file, job.kind, sheet, rows, settings)
                file.seek(0)
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(job.target, before) as output:
            write_image(cast(BinaryIO, output), job.kind, sheet, rows, settings)
    except StrsrError as error:
        raise ImageError(f"{job.name}: {error}") from error
    except BrokenPipeError:  # not this image's fault: nobody reads any more
        raise
    except OSError as error:
        raise ImageError(f"{job.target_name}: cannot be written: {error.strerror or error}") from error


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
