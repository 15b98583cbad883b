"""The models folder as files: what is there and whole, the record of a pull, and checks against it.

A pull gathers files in a hidden folder beside and moves them in when it has them all; its record,
RECORD in the folder, is written last. Knows no network (hub.py) and no network of neurons.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from strsr_models.checkpoints.published import Published
from strsr_models.errors import WeightsError

from ..system.atomic import free_space, sha256_of, whole_file
from ..system.console import size_text
from ..system.refusals import put_in_place

RECORD = "strsr-pull.json"
SPARE = 100_000_000  # bytes that a pull leaves free on the disk
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth")


@dataclass(frozen=True)
class FileRecord:
    """One file as it was pulled: its size in bytes and its hash."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """The record of what a pull has brought into a folder."""

    repository: str
    revision: str  # a commit
    files: dict[str, FileRecord]  # by path in the folder
    pulled: str = ""  # date


@dataclass(frozen=True)
class State:
    """The state of a folder, as far as it is known without reading the weights.

    word: "pulled" (whole, with a record), "unrecorded" (whole as far as can be seen; put there by
    hand), "incomplete" or "absent".
    """

    word: str
    missing: tuple[str, ...]  # parts or files
    size: int  # bytes on disk
    revision: str = ""

    @property
    def usable(self) -> bool:
        """Whether a model can be loaded from the folder."""
        return self.word in ("pulled", "unrecorded")


def staging(root: Path, published: Published) -> Path:
    """Return the folder where a pull gathers its files: on the same disk, out of the loader's sight."""
    return root / f".{published.folder}.pull"


def state_of(root: Path, published: Published) -> State:
    """Return the state of one folder of a models folder."""
    folder = root / published.folder
    missing = missing_parts(folder, published)
    if not folder.is_dir():
        word = "incomplete" if staging(root, published).is_dir() else "absent"
        return State(word, missing, folder_size(staging(root, published)))
    size = folder_size(folder)
    try:
        record = read_record(folder)
    except WeightsError:
        return State("incomplete", (RECORD,), size)
    if record is None:
        if not any(folder.iterdir()):
            return State("absent", missing, size)
        return State("incomplete" if missing else "unrecorded", missing, size)
    broken = [name for name, entry in record.files.items() if size_of(folder / name) != entry.size]
    missing = tuple(dict.fromkeys([*missing, *broken]))
    return State("incomplete" if missing else "pulled", missing, size, record.revision)


def missing_parts(folder: Path, published: Published) -> tuple[str, ...]:
    """Return the missing parts, or files of them, that a model cannot be loaded without."""
    missing: list[str] = []
    for part in published.parts:
        if Path(part).suffix in WEIGHT_SUFFIXES:
            if not (folder / part).is_file():
                missing.append(part)
        elif not (folder / part).is_dir():
            missing.append(part)
        else:
            lacking = missing_of_model(folder / part)
            missing += [name if part == "." else f"{part}/{name}" for name in lacking]
    if published.one_of and not any((folder / name).is_file() for name in published.one_of):
        missing.append(published.one_of[0])
    return tuple(missing)


def missing_of_model(folder: Path) -> list[str]:
    """Return what a transformers or diffusers model's folder lacks: config.json, weights, or shards its index names."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if not indices:
        if not any(folder.glob("*.safetensors")):
            missing.append("*.safetensors")
        return missing
    try:
        shards = set(json.loads(indices[0].read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [*missing, indices[0].name]
    return missing + sorted(str(shard) for shard in shards if not (folder / str(shard)).is_file())


def size_of(path: Path) -> int | None:
    """Return the bytes of a file, None where there is none."""
    return path.stat().st_size if path.is_file() else None


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_room(folder: Path, needed: int, otherwise: str) -> None:
    """Raise WeightsError unless so many bytes fit on a folder's disk. otherwise: what helps but making room."""
    free = free_space(folder)
    if free is not None and needed and needed + SPARE > free:
        raise WeightsError(
            f"{folder}: {size_text(needed)} to fetch, {size_text(free)} free on its disk; make room, or {otherwise}"
        )


def read_record(folder: Path) -> Record | None:
    """Return the record of a pull, None where there is none. Raises WeightsError for one that is damaged."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        files = {str(name): FileRecord(**entry) for name, entry in data.pop("files").items()}
        return Record(files=files, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not the record of a pull ({error}); delete it and pull again") from error


def settle(root: Path, published: Published, record: Record) -> None:
    """Move what a pull has gathered to its place; the record comes last. Raises OSError."""
    source, folder = staging(root, published), root / published.folder
    if folder.exists():
        # Files of an earlier pull are replaced: until the last of them is there, nothing vouches for them.
        (folder / RECORD).unlink(missing_ok=True)
        for name in record.files:
            if (source / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                put_in_place(source / name, folder / name)
        write_record(folder, record)
        shutil.rmtree(source, ignore_errors=True)
    else:
        for path in source.rglob("*"):
            if path.is_file() and path.relative_to(source).as_posix() not in record.files:
                # It was begun from another revision.
                path.unlink()
        write_record(source, record)
        os.replace(source, folder)


def write_record(folder: Path, record: Record) -> None:
    """Write a record to the file RECORD of a folder, whole or not at all."""
    data = {**asdict(record), "pulled": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    with whole_file(folder / RECORD) as file:
        file.write(json.dumps(data, indent=2).encode() + b"\n")


def verify(folder: Path, record: Record) -> Iterator[tuple[str, str]]:
    """Yield (file, what is wrong with it or "") for every file of a record; all of them are read."""
    for name, entry in record.files.items():
        size = size_of(folder / name)
        if size is None:
            yield name, "missing"
        elif size < entry.size:
            yield name, f"truncated: {size} of {entry.size} bytes"
        elif size > entry.size:
            yield name, f"too long: {size} bytes, expected {entry.size}"
        else:
            yield name, "" if sha256_of(folder / name) == entry.sha256 else "changed: its sha256 is another"


def strangers(folder: Path, record: Record) -> list[str]:
    """Return the files of a folder that no pull has brought; hidden ones do not count."""
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    known = {*record.files, RECORD}
    return [
        name.as_posix()
        for name in names
        if name.as_posix() not in known and not any(part.startswith(".") for part in name.parts)
    ]


def git_blob_of(path: Path) -> str:
    """Return the name that git gives a file's content, by which the hub vouches for its small files."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
