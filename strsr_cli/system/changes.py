"""Signs that something has changed in folders, where the system gives any: watchdog's events.

They only say when it is worth looking again. Network shares give none, linked folders neither, and queues overflow; so
whoever waits here looks now and then all the same, and nothing is learnt from an event but that there was one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Kinds of events that reading files brings about, which we do ourselves.
OF_READERS = ("opened", "closed_no_write")


class Changes:
    """Whether there was a sign of change since the last look.

    reason: why the system gives none, or an empty text.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._changed = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Wait for a sign, so long at most. Returns whether there was one."""
        seen = self._changed.wait(seconds)
        self._changed.clear()
        return seen

    def dispatch(self, event: Any) -> None:
        """Take in an event, as one of watchdog's handlers, in any thread."""
        self._changed.set()


class _Handler:
    """What watchdog calls for each event; those of readers, and those below `ignored`, are no signs."""

    def __init__(self, changes: Changes, ignored: Path | None) -> None:
        self._changes = changes
        self._ignored = None if ignored is None else os.path.join(os.path.realpath(ignored), "")  # noqa: PTH118

    def dispatch(self, event: Any) -> None:
        paths = [os.fsdecode(path) for path in (event.src_path, getattr(event, "dest_path", "")) if path]
        if event.event_type in OF_READERS:
            return
        if self._ignored is None or not all(
            os.path.join(path, "").startswith(self._ignored)  # noqa: PTH118
            for path in paths
        ):
            self._changes.dispatch(event)


@contextlib.contextmanager
def watching(folders: list[Path], ignored: Path | None) -> Iterator[Changes]:
    """Watch folders with all below them, but for `ignored`.

    Where the system refuses, as at the end of its inotify watches, there are no signs, and `reason` says why.
    """
    changes = Changes()
    # Its warnings are of events that were lost, on which nothing hangs.
    log = logging.getLogger("watchdog")
    silence = logging.NullHandler()
    log.addHandler(silence)
    propagated, log.propagate = log.propagate, False
    before, threading.excepthook = threading.excepthook, _silently(threading.excepthook)
    observer = None
    try:
        try:
            observer = _observer(folders, _Handler(changes, ignored))
        except (OSError, ImportError, RuntimeError) as error:
            changes.reason = str(getattr(error, "strerror", None) or error)
        yield changes
    finally:
        if observer is not None:
            observer.stop()
        threading.excepthook = before
        log.propagate = propagated
        log.removeHandler(silence)


def _observer(folders: list[Path], handler: Any) -> Any:
    """Return a running observer of watchdog's. Raises OSError."""
    from watchdog.observers import Observer

    observer = Observer()
    try:
        # One by its path without links: the system reports paths below it.
        for folder in {os.path.realpath(folder) for folder in folders}:
            observer.schedule(handler, folder, recursive=True)
        observer.start()
    except BaseException:
        with contextlib.suppress(Exception):
            observer.stop()
        raise
    return observer


def _silently(hook: Any) -> Any:
    """Return a hook for errors of threads that says nothing of watchdog's own: no events come then, and no more."""

    def report(args: Any) -> None:
        if not type(args.thread).__module__.startswith("watchdog"):
            hook(args)

    return report
