"""Pairs of a teacher: made in groups, gone on with, refused where they are others."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable

import numpy as np
import pytest
from typer.testing import Result

from strsr_cli.training.data.crops import Crops
from strsr_cli.training.data.pairs import DROPPED, PairWindows, locked
from strsr_cli.training.data.photos import load_photos
from strsr_cli.training.distill import read_distill_config
from strsr_models.errors import StrsrError, UsageError

from ..helpers.pairs import (
    CPU,
    IMAGES,
    Home,
    Usage,
    contents,
    other_photos,
    other_teacher,
    with_set,
)
from .test_teachers import save_teacher


def test_pairs_are_made_by_the_command(empty: Home, strsr: Callable[..., Result]) -> None:
    """A count that is no whole number of groups is rounded up."""
    command = ("distill", "--data", empty.photos, "--make-pairs", 30, *with_set(empty.settings))
    result = strsr(*command)
    assert result.exit_code == 0, result.output
    assert f"pairs in {empty.pairs}" in result.stdout
    assert "32 of 32 pairs, 0 dropped" in result.stdout
    shapes = {name: empty.array(name).shape for name in IMAGES}
    assert shapes == {name: (32, 3, 128, 128) if name == "picture" else (32, 3, 64, 64) for name in IMAGES}
    assert {empty.array(name).dtype for name in (*IMAGES, "kind")} == {np.dtype(np.uint8)}
    assert sorted(set(empty.array("kind").tolist())) == [0, 1]
    crops = Crops(load_photos([empty.photos], 64), 64, 0)
    assert all(np.array_equal(empty.array("hq")[row], crops[row].hq[0]) for row in range(32))
    before = contents(empty.pairs)
    again = strsr(*command)
    assert again.exit_code == 0, again.output
    assert "made already" in again.stdout
    assert contents(empty.pairs) == before


def test_pairs_hold_what_the_run_would_see(home: Home) -> None:
    """Each is the sample of its number, degraded, taught and rounded to bytes."""
    from strsr_cli.training.data.crops import batches
    from strsr_cli.training.data.teachers import Teachers

    config = read_distill_config("lite", None, home.settings)
    crops = Crops(load_photos([home.photos], 64), 64, 0)
    teachers = Teachers(str(home.teacher), CPU, "fp32")
    options = {"start": 0, "stop": 2, "batch_size": 4, "workers": 0}
    for group, batch in enumerate(batches(crops, config.degrade, CPU, teachers=teachers, **options)):
        for name in IMAGES:
            stored = home.array(name)[4 * group : 4 * group + 4]
            assert np.abs(stored / 255 - getattr(batch, name).numpy()).max() <= 0.5 / 255 + 1e-6, name


def test_an_interrupted_making_goes_on_to_the_same_bytes(home: Home) -> None:
    straight = contents(home.pairs)
    shutil.rmtree(home.pairs)

    def die_after_one_group(line: str) -> None:
        if line.startswith("4 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        home.make(report=die_after_one_group)
    assert json.loads((home.pairs / "pairs.json").read_text())["done"] == 4
    told: list[str] = []
    home.make(report=told.append)
    assert told[-1] == "8 of 8 pairs, 0 dropped"
    assert not any(line.startswith("4 of") for line in told)
    assert contents(home.pairs) == straight


def test_bytes_behind_the_last_note_are_made_again(home: Home) -> None:
    """A kill between two notes leaves more in the arrays than pairs.json knows of."""
    straight = contents(home.pairs)
    home.state(done=4)
    with open(home.pairs / "hq.npy", "r+b") as file:
        file.seek(-1000, 2)
        file.write(b"x" * 900)
    home.make()
    straight.pop("pairs.json")
    assert straight.items() <= contents(home.pairs).items()


def test_a_making_stopped_before_any_note_starts_over(home: Home) -> None:
    straight = contents(home.pairs)
    shutil.rmtree(home.pairs)
    elsewhere = home.folder / "elsewhere"

    def take_the_photos_away(_line: str) -> None:
        home.photos.rename(elsewhere)

    with pytest.raises(StrsrError, match="none of the 3 photos can be read any more"):
        home.make("cache_gb=0", report=take_the_photos_away)
    assert json.loads((home.pairs / "pairs.json").read_text())["done"] == 0
    assert (home.pairs / "hq.npy").exists()
    elsewhere.rename(home.photos)
    home.make()
    assert contents(home.pairs) == straight


def test_arrays_shorter_than_noted_are_not_gone_on_from(home: Home) -> None:
    """Else rows of zeros would be learnt from."""
    home.state(done=4)
    path = home.pairs / "teacher.npy"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(StrsrError, match=r"teacher\.npy"):
        home.make()


def test_outputs_of_a_damaged_teacher_are_dropped(empty: Home) -> None:
    broken = save_teacher(empty.folder / "broken.pth", broken=True)
    kinds = [f'teacher.clean=["{empty.teacher}"]', f'teacher.mild=["{broken}"]']
    settings = [line for line in empty.settings if not line.startswith("teacher=")] + kinds
    empty.make_by(settings, 16)
    dropped = int((empty.array("kind") == DROPPED).sum())
    assert 0 < dropped < 16
    assert json.loads((empty.pairs / "pairs.json").read_text())["dropped"] == dropped
    config = read_distill_config("lite", None, settings)
    assert len(PairWindows(config, load_photos([empty.photos], 64), 16, CPU)) == 16 - dropped


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_photos, "other photos"),
        (other_teacher, "other teachers"),
        (lambda _home: ["seed=1"], "another seed"),
        (lambda _home: ["degrade.sharpen=0.5"], "another degrade"),
        (lambda _home: ["pair_size=80"], "another size"),
        (lambda _home: ["graphics_share=0.1"], "another graphics_share"),
        (lambda _home: ["seed=1", "pair_size=80"], "another seed, another size"),
    ],
    ids=["photos", "teacher", "seed", "degrade", "size", "graphics", "two"],
)
def test_pairs_of_other_settings_are_named(
    change: Callable[[Home], list[str]], words: str, home: Home
) -> None:
    more, before = change(home), contents(home.pairs)
    with pytest.raises(UsageError, match=f"were made with {words}; give the same, or another folder"):
        home.make(*more)
    assert contents(home.pairs) == before


def test_pairs_of_another_count_are_refused(home: Home) -> None:
    with pytest.raises(UsageError, match="was begun for 8 pairs, not 12"):
        home.make(count=12)
    home.make(count=5)  # as many groups


def test_a_folder_of_other_things_stays_as_it_is(empty: Home) -> None:
    empty.pairs.mkdir()
    (empty.pairs / "hq.npy").write_text("mine")
    with pytest.raises(UsageError, match="is neither empty nor a folder of pairs; choose another"):
        empty.make()
    assert (empty.pairs / "hq.npy").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_told(empty: Home) -> None:
    empty.pairs.write_text("mine")
    with pytest.raises(StrsrError, match="cannot be written"):
        empty.make()
    assert empty.pairs.read_text() == "mine"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", "", '{"made_from": 1, "count": 8, "done": 8, "dropped": 0}'],
    ids=["cut", "list", "keys", "nothing", "types"],
)
def test_a_damaged_note_is_told(text: str, home: Home) -> None:
    (home.pairs / "pairs.json").write_text(text)
    for use in (home.make, home.windows):
        with pytest.raises(
            UsageError, match=r"pairs\.json (is damaged|lacks count, done, dropped, made_from)"
        ):
            use()


def test_a_disk_without_room_is_told_before_anything_is_made(
    empty: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**6, 10**6, 1000))
    with pytest.raises(StrsrError, match=r"needs 0\.0 GB, and the disk has 0\.0 GB free") as caught:
        empty.make()
    assert "\n" not in str(caught.value)
    assert not list(empty.pairs.glob("*.npy"))


def test_pairs_that_fit_beside_what_is_made_are_made(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the rest needs room."""
    size = sum(home.array(name).nbytes for name in (*IMAGES, "kind"))
    usage = Usage(size, size // 2 - 10, size // 2 + 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    home.state(done=4)
    home.make()
    home.state(done=0)
    with pytest.raises(StrsrError, match="GB free"):
        home.make()


def test_a_disk_that_fills_up_keeps_the_pairs_so_far(home: Home) -> None:
    straight = contents(home.pairs)
    shutil.rmtree(home.pairs)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, limits[1]))  # more than one group of pictures
    try:
        with pytest.raises(StrsrError) as caught:
            home.make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "the pairs made so far stay; the same command goes on" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert json.loads((home.pairs / "pairs.json").read_text())["done"] == 4
    home.make()
    assert contents(home.pairs) == straight


def test_processes_do_not_make_the_same_pairs(empty: Home) -> None:
    with locked(empty.pairs), pytest.raises(StrsrError, match="another process makes pairs in"):
        empty.make()
    empty.make()


@pytest.mark.parametrize(
    ("count", "more", "words"),
    [
        (0, [], "--make-pairs 0: must be at least 1"),
        (-3, [], "--make-pairs -3: must be at least 1"),
        (4, ["teacher="], "pairs are of a teacher's: set teacher"),
        (4, ["pairs="], "needs the settings pairs, one folder, and teacher"),
        (4, ["pairs=", "teacher="], "needs the settings pairs, one folder, and teacher"),
        (4, ['pairs=["a", "b"]'], "needs the settings pairs, one folder, and teacher"),
        (4, ["pair_size=16"], "pair_size 16: must be a multiple of 16, at least crop_size 32"),
        (4, ["pair_size=72"], "pair_size 72: must be a multiple of 16"),
        (4, ["largest_crop=80"], "at least crop_size 32 and largest_crop 80"),
    ],
)
def test_a_wrong_setting_is_one_line(
    count: int, more: list[str], words: str, empty: Home, strsr: Callable[..., Result]
) -> None:
    settings = with_set([*empty.settings, *more])
    result = strsr("distill", "--data", empty.photos, "--make-pairs", count, *settings)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not empty.pairs.exists()
