"""`--watch`: a batch that goes on with what arrives in its folders, until there is a wish to stop.

Each round looks at all folders again by the plan of any run, and makes what is new or has changed; so names, journal and
claims are those of a second run. Between rounds it waits for signs of change, or for so long that looking takes one
twentieth of the time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from strsr_models.errors import StrsrError, UsageError

from ...batch.job import Job
from ...batch.plan import Plan
from ...batch.report import Reporter
from ...batch.state import BatchState
from ...system.changes import Changes, watching
from ..engines.worker import free_memory
from ..options import UpscaleOptions
from ..preflight import Preflight, check_space, preflight
from ..stages import Stages, load_stages
from ..workers import pool_size, threads_for_workers
from .arrivals import Arrivals
from .scoring import score_skipped

log = logging.getLogger(__name__)

POLL = 5.0  # s between two looks at small folders
EASE = 20  # times as long as a look takes, it waits for the next one
HURRY = 2  # the same after a sign of change, or while files are being written
BREATH = 1.0  # s at least between two looks
TICK = 0.25  # s after which a wish to stop is seen
LEFT = 30.0  # s between two looks at what other processes were at


@dataclass
class KeptNetworks:
    """An engine that keeps lite's networks from one call to the next; those of zimage and flux2 take turns anyway."""

    stages: Stages | None = None

    def __call__(
        self, forecast: Preflight, options: UpscaleOptions, reporter: Reporter, state: BatchState
    ) -> None:
        """Make all images in this process."""
        jobs = forecast.pending
        with threads_for_workers(2 * min(pool_size(options.jobs), len(jobs)) + 1) as threads:
            if self.stages is not None:
                reporter.start(len(jobs))
                self.stages.run(jobs)
            else:
                free_memory()
                loaded = load_stages(jobs, options, reporter, state, threads)
                if loaded is None:
                    return
                stages, jobs = loaded
                if options.big is None:
                    self.stages = stages
                stages.run(jobs)
        if self.stages is not None:
            self.stages.inputs.known.clear()


@dataclass
class Watch:
    """The rounds after the first one. replan: looks at all folders. make: an engine."""

    replan: Callable[[], Plan]
    arrivals: Arrivals
    make: Callable[[Preflight, UpscaleOptions, Reporter, BatchState], None]
    options: UpscaleOptions
    reporter: Reporter
    state: BatchState
    seconds: float = 0.0  # that the last look took
    # What was said before and holds still.
    _told: set[str] = field(default_factory=set)
    # The jobs of the round under way, and those of all rounds that other processes were at.
    _pending: dict[str, Job] = field(default_factory=dict)
    _left: dict[str, Job] = field(default_factory=dict)
    _looked_after: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.reporter.listeners.append(self._hear)

    def expect(self, plan: Plan) -> None:
        """Know the plan of a round that begins, whose hints have been said."""
        self._pending = {job.name: job for job in plan.jobs}
        self._told |= set(plan.hints)

    def run(self, folders: list[Path], output: Path | None) -> None:
        """Make what arrives in the folders, until there is a wish to stop."""
        self.reporter.note(f"watching {', '.join(map(str, folders))}; ^C ends")
        with watching(folders, output) as changes:
            if changes.reason:
                self.reporter.note(
                    f"--watch: looks every few seconds, as there are no events ({changes.reason})"
                )
            while not self.state.stop.requested:
                self._wait(changes)
                if not self.state.stop.requested:
                    self.round()

    def _wait(self, changes: Changes) -> None:
        """Wait for the next look."""
        stop = self.state.stop
        self.reporter.idle()
        stop.working = stop.idle = True
        soon = max(BREATH, HURRY * self.seconds)
        begun, wait = time.monotonic(), max(POLL, EASE * self.seconds)
        if self.arrivals.waits:
            wait = soon
        while not stop.requested and (left := begun + wait - time.monotonic()) > 0:
            if changes.wait(min(TICK, left)):
                wait = min(wait, soon)
        stop.idle = False

    def round(self) -> None:
        """Look at all folders, and make what is new; then what other processes have left."""
        begun = time.monotonic()
        try:
            plan = self.replan()
        except UsageError as error:
            # A share may be gone for a while.
            self._tell(f"{error}; waiting")
            return
        finally:
            self.seconds = time.monotonic() - begun
        self.reporter.passed_over = plan.passed_over
        for hint in plan.hints:
            self._tell(hint)
        self._told &= set(plan.hints)
        if plan.jobs or plan.refused:
            self.state.refresh()
            self._make(plan)
        if self._left and time.monotonic() - self._looked_after >= LEFT:
            self._looked_after = time.monotonic()
            self._make_left_over(plan)

    def _tell(self, text: str) -> None:
        """Say what holds from now on, once."""
        if text not in self._told:
            self._told.add(text)
            self.reporter.note(text)

    def _make(self, plan: Plan) -> None:
        """Make the images of a plan, as in any run."""
        for job in plan.jobs:
            self._left.pop(job.name, None)
        self.expect(plan)
        forecast = preflight(plan, self.options, self.state, self.reporter, dry_run=False)
        if forecast.pending and self._has_room(forecast):
            self.make(forecast, self.options, self.reporter, self.state)
        score_skipped(forecast.to_score, self.options, self.reporter, self.state)
        self.state.forget(plan.jobs)

    def _hear(self, event: str, fields: dict[str, Any]) -> None:
        """Remember what is left to other processes, in any thread."""
        if event == "left" and fields["input"] in self._pending:
            self._left[fields["input"]] = self._pending[fields["input"]]

    def _make_left_over(self, plan: Plan) -> None:
        """Make what other processes were at when they ended."""
        self.state.refresh()
        for job in list(self._left.values()):
            if self.state.is_settled(job):
                del self._left[job.name]
        abandoned = [job for job in self._left.values() if self.state.is_free(job)]
        if abandoned:
            self.reporter.elsewhere(-len(abandoned))
            self._make(replace(plan, jobs=abandoned, refused=[]))

    def _has_room(self, forecast: Preflight) -> bool:
        """Wait until the disk takes a round's outputs; False after a wish to stop."""
        stop, told = self.state.stop, False
        while not stop.requested:
            try:
                check_space(forecast.sizes)
                return True
            except StrsrError as error:
                if not told:
                    log.warning("%s; waiting for room", error)
                told = True
            ends = time.monotonic() + POLL
            while not stop.requested and time.monotonic() < ends:
                time.sleep(TICK)
        return False
