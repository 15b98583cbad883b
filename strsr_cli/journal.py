"""What is done and what is not: files that appear whole or not at all, and the record of a folder of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, cast

from .processes import place, started

log = logging.getLogger(__name__)

TEMPORARY_PREFIX = ".strsr-part-"
JOURNAL = ".strsr-journal.jsonl"  # in the output folder
DAY = 86_400  # s

_LEFTOVER = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}(?P<place>[0-9a-f]{{8}})-(?P<pid>\d+)-\w+(\.\w+)?")
_unfinished: set[str] = set()  # temporary files that this process is writing


@contextlib.contextmanager
def whole_file(path: Path, before: Callable[[Path], None] | None = None) -> Iterator[IO[bytes]]:
    """A binary file to write and read, which takes the place of `path` on success and vanishes otherwise.

    It lies in the same folder, so that the last step is one atomic rename; its data is on the disk
    before the rename. before: called with the finished temporary file just before that. Raises OSError.
    """
    prefix = f"{TEMPORARY_PREFIX}{place()}-{os.getpid()}-"
    suffix = path.suffix if re.fullmatch(r"\.\w{1,8}", path.suffix) else ""
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
    _unfinished.add(name)
    try:
        os.close(handle)
        with open(name, "w+b") as file:  # one that knows its name, which tifffile asks for
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that only the owner can read
        if before is not None:
            before(Path(name))
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    finally:
        _unfinished.discard(name)


@contextlib.contextmanager
def passing_file() -> Iterator[IO[bytes]]:
    """A binary file in the system's temporary folder, for what is to go through a pipe; gone at the end. Raises OSError."""
    with tempfile.NamedTemporaryFile(prefix=TEMPORARY_PREFIX) as file:
        _unfinished.add(file.name)
        try:
            yield cast(IO[bytes], file)
        finally:
            _unfinished.discard(file.name)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _read_umask()  # at the start: to read it is to change it for a moment, under other threads' feet


def _umask() -> int:
    return _UMASK


def drop_unfinished() -> None:
    """Remove the temporary files that threads of this process are writing; for its last moments."""
    for name in list(_unfinished):
        with contextlib.suppress(OSError):
            os.unlink(name)


def sweep(folders: Iterable[Path]) -> int:
    """Remove what dead processes have left unfinished in some folders; returns how many files.

    A process of another machine counts as dead when its file has not grown for a day.
    """
    swept = 0
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                named = _LEFTOVER.fullmatch(entry.name)
                if named and _is_left(entry, named["place"], int(named["pid"])):
                    os.unlink(entry)
                    swept += 1
    return swept


def _is_left(entry: os.DirEntry[str], where: str, pid: int) -> bool:
    written = entry.stat(follow_symlinks=False).st_mtime
    if where != place():
        return time.time() - written > DAY
    began = started(pid)
    return began is None or began > written + 2  # the number has been given to another process


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


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
    """What was made in an output folder, one JSON object a line; threads and processes may share it.

    The file is only ever appended to, a line at a time. A line that cannot be understood, such as the
    last one after a full disk, is as good as none. Its names are relative to the folder.
    """

    def __init__(self, root: Path, silent: bool = False) -> None:
        """silent: look, and write nothing."""
        self.root, self.path, self.silent = root, root / JOURNAL, silent
        self.made: dict[str, list[Made]] = {}  # the newest last
        self.sources: dict[str, str] = {}  # names of inputs that outputs were made from the last time
        self.reasons: dict[str, str] = {}  # of those whose last try failed
        self._read = 0  # bytes
        self._torn = False  # whether the last line has no end
        self._told = False  # that it cannot be written to
        self._lock = threading.RLock()
        self.refresh()

    def refresh(self) -> None:
        """Read what has been added since, by whomever."""
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
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # Infinity is no size
            return

    def name(self, target: Path) -> str:
        """What an output is called in the journal."""
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
        handle = _opened_at_once(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        )
        try:
            written = os.write(handle, data)  # one call: lines of several processes do not mix
        finally:
            os.close(handle)
        self._torn = written < len(data)
        if self._torn:
            raise OSError("the disk is full")


def _opened_at_once(path: str | Path, flags: int) -> int:
    """A file's handle; what is no file, such as a pipe, is not waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def _version(entry: dict[str, Any]) -> Version:
    size, mtime_ns, sha256 = (entry[field.name] for field in fields(Version))
    return Version(int(size), int(mtime_ns), str(sha256))


def version_of(path: Path, known: Iterable[Version] = ()) -> Version:
    """The state of a file; not read where size and time are those of a known one. Raises OSError."""
    before = path.stat()
    for version in known:
        if (version.size, version.mtime_ns) == (before.st_size, before.st_mtime_ns):
            return version
    return Version(before.st_size, before.st_mtime_ns, sha256_of(path))
