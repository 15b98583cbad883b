"""Several processes on one remote OUTPUT: each image is one process's own while it is being made.

A claim is an object below OUTPUT/.strsr-locks/ that is put only where there is none (If-None-Match: *). It holds the
name of its process's run, which is an object too, and is put anew every minute: one sign of life for all claims. What a
dead process has claimed is claimed by an object whose name says after whom, so that only one process can have it.
A store without conditional puts lets two processes make one image; the output is whole even so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from strsr_models.errors import ImageError, UsageError

from ...images.places import Place
from ...system.processes import lives, machine_id, started
from ..locks import FOLDER, HEARTBEAT, RUN, STALE

log = logging.getLogger(__name__)

AT_ONCE = 32  # claims that are given back together
FRESH = 20.0  # s for which another run is believed to be as it was


class RemoteClaims:
    """The claims of this process below one remote OUTPUT."""

    def __init__(self, place: Place, heartbeat: float = HEARTBEAT, driver: str | None = None) -> None:
        """Claim nothing yet. heartbeat: seconds between two signs of life.

        driver: the name of another process's run, which claims for this one; this one then claims nothing.
        """
        self.output, self.place = place, Place(f"{place.url}/{FOLDER}")
        self.run = driver or f"{RUN}{machine_id()}-{secrets.token_hex(6)}"
        self._driven = driver is not None
        self.heartbeat = heartbeat
        self._settings = ""
        # The objects of each claim, by the output's name.
        self._held: dict[str, list[str]] = {}
        # By run: whether it lived, and when that was looked for.
        self._known: dict[str, tuple[bool, float]] = {}
        # The store's time of our last sign of life, in s, and this machine's.
        self._beaten = (0.0, 0.0)
        self._found_dead = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._heart: threading.Thread | None = None

    def enter(self, settings: str) -> None:
        """Begin a run with the settings of that hash. Raises UsageError where a living run has others.

        Raises UsageError, too, where nothing can be put.
        """
        self._settings = settings
        try:
            self._begin()
            others = [file.key for file in self.place.objects() if file.key.startswith(RUN)]
            for run in others:
                if run != self.run and self._lives(run) and self._owner(run).get("settings") != settings:
                    raise UsageError(
                        f"{self.output}: another process makes outputs there with other settings; wait for its "
                        f"end, give the same settings, or choose another OUTPUT (if it is dead for certain, remove "
                        f"{self.place}/{run})"
                    )
        except ImageError as error:
            raise UsageError(f"{error}; choose another OUTPUT") from error

    def take(self, name: str) -> bool:
        """Claim an output; False where another living process has it. Raises ImageError."""
        if self._closed.is_set():
            return False
        # What this process has claimed before is its own.
        if self._driven or name in self._held:
            return self.holds(name)
        self._begin()
        first = claim = _claim_on(name)
        chain = [claim]
        while not self.place.put(claim, self.run.encode(), new=True):
            try:
                run = self.place.read(claim).decode(errors="replace")
            except ImageError:
                # It has been given back in between.
                return False
            if run == self.run or self._lives(run):
                return False
            claim = f"{first}.after-{run}"
            chain.append(claim)
        with self._lock:
            self._held[name] = chain
        return True

    def holds(self, name: str) -> bool:
        """Whether an output is claimed by this run, or its driver's, and has not been taken over. Raises ImageError."""
        first = claim = _claim_on(name)
        while self.place.look(claim) is not None:
            run = self.place.read(claim).decode(errors="replace")
            after = f"{first}.after-{run}"
            if run == self.run:
                return self.place.look(after) is None
            claim = after
        return False

    @property
    def works(self) -> bool:
        """Whether this run has given a sign of life, so that claims can be made."""
        return self._heart is not None or self._driven

    def release(self, name: str) -> None:
        """Give a claim back."""
        with self._lock:
            chain = self._held.pop(name, [])
        self._remove(chain)

    def close(self) -> None:
        """Give everything back; what dead processes have left goes too."""
        self._closed.set()
        with self._lock:
            chains, self._held = list(self._held.values()), {}
        with ThreadPoolExecutor(AT_ONCE) as threads:
            threads.map(self._remove, chains)
        if self._heart is not None:
            if self._found_dead:
                self._sweep()
            self._remove([self.run])

    def _begin(self) -> None:
        """Give the first sign of life, once. Raises ImageError."""
        with self._lock:
            if self._heart is not None or self._closed.is_set():
                return
            self._beat()
            self._heart = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
            try:
                self._heart.start()
            except RuntimeError as error:
                # Others may take over from it after a while, which costs time alone.
                log.debug("%s: no signs of life: %s", self.place, error)

    def _beat(self) -> None:
        pid = os.getpid()
        owner = {"place": machine_id(), "pid": pid, "started": started(pid), "settings": self._settings}
        self.place.put(self.run, json.dumps(owner).encode())
        there = self.place.look(self.run)
        self._beaten = ((there.mtime_ns if there else 0) / 1e9, time.monotonic())

    def _keep_beating(self) -> None:
        while not self._closed.wait(self.heartbeat):
            with contextlib.suppress(ImageError):
                self._beat()

    def _lives(self, run: str) -> bool:
        """Whether the process of a run lives: by the process on this machine, by signs of life elsewhere."""
        with self._lock:
            alive, at = self._known.get(run, (False, 0.0))
        # The dead stay dead.
        if at and (not alive or time.monotonic() - at < FRESH):
            return alive
        alive = self._gives_signs(run)
        with self._lock:
            self._known[run] = alive, time.monotonic()
            self._found_dead |= not alive
        return alive

    def _gives_signs(self, run: str) -> bool:
        there = self.place.look(run) if run.startswith(RUN) else None
        if there is None:
            return False
        owner = self._owner(run)
        if owner.get("place") == machine_id():
            try:
                return lives(int(str(owner["pid"])), float(str(owner["started"])))
            except (KeyError, ValueError):
                return False
        # By the clock of the store, which is the same for all.
        theirs, (ours, at) = there.mtime_ns / 1e9, self._beaten
        return ours + time.monotonic() - at - theirs < STALE

    def _owner(self, run: str) -> dict[str, object]:
        """Return what the object of a run says."""
        try:
            owner = json.loads(self.place.read(run))
        except (ImageError, ValueError, RecursionError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _sweep(self) -> None:
        """Remove what dead processes have left."""
        with contextlib.suppress(ImageError):
            for file in list(self.place.objects()):
                run = file.key
                if not run.startswith(RUN):
                    run = self.place.read(file.key).decode(errors="replace")
                if run != self.run and not self._lives(run):
                    self._remove([file.key])

    def _remove(self, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(ImageError):
                self.place.remove(name)


def _claim_on(name: str) -> str:
    """Return what the claim on an output is called, whose name has one length for all."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]
