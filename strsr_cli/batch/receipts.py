"""What strsr has made outside of folders with a journal: hashes in the user's cache, so that --overwrite knows its own.

A receipt is the SHA-256 of an output and nothing else: neither its name nor where it lies. Without the file, or where it
cannot be written, no output is known: then one that exists is left alone until --replace is given.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from strsr_models.checkpoints.locations import cache_dir
from strsr_models.errors import WeightsError

from ..system.atomic import whole_file

log = logging.getLogger(__name__)

NAME = "made.txt"  # in the cache; one hash a line, the newest last
MOST = 2**22  # bytes of it: some 64,000 outputs; the older half goes then


class Receipts:
    """The receipts of this user; several processes may add some at once."""

    def __init__(self, folder: Path | None = None) -> None:
        """Read nothing yet. folder: in place of the user's cache."""
        # A user without a home has no cache either.
        with contextlib.suppress(WeightsError):
            folder = folder or cache_dir()
        self.path = None if folder is None else folder / NAME
        # What was read last, and the file's state then.
        self._state: tuple[int, int] | None = None
        self._hashes: frozenset[str] = frozenset()

    def knows(self, sha256: str) -> bool:
        """Whether strsr has made a file with that hash; the file is read again only where it has changed."""
        if self.path is None:
            return False
        try:
            state = self.path.stat()
            if self._state != (state.st_size, state.st_mtime_ns):
                self._hashes = frozenset(self.path.read_text("ascii", "replace").split())
                self._state = state.st_size, state.st_mtime_ns
        except OSError:
            return False
        return sha256 in self._hashes

    def add(self, sha256: str) -> None:
        """Remember a file that is about to be made."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                # Written by one call, so that lines of several processes do not mix; a torn line before it is ended.
                os.write(handle, f"\n{sha256}\n".encode())
            finally:
                os.close(handle)
            if self.path.stat().st_size > MOST:
                self._trim(self.path)
        except OSError as error:
            log.debug("%s: no receipt: %s", self.path, error.strerror or error)

    def _trim(self, path: Path) -> None:
        """Drop the older half. Raises OSError."""
        kept = path.read_bytes()[-MOST // 2 :].partition(b"\n")[2]
        with whole_file(path) as file:
            file.write(kept)
