"""What other parts of a batch have left, made by a process that is done with its own part."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from strsr_models.errors import ImageError

from ...batch.job import Job
from ...batch.plan import planned_sizes
from ...batch.report import Reporter
from ...batch.state import BatchState
from ..options import UpscaleOptions
from ..preflight import check_memory
from ..stages import upscale_batch

# How many pictures are made before others are looked for, with the networks loaded anew.
AT_ONCE, AT_ONCE_IN_TWO_PHASES = 256, 16
LOOKED_AT = 64  # pictures of the list between two looks into the journal


def make_left_over(jobs: list[Job], options: UpscaleOptions, reporter: Reporter, state: BatchState) -> None:
    """Make those of other parts' jobs that nobody has done, failed at or claimed; in order, each claimed first.

    They have been counted as left, and count from now on as what becomes of them here.
    """
    if jobs and not state.session:
        reporter.note("--steal: no locks can be made in OUTPUT, so that what other parts have left is left")
        return
    left = _left_over(jobs, options, reporter, state)
    at_once = AT_ONCE if options.big is None else AT_ONCE_IN_TWO_PHASES
    while not state.stop.requested and (pending := list(islice(left, at_once))):
        if options.big is not None:
            # The language model looks at all that it is given, before any of it is made.
            pending = [job for job in pending if state.claim(job)]
        if pending:
            upscale_batch(pending, options, reporter, state)


def _left_over(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter, state: BatchState
) -> Iterator[Job]:
    """Yield and report what is left of the jobs; what this machine cannot hold stays with its own part."""
    for begin in range(0, len(jobs), LOOKED_AT):
        left = state.left_over(jobs[begin : begin + LOOKED_AT])
        for job, sizes in planned_sizes(left, options.size, options.max_pixels):
            if "width" in sizes:
                try:
                    check_memory(job, int(sizes["height"]), int(sizes["width"]))
                except ImageError:
                    continue
            reporter.elsewhere(-1)
            reporter.planned(job.name, job.target_name, **sizes)
            yield job
