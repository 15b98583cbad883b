"""The record of an output folder: what was made, from what, and what failed."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from strsr_models.errors import UsageError

from ..system.atomic import sha256_of
from ..system.paths import is_file
from ..system.refusals import UNKNOWN

log = logging.getLogger(__name__)


JOURNAL = ".strsr-journal.jsonl"  # in the output folder


@dataclass(frozen=True)
class Version:
    """One state of a file."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Made:
    """A line of the journal: an output, what it was made from, and what decided its content."""

    input: Version
    output: Version
    settings: str  # hash
    weights: str  # hash


class Journal:
    """The record of what was made in an output folder, one JSON object a line; threads and processes may share it.

    The file is only ever appended to, a line at a time. A line that cannot be understood, such as the
    last one after a full disk, is as good as none. Its names are relative to the folder.
    """

    def __init__(self, root: Path, silent: bool = False, blind: bool = False) -> None:
        """Read the journal of the folder `root`. silent: nothing is written. blind: nothing is read."""
        self.root, self.path, self.silent, self.blind = root, root / JOURNAL, silent, blind
        # Records by the output's name, the newest last.
        self.made: dict[str, list[Made]] = {}
        # The input's name that each output was last made from.
        self.sources: dict[str, str] = {}
        # Reasons of failure by the output's name, where the last try failed.
        self.reasons: dict[str, str] = {}
        # How many bytes of the file have been read.
        self._read = 0
        # Whether the last line has no end, so that the next one has to begin a new line.
        self._torn = False
        # Whether the user knows already that the file cannot be written.
        self._told = False
        self._lock = threading.RLock()
        self.refresh()

    def refresh(self) -> None:
        """Read what has been added since, by whomever."""
        if self.blind:
            return
        with self._lock:
            try:
                with open(self.path, "rb", opener=_opened_at_once) as file:
                    file.seek(self._read)
                    data = file.read()
            except OSError:
                return
            whole = data.rfind(b"\n") + 1
            self._torn = whole < len(data)
            self._read += whole
            for line in data[:whole].split(b"\n"):
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            name = entry["output_name"]
            if not isinstance(name, str):
                return
            if entry["state"] == "done":
                made = Made(
                    _version(entry["input"]),
                    _version(entry["output"]),
                    str(entry["settings"]),
                    str(entry["weights"]),
                )
                self.sources[name] = str(entry["input_name"])
                self.made.setdefault(name, []).append(made)
                self.reasons.pop(name, None)
            elif entry["state"] == "failed":
                self.reasons[name] = str(entry["reason"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            # A line of another kind is as good as none; OverflowError stands for a size of Infinity.
            return

    def name(self, target: Path) -> str:
        """Return what an output is called in the journal."""
        return target.relative_to(self.root).as_posix()

    def done(self, target: Path, source: Path, made: Made) -> None:
        """Remember an output that is about to appear under its name."""
        entry = {"state": "done", **asdict(made)}
        self._append(target, source, entry)

    def failed(self, target: Path, source: Path, reason: str) -> None:
        """Remember that an output could not be made."""
        self._append(target, source, {"state": "failed", "reason": reason})

    def _append(self, target: Path, source: Path, entry: dict[str, Any]) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        named = {"output_name": self.name(target), "input_name": str(source), "at": at}
        line = json.dumps({**entry, **named}, separators=(",", ":")).encode()
        with self._lock:
            self._take(line)
            if self.silent:
                return
            try:
                self._write((b"\n" if self._torn else b"") + line + b"\n")
            except OSError as error:
                self._torn = True
                if not self._told:
                    log.warning("%s: no record of what is made: %s", self.path, error.strerror or error)
                self._told = True

    def _write(self, data: bytes) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            handle = _opened_at_once(self.path, flags | os.O_APPEND)
        except OSError as error:
            if error.errno not in UNKNOWN:
                raise
            # The disk knows no appending: two processes might write in one place, which costs a line.
            handle = _opened_at_once(self.path, flags)
        try:
            os.lseek(handle, 0, os.SEEK_END)
            # Written by one call, so that lines of several processes do not mix.
            written = os.write(handle, data)
        finally:
            os.close(handle)
        self._torn = written < len(data)
        if self._torn:
            raise OSError("the disk is full")


def _opened_at_once(name: str | Path, flags: int) -> int:
    """Return a file's handle without waiting for what is no file, such as a pipe. Raises OSError."""
    path = Path(name)
    try:
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        # Some disks refuse the flag; what is a file, or not there yet, needs none.
        if error.errno not in UNKNOWN or (os.path.lexists(path) and not path.is_file()):
            raise
        return os.open(path, flags, 0o666)


def _version(entry: dict[str, Any]) -> Version:
    size, mtime_ns, sha256 = (entry[field.name] for field in fields(Version))
    return Version(int(size), int(mtime_ns), str(sha256))


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


def require_journal(root: Path | None, no_journal: bool) -> None:
    """Raise UsageError unless failures of an earlier run are recorded."""
    if no_journal:
        raise UsageError("--retry-failed: goes by the journal; drop --no-journal")
    if root is None or not is_file(root / JOURNAL):
        raise UsageError(
            f"--retry-failed: {root or 'OUTPUT'} has no {JOURNAL} of an earlier run; drop the option"
        )
