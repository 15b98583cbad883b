from __future__ import annotations

import hashlib
import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import Result

from strsr_cli.training.data.crops import Batch, Crops
from strsr_cli.training.data.pairs import DROPPED, PairWindows, locked
from strsr_cli.training.data.photos import load_photos
from strsr_cli.training.distill import distill, make_teachers_pairs, read_distill_config
from strsr_models.errors import StrsrError, UsageError

from .test_teachers import save_teacher

CPU = torch.device("cpu")
IMAGES = ("hq", "lq_up", "teacher", "picture")
COUNT = 8  # in two groups
BASE = [
    "batch_size=4",
    "crop_size=32",
    "pair_size=64",
    "workers=0",
    "device=cpu",
    "precision=fp32",
    "tensorboard=false",
    "coach=none",
    "fdl_weight=0",
    "perceptual_weight=0",
    "judge_shift=0",
    "log_every=1",
    "warmup_steps=1",
    "degrade.clean_share=0.5",
    "degrade.mild_share=0.5",
]


class Usage(NamedTuple):
    """Of a disk, in bytes."""

    total: int
    used: int
    free: int


def quiet(_line: str) -> None:
    pass


def with_set(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


class Home:
    """Three photos, a tiny teacher, and a folder of pairs made from them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.photos, self.pairs = folder, folder / "photos", folder / "pairs"
        self.teacher = folder / "teacher.safetensors"

    @property
    def settings(self) -> list[str]:
        return [*BASE, f"teacher={self.teacher}", f"pairs={self.pairs}"]

    def make(self, *more: str, count: int = COUNT, report: Callable[[str], None] = quiet) -> Path:
        return make_teachers_pairs([self.photos], count, None, [*self.settings, *more], report)

    def windows(self, *more: str) -> PairWindows:
        config = read_distill_config("lite", None, [*self.settings, *more])
        return PairWindows(config, load_photos([self.photos], config.pair_size), 16, CPU)

    def array(self, name: str) -> np.ndarray:
        return np.load(self.pairs / f"{name}.npy")

    def state(self, **changes: object) -> None:
        path = self.pairs / "pairs.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four pairs are made together, and noted, so that few make several groups."""
    monkeypatch.setattr("strsr_cli.training.data.pairs.GROUP", 4)
    monkeypatch.setattr("strsr_cli.training.data.pairs.TOLD_EVERY", 1)


@pytest.fixture
def empty(tmp_path: Path) -> Home:
    """Without pairs as yet."""
    home = Home(tmp_path)
    home.photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home.photos / f"{number}.png")
    save_teacher(home.teacher)
    return home


@pytest.fixture
def home(empty: Home) -> Home:
    empty.make()
    return empty


# --- making ----------------------------------------------------------------------------------------


def test_pairs_are_made_by_the_command(
    empty: Home, strsr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count that is no whole number of groups is rounded up."""
    monkeypatch.setattr("strsr_cli.training.data.pairs.GROUP", 32)
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


def test_a_making_stopped_before_any_note_starts_over(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = contents(home.pairs)
    shutil.rmtree(home.pairs)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("strsr_cli.training.data.pairs._append", stop)
        with pytest.raises(KeyboardInterrupt):
            home.make()
    home.make()
    assert contents(home.pairs) == straight


def test_arrays_shorter_than_noted_are_not_gone_on_from(home: Home) -> None:
    """Else rows of zeros would be learnt from."""
    home.state(done=4)
    path = home.pairs / "teacher.npy"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(StrsrError, match=r"teacher\.npy"):
        home.make()


def test_damaged_teachers_outputs_are_dropped(empty: Home) -> None:
    broken = save_teacher(empty.folder / "broken.pth", broken=True)
    kinds = [f'teacher.clean=["{empty.teacher}"]', f'teacher.mild=["{broken}"]']
    settings = [line for line in empty.settings if not line.startswith("teacher=")] + kinds
    make_teachers_pairs([empty.photos], 16, None, settings, quiet)
    dropped = int((empty.array("kind") == DROPPED).sum())
    assert 0 < dropped < 16
    assert json.loads((empty.pairs / "pairs.json").read_text())["dropped"] == dropped
    config = read_distill_config("lite", None, settings)
    assert len(PairWindows(config, load_photos([empty.photos], 64), 16, CPU)) == 16 - dropped


def other_photos(home: Home) -> list[str]:
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(home.photos / "more.png")
    return []


def other_teacher(home: Home) -> list[str]:
    save_teacher(home.teacher, seed=9)
    return []


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
def test_other_pairs_in_the_folder_are_named(
    change: Callable[[Home], list[str]], words: str, home: Home
) -> None:
    more, before = change(home), contents(home.pairs)
    with pytest.raises(UsageError, match=f"were made with {words}; give the same, or another folder"):
        home.make(*more)
    assert contents(home.pairs) == before


def test_another_count_is_named(home: Home) -> None:
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
    monkeypatch.setattr("shutil.disk_usage", lambda _path: Usage(10**6, 10**6, 1000))
    with pytest.raises(StrsrError, match=r"needs 0\.0 GB, and the disk has 0\.0 GB free") as caught:
        empty.make()
    assert "\n" not in str(caught.value)
    assert not list(empty.pairs.glob("*.npy"))


def test_pairs_that_fit_beside_what_is_made_are_made(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the rest needs room."""
    size = sum(home.array(name).nbytes for name in (*IMAGES, "kind"))
    usage = Usage(size, size // 2 - 10, size // 2 + 10)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
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


def test_two_processes_do_not_make_the_same_pairs(empty: Home) -> None:
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


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [None, 0, 60, 20_000])
@pytest.mark.parametrize("name", ["teacher", "picture"])
def test_an_array_cut_short_is_told(name: str, left: int | None, home: Home) -> None:
    path = home.pairs / f"{name}.npy"
    data = path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(data[:left])
    with pytest.raises(UsageError, match=rf"{name}\.npy: cannot be read .*make them again"):
        home.windows()


def test_an_array_of_other_rows_is_told(home: Home) -> None:
    np.save(home.pairs / "hq.npy", home.array("hq")[:7])
    with pytest.raises(UsageError, match=r"hq\.npy: is not what pairs\.json says"):
        home.windows()


def test_incomplete_pairs_are_not_trained_on(home: Home) -> None:
    home.state(done=4)
    with pytest.raises(UsageError, match="4 of 8 are made; run --make-pairs again"):
        home.windows()


def test_missing_pairs_are_told_with_the_command(empty: Home) -> None:
    with pytest.raises(UsageError, match=r"no pairs there .*make them by strsr distill --make-pairs N"):
        empty.windows()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_photos, "other photos"),
        (other_teacher, "other teachers"),
        (lambda _home: ["degrade.sharpen=0.5"], "another degrade"),
        (lambda _home: ["pair_size=80"], "another size"),
    ],
    ids=["photos", "teacher", "degrade", "size"],
)
def test_pairs_of_other_settings_are_not_trained_on(
    change: Callable[[Home], list[str]], words: str, home: Home
) -> None:
    more = change(home)
    with pytest.raises(UsageError, match=f"were made with {words}"):
        home.windows(*more)


def test_a_run_needs_no_teacher_beside_its_pairs(home: Home) -> None:
    before, _ = home.windows().draw(0)
    home.teacher.unlink()
    after, _ = home.windows().draw(0)
    assert torch.equal(before.hq, after.hq)


# --- drawing ---------------------------------------------------------------------------------------


def turns(image: Tensor) -> Iterator[Tensor]:
    """The eight flips and quarter turns of (3, s, s)."""
    for flipped in (image, image.flip(-1)):
        for quarter in range(4):
            yield flipped.rot90(quarter, (-2, -1))


def as_bytes(image: Tensor) -> Tensor:
    """Stored bytes of an image in [0, 1]; exactly."""
    stored = (image * 255).round().byte()
    assert torch.equal(stored.float() / 255, image)
    return stored


def places(window: Tensor, stored: Tensor) -> set[tuple[int, int, int, int]]:
    """Where (3, s, s) lies in (n, 3, h, w), in any turn: number of turn, row of the array, y, x."""
    found, side = set(), window.shape[-1]
    for number, turned in enumerate(turns(as_bytes(window))):
        corners = stored.unfold(2, side, 1).unfold(3, side, 1)[..., 0, :8]  # (n, 3, y, x, 8)
        alike = (corners == turned[None, :, None, None, 0, :8]).all(1).all(-1)
        for row, y, x in alike.nonzero().tolist():
            if torch.equal(stored[row, :, y : y + side, x : x + side], turned):
                found.add((number, row, y, x))
    return found


def assert_same(ours: Batch, theirs: Batch) -> None:
    assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in IMAGES)


def test_windows_are_a_function_of_seed_and_step(home: Home) -> None:
    first, second = home.windows(), home.windows()
    second.draw(3)
    ours, numbers = first.draw(7)
    theirs, others = second.draw(7)
    assert_same(ours, theirs)
    assert numbers == others == [28, 29, 30, 31]
    assert ours.hq.shape == ours.lq_up.shape == (4, 3, 32, 32)
    assert ours.picture.shape == (4, 3, 128, 128)
    assert not torch.equal(ours.hq, first.draw(8)[0].hq)
    assert not torch.equal(ours.hq, home.windows("seed=1").draw(7)[0].hq)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_draw_parts_of_what_one_would_draw(world: int, home: Home) -> None:
    windows = home.windows("largest_crop=64", "batch_size=8")
    for step in range(6):
        numbers = []
        parts = [windows.draw(step, rank, world) for rank in range(world)]
        # Windows are as many as can be shared out: over processes, or over parts of one process.
        whole, expected = home.windows("largest_crop=64", "batch_size=8", f"accumulate={world}").draw(step)
        assert len({len(batch.hq) for batch, _ in parts}) == 1
        for name in IMAGES:
            joined = torch.cat([getattr(batch, name) for batch, _ in parts])
            assert torch.equal(joined, getattr(whole, name))
        for _, part in parts:
            numbers += part
        assert numbers == expected


def test_windows_are_the_stored_bytes_at_aligned_places(home: Home) -> None:
    stored = {name: torch.from_numpy(home.array(name)) for name in IMAGES}
    windows, seen = home.windows(), set()
    for step in range(12):
        batch, _ = windows.draw(step)
        for row in range(4):
            ((turn, pair, y, x),) = places(batch.hq[row], stored["hq"])
            assert (turn, pair, y, x) in places(batch.lq_up[row], stored["lq_up"])
            assert (turn, pair, y, x) in places(batch.teacher[row], stored["teacher"])
            assert (turn, pair, 0, 0) in places(batch.picture[row], stored["picture"])
            assert y % 4 == x % 4 == 0
            seen.add((turn, pair, y, x))
    turns_seen, pairs_seen, ys, xs = map(set, zip(*seen, strict=True))
    assert turns_seen == set(range(8))
    assert pairs_seen == set(range(COUNT))
    assert {0, 32} <= ys & xs


def test_a_kind_without_teacher_makes_hq_its_own_target(empty: Home) -> None:
    settings = [line for line in empty.settings if not line.startswith("teacher=")]
    settings += [f'teacher.severe=["{empty.teacher}"]', "degrade.clean_share=1", "degrade.mild_share=0"]
    make_teachers_pairs([empty.photos], 4, None, settings, quiet)
    assert np.array_equal(empty.array("hq"), empty.array("teacher"))
    config = read_distill_config("lite", None, settings)
    batch, _ = PairWindows(config, load_photos([empty.photos], 64), 16, CPU).draw(0)
    assert batch.teacher is not None
    assert torch.equal(batch.hq, batch.teacher)
    assert not torch.equal(batch.hq, batch.lq_up)


def test_larger_windows_are_drawn_in_smaller_numbers(home: Home) -> None:
    windows = home.windows("largest_crop=64", "batch_size=8", "accumulate=2")
    sizes = set()
    for step in range(30):
        batch, numbers = windows.draw(step)
        assert len(numbers) == len(batch.hq) == len(batch.picture)
        assert batch.hq.shape == batch.lq_up.shape
        sizes.add((batch.hq.shape[-1], len(batch.hq)))
    assert sizes == {(32, 8), (48, 4), (64, 2)}
    assert {home.windows().draw(step)[0].hq.shape[-1] for step in range(10)} == {32}


def test_several_folders_are_drawn_from(home: Home) -> None:
    """Of other seeds, each made by its own command."""
    first = torch.from_numpy(home.array("hq"))
    home.make("seed=5", f"pairs={home.folder / 'second'}", count=4)
    second = torch.from_numpy(np.load(home.folder / "second" / "hq.npy"))
    windows = home.windows(f'pairs=["{home.pairs}", "{home.folder / "second"}"]')
    assert len(windows) == COUNT + 4
    seen: set[tuple[int, int]] = set()
    for step in range(12):
        for hq in windows.draw(step)[0].hq:
            found = [
                {(part, place[1]) for place in places(hq, hqs)} for part, hqs in enumerate((first, second))
            ]
            assert sum(map(len, found)) == 1
            seen |= found[0] | found[1]
    assert {part for part, _ in seen} == {0, 1}
    assert len(seen) >= 9  # of 12


def test_dropped_pairs_are_never_drawn(home: Home) -> None:
    kinds = home.array("kind")
    kinds[[0, 1, 2, 4, 5, 6, 7]] = DROPPED
    np.save(home.pairs / "kind.npy", kinds)
    hq, windows = torch.from_numpy(home.array("hq")), home.windows()
    assert len(windows) == 1
    assert {place[1] for image in windows.draw(0)[0].hq for place in places(image, hq)} == {3}


# --- training --------------------------------------------------------------------------------------


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_student_is_taught_by_pairs(
    home: Home, tiny_weights: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    command = ("distill", "--data", home.photos, "--student", tiny_weights, "--out", tmp_path / "run")
    result = strsr(*command, *with_set([*home.settings, "steps=2", "largest_crop=64"]))
    assert result.exit_code == 0, result.output
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["teacher_loss"] > 0 and line["teacher_loss"] != line["l1_loss"] for line in lines)
    before, after = (
        load_file(folder / "model.safetensors") for folder in (tiny_weights, tmp_path / "run/model")
    )
    assert not torch.equal(before["decoder.conv_out.weight"], after["decoder.conv_out.weight"])


def test_a_resumed_run_on_pairs_equals_a_straight_one(home: Home, tiny_weights: Path, tmp_path: Path) -> None:
    settings = [*home.settings, "steps=4", "save_every=2", "largest_crop=48"]
    straight = distill(str(tiny_weights), [home.photos], tmp_path / "straight", None, settings, quiet)

    def die_at_three(line: str) -> None:
        if line.startswith("step 3/"):
            raise SystemExit

    with pytest.raises(SystemExit):
        distill(str(tiny_weights), [home.photos], tmp_path / "killed", None, settings, die_at_three)
    resumed = distill(str(tiny_weights), [home.photos], tmp_path / "killed", None, settings, quiet)
    first, second = (load_file(folder / "model.safetensors") for folder in (straight, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_photos_smaller_than_a_pair_are_beside_the_point(
    empty: Home, tiny_weights: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(empty.photos / "small.png")
    empty.make()
    settings = [*empty.settings, "steps=1"]
    distill(str(tiny_weights), [empty.photos], tmp_path / "run", None, settings, quiet)
    assert len(metrics(tmp_path / "run")) == 1


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_live_teacher_teaches_without_pairs(
    share: float, home: Home, tiny_weights: Path, tmp_path: Path
) -> None:
    """With all of the photo in what is learnt, its loss is that of the photo."""
    settings = [*home.settings, "pairs=", "steps=2", f"photo_share={share}", "pair_size=256"]
    distill(str(tiny_weights), [home.photos], tmp_path / "run", None, settings, quiet)
    lines = metrics(tmp_path / "run")
    assert [line["teacher_loss"] == line["l1_loss"] for line in lines] == [share == 1] * 2


def test_the_teachers_loss_counts_by_its_weight(home: Home, tiny_weights: Path, tmp_path: Path) -> None:
    """With no weight the student ends where one without a teacher's loss would."""
    results = {}
    for weight in (0.0, 1.0):
        settings = [*home.settings, "steps=1", "l1_weight=0", f"teacher_weight={weight}", "ema_decay=0"]
        out = distill(str(tiny_weights), [home.photos], tmp_path / f"run{weight}", None, settings, quiet)
        results[weight] = load_file(out / "model.safetensors")["decoder.conv_out.weight"]
    start = load_file(tiny_weights / "model.safetensors")["decoder.conv_out.weight"]
    assert torch.equal(results[0.0], start)
    assert not torch.equal(results[1.0], start)
