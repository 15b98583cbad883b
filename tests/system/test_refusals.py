"""Disks that know little: what is best effort is done without, what is essential is one error, and nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock, Timeout

from strsr_cli.system.atomic import TEMPORARY_PREFIX, free_space, sweep, sync, whole_file, whole_folder
from strsr_cli.system.refusals import exclusive
from strsr_models.errors import StrsrError

from ..helpers.refusing import refuse

ROOT = os.geteuid() == 0
UNKNOWN = [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM]


def write(path: Path, data: bytes, times: tuple[int, int] | None = None) -> None:
    with whole_file(path, times=times) as file:
        file.write(data)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", UNKNOWN)
@pytest.mark.parametrize("call", ["chmod", "utime", "fsync", "chown"])
def test_a_call_that_a_disk_does_not_know_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str, number: int
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    if ROOT:
        os.chown(path, 65534, 65534)
    refuse(monkeypatch, call, number)
    with caplog.at_level(logging.DEBUG):
        write(path, b"new", times=(10**18, 10**18))
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png"]
    if call != "chown" or ROOT:
        assert f"{tmp_path}: this disk refuses" in caplog.text


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_an_fsync_that_loses_data_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    refuse(monkeypatch, "fsync", number)
    with pytest.raises(OSError, match=os.strerror(number)):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("number", [*UNKNOWN, errno.EEXIST, errno.EACCES])
def test_a_file_is_replaced_where_nothing_is_renamed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    refuse(monkeypatch, "replace", number)
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png"]


def test_an_old_file_comes_back_if_the_new_one_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    refuse(monkeypatch, "replace", errno.EEXIST)
    refuse(
        monkeypatch,
        "rename",
        errno.EIO,
        lambda source, target: Path(target) == path and ".old" not in str(source),
    )
    with pytest.raises(OSError, match="Input/output"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.png"]


def test_a_disk_without_renaming_gets_copies_under_free_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "replace", errno.ENOSYS)
    refuse(monkeypatch, "rename", errno.ENOSYS)
    path = tmp_path / "a.png"
    write(path, b"new", times=(10**18, 10**18))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (b"new", 10**18)
    # What has the name is not written over, for a disk that fills up would cost both.
    with pytest.raises(OSError, match="not implemented"):
        write(path, b"newer")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png"]


def test_a_copy_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "replace", errno.ENOSYS)
    refuse(monkeypatch, "copyfileobj", errno.ENOSPC, module=shutil)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a.png", b"new")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.EACCES])
def test_a_disk_that_refuses_hidden_names_gets_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def hidden(path: object, *more: object, **named: object) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).name.startswith(".strsr-part-")

    refuse(monkeypatch, "open", number, hidden)
    refuse(monkeypatch, "mkdir", number, hidden)
    with whole_file(tmp_path / "a.png") as file:
        file.write(b"new")
        (name,) = names(tmp_path)
        assert name.startswith("strsr-part-")
    whole_folder(tmp_path / "model", lambda folder: (folder / "w").write_bytes(b"w") and None)
    assert names(tmp_path) == ["a.png", "model"]


def test_leftovers_without_a_dot_are_swept_like_others(tmp_path: Path) -> None:
    place, dead = "0" * 8, 10**9
    for prefix in (TEMPORARY_PREFIX, TEMPORARY_PREFIX.removeprefix(".")):
        path = tmp_path / f"{prefix}{place}-{dead}-abc.png"
        path.touch()
        os.utime(path, (0, 0))
    (tmp_path / "strsr-part-of-my-work.png").touch()
    assert sweep([tmp_path]) == 2
    assert names(tmp_path) == ["strsr-part-of-my-work.png"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES, errno.EISDIR])
def test_a_folder_that_is_not_synced_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(monkeypatch, "open", number, lambda path, *more, **named: path == tmp_path)
    sync(tmp_path)
    whole_folder(tmp_path / "model", lambda folder: (folder / "w").write_bytes(b"w") and None)
    assert (tmp_path / "model" / "w").read_bytes() == b"w"
    refuse(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(StrsrError, match="cannot be written"):
        whole_folder(tmp_path / "model", lambda folder: (folder / "w").write_bytes(b"x") and None)
    assert (tmp_path / "model" / "w").read_bytes() == b"w"


# --- locks and space -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL])
def test_a_disk_without_locks_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(monkeypatch, "flock", number, module=fcntl)
    with exclusive(tmp_path / "lock"), exclusive(tmp_path / "lock", timeout=0):
        pass


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"), pytest.raises(Timeout), exclusive(tmp_path / "lock", timeout=0):
        pass
    with exclusive(tmp_path / "lock", timeout=0):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOVERFLOW, errno.EACCES])
def test_a_disk_that_hides_its_space_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    assert (free_space(tmp_path / "not" / "there") or 0) > 0
    refuse(monkeypatch, "disk_usage", number, module=shutil)
    assert free_space(tmp_path) is None


def test_a_disk_of_no_size_does_not_know_its_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=0, used=0, free=0))
    assert free_space(tmp_path) is None


# --- what a file that is replaced leaves ------------------------------------------------------------


def test_a_replaced_file_leaves_its_mode(tmp_path: Path) -> None:
    path, fresh = tmp_path / "a.png", tmp_path / "b.png"
    path.touch()
    path.chmod(0o640)
    umask = os.umask(0o022)
    os.umask(umask)
    write(path, b"new")
    write(fresh, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o666 & ~umask


@pytest.mark.skipif(not ROOT, reason="only root may give files away")
def test_a_replaced_file_leaves_its_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    os.chown(path, 12345, 23456)
    path.chmod(0o600)
    write(path, b"new")
    state = path.stat()
    assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (12345, 23456, 0o600)


def test_a_link_is_replaced_and_its_file_stays(tmp_path: Path) -> None:
    other, link, twin = tmp_path / "other.png", tmp_path / "link.png", tmp_path / "twin.png"
    other.write_bytes(b"old")
    other.chmod(0o600)
    link.symlink_to(other)
    os.link(other, twin)
    write(link, b"new")
    assert not link.is_symlink()
    assert stat.S_IMODE(link.stat().st_mode) != 0o777
    write(twin, b"new")
    assert (link.read_bytes(), twin.read_bytes(), other.read_bytes()) == (b"new", b"new", b"old")
