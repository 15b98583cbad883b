"""The state of a batch: whether an image is done before, whether it is this process's, that it is made or failed.

It ties the journal (what was made), the claims (which process makes what) and the wish to stop together.
Every method may be called from any thread, for several images at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from strsr_models.errors import UsageError

from ..images.places import RemoteFile
from ..system.atomic import sha256_of, sweep
from ..system.paths import exists
from ..system.signals import Stop
from .job import Job, Source
from .journal import Journal, Made, Version, version_of
from .locks import OutputLocks
from .receipts import Receipts
from .report import DONE, EXISTS, Reporter

FOREIGN = "exists, not made by strsr here (--overwrite replaces it)"
OTHER_SOURCE = "made from {name} (--overwrite replaces it)"
CHANGED = "a whole image, changed since strsr made it (--overwrite replaces it)"
NOT_FAILED = "not recorded as failed"
TAKEN_OVER = "another process has taken it over"


class TakenOver(Exception):
    """Another process has taken an image over from this one, which was suspended or cut off from the disk."""


@dataclass
class BatchState:
    """The state of a batch. Without a root, as for a single image, nothing is claimed, and receipts are all that is kept.

    receipts: where they are kept, or None. settings: gives the hash of a job's settings. weights: the hash of the
    network's weights. is_whole: whether a file is an image that can be read to its end. driver: in a worker, the
    `session` of the process that claims and gives back its images; the worker itself claims nothing.
    """

    root: Path | None = None
    settings: Callable[[Job], str] = lambda job: ""
    weights: str = ""
    overwrite: bool = False
    retry_failed: bool = False
    remember: bool = True
    receipts: Receipts | None = None
    silent: bool = False  # write nothing, as in a dry run
    is_whole: Callable[[Path], bool] = exists
    reporter: Reporter | None = None
    stop: Stop = field(default_factory=Stop)
    driver: str | None = None
    backend: str = ""  # what computes the outputs, once that is known

    def __post_init__(self) -> None:
        self.journal: Journal | None = None
        if self.root and self.remember:
            # What was made before is the driver's to know.
            self.journal = Journal(self.root, self.silent, blind=self.driver is not None)
        # A driver without a session can claim nothing, and so can nobody else there.
        without = self.silent or self.driver == ""
        self._locks = OutputLocks(self.root, driver=self.driver) if self.root and not without else None
        # The states of the inputs of jobs under way.
        self._inputs: dict[Job, Version] = {}
        # The jobs that are taken from other shards.
        self._of_others: set[Job] = set()
        # The jobs by the name that messages use.
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._hashing = threading.Lock()
        # The states of files of several frames, which are hashed once.
        self._hashed: dict[Path, Version] = {}

    def enter(self, settings: str) -> None:
        """Begin a run with the settings of that hash. Raises UsageError where another one, with others, is under way."""
        if self._locks is not None:
            self._locks.enter(settings)

    @property
    def session(self) -> str:
        """The name by which workers know whose claims they work under; empty where nothing can be claimed."""
        return self._locks.session.name if self._locks is not None and self._locks.works else ""

    # --- while planning ---

    def check_own(self, target: Path) -> None:
        """Raise UsageError where OUTPUT, named as a file, is somebody's file and not strsr's own.

        Whoever writes `*.jpg` for INPUT may have named two photos. An empty file holds nothing to be lost.
        """
        try:
            if not target.stat().st_size or self._is_own(target):
                return
        except OSError:
            # There is none; or it cannot be read, and so cannot be known.
            if not exists(target):
                return
        raise UsageError(f"{target} exists and was not made by strsr; --replace overwrites it")

    def _is_own(self, target: Path) -> bool:
        """Whether the journal of a file's folder, or a receipt, says that strsr has made it. Raises OSError."""
        sha256 = sha256_of(target)
        if self.receipts is not None and self.receipts.knows(sha256):
            return True
        if not self.remember:
            return False
        journal = self.journal or Journal(target.parent, silent=True)
        records = journal.made.get(target.name, [])
        if any(record.output.sha256 == sha256 for record in records):
            return True
        # What is left of an output that was cut off is nobody's work.
        largest = max((record.output.size for record in records), default=0)
        return target.stat().st_size <= largest and not self.is_whole(target)

    def settled(self, job: Job) -> str | None:
        """Return why a job need not or may not be done, or None when it is to be done."""
        self._jobs[job.name] = job
        if not isinstance(job.target, Path):
            return None
        if self.journal is None or job.source is None:
            return EXISTS if job.finished and not self.overwrite else None
        if self.retry_failed and self.journal.name(job.target) not in self.journal.reasons:
            return NOT_FAILED
        if self.overwrite:
            return None
        return self._settled_by_record(self.journal, job, job.target, job.source)

    def _settled_by_record(self, journal: Journal, job: Job, target: Path, source: Source) -> str | None:
        """Return why the records of an output and the file under its name settle a job, or None."""
        records = journal.made.get(journal.name(target), [])
        try:
            output = version_of(target, [record.output for record in records])
        except OSError:
            # It is missing; or it cannot be read, and the attempt to replace it will say so.
            return None
        matching = [record for record in records if record.output.sha256 == output.sha256]
        if not matching:
            return self._settled_by_another_file(target, output, records)
        latest = matching[-1]
        try:
            version = self._version_of_input(job, source, records)
        except OSError:
            return None
        if self._is_current(latest, job, version):
            # Files that were only touched or copied are recorded anew, so as not to be hashed again.
            if version != latest.input or output != latest.output:
                journal.done(target, source, replace(latest, input=version, output=output, at=0))
            return DONE
        name = Path(journal.sources[journal.name(target)]).name
        if name != source.name and version.sha256 != latest.input.sha256:
            # The output comes from another list: a.gif's a.png must not be lost to a.png's.
            return OTHER_SOURCE.format(name=name)
        return None

    def _settled_by_another_file(self, target: Path, output: Version, records: list[Made]) -> str | None:
        """Return why a file that is none of the recorded outputs is to be kept, or None where it is a torn one."""
        if not records:
            # A single image that was made into this folder is ours, though nobody knows from what.
            return EXISTS if self.receipts is not None and self.receipts.knows(output.sha256) else FOREIGN
        # What is cut off is no larger than it was; a larger file is somebody's work that we cannot read.
        if output.size > max(record.output.size for record in records) or self.is_whole(target):
            return CHANGED
        return None

    def _is_current(self, record: Made, job: Job, version: Version) -> bool:
        """Whether an output was made from that content of the input, with the settings and weights of this run."""
        if record.input.sha256 != version.sha256:
            return False
        return record.settings == self.settings(job) and record.weights == self.weights

    def sweep(self, jobs: list[Job]) -> int:
        """Remove what killed runs have left unfinished in the folders of these jobs; return how many files."""
        return sweep({job.target.parent for job in jobs if isinstance(job.target, Path)})

    def made_meanwhile(self, job: Job) -> bool:
        """Whether the output of a claimed job is made, as by a worker that is gone."""
        if not isinstance(job.target, Path):
            return False
        return self._done_meanwhile(job, job.target, self._claim_on(job.target))

    def left_over(self, jobs: list[Job]) -> list[Job]:
        """Return those jobs of other shards that nobody has done, failed at or claimed so far.

        None where there is no journal or nothing can be claimed, since each of them would be made many times.
        """
        if self.journal is None or self._locks is None or not self._locks.works:
            return []
        self.journal.refresh()
        left = [job for job in jobs if isinstance(job.target, Path) and self._is_left_over(job, job.target)]
        self._of_others.update(left)
        return left

    def refresh(self) -> None:
        """Learn what others have made since the last look."""
        if self.journal is not None:
            self.journal.refresh()

    def is_settled(self, job: Job) -> bool:
        """Whether a job that was left to another process is done, failed or not to be done, as far as has been read."""
        return self.settled(job) is not None or (
            isinstance(job.target, Path) and self._failed(self._claim_on(job.target))
        )

    def is_free(self, job: Job) -> bool:
        """Whether no living process has claimed a job."""
        return (
            isinstance(job.target, Path)
            and self._locks is not None
            and self._locks.works
            and self._locks.is_free(self._claim_on(job.target))
        )

    def forget(self, jobs: list[Job]) -> None:
        """Let go of what is only remembered while jobs are under way."""
        for job in jobs:
            self._jobs.pop(job.name, None)
            if isinstance(job.source, Path):
                self._hashed.pop(job.source, None)

    def _is_left_over(self, job: Job, target: Path) -> bool:
        name = self._claim_on(target)
        if self.journal is None or self._locks is None or self._failed(name) or not self._locks.is_free(name):
            return False
        return name not in self.journal.recent and self.settled(job) is None

    # --- while working ---

    def take(self, job: Job) -> bool:
        """Begin a job, before its input is read, and return whether it is this process's.

        False: another process is at it or has just done it; that has been reported, and the job is to be left.
        """
        self.stop.working = True
        if not self.claim(job):
            return False
        if job.source is not None and self._keeps_record:
            # The content is hashed before it is read: a file that changes in between is made again next time.
            with contextlib.suppress(OSError):
                version = self._version_of_input(job, job.source, self._records_of(job))
                with self._lock:
                    self._inputs[job] = version
        return True

    def claim(self, job: Job) -> bool:
        """Claim a job, for this process or for its workers; False as in `take`, which claims by itself."""
        reason = self._taken_by_others(job)
        if reason is not None and self.reporter is not None:
            self.reporter.left(job.name, job.target_name, reason)
        return reason is None

    @property
    def _keeps_record(self) -> bool:
        """Whether what is made is written down."""
        return self.journal is not None

    def _records_of(self, job: Job) -> list[Made]:
        """Return what is recorded of a job's output."""
        if self.journal is None or not isinstance(job.target, Path):
            return []
        return self.journal.made.get(self.journal.name(job.target), [])

    def _version_of_input(self, job: Job, source: Source, records: list[Made]) -> Version:
        """Return the state of an input; a file of many frames is hashed once for all of them. Raises OSError.

        Objects are known by what their place says of them, and are not read for that.
        """
        if isinstance(source, RemoteFile):
            return Version(source.size or 0, source.mtime_ns, source.identity)
        known = [record.input for record in records]
        if job.frame is None:
            return version_of(source, known)
        with self._hashing:
            if source in self._hashed:
                known.insert(0, self._hashed[source])
            self._hashed[source] = version_of(source, known)
            return self._hashed[source]

    def _taken_by_others(self, job: Job) -> str | None:
        """Return what another process does with a job, or None where this process has claimed it."""
        if self._locks is None or not isinstance(job.target, Path):
            return None
        name = self._claim_on(job.target)
        if not self._locks.take(name):
            return "another process is at it"
        reason = None
        if self._done_meanwhile(job, job.target, name):
            reason = "another process has done it"
        elif job in self._of_others and self._failed_meanwhile(name):
            reason = "another process has failed at it"
        if reason is not None:
            self._locks.release(name)
        return reason

    def _failed_meanwhile(self, name: str) -> bool:
        """Whether another process has failed at an output of its own part by now."""
        if self.journal is not None:
            self.journal.refresh()
        return self._failed(name)

    def _failed(self, name: str) -> bool:
        """Whether the journal, as far as it has been read, records an output as failed."""
        return self.journal is not None and name in self.journal.reasons

    def _done_meanwhile(self, job: Job, target: Path, name: str) -> bool:
        """Whether another process has done a job since this run was planned."""
        if self.journal is None or job.source is None:
            return job.finished and not self.overwrite
        if not exists(target):
            # Nobody has; to look into the journal for each new image would burden a shared disk.
            return False
        self.journal.refresh()
        new = self.journal.recent.get(name)
        if new is None:
            return False
        try:
            version = self._version_of_input(job, job.source, [new])
            output = version_of(target, [new.output])
        except OSError:
            return False
        return new.output.sha256 == output.sha256 and self._is_current(new, job, version)

    def recorder(self, job: Job) -> Callable[[Path], None] | None:
        """Return what `whole_file(target, before=...)` calls to record the output just before it gets its name.

        Thus at every moment a file under that name is either one that is recorded, or none of ours. It raises
        TakenOver where the job is this process's no longer, whose output is then not to replace the other one's.
        """
        journal, target, source, receipts = self.journal, job.target, job.source, self.receipts
        if not isinstance(target, Path):
            return None

        def record(temporary: Path) -> None:
            with self._lock:
                version = self._inputs.get(job)
            output = version_of(temporary) if journal is not None and version is not None else None
            # Asked after the hashing, which takes its time.
            if self._locks is not None and not self._locks.holds(self._claim_on(target)):
                raise TakenOver
            if journal is None and receipts is not None:
                receipts.add(sha256_of(temporary))
            if journal is not None and source is not None and version is not None and output is not None:
                settings = self.settings(job)
                made = Made(version, output, settings, self.weights, backend=self.backend)
                journal.done(target, source, made)

        return record

    def _claim_on(self, target: Path) -> str:
        """Return what an output is called in claims."""
        return target.relative_to(self.root or target.parent).as_posix()

    def failed(self, name: str, reason: str) -> None:
        """Remember a failure, by the name that messages use; the reporter calls this for all that fail."""
        job = self._jobs.get(name)
        if self.journal is None or job is None or job.source is None:
            return
        if isinstance(job.target, Path):
            self.journal.failed(job.target, job.source, reason)

    def release(self, job: Job) -> None:
        """End a job that `take` has begun, done or failed."""
        with self._lock:
            self._inputs.pop(job, None)
        if self._locks is not None and isinstance(job.target, Path):
            self._locks.release(self._claim_on(job.target))

    def close(self) -> None:
        """Give back what is still claimed."""
        if self._locks is not None:
            self._locks.close()
