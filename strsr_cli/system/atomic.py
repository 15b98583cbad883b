"""Files and folders that appear whole or not at all; what dead processes left; hashes and free space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from strsr_models.errors import StrsrError, first_line

from .processes import machine_id, started
from .refusals import bring_to_disk, done_without, give_state, put_in_place, regular_state

TEMPORARY_PREFIX = ".strsr-part-"
DAY = 86_400  # s
# Where a disk refuses names with a leading dot, these have none.
_LEFTOVER = re.compile(
    rf"\.?{re.escape(TEMPORARY_PREFIX[1:])}(?P<place>[0-9a-f]{{8}})-(?P<pid>\d+)-\w+(\.\w+)?"
)

# Names of the temporary files that this process is writing.
_unfinished: set[str] = set()


@contextlib.contextmanager
def whole_file(
    path: Path, before: Callable[[Path], None] | None = None, times: tuple[int, int] | None = None
) -> Iterator[IO[bytes]]:
    """Yield a binary file to write and read, which takes the place of `path` on success and vanishes otherwise.

    It lies in the same folder, so that the last step is one atomic rename; its data is on the disk before the
    rename. A regular file that it replaces leaves it mode, owner and group; a link is replaced itself, and what
    it leads to stays as it is. before: called with the finished temporary file just before the rename. times: of its
    last use and change, in ns; None: now. What the disk does not know of all this is done without. Raises OSError.
    """
    handle, name = _temporary_file(path)
    _unfinished.add(name)
    try:
        os.close(handle)
        # Opened by its name, since tifffile asks the file for it.
        with open(name, "w+b") as file:
            yield file
            file.flush()
            bring_to_disk(file.fileno(), path.parent)
        # mkstemp makes files that only the owner can read.
        give_state(Path(name), 0o666 & ~_UMASK, regular_state(path), times)
        if before is not None:
            before(Path(name))
        put_in_place(Path(name), path)
    except BaseException:
        # The reason why it is not finished says more than an error here.
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    finally:
        _unfinished.discard(name)


def _temporary_file(path: Path) -> tuple[int, str]:
    """Make an empty file beside `path`; return its handle and its name. Raises OSError."""
    prefix = f"{TEMPORARY_PREFIX}{machine_id()}-{os.getpid()}-"
    suffix = path.suffix if re.fullmatch(r"\.\w{1,8}", path.suffix) else ""
    try:
        return tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
    except OSError as refusal:
        # Some servers refuse names with a leading dot.
        try:
            return tempfile.mkstemp(prefix=prefix.removeprefix("."), suffix=suffix, dir=path.parent)
        except OSError:
            raise refusal from None


def try_writing(folder: Path) -> None:
    """Make a file in a folder as outputs are made there, and remove it. Raises OSError where none can be made."""
    handle, name = _temporary_file(folder / "output")
    os.close(handle)
    with contextlib.suppress(OSError):
        os.unlink(name)


def is_unfinished(name: str) -> bool:
    """Whether a file's name is that of an output that is not finished."""
    return _LEFTOVER.fullmatch(name) is not None


@contextlib.contextmanager
def passing_file() -> Iterator[IO[bytes]]:
    """Yield a binary file in the system's temporary folder, for bytes on their way into a pipe or a store.

    It may be read by its name, and is gone at the end. Raises OSError.
    """
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX)
    _unfinished.add(name)
    try:
        os.close(handle)
        with open(name, "w+b") as file:
            yield file
    finally:
        _unfinished.discard(name)
        os.unlink(name)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Read at the start, because to read it is to change it for a moment, under other threads' feet.
_UMASK = _read_umask()


def drop_unfinished() -> None:
    """Remove the temporary files that threads of this process are writing, in its last moments."""
    for name in list(_unfinished):
        with contextlib.suppress(OSError):
            os.unlink(name)


def sweep(folders: Iterable[Path]) -> int:
    """Remove what dead processes have left unfinished in some folders; return how many files and folders.

    A process of another machine counts as dead when its file has not grown for a day.
    """
    swept = 0
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                match = _LEFTOVER.fullmatch(entry.name)
                with contextlib.suppress(OSError):
                    if match and _is_left(entry, match["place"], int(match["pid"])):
                        if entry.is_dir(follow_symlinks=False):
                            shutil.rmtree(entry)
                        else:
                            os.unlink(entry)
                        swept += 1
    return swept


def _is_left(entry: os.DirEntry[str], where: str, pid: int) -> bool:
    """Whether the process that was writing a temporary file, on the machine `where`, is dead."""
    written = entry.stat(follow_symlinks=False).st_mtime
    if where != machine_id():
        return time.time() - written > DAY
    began = started(pid)
    # A process that began after the last write has only inherited the number.
    return began is None or began > written + 2


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def free_space(path: Path) -> int | None:
    """Return the bytes free on the disk that holds `path` or would hold it; None where the disk does not say."""
    with done_without("to say how much is free", path):
        while not path.exists() and path != path.parent:
            path = path.parent
        usage = shutil.disk_usage(path)
        # Drives of other systems may call themselves empty of all, which means that they do not know.
        if usage.total > 0:
            return usage.free
    return None


@contextlib.contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Turn an OSError raised inside into a StrsrError that says that `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error, advice) from error


def whole_folder(target: Path, write: Callable[[Path], None], advice: str = "") -> None:
    """Put a folder in the place of `target` once `write(folder)` has filled it and it is on the disk.

    Raises StrsrError, and leaves `target` as it was, when the disk does not take it. Everything beside it
    has a private name and is made here, so that nobody's folder is ever removed.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        private = _temporary_folder(target.parent)
    except OSError as error:
        raise cannot_write(target, error, advice) from error
    fresh, old = private / "new", private / "old"
    try:
        fresh.mkdir()
        write(fresh)
        sync_folder(fresh)
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        sync(target.parent)
    except Exception as error:
        # Any error counts: torch and safetensors have errors of their own for a full disk.
        raise cannot_write(target, error, advice) from error
    finally:
        shutil.rmtree(private, ignore_errors=True)


def fill_folder(target: Path, write: Callable[[Path], None], last: str = "") -> None:
    """Put the files that `write(folder)` makes into an empty folder, which stays the one it is, `last` behind the others.

    It may be a mount or somebody's working folder, which cannot be replaced. Raises StrsrError when the disk does not
    take them; then none is there.
    """
    moved: list[Path] = []
    try:
        private = _temporary_folder(target)
    except OSError as error:
        raise cannot_write(target, error, "") from error
    try:
        write(private)
        sync_folder(private)
        for path in sorted(private.iterdir(), key=lambda path: (path.name == last, path.name)):
            moved.append(path.rename(target / path.name))
        sync(target)
    except Exception as error:
        for path in moved:
            with contextlib.suppress(OSError):
                path.unlink()
        raise cannot_write(target, error, "") from error
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _temporary_folder(parent: Path) -> Path:
    """Make an empty folder of a private name. Raises OSError."""
    prefix = f"{TEMPORARY_PREFIX}{machine_id()}-{os.getpid()}-"
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as refusal:
        try:
            return Path(tempfile.mkdtemp(prefix=prefix.removeprefix("."), dir=parent))
        except OSError:
            raise refusal from None


def cannot_write(target: Path, error: Exception, advice: str) -> StrsrError:
    """Return the error for a person whose disk did not take something."""
    if isinstance(error, StrsrError):
        return error
    may_be_full = getattr(error, "errno", None) in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    question = "; is the disk full?" if may_be_full else ";"
    message = f"{target}: cannot be written ({first_line(error)}){question} {advice}"
    return StrsrError(message.rstrip(" ;"))


def sync_folder(folder: Path) -> None:
    """Bring a folder and all below it to the disk. Raises OSError."""
    for path in (folder, *folder.rglob("*")):
        sync(path)


def sync(path: Path) -> None:
    """Bring a file, or the list of names in a folder, to the disk, as far as it knows how. Raises OSError."""
    with done_without("to open what is to be synced", path.parent, unknown_only=True):
        handle = os.open(path, os.O_RDONLY)
        try:
            bring_to_disk(handle, path.parent)
        finally:
            os.close(handle)
