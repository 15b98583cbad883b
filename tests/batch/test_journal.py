from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strsr_cli.batch.journal import Journal, Made, Version, version_of
from strsr_cli.batch.journal_files import JOURNAL, OLD_JOURNAL, SUFFIX
from strsr_cli.system.atomic import DAY, TEMPORARY_PREFIX, drop_unfinished, passing_file, sweep, whole_file
from strsr_cli.system.processes import machine_id

from ..helpers.refusing import refuse

MADE = Made(Version(1, 2, "a"), Version(3, 4, "b"), "settings", "weights")


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with whole_file(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o077  # as readable for others as the umask lets it be


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with whole_file(path) as file:
            file.write(b"new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_looked_at_before_it_has_its_name(tmp_path: Path) -> None:
    path, states = tmp_path / "a.bin", []
    with whole_file(path, lambda temporary: states.append((version_of(temporary), path.exists()))) as file:
        file.write(b"one")
    assert states == [(version_of(path), False)]  # its time of change stays what was seen


def test_files_of_dead_processes_alone_are_swept(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from strsr_cli.system.atomic import whole_file\n"
        f"with whole_file(pathlib.Path({str(tmp_path)!r}, 'a.png')) as file: file.write(b'x'); file.flush(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(TEMPORARY_PREFIX)
    far = tmp_path / f"{TEMPORARY_PREFIX}00000000-1-abc.png"  # on another machine
    far.touch()
    (tmp_path / JOURNAL).mkdir()
    for name in ("photo.png", f"{TEMPORARY_PREFIX}notes.txt", OLD_JOURNAL):
        (tmp_path / name).touch()
    with whole_file(tmp_path / "b.png") as file:
        file.write(b"b")
        assert sweep([tmp_path, tmp_path / "no such folder"]) == 1
    assert not left.exists()
    os.utime(far, (0, far.stat().st_mtime - DAY - 9))
    assert sweep([tmp_path]) == 1
    assert len(list(tmp_path.iterdir())) == 5
    assert (tmp_path / "b.png").read_bytes() == b"b"


def test_unfinished_files_can_be_dropped_at_once(tmp_path: Path) -> None:
    def write() -> None:
        with whole_file(tmp_path / "a.png"):
            drop_unfinished()
            assert list(tmp_path.iterdir()) == []

    with pytest.raises(FileNotFoundError):
        write()


def test_output_on_its_way_into_a_pipe_can_be_dropped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def write() -> None:
        with passing_file() as file:
            file.write(b"x")
            assert len(list(tmp_path.iterdir())) == 1
            drop_unfinished()
            assert list(tmp_path.iterdir()) == []

    with pytest.raises(FileNotFoundError):
        write()
    with passing_file() as file:
        file.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_is_swept_though_its_process_number_lives(tmp_path: Path) -> None:
    path = tmp_path / f"{TEMPORARY_PREFIX}{machine_id()}-{os.getpid()}-abc.png"
    path.touch()
    assert sweep([tmp_path]) == 0
    os.utime(path, (0, 0))
    assert sweep([tmp_path]) == 1


# --- the record ------------------------------------------------------------------------------------


def test_successes_and_failures_are_known_the_next_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.done(tmp_path / "sub" / "\udcff\n.png", tmp_path / "in.png", MADE)
    journal.failed(tmp_path / "b.png", tmp_path / "b.jpg", "empty")
    journal.failed(tmp_path / "c.png", tmp_path / "c.jpg", "empty")
    journal.done(tmp_path / "c.png", tmp_path / "c.jpg", MADE)
    (file,) = (tmp_path / JOURNAL).iterdir()
    assert file.name == f"{machine_id()}-{os.getpid()}{SUFFIX}"
    assert len(file.read_bytes().splitlines()) == 4
    again = Journal(tmp_path)
    assert again.made == {"sub/\udcff\n.png": [MADE], "c.png": [MADE]}
    assert again.reasons == {"b.png": "empty"}


def test_lines_of_other_processes_are_seen_when_asked_for(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.done(tmp_path / "a.png", tmp_path / "in.png", MADE)
    assert second.made == {}
    second.refresh()
    assert second.made == {"a.png": [MADE]}


def test_a_silent_journal_writes_nothing(tmp_path: Path) -> None:
    Journal(tmp_path, silent=True).failed(tmp_path / "a.png", tmp_path / "in.png", "empty")
    assert list(tmp_path.iterdir()) == []


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: journal.done(tmp_path / f"{n}.png", tmp_path / "in", MADE), range(200)))
    assert len(Journal(tmp_path).made) == 200


def test_a_journal_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / JOURNAL).touch()
    journal = Journal(tmp_path)
    for name in "ab":
        journal.done(tmp_path / name, tmp_path / "in.png", MADE)
    assert len(caplog.records) == 1
    assert "no record" in caplog.text


@given(
    name=st.sampled_from([OLD_JOURNAL, f"{JOURNAL}/00000000-1{SUFFIX}"]),
    cut=st.floats(0, 1),
    junk=st.binary(max_size=50),
    at_end=st.booleans(),
)
def test_a_damaged_journal_loses_only_its_damaged_lines(
    tmp_path_factory: pytest.TempPathFactory, name: str, cut: float, junk: bytes, at_end: bool
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    path = folder / name
    journal = Journal(folder)
    for number in range(4):
        journal.done(folder / f"{number}.png", folder / "in.png", MADE)
    (file,) = (folder / JOURNAL).iterdir()
    data = file.rename(path).read_bytes()
    kept = data[: round(cut * len(data))]
    whole = kept.count(b"\n")
    path.write_bytes(kept + junk if at_end else junk + b"\n" + kept)
    hurt = Journal(folder)
    hurt.done(folder / "new.png", folder / "in.png", MADE)
    names = set(Journal(folder).made)
    assert names >= {*(f"{number}.png" for number in range(whole)), "new.png"}


INFINITE = (
    '{"state":"done","output_name":"a.png","input_name":"b","settings":"","weights":"",'
    '"input":{"size":Infinity,"mtime_ns":1,"sha256":""},"output":{"size":1,"mtime_ns":1,"sha256":""}}'
)


@pytest.mark.parametrize(
    "line",
    ["[]", "1", "null", '"x"', "{}", '{"state":"done","output_name":3}', "[" * 100_000, "\xff", INFINITE],
)
@pytest.mark.parametrize("name", [OLD_JOURNAL, f"{JOURNAL}/x{SUFFIX}"])
def test_lines_of_another_kind_are_passed_over(tmp_path: Path, line: str, name: str) -> None:
    (tmp_path / JOURNAL).mkdir()
    (tmp_path / name).write_text(line + "\n", encoding="latin-1")
    assert Journal(tmp_path).made == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_journal_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    for name in (OLD_JOURNAL, f"{JOURNAL}/x{SUFFIX}"):
        os.mkfifo(tmp_path / name)
    journal = Journal(tmp_path)
    journal.done(tmp_path / "a.png", tmp_path / "in.png", MADE)
    assert list(journal.made) == ["a.png"]


@pytest.mark.parametrize("flag", ["O_APPEND", "O_NONBLOCK"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM])
def test_a_journal_does_without_flags_that_a_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, number: int
) -> None:
    refuse(
        monkeypatch,
        "open",
        number,
        lambda path, flags=0, *more, **named: str(path).endswith(SUFFIX) and flags & getattr(os, flag),
    )
    journal = Journal(tmp_path)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"output")
        made = Made(version_of(tmp_path / name), version_of(tmp_path / name), "s", "w")
        journal.done(tmp_path / name, tmp_path / name, made)
    assert sorted(Journal(tmp_path).made) == ["a.png", "b.png"]


def test_files_of_one_time_and_size_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    known = []
    for content in (b"one", b"two"):
        path.write_bytes(content)
        os.utime(path, (1, 1))
        known.append(version_of(path))
    assert version_of(path, known) == version_of(path, reversed(known)) == known[1]
    # Where all that is known agrees, the file is not read.
    path.write_bytes(b"xxx")
    os.utime(path, (1, 1))
    assert version_of(path, known[1:]) == known[1]
