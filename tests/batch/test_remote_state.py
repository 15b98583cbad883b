"""Claims and journal of a remote OUTPUT, by a store on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from strsr_cli.batch.job import Job
from strsr_cli.batch.journal import Made, Version
from strsr_cli.batch.remote.claims import RemoteClaims, _claim_on
from strsr_cli.batch.remote.journal import MOST_LINES, RemoteJournal
from strsr_cli.batch.remote.state import RemoteState
from strsr_cli.images.places import Place, RemoteFile

from ..helpers.object_store import BUCKET, Store, object_store

pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytestmark = pytest.mark.slow
PLACE = Place(f"s3://{BUCKET}/out")
MADE = Made(Version(1, 2, "etag:a"), Version(3, 4, "b"), "settings", "weights")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with object_store(monkeypatch) as running:
        yield running


def test_a_claim_is_one_process_s_until_it_is_given_back(store: Store) -> None:
    one, other = RemoteClaims(PLACE), RemoteClaims(PLACE)
    assert one.take("a.png")
    assert not other.take("a.png")
    one.release("a.png")
    assert other.take("a.png")
    one.close()
    other.close()
    assert store.keys("out") == []


def test_what_a_dead_run_has_claimed_goes_to_one_other(store: Store) -> None:
    store.put(f"out/.strsr-locks/{_claim_on('a.png')}", b"run-that-is-gone")
    all_claims = [RemoteClaims(PLACE) for _ in range(4)]
    taken: list[RemoteClaims] = []
    threads = [
        threading.Thread(target=lambda own=own: taken.append(own) if own.take("a.png") else None)
        for own in all_claims
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert taken[0].holds("a.png")
    for own in all_claims:
        own.close()
    assert store.keys("out") == []


def test_a_worker_works_under_its_driver_s_claims(store: Store, tmp_path: Path) -> None:
    jobs = [Job(tmp_path / "a.png", RemoteFile(PLACE, name), "png") for name in ("a.png", "b.png")]
    (tmp_path / "a.png").write_bytes(b"x")
    driver = RemoteState(place=PLACE)
    driver.enter("settings")
    assert driver.claim(jobs[0])
    worker = RemoteState(place=PLACE, driver=driver.session)
    assert worker.take(jobs[0])
    assert not worker.take(jobs[1])
    put = worker.recorder(jobs[0])
    assert put is not None
    put(tmp_path / "a.png")
    assert driver.made_meanwhile(jobs[0])
    assert RemoteState(place=PLACE, silent=True).settled(jobs[0]) == "done before"
    worker.close()
    driver.close()


def test_lines_of_many_threads_are_all_kept(store: Store) -> None:
    journal = RemoteJournal(PLACE)
    names = [f"{number}.png" for number in range(MOST_LINES + 60)]

    def write(own: list[str]) -> None:
        for name in own:
            journal.done(RemoteFile(PLACE, name), RemoteFile(PLACE, f"in/{name}"), MADE, "md5")

    threads = [threading.Thread(target=write, args=(names[number::8],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.keys("out/.strsr-journal")) == 2
    # What no process has written is as good as no line.
    store.put("out/.strsr-journal/zz.jsonl", b'{"state":"done"}\n\xff\n[]\n')
    again = RemoteJournal(PLACE, silent=True)
    assert [again.records(name) for name in names] == [[(MADE, "md5")]] * len(names)
    assert again.source("7.png") == f"{PLACE}/in/7.png"
