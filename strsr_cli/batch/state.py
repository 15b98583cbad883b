"""What a run asks and tells of each image: is it done, is it mine, it is made, it failed.

Ties the journal (what was made), the claims (which process makes what) and the wish to stop together.
Every method may be called from any thread, for several images at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..system.atomic import sweep
from ..system.signals import Stop
from .job import Job
from .journal import Journal, Made, Version, version_of
from .locks import OutputLocks
from .report import EXISTS, Reporter

FOREIGN = "exists, not made by strsr here (--overwrite replaces it)"
OTHERS = "made from {name} (--overwrite replaces it)"
CHANGED = "a whole image, changed since strsr made it (--overwrite replaces it)"
DONE = "done before"
NOT_FAILED = "not recorded as failed"


@dataclass
class BatchState:
    """The state of a batch. Without a root, as for a single image, nothing is remembered or claimed.

    settings: the hash of a job's settings. weights: the hash of the network's. is_whole: whether a file is
    an image that can be read to its end.
    """

    root: Path | None = None
    settings: Callable[[Job], str] = lambda job: ""
    weights: str = ""
    overwrite: bool = False
    retry_failed: bool = False
    remember: bool = True
    silent: bool = False  # write nothing, as in a dry run
    is_whole: Callable[[Path], bool] = Path.exists
    reporter: Reporter | None = None
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        self.journal = Journal(self.root, self.silent) if self.root and self.remember else None
        self._locks = OutputLocks(self.root) if self.root and not self.silent else None
        # Of jobs under way.
        self._inputs: dict[Job, Version] = {}
        # By the name that messages use.
        self._jobs: dict[str, Job] = {}
        # How many records each output had when the run began.
        self._before: dict[str, int] = {}
        if self.journal is not None:
            self._before = {name: len(made) for name, made in self.journal.made.items()}
        self._lock, self._hashing = threading.Lock(), threading.Lock()
        # Files of several frames.
        self._hashed: dict[Path, Version] = {}

    # --- while planning ---

    def settled(self, job: Job) -> str | None:
        """Why a job need not or may not be done, or None when it is to be done."""
        self._jobs[job.name] = job
        if job.target is None:
            return None
        if self.journal is None or job.source is None:
            return EXISTS if job.finished and not self.overwrite else None
        if self.retry_failed and self.journal.name(job.target) not in self.journal.reasons:
            return NOT_FAILED
        return None if self.overwrite else self._state(self.journal, job, job.target, job.source)

    def _state(self, journal: Journal, job: Job, target: Path, source: Path) -> str | None:
        versions = journal.made.get(journal.name(target), [])
        try:
            there = version_of(target, [made.output for made in versions])
        except OSError:
            # Missing; or it cannot be read, and what cannot be replaced will say so.
            return None
        mine = [made for made in versions if made.output.sha256 == there.sha256]
        if not mine:
            if not versions:
                return FOREIGN
            # What is cut off is no larger than it was; a larger file is somebody's work that we cannot read.
            longer = there.size > max(made.output.size for made in versions)
            return CHANGED if longer or self.is_whole(target) else None
        try:
            given = self._version_of_input(job, source, versions)
        except OSError:
            return None
        if self._wanted(mine[-1], job, given):
            # Touched or copied: not to be hashed again.
            if (given, there) != (
                mine[-1].input,
                mine[-1].output,
            ):
                journal.done(target, source, Made(given, there, mine[-1].settings, mine[-1].weights))
            return DONE
        name = Path(journal.sources[journal.name(target)]).name
        if name != source.name and given.sha256 != mine[-1].input.sha256:
            # Of another list: a.gif's a.png is not to be lost to a.png's.
            return OTHERS.format(name=name)
        return None

    def _wanted(self, made: Made, job: Job, given: Version) -> bool:
        asked = (given.sha256, self.settings(job), self.weights)
        return (made.input.sha256, made.settings, made.weights) == asked

    def sweep(self, jobs: list[Job]) -> int:
        """Remove what killed runs have left unfinished in the folders of these jobs; returns how many files."""
        return sweep({job.target.parent for job in jobs if job.target is not None})

    # --- while working ---

    @contextlib.contextmanager
    def hold(self, job: Job) -> Iterator[bool]:
        """Take a job for a while; False when it is left to others."""
        mine = self.take(job)
        try:
            yield mine
        finally:
            if mine:
                self.release(job)

    def take(self, job: Job) -> bool:
        """Begin a job, before its input is read. False when another process is at it or has just done it:
        that has been told, and the job is to be left.
        """
        self.stop.working = True
        reason = self._taken_by_others(job)
        if reason is not None:
            if self.reporter is not None:
                self.reporter.left(job.name, job.target_name, reason)
            return False
        if self.journal is not None and job.source is not None:
            # The content is hashed before it is read: a file that changes in between is made again next time.
            with contextlib.suppress(OSError):
                made = self.journal.made.get(self.journal.name(job.target), []) if job.target else []
                version = self._version_of_input(job, job.source, made)
                with self._lock:
                    self._inputs[job] = version
        return True

    def _version_of_input(self, job: Job, source: Path, made: list[Made]) -> Version:
        """Of a file of many frames the content is hashed once. Raises OSError."""
        if job.frame is None:
            return version_of(source, [each.input for each in made])
        with self._hashing:
            hashed = [self._hashed[source]] if source in self._hashed else []
            self._hashed[source] = version_of(source, [*hashed, *(each.input for each in made)])
            return self._hashed[source]

    def _taken_by_others(self, job: Job) -> str | None:
        if self._locks is None or self.root is None or job.target is None:
            return None
        name = job.target.relative_to(self.root).as_posix()
        if not self._locks.take(name):
            return "another process is at it"
        done = self._done_meanwhile(job, job.target, name)
        if done:
            self._locks.release(name)
        return "another process has done it" if done else None

    def _done_meanwhile(self, job: Job, target: Path, name: str) -> bool:
        """Whether another process has done a job since this run was planned."""
        if self.journal is None or job.source is None:
            return job.finished and not self.overwrite
        self.journal.refresh()
        new = self.journal.made.get(name, [])[self._before.get(name, 0) :]
        if not new:
            return False
        try:
            given = self._version_of_input(job, job.source, new)
            there = version_of(target, [made.output for made in new])
        except OSError:
            return False
        return new[-1].output.sha256 == there.sha256 and self._wanted(new[-1], job, given)

    def recorder(self, job: Job) -> Callable[[Path], None] | None:
        """For `whole_file(target, before=...)`: writes the output down just before it gets its name.

        So that at every moment a file under that name is either one that is written down, or none of ours.
        """
        journal, target, source = self.journal, job.target, job.source
        if journal is None or target is None or source is None:
            return None

        def record(temporary: Path) -> None:
            with self._lock:
                given = self._inputs.get(job)
            if given is not None:
                made = Made(given, version_of(temporary), self.settings(job), self.weights)
                journal.done(target, source, made)

        return record

    def failed(self, name: str, reason: str) -> None:
        """Remember a failure, by the name that messages use; the reporter calls this for all that fail."""
        job = self._jobs.get(name)
        if self.journal is not None and job is not None and job.target is not None and job.source is not None:
            self.journal.failed(job.target, job.source, reason)

    def release(self, job: Job) -> None:
        """End a job that `take` has begun, done or failed."""
        with self._lock:
            self._inputs.pop(job, None)
        if self._locks is not None and self.root is not None and job.target is not None:
            self._locks.release(job.target.relative_to(self.root).as_posix())

    def close(self) -> None:
        """Give back what is still claimed."""
        if self._locks is not None:
            self._locks.close()
