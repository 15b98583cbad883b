"""Main memory: of the machine, or of the group of processes (a container, a job) whose limit is lower.

Linux knows two kinds of such groups. Both lie in trees, and the limits of all groups above count.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory: all that this process may ever have, and what is free of that now; None: unknown."""

    total: int | None
    free: int | None


@dataclass(frozen=True)
class GroupFiles:
    """How the files of a kind of groups are called. cache: what of the memory in use is given back when needed."""

    limit: str
    used: str
    cache: str


KINDS = {
    "cgroup2": GroupFiles("memory.max", "memory.current", "inactive_file"),
    "cgroup": GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
UNLIMITED = 2**60  # bytes: the first kind has such numbers for "none"
USUAL = [("cgroup2", "/", "/sys/fs/cgroup"), ("cgroup", "/", "/sys/fs/cgroup/memory")]
MOUNT = re.compile(
    r"^\d+ \d+ \S+ (?P<root>\S+) (?P<point>\S+) .*? - (?P<kind>cgroup2?) \S+ (?P<options>\S+)$"
)


def memory(system: Path = Path("/")) -> Memory:
    """Return the memory of the machine as the lowest limit leaves it. system: another root of /proc and /sys."""
    import psutil

    total = free = None
    # Without /proc nothing is known of the machine.
    with contextlib.suppress(OSError, RuntimeError, psutil.Error):
        whole = psutil.virtual_memory()
        total, free = int(whole.total), int(whole.available)
    for limit, left in group_limits(system):
        total = limit if total is None else min(total, limit)
        free = left if free is None else min(free, left)
    return Memory(total, free)


def group_limits(system: Path = Path("/")) -> Iterator[tuple[int, int]]:
    """Yield (limit, what is left of it) in bytes of each group that this process is in and that has a limit."""
    for kind, folder in _groups(system):
        files = KINDS[kind]
        limit = _number(folder / files.limit)
        if limit is not None and limit < UNLIMITED:
            used = _number(folder / files.used) or 0
            yield limit, max(0, limit - max(0, used - _cache(folder / "memory.stat", files.cache)))


def _groups(system: Path) -> Iterator[tuple[str, Path]]:
    """Yield the kind and the folder of each group that this process is in, with those above it."""
    memberships = dict(_memberships(_text(system / "proc" / "self" / "cgroup")))
    for kind, root, point in _mounts(_text(system / "proc" / "self" / "mountinfo")):
        top = system / point.lstrip("/")
        below = _below(memberships.get(kind, "/"), root)
        for count in range(len(below.parts) + 1):
            yield kind, top.joinpath(*below.parts[:count])


def _mounts(text: str) -> list[tuple[str, str, str]]:
    """Return (kind, group that is its root, folder) of each tree of groups in /proc/self/mountinfo, else the usual ones."""
    mounts = [mount for line in text.splitlines() if (mount := MOUNT.match(line))]
    found = [
        (mount["kind"], mount["root"], mount["point"])
        for mount in mounts
        if mount["kind"] == "cgroup2" or "memory" in mount["options"].split(",")
    ]
    return found or USUAL


def _memberships(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the path of the groups that /proc/self/cgroup names, of the kinds that have memory."""
    for line in text.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            yield "cgroup2", path
        elif "memory" in controllers.split(","):
            yield "cgroup", path


def _below(path: str, root: str) -> PurePosixPath:
    """Return a group's path below what is mounted; empty where it lies elsewhere, as a container sees its own group."""
    inner = PurePosixPath(path.lstrip("/"))
    mounted = PurePosixPath(root.lstrip("/"))
    if ".." in inner.parts or not inner.is_relative_to(mounted):
        return PurePosixPath()
    return inner.relative_to(mounted)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    """Return the bytes that a file holds; None where it is not there or says "max"."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _cache(path: Path, name: str) -> int:
    """Return one value of memory.stat; 0 where it is not there."""
    found = re.search(rf"^{name} (\d+)$", _text(path), re.MULTILINE)
    return int(found[1]) if found else 0
