"""The record of an output folder: what was made, from what, and what failed."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from strsr_models.errors import UsageError

from ..system.atomic import sha256_of
from .job import Source
from .journal_files import JOURNAL, JournalFiles, has_journal

log = logging.getLogger(__name__)

# How many outputs are remembered of each name: the last one, and that before it, which is still in place if a process
# ends between its line and the new name.
KEPT = 2
EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Version:
    """One state of a file."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Made:
    """A line of the journal: an output, what it was made from, and what decided its content."""

    input: Version
    output: Version
    settings: str  # hash
    weights: str  # hash
    at: int = field(default=0, compare=False)  # when it was written down, in microseconds since 1970
    backend: str = field(default="", compare=False)  # what computed it; empty where nothing says so


class Journal:
    """The record of what was made in an output folder, one JSON object a line; threads and processes may share it.

    Each process has a file of its own, which is only ever appended to (journal_files.py); all of them are read as one.
    Of several lines of a name the newest counts, by its time. That is the clock's, or just after the newest line of
    that name that its writer had read: so what followed from another line is newer than it, whatever the clocks of two
    machines say. A line that cannot be understood, such as the last one after a full disk, is as good as none. Its
    names are relative to the folder.
    """

    def __init__(self, root: Path, silent: bool = False, blind: bool = False) -> None:
        """Read the journal of the folder `root`. silent: nothing is written. blind: nothing is read."""
        self.root, self.silent, self.blind = root, silent, blind
        # The last records by the output's name, the newest last; each is of another content.
        self.made: dict[str, list[Made]] = {}
        # The input's name that each output was last made from.
        self.sources: dict[str, str] = {}
        # Reasons of failure by the output's name, where the last try failed.
        self.reasons: dict[str, str] = {}
        # Of what was made since this journal was opened, by whomever, the record that came last.
        self.recent: dict[str, Made] = {}
        # When the failures were written down, as in Made.
        self._failed: dict[str, int] = {}
        self._files = JournalFiles(root)
        # Whether the user knows already that nothing can be written.
        self._told = False
        self._lock = threading.RLock()
        self.refresh()
        self.recent.clear()

    def refresh(self) -> None:
        """Read what has been added since, by whomever."""
        if self.blind:
            return
        with self._lock:
            for line, is_latest in self._files.new_lines():
                self._take(line, is_latest)

    def _take(self, line: bytes, is_latest: bool = False) -> None:
        """Learn from a line, new or known. is_latest: whether it is the newest of its name, whatever its time."""
        try:
            entry = json.loads(line)
            name, at = entry["output_name"], _microseconds(entry.get("at"))
            if not isinstance(name, str):
                return
            if is_latest:
                at = max(at, self._newest(name) + 1)
            if entry["state"] == "done":
                self._take_made(name, str(entry["input_name"]), made_of(entry, at))
            elif entry["state"] == "failed" and at >= self._newest(name):
                self.reasons[name], self._failed[name] = str(entry["reason"]), at
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            # A line of another kind is as good as none; OverflowError stands for a size of Infinity.
            return

    def _take_made(self, name: str, source: str, made: Made) -> None:
        known = self.made.get(name, [])
        if any(_are_alike(record, made) and record.at > made.at for record in known):
            return
        others = [record for record in known if not _are_alike(record, made)]
        # Other threads may be reading the list, so it is replaced.
        records = sorted([*others, made], key=_time_of)[-KEPT:] if others else [made]
        self.made[name] = records
        self.recent[name] = made
        if records[-1] is made:
            self.sources[name] = source
        if made.at >= self._failed.get(name, made.at):
            self.reasons.pop(name, None)
            self._failed.pop(name, None)

    def _newest(self, name: str) -> int:
        """Return the time of the newest line of a name, 0 where there is none."""
        records = self.made.get(name)
        return max(records[-1].at if records else 0, self._failed.get(name, 0))

    def name(self, target: Path) -> str:
        """Return what an output is called in the journal."""
        return target.relative_to(self.root).as_posix()

    def done(self, target: Path, source: Source, made: Made) -> None:
        """Remember an output that is about to appear under its name."""
        standing = self._standing(target, made)
        if standing is not None:
            self._append(target, self.sources[self.name(target)], entry_of(standing))
        self._append(target, str(source), entry_of(made))

    def _standing(self, target: Path, made: Made) -> Made | None:
        """Return the record that a new one would push out though its output is what still lies there.

        It is, where processes ended twice between their line and the new name, or the disk refused that name.
        """
        records = self.made.get(self.name(target), [])
        if len(records) < KEPT or any(_are_alike(record, made) for record in records):
            return None
        try:
            there = version_of(target, [record.output for record in records])
        except OSError:
            return None
        return records[0] if there.sha256 == records[0].output.sha256 else None

    def failed(self, target: Path, source: Source, reason: str) -> None:
        """Remember that an output could not be made."""
        self._append(target, str(source), {"state": "failed", "reason": reason})

    def _append(self, target: Path, source: str, entry: dict[str, Any]) -> None:
        name = self.name(target)
        with self._lock:
            at = max(time.time_ns() // 1000, self._newest(name) + 1)
            line = line_of(name, source, at, entry)
            self._take(line)
            if self.silent:
                return
            try:
                self._files.append(line)
            except OSError as error:
                if not self._told:
                    reason = error.strerror or error
                    log.warning("%s: no record of what is made: %s", self._files.folder, reason)
                self._told = True


def _are_alike(one: Made, other: Made) -> bool:
    """Whether two records are of the same content."""
    return one.output.sha256 == other.output.sha256


def _time_of(made: Made) -> int:
    return made.at


def entry_of(made: Made) -> dict[str, Any]:
    """Return what the line of a record says of it, but for names and time."""
    versions = {"input": asdict(made.input), "output": asdict(made.output)}
    entry = {"state": "done", **versions, "settings": made.settings, "weights": made.weights}
    return {**entry, "backend": made.backend} if made.backend else entry


def made_of(entry: dict[str, Any], at: int = 0) -> Made:
    """Return the record that a line holds. Raises KeyError, TypeError, ValueError or OverflowError for another kind."""
    return Made(
        _version(entry["input"]),
        _version(entry["output"]),
        sys.intern(str(entry["settings"])),
        sys.intern(str(entry["weights"])),
        at,
        sys.intern(str(entry.get("backend", ""))),
    )


def line_of(name: str, source: str, at: int, entry: dict[str, Any]) -> bytes:
    """Return a line on an output by its name. source: its input's name. at: microseconds since 1970."""
    named = {"output_name": name, "input_name": source, "at": _text_of(at)}
    return json.dumps({**entry, **named}, separators=(",", ":")).encode()


def _microseconds(text: object) -> int:
    """Return the time that a line gives in microseconds since 1970; 0 for what is none."""
    try:
        moment = datetime.fromisoformat(str(text).removesuffix("Z")).replace(tzinfo=None)
    except ValueError:
        return 0
    # A later line must have a time after it.
    return (moment - EPOCH) // timedelta(microseconds=1) if moment.year < 9999 else 0


def _text_of(at: int) -> str:
    """Return a time for a line, from microseconds since 1970."""
    return f"{(EPOCH + timedelta(microseconds=at)).isoformat(timespec='microseconds')}Z"


def _version(entry: dict[str, Any]) -> Version:
    return Version(int(entry["size"]), int(entry["mtime_ns"]), str(entry["sha256"]))


def version_of(path: Path, known: Iterable[Version] = ()) -> Version:
    """Return the state of a file, which is read only where no known one has its size and time. Raises OSError.

    It is read, too, where several contents are known with them: files with the times of others may be alike.
    """
    before = path.stat()
    alike = [
        version
        for version in known
        if (version.size, version.mtime_ns) == (before.st_size, before.st_mtime_ns)
    ]
    if alike and len({version.sha256 for version in alike}) == 1:
        return alike[0]
    return Version(before.st_size, before.st_mtime_ns, sha256_of(path))


def require_journal(root: Path | None, no_journal: bool, remote: bool = False) -> None:
    """Raise UsageError unless failures of an earlier run are recorded; a remote OUTPUT without any has none to retry."""
    if no_journal:
        raise UsageError("--retry-failed: goes by the journal; drop --no-journal")
    if remote:
        return
    if root is None or not has_journal(root):
        raise UsageError(
            f"--retry-failed: {root or 'OUTPUT'} has no {JOURNAL} of an earlier run; drop the option"
        )
