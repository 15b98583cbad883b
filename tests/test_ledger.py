"""What the loop relies on when several images are under way at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from strsr_cli.big_models import BigModelOptions
from strsr_cli.claims import FOLDER
from strsr_cli.journal import JOURNAL, whole_file
from strsr_cli.ledger import Ledger, job_settings
from strsr_cli.plan import Job
from strsr_cli.report import Reporter


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number}.png").write_text(f"input {number}")
    return [Job(tmp_path / "in" / f"{n}.png", tmp_path / "out" / f"{n}.png", "png") for n in range(30)]


def make(ledger: Ledger, job: Job) -> bool:
    with ledger.hold(job) as mine:
        if mine and job.source is not None and job.target is not None:
            with whole_file(job.target, ledger.recorder(job)) as file:
                file.write(job.source.read_bytes() * 2)
        return mine


def test_many_threads_of_two_runs_make_each_image_once(jobs: list[Job], tmp_path: Path) -> None:
    ledgers = [Ledger(tmp_path / "out", weights="w", reporter=Reporter(quiet=True)) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        both = [pool.submit(make, ledger, job) for job in jobs for ledger in ledgers]
    # Those of one process know each other's claims as another process would.
    assert sum(future.result() for future in both) == len(jobs)
    # The last one first: each gives back the loggers' levels that it found.
    for ledger in reversed(ledgers):
        assert ledger.reporter is not None
        ledger.reporter.close()
        ledger.close()
    assert not (tmp_path / "out" / FOLDER).exists()
    third = Ledger(tmp_path / "out", weights="w")
    assert {third.settled(job) for job in jobs} == {"done before"}
    assert {Ledger(tmp_path / "out", weights="v").settled(job) for job in jobs} == {None}


def test_a_file_is_ours_even_if_the_process_dies_before_it_has_its_name(
    jobs: list[Job], tmp_path: Path
) -> None:
    job, out = jobs[0], tmp_path / "out"
    make(Ledger(out, settings=lambda job: "old"), job)
    ledger = Ledger(out, settings=lambda job: "new")
    assert ledger.settled(job) is None

    def die() -> None:
        with ledger.hold(job), whole_file(out / "0.png", ledger.recorder(job)) as file:
            file.write(b"other bytes")
            file.close()  # what follows fails, between the record and the new name or before it

    with pytest.raises(ValueError, match="closed"):
        die()
    record = ledger.recorder(job)
    ledger.take(job)
    assert record is not None
    (tmp_path / "made").write_bytes(b"other bytes")
    record(tmp_path / "made")  # written down, and then no rename
    assert Ledger(out, settings=lambda job: "new").settled(job) is None
    assert Ledger(out, settings=lambda job: "old").settled(job) == "done before"
    (tmp_path / "made").replace(out / "0.png")
    assert Ledger(out, settings=lambda job: "new").settled(job) == "done before"


def test_an_input_that_changes_under_way_is_made_again(jobs: list[Job], tmp_path: Path) -> None:
    job, ledger = jobs[0], Ledger(tmp_path / "out")
    assert job.source is not None
    with ledger.hold(job), whole_file(tmp_path / "out" / "0.png", ledger.recorder(job)) as file:
        job.source.write_text("changed while it was read")
        file.write(b"output")
    assert Ledger(tmp_path / "out").settled(job) is None


def test_without_a_folder_nothing_is_kept(jobs: list[Job], tmp_path: Path) -> None:
    ledger = Ledger()
    assert make(ledger, jobs[0])
    assert ledger.settled(jobs[0]) is not None
    assert ledger.settled(jobs[1]) is None
    ledger.failed(jobs[1].name, "reason")
    assert not (tmp_path / "out" / JOURNAL).exists()


def test_settings_that_give_other_pixels_have_another_hash(jobs: list[Job], tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("a cat")
    text = BigModelOptions(conditioning="text", prompt="a photo")
    own = BigModelOptions(conditioning="text", prompt="a photo", prompt_from=tmp_path)
    big = BigModelOptions()
    jpg = Job(jobs[0].source, jobs[0].target, "jpg")
    base = job_settings(None, scale=4)(jobs[0])
    others = [
        job_settings(None, scale=2)(jobs[0]),
        job_settings(None, scale=4)(jpg),
        job_settings(big, scale=4)(jobs[0]),
        job_settings(BigModelOptions(lora_scale=0.5), scale=4)(jobs[0]),
        job_settings(BigModelOptions(quantize="int8"), scale=4)(jobs[0]),
        job_settings(text, scale=4)(jobs[0]),
        job_settings(own, scale=4)(jobs[0]),
    ]
    assert len({base, *others}) == 8
    assert job_settings(None, scale=4)(jobs[1]) == base
    assert job_settings(own, scale=4)(jobs[1]) == job_settings(text, scale=4)(jobs[1])
    assert job_settings(BigModelOptions(offload="none"), scale=4)(jobs[0]) == others[2]
