"""Several processes on one output folder: each image is one process's own while it is being made.

A claim is a file that only one process can make (O_CREAT | O_EXCL, which holds on NFS too). It names its
process, so that the claim of a dead one can be recognised: on the same machine by the process, elsewhere by
a heartbeat that has stopped. A run has a file of the same kind, which names its settings: runs of other settings
would make each other's outputs anew for ever, so the second one does not begin.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
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
RUN = "run-"  # how the names of runs' files begin in it
TAKEOVER = "takeover"  # in it: locked by the process that looks whether another one is dead
HEARTBEAT = 60.0  # s between two
STALE = 600.0  # s without one
LONGEST_LOOK = 10.0  # s that a run waits for another one to look whether it may begin


class OutputLocks:
    """The claims of this process in one output folder."""

    def __init__(self, root: Path, heartbeat: float = HEARTBEAT) -> None:
        """Claim nothing yet. heartbeat: seconds between two signs of life in all claims that are held."""
        self.folder = root / FOLDER
        self.heartbeat = heartbeat
        self._held: set[Path] = set()
        # The folders that `enter` has made, the innermost first.
        self._made: list[Path] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._heart: threading.Thread | None = None

    def enter(self, settings: str) -> None:
        """Begin a run with the settings of that hash. Raises UsageError where a living run here has others.

        Runs look one at a time where the disk has locks; elsewhere two that begin at once may both raise. Where
        no file can be made, nobody else has made one either.
        """
        path = self.folder / f"{RUN}{secrets.token_hex(8)}"
        try:
            self._made = _missing(self.folder.parent)
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive(self.folder / TAKEOVER, timeout=LONGEST_LOOK):
                self._make(path, {"settings": settings})
                self._hold(path)
                others = self._other_runs(path, settings)
        except OSError as error:
            log.debug("%s: no lock: %s", self.folder, error)
            return
        if others:
            raise UsageError(
                f"{self.folder.parent}: {others[0]} makes outputs there with other settings; wait for its end, give "
                f"the same settings, or choose another OUTPUT (if it is dead for certain, remove {self.folder})"
            )

    def _other_runs(self, own: Path, settings: str) -> list[str]:
        """Return words for each living run here that has other settings; files of dead ones are removed."""
        others = []
        for path in sorted(self.folder.glob(f"{RUN}*")):
            if path == own:
                continue
            if self._is_stale(path):
                _drop(path)
                continue
            owner = _owner(path)
            if owner is not None and owner.get("settings") != settings:
                place = "" if owner["place"] == machine_id() else " of another machine"
                others.append(f"process {owner['pid']}{place}")
        return others

    def take(self, name: str) -> bool:
        """Claim an output by its name in the folder; False when another living process has it.

        Where no claim can be made, as in a folder that cannot be written to, nobody else has one either.
        """
        path = self._path(name)
        if self._closed.is_set():
            return False
        try:
            if not self._make(path, {"output_name": name}) and not self._take_over(path, name):
                return False
        except OSError as error:
            log.debug("%s: no lock: %s", name, error)
            return True
        self._hold(path)
        return True

    def _hold(self, path: Path) -> None:
        """Give signs of life in a file of this process until it is given back."""
        with self._lock:
            self._held.add(path)
            if self._heart is not None:
                return
            self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            try:
                self._heart.start()
            except RuntimeError as error:
                # Other machines may take over from it after a while, which costs time alone.
                log.debug("%s: no signs of life: %s", self.folder, error)

    def release(self, name: str) -> None:
        """Give a claim back."""
        path = self._path(name)
        with self._lock:
            mine = path in self._held
            self._held.discard(path)
        if mine:
            _drop(path)

    def close(self) -> None:
        """Give everything back; the folder goes with the last process, and an OUTPUT into which nothing came."""
        self._closed.set()
        with self._lock:
            held, self._held = self._held, set()
        for path in held:
            _drop(path)
        with contextlib.suppress(OSError):
            left = [path for path in self.folder.iterdir() if path.name != TAKEOVER]
            # Some may be left of a process that was killed when its image was done.
            if any(map(self._is_stale, left)):
                with exclusive(self.folder / TAKEOVER):
                    for path in filter(self._is_stale, left):
                        _drop(path)
            if {path.name for path in self.folder.iterdir()} <= {TAKEOVER}:
                _drop(self.folder / TAKEOVER)
                self.folder.rmdir()
                for folder in self._made:
                    folder.rmdir()

    def _path(self, name: str) -> Path:
        """Return the file of a claim, whose name has one length for all outputs and needs no folders."""
        return self.folder / hashlib.sha256(os.fsencode(name)).hexdigest()[:32]

    def _make(self, path: Path, said: dict[str, str]) -> bool:
        """Make a file that names this process, and what is `said` beside; False where it is there. Raises OSError."""
        pid = os.getpid()
        owner = {"place": machine_id(), "pid": pid, "started": started(pid), **said}
        for last in (False, False, True):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                break
            except FileExistsError:
                return False
            except FileNotFoundError:
                # Another process has just ended, and taken the folder with it.
                if last:
                    raise
        text = json.dumps(owner).encode()
        try:
            with open(handle, "wb", buffering=0) as file:
                if file.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # The disk is full, and an empty claim would look like another process's that has just begun.
            _drop(path)
            raise
        return True

    def _take_over(self, path: Path, name: str) -> bool:
        """Claim what a dead process has left; only one process at a time may look whether it is dead."""
        if not self._is_stale(path):
            return False
        with exclusive(self.folder / TAKEOVER):
            if self._is_stale(path):
                _drop(path)
            return self._make(path, {"output_name": name})

    def _is_stale(self, path: Path) -> bool:
        try:
            beaten = path.stat().st_mtime
            owner = json.loads(path.read_bytes())
            where, pid, since = str(owner["place"]), int(owner["pid"]), float(owner["started"])
        except FileNotFoundError:
            # The claim has been given back meanwhile.
            return True
        # The claim has no owner in it yet: its process is between two steps of _make, or ended there.
        except (
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            RecursionError,
        ):
            return self._now() - beaten > STALE
        if where == machine_id():
            return not lives(pid, since)
        return self._now() - beaten > STALE

    def _now(self) -> float:
        """Return the time by the clock of the disk, which may be another machine's."""
        probe = self.folder / f"clock-{machine_id()}-{os.getpid()}-{threading.get_ident()}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            _drop(probe)

    def _beat(self) -> None:
        while not self._closed.wait(self.heartbeat):
            with self._lock:
                held = list(self._held)
            for path in held:
                with contextlib.suppress(OSError):
                    _touch(path)


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


def _owner(path: Path) -> dict[str, Any] | None:
    """Return what a file of locks says; None where it says nothing, or not enough."""
    try:
        owner = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return owner if isinstance(owner, dict) and {"place", "pid"} <= owner.keys() else None


def _drop(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
