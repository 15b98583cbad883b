"""A journal of many files: one for each process that writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from strsr_cli.batch.journal import KEPT, Journal, Made, Version, version_of
from strsr_cli.batch.journal_files import JOURNAL, OLD_JOURNAL, SUFFIX, has_journal
from strsr_cli.system.processes import machine_id

WRITER = """
import sys
from pathlib import Path
from strsr_cli.batch.journal import Journal, Made, Version
root, mark = Path(sys.argv[1]), sys.argv[2]
journal = Journal(root)
made = Made(Version(1, 2, "a"), Version(3, 4, mark), "settings", "weights")
print("ready", flush=True)
sys.stdin.read(1)
for number in range(int(sys.argv[3])):
    journal.done(root / f"{mark}-{number}.png", root / "in.png", made)
"""
FORKED = """
import os, sys
from pathlib import Path
from strsr_cli.batch.journal import Journal, Made, Version
root = Path(sys.argv[1])
journal = Journal(root)
for name in ("parent", "both"):
    journal.failed(root / name, root / "in.png", "before")
if os.fork() == 0:
    journal.failed(root / "child", root / "in.png", "after")
    os._exit(0)
os.wait()
"""


def version(mark: str) -> Version:
    return Version(3, 4, mark)


def record(mark: str) -> Made:
    return Made(version("input"), version(mark), "settings", "weights")


def write(path: Path, *lines: tuple[str, str, str], name: str = "a.png") -> None:
    """Write a journal's file by hand: a time, a state, and the output's hash or the reason of failure, a line each."""
    path.parent.mkdir(exist_ok=True)
    file = {"size": 3, "mtime_ns": 4}
    with path.open("a") as journal:
        for at, state, what in lines:
            entry = {
                "state": state,
                "output_name": name,
                "input_name": f"for {what}",
                "at": at,
                "reason": what,
            }
            entry |= {"input": {**file, "sha256": "input"}, "output": {**file, "sha256": what}}
            print(json.dumps({**entry, "settings": "s", "weights": "w"}), file=journal)


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / JOURNAL).iterdir())


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_two_processes_lose_no_lines(tmp_path: Path, count: int) -> None:
    """While a third one reads what they write; -s prints how long it takes to read all of it."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writers = [subprocess.Popen([*command, mark, str(count)], env=environment, **pipes) for mark in "xy"]  # type: ignore[call-overload]
    for writer in writers:
        assert writer.stdout.readline() == b"ready\n"
    journal, counts = Journal(tmp_path), [0]
    for writer in writers:
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        journal.refresh()
        counts.append(len(journal.made))
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    journal.refresh()
    names = {f"{mark}-{number}.png" for mark in "xy" for number in range(count)}
    assert counts == sorted(counts)
    assert journal.made.keys() == journal.recent.keys() == names
    began = time.perf_counter(), time.process_time()
    again = Journal(tmp_path)
    wall, busy = time.perf_counter() - began[0], time.process_time() - began[1]
    print(f"{2 * count} lines read in {wall:.2f} s ({busy:.2f} s of a core)")
    assert again.made.keys() == names
    assert len(files(tmp_path)) == 2


def test_a_process_writes_only_into_files_that_it_has_made(tmp_path: Path) -> None:
    own = f"{machine_id()}-{os.getpid()}"
    # Such as a dead process has left, or one of another container that looks the same.
    other = tmp_path / JOURNAL / f"{own}{SUFFIX}"
    write(other, ("2026-01-01T00:00:00.000001Z", "done", "other"))
    before = other.read_bytes()
    journal = Journal(tmp_path)
    journal.done(tmp_path / "b.png", tmp_path / "in.png", record("b"))
    assert other.read_bytes() == before
    assert len(files(tmp_path)) == 2
    assert all(name.startswith(own) for name in files(tmp_path))
    assert Journal(tmp_path).made.keys() == {"a.png", "b.png"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_a_file_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", FORKED, str(tmp_path)], env=environment, check=True)
    assert [len((tmp_path / JOURNAL / name).read_bytes().splitlines()) for name in files(tmp_path)] in (
        [1, 2],
        [2, 1],
    )
    assert Journal(tmp_path).reasons.keys() == {"parent", "both", "child"}


def test_journals_of_one_process_share_its_file(tmp_path: Path) -> None:
    journals = [Journal(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        for number in range(200):
            name = tmp_path / f"{number}.png"
            pool.submit(journals[number % 4].done, name, tmp_path / "in.png", record("x"))
    assert len(files(tmp_path)) == 1
    for journal in (*journals, Journal(tmp_path)):
        journal.refresh()
        assert len(journal.made) == 200


def test_a_removed_journal_is_begun_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.done(tmp_path / "a.png", tmp_path / "in.png", record("a"))
    shutil.rmtree(tmp_path / JOURNAL)
    journal.done(tmp_path / "b.png", tmp_path / "in.png", record("b"))
    assert Journal(tmp_path).made.keys() == {"b.png"}


def test_a_file_that_slept_is_seen_when_it_grows(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL / f"0-1{SUFFIX}"
    write(path, ("2026-01-01T00:00:00.000001Z", "done", "old"))
    os.utime(path, (1, 1))
    journal = Journal(tmp_path)
    write(path, ("2026-01-01T00:00:00.000002Z", "done", "new"))
    os.utime(path, (1, 1))
    journal.refresh()
    assert [made.output.sha256 for made in journal.made["a.png"]] == ["old", "new"]
    assert journal.recent["a.png"].output.sha256 == "new"
    write(path.with_name(f"1-1{SUFFIX}"), ("2026-01-01T00:00:00.000003Z", "failed", "full"))
    journal.refresh()
    assert journal.reasons == {"a.png": "full"}


def test_a_journal_of_either_form_is_one(tmp_path: Path) -> None:
    assert not has_journal(tmp_path)
    (tmp_path / OLD_JOURNAL).touch()
    assert has_journal(tmp_path)
    (tmp_path / OLD_JOURNAL).unlink()
    (tmp_path / JOURNAL).mkdir()
    assert has_journal(tmp_path)


# --- which line is the newest -----------------------------------------------------------------------

EARLY, LATE = "2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.000002Z"


@pytest.mark.parametrize("first", ["0-1", "1-1"])
def test_the_newest_line_wins_in_whichever_file(tmp_path: Path, first: str) -> None:
    early = tmp_path / JOURNAL / f"{first}{SUFFIX}"
    late = tmp_path / JOURNAL / f"{'1-1' if first == '0-1' else '0-1'}{SUFFIX}"
    for name, (before, after) in {
        "mended": ("failed", "done"),
        "broken": ("done", "failed"),
        "anew": ("done", "done"),
    }.items():
        write(early, (EARLY, before, "early"), name=name)
        write(late, (LATE, after, "late"), name=name)
    journal = Journal(tmp_path)
    assert journal.reasons == {"broken": "late"}
    assert journal.sources == {"mended": "for late", "broken": "for early", "anew": "for late"}
    assert [made.output.sha256 for made in journal.made["anew"]] == ["early", "late"]


@pytest.mark.parametrize("writer", ["0-1", "f-1"])
def test_a_line_is_newer_than_what_its_writer_had_read(tmp_path: Path, writer: str) -> None:
    """The clock of another machine is ahead by centuries."""
    other = tmp_path / JOURNAL / f"{writer}{SUFFIX}"
    for name, state in {"mended": "failed", "broken": "done", "anew": "done"}.items():
        write(other, ("2626-01-01T00:00:00.999999Z", state, "other"), name=name)
    journal = Journal(tmp_path)
    journal.done(tmp_path / "mended", tmp_path / "in.png", record("own"))
    journal.failed(tmp_path / "broken", tmp_path / "in.png", "own")
    journal.done(tmp_path / "anew", tmp_path / "in.png", record("own"))
    for each in (journal, Journal(tmp_path)):
        assert each.reasons == {"broken": "own"}
        assert [made.output.sha256 for made in each.made["anew"]] == ["other", "own"]
        assert each.sources["anew"] == str(tmp_path / "in.png")


def test_lines_of_the_old_file_keep_their_order(tmp_path: Path) -> None:
    """Its many writers had many clocks, in whole seconds."""
    lines = [("2026-01-01T00:00:09Z", "done", "1"), ("2026-01-01T00:00:03Z", "failed", "2")]
    write(tmp_path / OLD_JOURNAL, *lines)
    assert Journal(tmp_path).reasons == {"a.png": "2"}
    write(tmp_path / OLD_JOURNAL, ("2026-01-01T00:00:03Z", "done", "3"), ("", "done", "1"))
    journal = Journal(tmp_path)
    assert journal.reasons == {}
    assert [made.output.sha256 for made in journal.made["a.png"]] == ["3", "1"]
    # A line of a new file is newer by its time.
    write(tmp_path / JOURNAL / f"0-1{SUFFIX}", ("2026-01-01T00:00:10.000001Z", "failed", "4"))
    journal.refresh()
    assert journal.reasons == {"a.png": "4"}


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59.999999Z", "yesterday", "", "2026-01-01T00:00:00+05:00"])
def test_a_line_after_one_of_a_strange_time_is_the_newest(tmp_path: Path, at: str) -> None:
    write(tmp_path / JOURNAL / f"f-1{SUFFIX}", (at, "failed", "strange"))
    journal = Journal(tmp_path)
    assert journal.reasons == {"a.png": "strange"}
    journal.done(tmp_path / "a.png", tmp_path / "in.png", record("own"))
    assert Journal(tmp_path).reasons == {}


# --- what is remembered of a name -------------------------------------------------------------------


def test_two_outputs_of_a_name_are_remembered(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(50):
        journal.done(tmp_path / "a.png", tmp_path / "in.png", record(str(number)))
    assert KEPT == 2
    for each in (journal, Journal(tmp_path)):
        assert each.made == {"a.png": [record("48"), record("49")]}
    # The same content once more pushes nothing out.
    journal.done(tmp_path / "a.png", tmp_path / "in.png", record("48"))
    assert Journal(tmp_path).made == {"a.png": [record("49"), record("48")]}


def test_the_output_that_still_lies_there_is_not_forgotten(tmp_path: Path) -> None:
    """Processes that end, again and again, between their line and the new name."""
    path = tmp_path / "a.png"
    path.write_bytes(b"standing")
    standing = Made(version("input"), version_of(path), "settings", "weights")
    Journal(tmp_path).done(path, tmp_path / "in.png", standing)
    for number in range(5):
        Journal(tmp_path).done(path, tmp_path / "in.png", record(str(number)))
        assert standing in Journal(tmp_path).made["a.png"]
    os.utime(path, (1, 1))
    Journal(tmp_path).done(path, tmp_path / "in.png", record("6"))
    assert standing in Journal(tmp_path).made["a.png"]
