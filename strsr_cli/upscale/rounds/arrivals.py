"""What has arrived in a folder that is watched: files that are new or changed, and whole.

A file counts as whole when it has not changed for a while and can be decoded to its end, or when it has not changed for
so long that waiting is of no use: then it fails with its reason, as it would in any run, and is looked at again once it
changes. What is downloaded or copied under another name (`.part`, hidden names) is no image until it has its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...batch.job import Source
from ...batch.plan import Plan
from ...system.paths import exists

SETTLE = 2.0  # s without a change until a file is looked into
PATIENCE = 60.0  # s without a change after which a file that is not whole is taken as it is
# What browsers, downloaders and copiers append to the name of a file that they are making, beside that file or without.
PARTNERS = (".part", ".partial", ".crdownload", ".download", ".aria2", ".filepart", ".tmp")


@dataclass
class Wait:
    """A file in the state of a hash, since when (by time.monotonic), and whether it is known not to be whole."""

    state: int
    since: float
    torn: bool = False

    @property
    def quiet(self) -> float:
        """For how many seconds it has not changed."""
        return time.monotonic() - self.since


@dataclass
class Arrivals:
    """The files that are known, each in the state in which it was handed out; and those that are waited for.

    is_whole: whether a file can be decoded to its end. Memory grows with the number of files that are there, and with
    nothing else.
    """

    is_whole: Callable[[Path], bool]
    settle: float = SETTLE
    patience: float = PATIENCE
    # Hashes of states, by path.
    _known: dict[str, int] = field(default_factory=dict)
    # Files that are waited for.
    _waiting: dict[str, Wait] = field(default_factory=dict)
    # What has been seen in the look under way, and is known or ready.
    _seen: dict[str, int] = field(default_factory=dict)
    _still_waiting: dict[str, Wait] = field(default_factory=dict)

    @property
    def waits(self) -> bool:
        """Whether some files are not taken yet."""
        return bool(self._waiting)

    def begin(self) -> None:
        """Begin to look at all files."""
        self._seen, self._still_waiting = {}, {}

    def choose(self, paths: list[Path]) -> list[Path]:
        """Return those of a folder's images that are whole; none where all of these are known.

        The names of outputs hang on all images of a folder, and to find them takes longer than to look at the folder.
        """
        ready = [path for path in paths if self.is_ready(path)]
        return ready if any(map(self.is_fresh, ready)) else []

    def is_ready(self, path: Path) -> bool:
        """Whether a file, in the look under way, is one of the batch: known, or new and whole."""
        if path.suffix.lower() in PARTNERS:
            return False
        try:
            state = path.stat()
        except OSError:
            # It has gone again.
            return False
        name = str(path)
        own = hash((state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
        changed = max(state.st_mtime, state.st_ctime)
        if self._known.get(name) != own and not self._has_settled(path, own, changed):
            return False
        self._seen[name] = own
        return True

    def _has_settled(self, path: Path, own: int, changed: float) -> bool:
        """Whether a file that is new or has changed is to be taken. changed: when, by the disk's clock."""
        if any(exists(path.with_name(path.name + partner)) for partner in PARTNERS):
            self._wait(str(path), own)
            return False
        # The clock of another machine may be wrong, and then a file is only waited for a little longer.
        if time.time() - changed > self.patience:
            return True
        wait = self._wait(str(path), own)
        if wait.quiet >= self.settle and not wait.torn:
            wait.torn = not self.is_whole(path)
            return not wait.torn
        return wait.quiet >= self.patience

    def _wait(self, name: str, own: int) -> Wait:
        """Wait for something; return since when it has been as it is."""
        before = self._waiting.get(name)
        wait = before if before is not None and before.state == own else Wait(own, time.monotonic())
        self._still_waiting[name] = wait
        return wait

    def fresh(self, plan: Plan) -> Plan:
        """End a look: return what of its plan is new or has changed since it was handed out the last time."""
        jobs = [job for job in plan.jobs if self.is_fresh(job.source)]
        refused = []
        for source, reason in plan.refused:
            # A name that has just been taken away may be seen once more.
            name, own = f"{source}\0", hash(reason)
            if self._known.get(name) != own and self._wait(name, own).quiet < self.settle:
                continue
            if self._known.get(name) != own:
                refused.append((source, reason))
            self._seen[name] = own
        # What has gone is forgotten.
        self._known = self._seen
        self._waiting = {name: wait for name, wait in self._still_waiting.items() if name not in self._seen}
        self._seen, self._still_waiting = {}, {}
        return replace(plan, jobs=jobs, refused=refused)

    def is_fresh(self, source: Source | None) -> bool:
        """Whether a file that is ready is not known in this state."""
        name = str(source)
        return self._known.get(name) != self._seen.get(name)
