from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from strsr_cli.batch import locks as module
from strsr_cli.batch.locks import FOLDER, OutputLocks
from strsr_cli.system.processes import machine_id, started
from strsr_models.errors import UsageError

from ..helpers.refusing import refuse


def owned(root: Path, **changes: object) -> Path:
    """A claim on `a.png` by somebody else."""
    first = OutputLocks(root)
    assert first.take("a.png")
    path = first.session
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.01)
    assert holds()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("changes", [{"pid": -5}, {"pid": 10**30}, {"started": "Infinity"}])
def test_a_lock_of_an_impossible_process_is_nobodys(tmp_path: Path, changes: dict) -> None:
    owned(tmp_path, **changes)
    assert OutputLocks(tmp_path).take("a.png")


def test_one_output_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first, second = OutputLocks(tmp_path), OutputLocks(tmp_path)
    assert first.take("a.png")
    assert not second.take("a.png")
    assert second.take("sub/\udcff\n.png")
    second.release("a.png")  # not his
    assert not second.take("a.png")
    first.release("a.png")
    assert second.take("a.png")
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_process_owns_nothing(tmp_path: Path) -> None:
    owned(tmp_path, pid=dead_pid())
    assert OutputLocks(tmp_path).take("a.png")


def test_the_last_process_takes_away_what_dead_ones_left(tmp_path: Path) -> None:
    owned(tmp_path, pid=dead_pid())
    other = OutputLocks(tmp_path)
    assert other.take("b.png")
    OutputLocks(tmp_path).close()
    assert len(list((tmp_path / FOLDER).glob("[0-9a-f]*"))) == 1
    assert len(list((tmp_path / FOLDER).glob("run-*"))) == 1
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_got_a_dead_ones_number_is_another(tmp_path: Path) -> None:
    owned(tmp_path, started=(started(os.getpid()) or 0) - 1000)
    assert OutputLocks(tmp_path).take("a.png")


def test_a_lock_of_another_machine_ends_with_its_heartbeat(tmp_path: Path) -> None:
    path = owned(tmp_path, place="elsewhere")
    assert not OutputLocks(tmp_path).take("a.png")
    os.utime(path, (0, path.stat().st_mtime - module.STALE - 1))
    assert OutputLocks(tmp_path).take("a.png")


def test_a_damaged_lock_stands_until_it_is_old(tmp_path: Path) -> None:
    session = owned(tmp_path)
    (claim,) = (tmp_path / FOLDER).glob("[0-9a-f]*")
    for path, text in ((session, ""), (session, session.name), (claim, ""), (claim, "{}")):
        before = path.read_text()
        path.write_text(text)
        assert not OutputLocks(tmp_path).take("a.png")
        os.utime(path, (0, path.stat().st_mtime - module.STALE - 1))
        assert OutputLocks(tmp_path).is_free("a.png")
        path.write_text(before)
    os.utime(session, (0, session.stat().st_mtime - module.STALE - 1))
    assert not OutputLocks(tmp_path).take("a.png")


def test_a_lock_is_renewed_by_its_heartbeat(tmp_path: Path) -> None:
    locks = OutputLocks(tmp_path, heartbeat=0.01)
    locks.take("a.png")
    path = locks.session
    os.utime(path, (0, 0))
    wait_until(lambda: path.stat().st_mtime > 0)
    # Another process has taken it for dead.
    path.unlink()
    wait_until(lambda: path.exists() and bool(path.read_text()))
    assert not OutputLocks(tmp_path).is_free("a.png")
    locks.close()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_taken_over_stays_the_others(tmp_path: Path) -> None:
    session = owned(tmp_path, place="elsewhere")
    first, second = OutputLocks(tmp_path, driver=session.name), OutputLocks(tmp_path)
    assert first.holds("a.png")
    assert not second.take("a.png")
    os.utime(session, (0, 0))
    assert second.take("a.png")
    assert second.take("a.png")
    assert not first.holds("a.png")
    assert second.holds("a.png")
    second.release("a.png")
    # It is nobody's now, and the one that lost it does not get it back unasked.
    assert not first.holds("a.png")


def test_the_loser_of_a_lock_does_not_give_it_back(tmp_path: Path) -> None:
    first, second = OutputLocks(tmp_path), OutputLocks(tmp_path)
    assert first.take("a.png")
    assert first.take("b.png")
    for path in (tmp_path / FOLDER).glob("[0-9a-f]*"):
        path.unlink()
    assert second.take("a.png")
    assert second.take("b.png")
    assert not first.take("a.png")
    first.release("a.png")
    first.close()
    assert second.holds("a.png")
    assert second.holds("b.png")
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_driver_claims_for_its_workers(tmp_path: Path) -> None:
    driver = OutputLocks(tmp_path)
    driver.enter("a")
    names = [f"{number}.png" for number in range(64)]
    assert all(map(driver.take, names))
    worker = OutputLocks(tmp_path, driver=driver.session.name)
    assert worker.take("0.png")
    assert not worker.take("others.png")
    worker.release("0.png")
    worker.close()
    assert not any(map(OutputLocks(tmp_path).is_free, names))
    driver.release("0.png")
    assert not worker.holds("0.png")
    driver.close()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_the_earlier_form_is_known(tmp_path: Path) -> None:
    locks = OutputLocks(tmp_path)
    assert locks.take("a.png")
    (path,) = (tmp_path / FOLDER).glob("[0-9a-f]*")
    pid = os.getpid()
    owner = {"place": machine_id(), "pid": pid, "started": started(pid), "output_name": "a.png"}
    path.write_text(json.dumps(owner))
    assert not OutputLocks(tmp_path).take("a.png")
    path.write_text(json.dumps({**owner, "pid": dead_pid()}))
    assert OutputLocks(tmp_path).take("a.png")


def test_a_lock_that_cannot_be_made_is_left_to_the_writer(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where a folder should be")
    assert OutputLocks(tmp_path).take("a.png")


def run_of(root: Path, settings: str, **changes: object) -> Path:
    """The file of a run that is under way, by this process or, with changes, by another."""
    OutputLocks(root).enter(settings)
    path = max((root / FOLDER).glob("run-*"), key=lambda path: path.stat().st_mtime_ns)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_a_run_of_other_settings_does_not_begin(tmp_path: Path) -> None:
    first, same, other = OutputLocks(tmp_path), OutputLocks(tmp_path), OutputLocks(tmp_path)
    first.enter("a")
    same.enter("a")
    with pytest.raises(UsageError, match=f"process {os.getpid()} makes outputs there with other settings"):
        other.enter("b")
    other.close()
    first.close()
    # One of the first settings is still at work.
    with pytest.raises(UsageError, match="other settings"):
        OutputLocks(tmp_path).enter("b")
    same.close()
    for path in (tmp_path / FOLDER).glob("run-*"):
        path.unlink()
    last = OutputLocks(tmp_path)
    last.enter("b")
    last.close()
    assert list(tmp_path.iterdir()) == []


def test_a_dead_run_keeps_no_other_settings_out(tmp_path: Path) -> None:
    run_of(tmp_path, "a", pid=dead_pid())
    locks = OutputLocks(tmp_path)
    locks.enter("b")
    locks.close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_another_machine_ends_with_its_heartbeat(tmp_path: Path) -> None:
    path = run_of(tmp_path, "a", place="elsewhere")
    with pytest.raises(UsageError, match="of another machine"):
        OutputLocks(tmp_path).enter("b")
    for other in (tmp_path / FOLDER).glob("run-*"):
        if other != path:
            other.unlink()
    os.utime(path, (0, path.stat().st_mtime - module.STALE - 1))
    OutputLocks(tmp_path).enter("b")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_locks_do_without_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refuse(monkeypatch, "flock", number, module=fcntl)
    owned(tmp_path, pid=dead_pid())
    locks = OutputLocks(tmp_path)
    locks.enter("a")
    assert locks.take("a.png")
    with pytest.raises(UsageError):
        OutputLocks(tmp_path).enter("b")


def test_a_folder_that_takes_no_locks_has_no_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "open", errno.EPERM, lambda path, *more, **named: FOLDER in str(path))
    OutputLocks(tmp_path).enter("a")
    OutputLocks(tmp_path).enter("b")
    assert OutputLocks(tmp_path).take("a.png")


def test_a_lock_is_renewed_where_times_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = owned(tmp_path)
    os.utime(path, (0, 0))
    refuse(monkeypatch, "utime", errno.EPERM)
    before = path.read_bytes()
    module._touch(path)
    assert path.stat().st_mtime > 0
    assert path.read_bytes() == before


def test_a_lock_without_a_heart_is_still_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    first = OutputLocks(tmp_path)
    assert first.take("a.png")
    assert not OutputLocks(tmp_path).take("a.png")


def test_the_machine_id_is_the_same_for_all_its_processes() -> None:
    code = "from strsr_cli.system.processes import machine_id; print(machine_id())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == machine_id()
