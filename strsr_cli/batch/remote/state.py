"""The state of a batch whose OUTPUT is remote: what BatchState is for a folder, by the same rules.

An object carries the SHA-256 of its content and what it was made from as metadata, so that nothing is downloaded to know
it; where its ETag is the MD5 of the journal's line, it is not even asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from strsr_models.errors import ImageError, UsageError

from ...images.places import Place, RemoteFile
from ..job import Job
from ..journal import Made, Version
from ..locks import HEARTBEAT
from ..report import DONE, EXISTS
from ..state import CHANGED, FOREIGN, NOT_FAILED, OTHER_SOURCE, BatchState, TakenOver
from .claims import RemoteClaims
from .journal import RemoteJournal

# Names of the metadata of outputs.
SHA256, MADE = "strsr-sha256", "strsr-made"


def make_state(root: Path | None, place: Place | None, jobs: list[Job], **settings: Any) -> BatchState:
    """Return the state of a batch: of the folder `root`, of the remote `place`, or of a single output.

    jobs: those of the plan. Raises UsageError for a place that cannot be listed.
    """
    if not any(isinstance(job.target, RemoteFile) for job in jobs):
        return BatchState(root, **settings)
    try:
        return RemoteState(root, place=place, **settings)
    except ImageError as error:
        raise UsageError(f"{error}; choose another OUTPUT") from error


@dataclass
class RemoteState(BatchState):
    """The state of a batch that is written below `place`; None for a single object, which has neither journal nor claims."""

    place: Place | None = None
    heartbeat: float = HEARTBEAT  # s between signs of life
    # The objects that there were when the run began, by name.
    objects: dict[str, RemoteFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.record: RemoteJournal | None = None
        self._claims: RemoteClaims | None = None
        if self.place is None:
            return
        if self.remember:
            self.record = RemoteJournal(self.place, self.silent, blind=self.driver is not None)
        if not self.silent:
            self._claims = RemoteClaims(self.place, self.heartbeat, self.driver)
        # A worker looks for single objects, when it comes to them.
        if self.driver is None:
            self.objects = {file.key: file for file in self.place.objects()}

    def enter(self, settings: str) -> None:
        """Begin a run with the settings of that hash. Raises UsageError where another one, with others, is under way."""
        if self._claims is not None:
            self._claims.enter(settings)

    @property
    def session(self) -> str:
        """The name by which workers know whose claims they work under; empty where nothing can be claimed."""
        return self._claims.run if self._claims is not None and self._claims.works else ""

    def left_over(self, jobs: list[Job]) -> list[Job]:
        """Return those jobs of other shards whose outputs nobody has put so far; `take` sees who is at them."""
        if self.record is None or self._claims is None:
            return []
        return [job for job in jobs if self.settled(job) is None and not self._is_put(job)]

    def _is_put(self, job: Job) -> bool:
        """Whether an output was put since the run began, as far as can be known."""
        if not isinstance(job.target, RemoteFile):
            return False
        with contextlib.suppress(ImageError):
            before, there = self.objects.get(job.target.key), job.target.place.look(job.target.key)
            return there is not None and (before is None or not _same(before, there))
        return True

    # --- while planning ---

    def settled(self, job: Job) -> str | None:
        """Return why a job need not or may not be done, or None when it is to be done."""
        self._jobs[job.name] = job
        if not isinstance(job.target, RemoteFile):
            return super().settled(job)
        there = self._object(job.target)
        if self.record is None or job.source is None:
            return EXISTS if there is not None and not self.overwrite else None
        if self.retry_failed and job.target.key not in self.record.reasons:
            return NOT_FAILED
        if self.overwrite or there is None:
            return None
        try:
            return self._settled_by_lines(self.record, job, there)
        except ImageError as error:
            # What cannot be known is not to be replaced.
            return f"exists, and cannot be known: {error}"

    def _object(self, target: RemoteFile) -> RemoteFile | None:
        """Return the object under the name of an output, as it was when the run began; a single one is looked for."""
        if self.place is None and target.key not in self.objects:
            with contextlib.suppress(ImageError):
                there = target.place.look(target.key)
                if there is not None:
                    self.objects[target.key] = there
        return self.objects.get(target.key)

    def _settled_by_lines(self, record: RemoteJournal, job: Job, there: RemoteFile) -> str | None:
        """Return why the journal's lines on an output and the object under its name settle a job, or None."""
        assert isinstance(job.target, RemoteFile)
        assert job.source is not None
        records = record.records(there.key)
        if not records:
            return FOREIGN
        matching = self._matching(records, there)
        if not matching:
            return CHANGED
        try:
            version = self._version_of_input(job, job.source, [made for made, _ in records])
        except OSError:
            return None
        current = [made for made in matching if self._is_current(made, job, version)]
        if current:
            if version not in [made.input for made in current] and not self.silent:
                # Files that were only touched are recorded anew, so as not to be hashed again.
                with contextlib.suppress(ImageError):
                    latest = current[-1]
                    made = replace(latest, input=version, at=0)
                    record.done(job.target, job.source, made, there.tag)
            return DONE
        name = record.source(there.key).rpartition("/")[2]
        if name != job.source.name and version.sha256 != matching[-1].input.sha256:
            return OTHER_SOURCE.format(name=name)
        return None

    def _matching(self, records: list[tuple[Made, str]], there: RemoteFile) -> list[Made]:
        """Return the records whose output an object is: by its MD5, else by the SHA-256 that it carries."""
        matching = [made for made, md5 in records if (md5, made.output.size) == (there.tag, there.size)]
        if matching:
            return matching
        # Objects of several parts, and of some ways of encryption, have ETags of another kind.
        sha256 = there.place.metadata(there.key).get(SHA256)
        return [made for made, _ in records if (made.output.sha256, made.output.size) == (sha256, there.size)]

    # --- while working ---

    @property
    def _keeps_record(self) -> bool:
        return self.record is not None

    def _records_of(self, job: Job) -> list[Made]:
        if self.record is None or not isinstance(job.target, RemoteFile):
            return super()._records_of(job)
        return [made for made, _ in self.record.records(job.target.key)]

    def _taken_by_others(self, job: Job) -> str | None:
        if self._claims is None or not isinstance(job.target, RemoteFile):
            return None
        key = job.target.key
        if not self._claims.take(key):
            return "another process is at it"
        try:
            if not self.made_meanwhile(job):
                return None
        except BaseException:
            self._claims.release(key)
            raise
        self._claims.release(key)
        return "another process has done it"

    def made_meanwhile(self, job: Job) -> bool:
        """Whether another process has done a job since this run was planned. Raises ImageError."""
        target = job.target
        if self.place is None or not isinstance(target, RemoteFile):
            return False
        before, there = self.objects.get(target.key), self.place.look(target.key)
        if there is None or (before is not None and _same(before, there)):
            return False
        self.objects[target.key] = there
        if self.driver is not None:
            # The driver has looked before it claimed this.
            return False
        if self.record is None or job.source is None:
            return not self.overwrite
        with contextlib.suppress(OSError):
            version = self._version_of_input(job, job.source, [])
            return self.place.metadata(target.key).get(MADE) == self._made_key(job, version)
        return False

    def _made_key(self, job: Job, version: Version | None) -> str:
        """Return the hash of all that decides an output."""
        text = f"{version.sha256 if version else ''} {self.settings(job)} {self.weights}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def recorder(self, job: Job) -> Callable[[Path], None] | None:
        """Return what takes a finished temporary file: it is recorded, and then put under the output's name."""
        target = job.target
        if not isinstance(target, RemoteFile):
            return super().recorder(job)

        def put(temporary: Path) -> None:
            with self._lock:
                version = self._inputs.get(job)
            output, md5 = _version_of_file(temporary)
            if self.record is not None and job.source is not None and version is not None:
                settings = self.settings(job)
                made = Made(version, output, settings, self.weights, backend=self.backend)
                self.record.done(target, job.source, made, md5)
            own = {SHA256: output.sha256, MADE: self._made_key(job, version)}
            if not target.place.put_file(target.key, temporary, own, self.objects.get(target.key)):
                raise TakenOver

        return put

    def failed(self, name: str, reason: str) -> None:
        """Remember a failure, by the name that messages use."""
        job = self._jobs.get(name)
        if self.record is None or job is None or job.source is None or not isinstance(job.target, RemoteFile):
            super().failed(name, reason)
            return
        # Where it cannot be recorded, --retry-failed does not know of it.
        with contextlib.suppress(ImageError):
            self.record.failed(job.target, job.source, reason)

    def release(self, job: Job) -> None:
        """End a job that `take` has begun, done or failed."""
        super().release(job)
        if self._claims is not None and isinstance(job.target, RemoteFile):
            self._claims.release(job.target.key)

    def close(self) -> None:
        """Give back what is still claimed."""
        super().close()
        if self._claims is not None:
            self._claims.close()


def check_own_object(target: RemoteFile) -> None:
    """Raise UsageError where OUTPUT names an object that is somebody's, and not strsr's own, or cannot be reached."""
    try:
        there = target.place.look(target.key)
        if there is None or not there.size or SHA256 in target.place.metadata(target.key):
            return
    except ImageError as error:
        raise UsageError(f"{error}; choose another OUTPUT") from error
    raise UsageError(f"{target} exists and was not made by strsr; --replace overwrites it")


def _same(one: RemoteFile, other: RemoteFile) -> bool:
    """Whether an object was not put anew, not even with the same content."""
    return (one.tag, one.size, one.mtime_ns) == (other.tag, other.size, other.mtime_ns)


def _version_of_file(path: Path) -> tuple[Version, str]:
    """Return the state of a finished file and its MD5, by which stores know contents. Raises OSError."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            sha256.update(block)
            md5.update(block)
    state = path.stat()
    return Version(state.st_size, state.st_mtime_ns, sha256.hexdigest()), md5.hexdigest()
