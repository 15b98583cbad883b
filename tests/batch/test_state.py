"""What the loop relies on when several images are under way at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from strsr_cli.batch.job import Job
from strsr_cli.batch.journal_files import JOURNAL
from strsr_cli.batch.locks import FOLDER
from strsr_cli.batch.report import Reporter
from strsr_cli.batch.state import BatchState, TakenOver
from strsr_cli.system.atomic import whole_file


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number}.png").write_text(f"input {number}")
    return [Job(tmp_path / "in" / f"{n}.png", tmp_path / "out" / f"{n}.png", "png") for n in range(30)]


@contextlib.contextmanager
def held(state: BatchState, job: Job) -> Iterator[bool]:
    """Take a job for a while; False when it is left to others."""
    mine = state.take(job)
    try:
        yield mine
    finally:
        if mine:
            state.release(job)


def make(state: BatchState, job: Job) -> bool:
    with held(state, job) as mine:
        if mine and job.source is not None and job.target is not None:
            with whole_file(job.target, state.recorder(job)) as file:
                file.write(job.source.read_bytes() * 2)
        return mine


def test_threads_of_two_runs_make_each_image_once(jobs: list[Job], tmp_path: Path) -> None:
    states = [BatchState(tmp_path / "out", weights="w", reporter=Reporter(quiet=True)) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        both = [pool.submit(make, state, job) for job in jobs for state in states]
    # Those of one process know each other's claims as another process would.
    assert sum(future.result() for future in both) == len(jobs)
    # The last one first: each gives back the loggers' levels that it found.
    for state in reversed(states):
        assert state.reporter is not None
        state.reporter.close()
        state.close()
    assert not (tmp_path / "out" / FOLDER).exists()
    third = BatchState(tmp_path / "out", weights="w")
    assert {third.settled(job) for job in jobs} == {"done before"}
    assert {BatchState(tmp_path / "out", weights="v").settled(job) for job in jobs} == {None}


def test_a_file_is_ours_even_if_we_die_before_it_has_its_name(jobs: list[Job], tmp_path: Path) -> None:
    job, out = jobs[0], tmp_path / "out"
    make(BatchState(out, settings=lambda job: "old"), job)
    state = BatchState(out, settings=lambda job: "new")
    assert state.settled(job) is None

    def die() -> None:
        with held(state, job), whole_file(out / "0.png", state.recorder(job)) as file:
            file.write(b"other bytes")
            file.close()  # what follows fails, between the record and the new name or before it

    with pytest.raises(ValueError, match="closed"):
        die()
    record = state.recorder(job)
    state.take(job)
    assert record is not None
    (tmp_path / "made").write_bytes(b"other bytes")
    record(tmp_path / "made")  # written down, and then no rename
    assert BatchState(out, settings=lambda job: "new").settled(job) is None
    assert BatchState(out, settings=lambda job: "old").settled(job) == "done before"
    (tmp_path / "made").replace(out / "0.png")
    assert BatchState(out, settings=lambda job: "new").settled(job) == "done before"


def test_what_another_run_makes_anew_is_not_made_again(jobs: list[Job], tmp_path: Path) -> None:
    for settings in ("first", "second"):
        make(BatchState(tmp_path / "out", settings=lambda job, own=settings: own), jobs[0])
    states = [BatchState(tmp_path / "out", settings=lambda job: "third") for _ in range(2)]
    assert [state.settled(jobs[0]) for state in states] == [None, None]
    # Of each output two records are kept, before and after.
    assert [make(state, jobs[0]) for state in states] == [True, False]
    assert BatchState(tmp_path / "out", settings=lambda job: "fourth").settled(jobs[0]) is None


# Makes an output of a text, and dies between its line in the journal and its name.
KILLED = """
import os, signal, sys
from pathlib import Path
from strsr_cli.batch.job import Job
from strsr_cli.batch.state import BatchState
from strsr_cli.system.atomic import whole_file
root, text, overwrite = Path(sys.argv[1]), sys.argv[2], bool(sys.argv[3:])
job = Job(root / "in" / "0.png", root / "out" / "0.png", "png")
state = BatchState(root / "out", settings=lambda job: text, overwrite=overwrite)
assert state.settled(job) is None
assert state.take(job)
os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
with whole_file(job.target, state.recorder(job)) as file:
    file.write(text.encode())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL here")
@pytest.mark.parametrize("more", [[], ["overwrite"]])
def test_kills_before_the_new_name_leave_the_old_file_ours(
    jobs: list[Job], tmp_path: Path, more: list[str]
) -> None:
    job, out = jobs[0], tmp_path / "out"
    make(BatchState(out, settings=lambda job: "first"), job)
    before = (out / "0.png").read_bytes()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for settings in ("second", "third", "fourth"):
        command = [sys.executable, "-c", KILLED, str(tmp_path), settings, *more]
        assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
        assert (out / "0.png").read_bytes() == before
        assert settings in "".join(path.read_text() for path in (out / JOURNAL).iterdir())
    # It is known as done with its own settings, and is replaced under others.
    assert BatchState(out, settings=lambda job: "first").settled(job) == "done before"
    last = BatchState(out, settings=lambda job: "fifth")
    assert last.settled(job) is None
    assert make(last, job)
    assert BatchState(out, settings=lambda job: "fifth").settled(job) == "done before"


def test_an_input_that_changes_under_way_is_made_again(jobs: list[Job], tmp_path: Path) -> None:
    job, state = jobs[0], BatchState(tmp_path / "out")
    assert job.source is not None
    with held(state, job), whole_file(tmp_path / "out" / "0.png", state.recorder(job)) as file:
        job.source.write_text("changed while it was read")
        file.write(b"output")
    assert BatchState(tmp_path / "out").settled(job) is None


# Another machine, which begins an output, says so, and finishes it when it is told to.
HOLDER = """
import sys
from pathlib import Path
from strsr_cli.batch import locks, state
from strsr_cli.batch.job import Job
from strsr_cli.system.atomic import whole_file
locks.machine_id = lambda: "elsewhere"
out, source = Path(sys.argv[1]), Path(sys.argv[2])
job = Job(source, out / "0.png", "png")
mine = state.BatchState(out)
assert mine.take(job)
try:
    with whole_file(job.target, mine.recorder(job)) as file:
        file.write(b"late")
        print("begun", flush=True)
        sys.stdin.readline()
    print("renamed")
except state.TakenOver:
    print("taken over")
mine.release(job)
mine.close()
"""


def test_a_suspended_process_does_not_replace_the_new_output(jobs: list[Job], tmp_path: Path) -> None:
    out, job = tmp_path / "out", jobs[0]
    command = [sys.executable, "-c", HOLDER, str(out), str(job.source)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "begun\n"
    state = BatchState(out)
    assert not state.take(job)
    holder.send_signal(signal.SIGSTOP)
    (session,) = (path for path in (out / FOLDER).glob("run-*") if path.name != state.session)
    os.utime(session, (0, 0))
    with held(state, job) as mine, whole_file(out / "0.png", state.recorder(job)) as file:
        assert mine
        file.write(b"of the new owner")
        holder.send_signal(signal.SIGCONT)
        said, _ = holder.communicate("go on\n", timeout=60)
    assert (said, holder.returncode) == ("taken over\n", 0)
    state.close()
    assert sorted(path.name for path in out.iterdir()) == [JOURNAL, "0.png"]
    assert (out / "0.png").read_bytes() == b"of the new owner"
    assert BatchState(out).settled(job) == "done before"


def test_a_worker_makes_what_its_driver_has_claimed(jobs: list[Job], tmp_path: Path) -> None:
    out = tmp_path / "out"
    driver = BatchState(out)
    driver.enter("settings")
    assert all(driver.claim(job) for job in jobs[:20])
    worker = BatchState(out, driver=driver.session)
    assert [make(worker, job) for job in jobs[:10]] == [True] * 10
    # What the driver has not claimed, or not any more, is not the worker's.
    assert not worker.take(jobs[20])
    assert worker.take(jobs[10])
    driver.release(jobs[10])
    with pytest.raises(TakenOver), whole_file(out / "10.png", worker.recorder(jobs[10])) as file:
        file.write(b"late")
    worker.close()
    assert not BatchState(out).claim(jobs[0])
    driver.close()
    assert len(list(out.glob("*.png"))) == 10


def test_workers_of_a_driver_without_claims_ask_nobody(jobs: list[Job], tmp_path: Path) -> None:
    (tmp_path / "out" / FOLDER).write_text("a file where a folder should be")
    driver = BatchState(tmp_path / "out")
    driver.enter("settings")
    assert driver.claim(jobs[0])
    assert make(BatchState(tmp_path / "out", driver=driver.session), jobs[0])


def test_what_others_have_left_is_neither_done_nor_claimed(jobs: list[Job], tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(BatchState(out), jobs[0])
    state, other = BatchState(out), BatchState(out)
    state.enter("settings")
    make(other, jobs[1])
    assert other.take(jobs[2])
    assert other.settled(jobs[3]) is None
    other.failed(jobs[3].name, "reason")
    (out / "4.png").write_bytes(b"somebody's")
    left = state.left_over(jobs)
    assert left == jobs[5:]
    assert BatchState(out).left_over(jobs) == BatchState(out, remember=False).left_over(jobs) == []
    # One fails after that at what both have seen.
    assert other.settled(jobs[5]) is None
    assert other.take(jobs[5])
    other.failed(jobs[5].name, "reason")
    other.release(jobs[5])
    assert not state.take(jobs[5])
    assert state.take(jobs[6])


def test_state_without_a_folder_keeps_nothing(jobs: list[Job], tmp_path: Path) -> None:
    state = BatchState()
    assert make(state, jobs[0])
    assert state.settled(jobs[0]) is not None
    assert state.settled(jobs[1]) is None
    state.failed(jobs[1].name, "reason")
    assert not (tmp_path / "out" / JOURNAL).exists()
