"""Which process made a file, and whether it still lives: for locks and for leftovers of a kill -9."""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path

import psutil

SAME_START = 10.0  # s: two readings of one process's start differ when a clock is set in between


@functools.cache
def machine_id() -> str:
    """Eight hexadecimal digits for where process ids mean the same: this machine since its start, and
    inside it this container.
    """
    parts = [platform.node()]
    for read in (_boot, _namespace):
        try:
            parts.append(read())
        except OSError:
            # Not Linux.
            parts.append("")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


def started(pid: int) -> float | None:
    """When a process began, in seconds since 1970; None where there is none, or only a dead one's shell."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.AccessDenied:
        # Somebody else's: it lives.
        return 0.0
    except (psutil.Error, ValueError, OverflowError):
        # A number that no process has.
        return None


def lives(pid: int, since: float) -> bool:
    """Whether process `pid` of this place is there, and is the one that began at `since`."""
    began = started(pid)
    return began is not None and (began == 0.0 or abs(began - since) < SAME_START)
