"""The Hugging Face cache, which strsr shares with other programs: what of a repository lies there.

Its layout is the documented one: models--OWNER--NAME/snapshots/COMMIT/PATH are links to blobs/HASH (files, where
the system knows no links). Nothing is imported for that, and nothing is changed there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from strsr_models.checkpoints.homes import expand_home
from strsr_models.checkpoints.published import Published
from strsr_models.errors import WeightsError

from ..system.paths import nearest_folder
from .hub import RemoteFile, choose
from .store import size_of


def cache_folder() -> Path:
    """Return the folder of the cache, by the variables by which huggingface_hub finds it.

    Raises WeightsError where it depends on a home folder that is not known.
    """
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    source = "HF_HUB_CACHE"
    if not named:
        source = "HF_HOME" if os.environ.get("HF_HOME") else "the Hugging Face cache"
        own = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        named = os.path.join(os.environ.get("HF_HOME") or os.path.join(own, "huggingface"), "hub")  # noqa: PTH118
    return expand_home(os.path.expandvars(named), source)


def known_cache_folder() -> Path | None:
    """Return the folder of the cache, None where nothing says where it is: then there is none to look into."""
    try:
        return cache_folder()
    except WeightsError:
        return None


def repository_folder(repository: str) -> Path | None:
    """Return the folder of a repository in the cache, which need not be there; None where there is no cache."""
    folder = known_cache_folder()
    return None if folder is None else folder / f"models--{repository.replace('/', '--')}"


def snapshots(repository: str) -> list[Path]:
    """Return the folders of the commits of a repository that are in the cache, the newest first."""
    folder = repository_folder(repository)
    if folder is None:
        return []
    try:
        folders = [path for path in (folder / "snapshots").iterdir() if path.is_dir()]
        return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []


def cached_copies(published: Published, file: RemoteFile) -> list[Path]:
    """Return the files of the cache that may be a file of a repository: of its size, and of its hash or its name."""
    return [path for path in places(published, file) if size_of(path) == file.size]


def places(published: Published, file: RemoteFile) -> Iterator[Path]:
    """Yield the files of the cache that bear a file's hash or name, be they whole or not."""
    folder = repository_folder(published.repository)
    if folder is None:
        return
    names = [folder / "blobs" / name for name in (file.sha256, file.git_blob) if name]
    names += [snapshot / file.path for snapshot in snapshots(published.repository)]
    for path in dict.fromkeys(name.resolve() for name in names):
        if path.is_file():
            yield path


def cached_bytes(published: Published) -> int:
    """Return the bytes of what is wanted of a repository and lies in the cache, in the commit that has most of it."""
    return max((_bytes_of(published, snapshot) for snapshot in snapshots(published.repository)), default=0)


def _bytes_of(published: Published, snapshot: Path) -> int:
    """Return the bytes of what is wanted in a snapshot; 0 where it lacks a part."""
    paths = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    try:
        wanted = choose(published, paths, text_encoder=False)
    except WeightsError:
        return 0
    return sum(size_of(snapshot / path) or 0 for path in wanted.values())


def can_link(root: Path) -> bool:
    """Whether files of the cache can have a second name below `root`, which takes no space: by trying it."""
    folder = known_cache_folder()
    if folder is None:
        return False
    source, target = nearest_folder(folder), nearest_folder(root)
    try:
        with tempfile.NamedTemporaryFile(prefix=".strsr-link-", dir=source) as file:
            second = target / f"{Path(file.name).name}-2"
            os.link(file.name, second)
            second.unlink()
    except OSError:
        return False
    return True
