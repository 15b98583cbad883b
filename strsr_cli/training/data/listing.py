"""Which files below the folders of --data are photos: not what strsr itself has made, and each file once.

A run's folder is known by its checkpoints and what lies beside them, an output by the journal of its folder; both
also where a link leads there.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath

from strsr_models.errors import UsageError

from ...batch.journal import Journal
from ...batch.journal_files import has_journal
from ...images.find import Identity, find_images, identity

RUN_FILES = ("config.toml", "metrics.jsonl", "lock")  # one of them lies beside a run's checkpoints


@dataclass
class Listing:
    """Images below some folders as (path, name below its folder): photos, and those that are none of their own.

    remarks: on what was left out, a line for each kind.
    """

    photos: list[tuple[Path, str]] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def list_photos(folders: list[Path]) -> Listing:
    """List the photos below folders, folder by folder, sorted.

    Raises UsageError for what is no folder, or lies in a run's.
    """
    listing = Listing()
    seen: dict[Identity | None, Path] = {}
    made: Counter[Path] = Counter()
    again: list[tuple[Path, Path]] = []
    for folder in folders:
        check_folder(folder)
        for path in find_images(folder):
            named = (path, path.relative_to(folder).as_posix())
            maker, own = maker_of(path), identity(path)
            if maker is not None:
                made[maker] += 1
                listing.left_out.append(named)
            elif own is not None and own in seen:
                again.append((path, seen[own]))
                listing.left_out.append(named)
            else:
                seen[own] = path
                listing.photos.append(named)
    listing.remarks += [
        f"{count} image{'s' * (count > 1)} that strsr made in {maker}" for maker, count in made.items()
    ]
    if again:
        first, same = again[0]
        one_of = "" if len(again) == 1 else f"{len(again)} photos that are there twice, such as "
        listing.remarks.append(f"{one_of}{first}: is the same file as {same}")
    return listing


def check_folder(folder: Path) -> None:
    """Raise UsageError for a folder of --data that is none, or that belongs to a run."""
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "no such folder"
        raise UsageError(f"--data {folder}: {problem}")
    real = Path(os.path.realpath(folder))
    for owner in owners(str(real)):
        if owner.is_run:
            where = "is the folder of a run" if owner.path == real else f"lies in the run {owner.path}"
            raise UsageError(f"--data {folder}: {where}, whose pictures are no photos; keep photos elsewhere")


def maker_of(path: Path) -> Path | None:
    """The folder of the run or of the outputs that an image belongs to, wherever links lead; None for a photo."""
    real = Path(os.path.realpath(path))
    for owner in owners(str(real.parent)):
        if owner.is_run or owner.has_made(real):
            return owner.path
    return None


@dataclass
class Owner:
    """A folder in which strsr works: a run's, or one of outputs, whose journal names them."""

    path: Path
    is_run: bool

    def __post_init__(self) -> None:
        self._made = {} if self.is_run else Journal(self.path, silent=True).made

    def has_made(self, path: Path) -> bool:
        """Whether the file below is an output that the journal knows, and not another that took its place."""
        records = self._made.get(PurePath(path).relative_to(self.path).as_posix(), [])
        try:
            size = path.stat().st_size if records else -1
        except OSError:
            return False
        return any(record.output.size == size for record in records)


@lru_cache(maxsize=4096)
def owners(real: str) -> tuple[Owner, ...]:
    """The folders in which strsr works among a folder, by its path without links, and those above it."""
    folder = Path(real)
    above = owners(str(folder.parent)) if folder != folder.parent else ()
    if is_run(folder):
        return (*above, Owner(folder, is_run=True))
    return (*above, Owner(folder, is_run=False)) if has_journal(folder) else above


def is_run(folder: Path) -> bool:
    """Whether a folder is one that `strsr train` or `strsr distill` works in."""
    return (folder / "checkpoints").is_dir() and any((folder / name).is_file() for name in RUN_FILES)
