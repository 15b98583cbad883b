"""What the loop relies on when several images are under way at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from strsr_cli.batch.job import Job
from strsr_cli.batch.journal import JOURNAL
from strsr_cli.batch.locks import FOLDER
from strsr_cli.batch.report import Reporter
from strsr_cli.batch.state import BatchState
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


def test_an_input_that_changes_under_way_is_made_again(jobs: list[Job], tmp_path: Path) -> None:
    job, state = jobs[0], BatchState(tmp_path / "out")
    assert job.source is not None
    with held(state, job), whole_file(tmp_path / "out" / "0.png", state.recorder(job)) as file:
        job.source.write_text("changed while it was read")
        file.write(b"output")
    assert BatchState(tmp_path / "out").settled(job) is None


def test_state_without_a_folder_keeps_nothing(jobs: list[Job], tmp_path: Path) -> None:
    state = BatchState()
    assert make(state, jobs[0])
    assert state.settled(jobs[0]) is not None
    assert state.settled(jobs[1]) is None
    state.failed(jobs[1].name, "reason")
    assert not (tmp_path / "out" / JOURNAL).exists()
