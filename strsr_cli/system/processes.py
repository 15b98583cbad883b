"""This process while it starts, and those that made files: whether they still live, for locks and leftovers of a kill -9."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path

import psutil

SAME_START = 10.0  # s: two readings of one process's start differ when a clock is set in between


@functools.cache
def machine_id() -> str:
    """Return eight hexadecimal digits for the place in which process ids mean the same.

    That is this machine since its start, and inside it this container.
    """
    parts = [platform.node()]
    for read in (Path("/proc/sys/kernel/random/boot_id").read_text, Path("/proc/self/ns/pid").readlink):
        try:
            parts.append(str(read()))
        except OSError:
            # Systems other than Linux have no such file.
            parts.append("")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def started(pid: int) -> float | None:
    """Return when a process began, in seconds since 1970; None where there is none, or only a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.AccessDenied:
        # A process that is somebody else's lives, whenever it began.
        return 0.0
    except (psutil.Error, ValueError, OverflowError):
        # No process has that number.
        return None


def lives(pid: int, since: float) -> bool:
    """Whether process `pid` of this place is there, and is the one that began at `since`."""
    began = started(pid)
    return began is not None and (began == 0.0 or abs(began - since) < SAME_START)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """A context for large imports, in which Python looks for no garbage; nor does it later in what was made inside.

    An import makes some hundred thousand objects that all stay: with PyTorch the search takes a tenth of its time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
