"""The files of a journal: one for each process that writes, all read as one.

Nothing that two machines append to at once is safe on every shared disk (NFS places such lines over each other), so
a file has one writer, for good: a process appends to what it has made itself, and to nothing that it finds. Lines are
bytes here; what they say is the journal's own matter.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..system.paths import is_file, is_folder
from ..system.processes import machine_id
from ..system.refusals import UNKNOWN

JOURNAL = ".strsr-journal"  # a folder in the output folder
OLD_JOURNAL = ".strsr-journal.jsonl"  # what versions before had in its place: one file of all processes
SUFFIX = ".jsonl"
QUIET = 3600.0  # s after which a file that has brought nothing is looked at by its size alone
NAMES = 10  # how many names a process tries for its file


def has_journal(root: Path) -> bool:
    """Whether an output folder has a journal, of this form or of the old one."""
    return is_folder(root / JOURNAL) or is_file(root / OLD_JOURNAL)


@dataclass
class _Progress:
    """How far a file has been read: whole lines, in bytes, and when it last had something new (by time.monotonic)."""

    read: int = 0
    grown: float | None = None


class JournalFiles:
    """The lines of one journal: those that are new since the last look, and a place for those of this process."""

    def __init__(self, root: Path) -> None:
        """Read and write nothing yet. root: the output folder."""
        self.folder = root / JOURNAL
        self._old = str(root / OLD_JOURNAL)
        self._progress: dict[str, _Progress] = {}

    def new_lines(self) -> Iterator[tuple[bytes, bool]]:
        """Yield the whole lines that were added since the last call, by whomever, this process included.

        Beside each: whether it is of the old file, whose lines are in the order in which they came about. What cannot
        be read has no lines.
        """
        for path in (self._old, *self._paths()):
            progress = self._progress.setdefault(path, _Progress())
            if _may_have_grown(path, progress):
                for line in _read_on(path, progress):
                    yield line, path == self._old

    def _paths(self) -> list[str]:
        try:
            with os.scandir(self.folder) as entries:
                return sorted(entry.path for entry in entries if entry.name.endswith(SUFFIX))
        except OSError:
            return []

    def append(self, line: bytes) -> None:
        """Add a line, which has no end of its own, for all to see. Raises OSError."""
        _writer(self.folder).append(line)


def _may_have_grown(path: str, progress: _Progress) -> bool:
    """Whether a file is worth being opened.

    To open it is what makes NFS ask its server for what is new, and is done wherever a living process may write;
    the size of the files of long ago may be one that NFS remembers from up to a minute ago.
    """
    if progress.grown is None or time.monotonic() - progress.grown < QUIET:
        return True
    try:
        return os.stat(path).st_size > progress.read  # noqa: PTH116
    except OSError:
        return False


def _read_on(path: str, progress: _Progress) -> Iterator[bytes]:
    """Yield the whole lines of a file beyond those that have been read, up to the first error."""
    with contextlib.suppress(OSError), open(path, "rb", opener=_opened_at_once) as file:
        grown = time.monotonic()
        if progress.grown is None:
            # Of a file that is new to us, its own time says when.
            grown -= max(0.0, time.time() - os.fstat(file.fileno()).st_mtime)
            progress.grown = grown
        file.seek(progress.read)
        for line in file:
            if not line.endswith(b"\n"):
                # It is being written, and its end may be there a moment later; or a full disk has cut it off.
                return
            progress.read += len(line)
            progress.grown = grown
            yield line


@dataclass
class _Writer:
    """The file of this process in one journal's folder, made with the first line; threads may share it."""

    folder: Path
    path: Path | None = None
    # Whether the last line has no end, so that the next one has to begin a new line.
    torn: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def append(self, line: bytes) -> None:
        """Add a line. Raises OSError."""
        with self.lock:
            data = (b"\n" if self.torn else b"") + line + b"\n"
            handle = self._opened()
            self.torn = True
            try:
                os.lseek(handle, 0, os.SEEK_END)
                # Written by one call, so that readers see few halves of lines.
                written = os.write(handle, data)
            finally:
                # On shared disks this is what brings the line to the server.
                os.close(handle)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.torn = False

    def _opened(self) -> int:
        """Return a handle of the file, made anew where somebody has removed it. Raises OSError."""
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                return _open_to_append(self.path, 0)
        self.folder.mkdir(parents=True, exist_ok=True)
        # The number may have been an earlier process's; and where containers have one host name and one number, or a
        # machine goes on twice from one image, another one may be alive under both. So what is there is left alone.
        own = f"{machine_id()}-{os.getpid()}"
        for name in (own, *(f"{own}-{secrets.token_hex(4)}" for _ in range(NAMES - 1))):
            path = self.folder / f"{name}{SUFFIX}"
            with contextlib.suppress(FileExistsError):
                handle = _open_to_append(path, os.O_CREAT | os.O_EXCL)
                self.path = path
                return handle
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


_writers: dict[tuple[int, str], _Writer] = {}
_writers_lock = threading.Lock()


def _writer(folder: Path) -> _Writer:
    """Return the one writer of this process in a journal's folder; a forked process is another one."""
    key = os.getpid(), os.path.abspath(folder)  # noqa: PTH100
    with _writers_lock:
        return _writers.setdefault(key, _Writer(folder))


def _open_to_append(path: Path, more: int) -> int:
    """Return a handle to write at a file's end. more: further flags. Raises OSError."""
    flags = os.O_WRONLY | getattr(os, "O_BINARY", 0) | more
    try:
        return _opened_at_once(path, flags | os.O_APPEND)
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise
        # The disk knows no appending, which one writer can do without.
        return _opened_at_once(path, flags)


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
