"""Outputs that were made before, looked at for a grid: what `--check-grid` does with images that are skipped."""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import Future
from typing import Any

from strsr_models.errors import ImageError

from ...batch.job import Job
from ...batch.report import Reporter, about
from ...batch.state import BatchState
from ..files import file_scores
from ..options import UpscaleOptions
from ..workers import pool_size, prefetch, thread_pool

log = logging.getLogger(__name__)

LARGEST_SCALE = 16


def score_skipped(
    skipped: list[tuple[Job, str]], options: UpscaleOptions, reporter: Reporter, state: BatchState
) -> None:
    """Report images as skipped, each with the scores of its output's file; without them after a wish to stop.

    skipped: jobs whose outputs are files, and why each is skipped.
    """
    if not skipped:
        return
    state.stop.working = True
    size, scored = pool_size(options.jobs), 0

    def scores(item: tuple[Job, str]) -> dict[str, Any]:
        return {} if state.stop.requested else _scores(item[0], options)

    with thread_pool(size, "score") as pool:
        readings = prefetch(pool, scores, skipped, weight=lambda _: 0, depth=2 * size)
        reading: Future[dict[str, Any]]
        with contextlib.closing(readings):
            for (job, reason), reading in readings:
                reporter.scored(scored, len(skipped))
                reporter.skipped(job.name, job.target_name, reason, **reading.result())
                scored += 1
    reporter.scored(scored, len(skipped))


def _scores(job: Job, options: UpscaleOptions) -> dict[str, Any]:
    """Return the scores of a finished output; none, with a warning, where it cannot be read."""
    try:
        with about(job.target_name):
            return file_scores(job, LARGEST_SCALE**2 * options.max_pixels, options.grid_limit)
    except (ImageError, MemoryError, OSError) as error:
        reason = str(error) or "out of memory"
        log.warning("%s: not looked at for a grid: %s", job.target_name, reason)
        return {}
