"""Windows of pairs: read, drawn in all places and turns, and learnt from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import Result

from strsr_cli.training.data.crops import Batch
from strsr_cli.training.data.pairs import DROPPED, PairWindows
from strsr_cli.training.data.photos import load_photos
from strsr_cli.training.distill import distill, read_distill_config
from strsr_models.errors import UsageError

from ..helpers.pairs import (
    COUNT,
    CPU,
    IMAGES,
    Home,
    other_photos,
    other_teacher,
    quiet,
    with_set,
)
from ..helpers.training import metrics


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
    empty.make_by(settings, 4)
    assert np.array_equal(empty.array("hq"), empty.array("teacher"))
    config = read_distill_config("lite", None, settings)
    batch, _ = PairWindows(config, load_photos([empty.photos], 64), 16, CPU).draw(0)
    assert batch.teacher is not None
    assert torch.equal(batch.hq, batch.teacher)
    assert not torch.equal(batch.hq, batch.lq_up)


def test_windows_that_are_larger_are_fewer(home: Home) -> None:
    windows = home.windows("largest_crop=64", "batch_size=8", "accumulate=2")
    sizes = set()
    for step in range(30):
        batch, numbers = windows.draw(step)
        assert len(numbers) == len(batch.hq) == len(batch.picture)
        assert batch.hq.shape == batch.lq_up.shape
        sizes.add((batch.hq.shape[-1], len(batch.hq)))
    assert sizes == {(32, 8), (48, 4), (64, 2)}
    assert {home.windows().draw(step)[0].hq.shape[-1] for step in range(10)} == {32}


def test_folders_of_pairs_are_all_drawn_from(home: Home) -> None:
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
