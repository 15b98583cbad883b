"""Folders of files that can be made again: the ones that were used longest ago go first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path


def mark_used(path: Path) -> None:
    """Give a file the time of now, for `trim`; a cache that may only be read serves as well."""
    with contextlib.suppress(OSError):
        os.utime(path)


def trim(folder: Path, largest: int, keep: Collection[str] = ()) -> None:
    """Remove the files of a folder used longest ago until `largest` bytes are left. keep: names that stay."""
    entries = []
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            # Another process has removed it meanwhile.
            continue
        entries.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= largest:
            break
        if path.name not in keep:
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size
