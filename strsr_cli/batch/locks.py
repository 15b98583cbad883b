"""Several processes on one output folder: each image is one process's own while it is being made.

A run has a file, its session, that names its process and gives signs of life: on the same machine a session is dead
with its process, for other machines when its signs have stopped. A claim on an image is a small file that only one
process can make (O_CREAT | O_EXCL, which holds on NFS too) and that names a session; it is worth as much as that
one. A session says, too, which settings its run has: runs of other settings would make each other's outputs anew for
ever, so the second one does not begin.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from strsr_models.errors import UsageError

from ..system.processes import lives, machine_id, started
from ..system.refusals import exclusive

log = logging.getLogger(__name__)

FOLDER = ".strsr-locks"  # in the output folder
RUN = "run-"  # how the names of sessions begin in it
TAKEOVER = "takeover"  # in it: locked by the process that looks whether another one is dead
HEARTBEAT = 60.0  # s between two
STALE = 600.0  # s without one
LONGEST_LOOK = 10.0  # s that a run waits for another one to look whether it may begin


class OutputLocks:
    """The session and the claims of this process in one output folder."""

    def __init__(self, root: Path, heartbeat: float = HEARTBEAT, driver: str | None = None) -> None:
        """Claim nothing yet. heartbeat: seconds between two signs of life.

        driver: the name of another process's session, which claims for this one; this one then claims nothing.
        """
        self.folder = root / FOLDER
        self.heartbeat = heartbeat
        self.session = self.folder / (driver or f"{RUN}{secrets.token_hex(8)}")
        self._driven = driver is not None
        # What the session's file says, once there is one.
        self._said = ""
        # The outputs that are claimed, by their names.
        self._held: set[str] = set()
        # The folders that were made for the session, the innermost first.
        self._made: list[Path] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def enter(self, settings: str) -> None:
        """Begin a run with the settings of that hash. Raises UsageError where a living run here has others.

        Runs look one at a time where the disk has locks; elsewhere two that begin at once may both raise. Where
        no file can be made, nobody else has made one either.
        """
        try:
            self._made = _missing(self.folder.parent)
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(self.folder / TAKEOVER, timeout=LONGEST_LOOK):
                self._begin(settings=settings)
                others = self._other_runs(settings)
        except OSError as error:
            log.debug("%s: no lock: %s", self.folder, error)
            return
        if others:
            raise UsageError(
                f"{self.folder.parent}: {others[0]} makes outputs there with other settings; wait for its end, give "
                f"the same settings, or choose another OUTPUT (if it is dead for certain, remove {self.folder})"
            )

    def _begin(self, **said: str) -> None:
        """Make the session, once, and give signs of life in it until the end. Raises OSError."""
        with self._lock:
            if self._said or self._driven:
                return
            pid = os.getpid()
            text = json.dumps({"place": machine_id(), "pid": pid, "started": started(pid), **said})
            _make(self.session, text)
            self._said = text
            try:
                threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
            except RuntimeError as error:
                # Other machines may take over from it after a while, which costs time alone.
                log.debug("%s: no signs of life: %s", self.folder, error)

    def _beat(self) -> None:
        while not self._closed.wait(self.heartbeat):
            with contextlib.suppress(OSError):
                try:
                    _touch(self.session)
                except FileNotFoundError:
                    # This process was suspended for so long that another one took it for dead.
                    _make(self.session, self._said)

    def _other_runs(self, settings: str) -> list[str]:
        """Return words for each living run here that has other settings; files of dead ones are removed."""
        others = []
        for path in sorted(self.folder.glob(f"{RUN}*")):
            if self._is_stale(path):
                _drop(path)
                continue
            owner = _owner(path)
            if owner.get("settings", settings) != settings:
                place = "" if owner["place"] == machine_id() else " of another machine"
                others.append(f"process {owner['pid']}{place}")
        return others

    @property
    def works(self) -> bool:
        """Whether claims can be made here, or at least the session could."""
        return bool(self._said)

    def take(self, name: str) -> bool:
        """Claim an output by its name in the folder; False when another living process has it.

        What this process has claimed before is its own. Where no claim can be made, as in a folder that cannot be
        written to, nobody else has one either.
        """
        if self._closed.is_set():
            return False
        if self._driven or name in self._held:
            return self.holds(name)
        path = self._path(name)
        try:
            self._begin()
            if not _make(path, self.session.name) and not self._take_over(path):
                return False
        except OSError as error:
            log.debug("%s: no lock: %s", name, error)
            return self._is_stale(path)
        self._held.add(name)
        return True

    def is_free(self, name: str) -> bool:
        """Whether no living process has claimed an output."""
        return self._is_stale(self._path(name))

    def holds(self, name: str) -> bool:
        """Whether a claim is still this process's, or its driver's: to be asked just before the output gets its name.

        A process that was suspended, or cut off from the disk, may find that another one has taken over from it.
        """
        if not self._driven and name not in self._held:
            return True
        try:
            return self._path(name).read_bytes() == self.session.name.encode()
        except OSError:
            return False

    def release(self, name: str) -> None:
        """Give a claim back."""
        # It may be another process's by now.
        if name in self._held and self.holds(name):
            _drop(self._path(name))
        self._held.discard(name)

    def close(self) -> None:
        """Give everything back; the folder goes with the last process, and an OUTPUT into which nothing came."""
        self._closed.set()
        for name in list(self._held):
            self.release(name)
        if self._driven:
            return
        with contextlib.suppress(OSError):
            # Some may be left of a process that was killed when its image was done.
            left = [path for path in self.folder.iterdir() if path.name != TAKEOVER and self._is_stale(path)]
            if left:
                with exclusive(self.folder / TAKEOVER):
                    for path in filter(self._is_stale, left):
                        _drop(path)
        _drop(self.session)
        with contextlib.suppress(OSError):
            if {path.name for path in self.folder.iterdir()} <= {TAKEOVER}:
                _drop(self.folder / TAKEOVER)
                self.folder.rmdir()
                for folder in self._made:
                    folder.rmdir()

    def _path(self, name: str) -> Path:
        """Return the file of a claim, whose name has one length for all outputs and needs no folders."""
        return self.folder / hashlib.sha256(os.fsencode(name)).hexdigest()[:32]

    def _take_over(self, path: Path) -> bool:
        """Claim what a dead process has left; only one process at a time may look whether it is dead."""
        if not self._is_stale(path):
            return False
        with exclusive(self.folder / TAKEOVER):
            if self._is_stale(path):
                _drop(path)
            return _make(path, self.session.name)

    def _is_stale(self, path: Path) -> bool:
        """Whether a session is dead, or the one that a claim names; what says nothing stands until it is old."""
        owner = _owner(path)
        if "session" in owner:
            return self._is_stale(self.folder / owner["session"])
        if owner.get("place") == machine_id():
            return not lives(owner["pid"], owner["started"])
        try:
            beaten = path.stat().st_mtime
        except OSError:
            # It has been given back.
            return True
        # The clock is that of the disk, which may be another machine's.
        now = time.time()
        with contextlib.suppress(OSError):
            _touch(self.session)
            now = self.session.stat().st_mtime
        return now - beaten > STALE


def _make(path: Path, text: str) -> bool:
    """Make a file of locks, and their folder; False where the file is there. Raises OSError."""
    for last in (False, False, True):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            return False
        except FileNotFoundError:
            # There is no folder, or another process has just ended and taken it along.
            if last:
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(handle, "wb", buffering=0) as file:
            if file.write(text.encode()) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        # The disk is full, and an empty claim would look like another process's that has just begun.
        _drop(path)
        raise
    return True


def _missing(folder: Path) -> list[Path]:
    """Return the folder and those above it that are not there, the innermost first. Raises OSError."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    return missing


def _touch(path: Path) -> None:
    """Renew the time of a file, by writing its own first byte where its disk refuses times. Raises OSError."""
    try:
        os.utime(path)
    except OSError:
        with open(path, "r+b", buffering=0) as file:
            first = file.read(1)
            file.seek(0)
            file.write(first)


def _owner(path: Path) -> dict[str, Any]:
    """Return what a session says of its process, or a claim of its session.

    Nothing where that cannot be read or is not enough: a process is between two steps of _make, or ended there.
    """
    try:
        text = path.read_text(encoding="ascii")
        if re.fullmatch(f"{RUN}[0-9a-f]{{16}}", text):
            return {} if path.name.startswith(RUN) else {"session": text}
        owner = json.loads(text)
        return {**owner, "pid": int(owner["pid"]), "started": float(owner["started"])}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return {}


def _drop(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
