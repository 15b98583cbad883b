"""What a file system may refuse and strsr does without: modes, owners, times, fsync, locks, renaming over a file.

Drives of other systems (WSL's /mnt/c, SMB, gvfs, MTP, object stores that are mounted) hold files and little else. What
only makes a file nicer is tried, and a refusal is a note under --verbose; what would lose data is raised.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:
    # Windows has locks of another kind, which its file systems all know.
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# Errors by which a file system says that it does not know a call; EIO, ENOSPC and the like are losses.
UNKNOWN = {
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EPERM,
    errno.EACCES,
    errno.EBADF,
    errno.EISDIR,
    errno.EROFS,
    errno.ENOLCK,
}


@contextlib.contextmanager
def done_without(what: str, folder: Path, *, unknown_only: bool = False) -> Iterator[None]:
    """Try something that a file system may refuse, and go on without it.

    what: the name of it in the note under --verbose. unknown_only: whether an OSError that means more than that
    the call is not known here is raised.
    """
    try:
        yield
    except OSError as error:
        if unknown_only and error.errno not in UNKNOWN:
            raise
        _note(what, str(folder), error.strerror or str(error))
    except NotImplementedError as error:
        _note(what, str(folder), str(error) or "not implemented")


@functools.lru_cache(maxsize=1024)
def _note(what: str, folder: str, reason: str) -> None:
    """Note once that a folder's disk refuses something."""
    log.debug("%s: this disk refuses %s (%s); done without", folder, what, reason)


def bring_to_disk(handle: int, folder: Path) -> None:
    """Bring an open file's data to the disk, as far as its file system knows how. Raises OSError where data is lost."""
    with done_without("fsync", folder, unknown_only=True):
        os.fsync(handle)


def give_state(path: Path, mode: int, replaced: os.stat_result | None, times: tuple[int, int] | None) -> None:
    """Give a new file its mode, the owner and group of the file that it will replace, and its times.

    mode: permission bits for a file that replaces none. replaced: the state of the regular file whose place it
    takes. times: of its last use and change, in ns. All of it is done without where the disk refuses it.
    """
    folder = path.parent
    if replaced is not None:
        mode = stat.S_IMODE(replaced.st_mode) & 0o777
        _give_owner(path, replaced)
    with done_without("modes of files (chmod)", folder):
        os.chmod(path, mode)
    if times is not None:
        with done_without("times of files (utime)", folder):
            os.utime(path, ns=times)


def _give_owner(path: Path, replaced: os.stat_result) -> None:
    """Give a file the group and, where this user may, the owner of another one."""
    if not hasattr(os, "chown"):
        return
    own = path.stat()
    if own.st_gid != replaced.st_gid:
        with done_without("groups of files (chown)", path.parent):
            os.chown(path, -1, replaced.st_gid)
    if own.st_uid != replaced.st_uid:
        with done_without("owners of files (chown)", path.parent):
            os.chown(path, replaced.st_uid, -1)


def regular_state(path: Path) -> os.stat_result | None:
    """Return the state of a regular file; None where the path is free, a link, or anything else."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    return state if stat.S_ISREG(state.st_mode) else None


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a finished file its name, in one step where the disk can. Raises OSError; `path` is then as it was.

    Where nothing is renamed over a file that exists, that file steps aside first. Where nothing is renamed at all, a
    free name gets a copy, and a name that is taken is left alone.
    """
    try:
        os.replace(temporary, path)
        return
    except OSError as error:
        if error.errno not in UNKNOWN | {errno.EEXIST, errno.EXDEV} or path.is_dir():
            raise
        refusal = error
    if os.path.lexists(path):
        _step_aside(temporary, path, refusal)
    else:
        _copy(temporary, path, refusal)


def _step_aside(temporary: Path, path: Path, refusal: OSError) -> None:
    """Rename in two steps: what has the name goes out of the way, and comes back if the second step fails."""
    aside = temporary.with_name(temporary.name + ".old")
    try:
        path.rename(aside)
    except OSError:
        # The refusal of the first try says more.
        raise refusal from None
    try:
        temporary.rename(path)
    except OSError:
        aside.rename(path)
        raise
    _note("to rename over a file", str(path.parent), refusal.strerror or str(refusal))
    with done_without("to remove a file", path.parent):
        os.unlink(aside)


def _copy(temporary: Path, path: Path, refusal: OSError) -> None:
    """Copy a finished file to a free name; what cannot be finished is removed."""
    try:
        file = open(path, "xb")  # noqa: SIM115
    except OSError:
        raise refusal from None
    try:
        with file, open(temporary, "rb") as source:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            bring_to_disk(file.fileno(), path.parent)
        with done_without("modes and times of files", path.parent):
            shutil.copystat(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    _note("to rename files", str(path.parent), refusal.strerror or str(refusal))
    with done_without("to remove a file", path.parent):
        os.unlink(temporary)


@contextlib.contextmanager
def exclusive(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file, and wait for it up to `timeout` seconds (-1: for ever); done without where a disk has no locks.

    Raises filelock.Timeout where another process keeps it.
    """
    from filelock import FileLock

    if not _knows_locks(path):
        yield
        return
    with FileLock(path, timeout=timeout):
        yield


def _knows_locks(path: Path) -> bool:
    """Whether a disk knows locks, tried on the lock's own file.

    FileLock itself would wait for ever where flock is refused, or leave files that lock out all who come later.
    """
    if fcntl is None:
        return True
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        _note("a lock file", str(path.parent), error.strerror or str(error))
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        _note("locks (flock)", str(path.parent), error.strerror or str(error))
        return False
    finally:
        os.close(handle)
    return True
