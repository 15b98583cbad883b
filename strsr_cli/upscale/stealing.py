"""What other parts of a batch have left, made by a process that is done with its own part."""

from __future__ import annotations

from strsr_models.errors import ImageError

from ..batch.job import Job
from ..batch.plan import planned_sizes
from ..batch.report import Reporter
from ..batch.state import BatchState
from .options import UpscaleOptions
from .preflight import check_memory
from .stages import upscale_batch

AT_ONCE = 16  # pictures of two phases that are claimed before the first one


def make_left_over(jobs: list[Job], options: UpscaleOptions, reporter: Reporter, state: BatchState) -> None:
    """Make those of other parts' jobs that nobody has done, failed at or claimed; in order, each claimed first.

    They have been counted as left, and count from now on as what becomes of them here.
    """
    pending = []
    for job, sizes in planned_sizes(state.left_over(jobs), options.scale, options.max_pixels):
        if "width" in sizes:
            try:
                check_memory(job, int(sizes["height"]), int(sizes["width"]))
            except ImageError:
                # Its own part's machine may be larger, or will say so.
                continue
        reporter.elsewhere(-1)
        reporter.planned(job.name, job.target_name, **sizes)
        pending.append(job)
    if options.big is None:
        _make(pending, options, reporter, state)
        return
    # The language model looks at all that it is given, before any of it is made.
    while pending and not state.stop.requested:
        claimed = [job for job in pending[:AT_ONCE] if state.claim(job)]
        pending = pending[AT_ONCE:]
        _make(claimed, options, reporter, state)


def _make(jobs: list[Job], options: UpscaleOptions, reporter: Reporter, state: BatchState) -> None:
    if jobs and not state.stop.requested:
        upscale_batch(jobs, options, reporter, state)
