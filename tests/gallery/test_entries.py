from __future__ import annotations

from itertools import pairwise

from strsr_cli.batch.report import DONE
from strsr_cli.batch.state import FOREIGN
from strsr_cli.gallery.entries import MOST_COMPARED, MOST_FLAGGED, Entries, Entry


def plan(entries: Entries, count: int, side: int = 16, **fields: object) -> list[str]:
    names = [f"in/{number:05}.png" for number in range(count)]
    sizes = {"width": side, "height": side, "to_width": 4 * side, "to_height": 4 * side}
    for name in names:
        entries.hear("planned", {"input": name, "output": f"out/{name}", **sizes, **fields})
    return names


def make(entries: Entries, name: str, side: int = 64, **fields: object) -> Entry | None:
    sizes = {"width": side, "height": side, "seconds": 0.5}
    return entries.hear("done", {"input": name, "output": f"out/{name}", **sizes, **fields})


def test_all_of_a_few_pictures_are_compared() -> None:
    entries = Entries()
    names = plan(entries, MOST_COMPARED)
    assert [make(entries, name) is not None for name in names] == [True] * MOST_COMPARED


def test_compared_pictures_are_spread_over_a_long_list() -> None:
    entries = Entries()
    names = plan(entries, 10_000)
    compared = [number for number, name in enumerate(names) if make(entries, name)]
    assert MOST_COMPARED - 1 <= len(compared) <= MOST_COMPARED
    assert {after - before for before, after in pairwise(compared)} == {209}


def test_large_pictures_are_compared_less_often() -> None:
    entries = Entries()
    names = plan(entries, 48, side=4000)
    # 256 megapixels each: 12,288 in all, of which 4,000 are read back.
    assert [number for number, name in enumerate(names) if make(entries, name)] == [*range(0, 48, 4)]


def test_pictures_with_a_grid_are_compared_beside_the_others() -> None:
    entries = Entries()
    names = plan(entries, 1000)
    flagged = [name for name in names[500:700] if make(entries, name, verdict="grid", score_db=9.0)]
    others = [name for name in names[:500] if make(entries, name, verdict="clean", score_db=0.1)]
    regular = sum(number % 21 == 0 for number in range(500, 700))
    assert len(flagged) == MOST_FLAGGED + regular
    assert len(others) == 24


def test_only_outputs_of_their_inputs_fill_the_page() -> None:
    entries = Entries()
    names = plan(entries, 100, skip=True)
    for number, name in enumerate(names):
        reason = DONE if number % 2 else FOREIGN
        entries.hear("skipped", {"input": name, "output": f"out/{name}", "reason": reason})
    filling = entries.to_fill()
    assert len(filling) == MOST_COMPARED
    assert {entry.reason for entry in filling} == {DONE}


def test_counts_are_those_of_the_states() -> None:
    entries = Entries()
    names = plan(entries, 5)
    make(entries, names[0], side=1000)
    entries.hear("failed", {"input": names[1], "reason": "why"})
    entries.hear("left", {"input": names[2], "output": "", "reason": "another process is at it"})
    assert entries.counts() == {"done": 1, "failed": 1, "left": 1, "unreached": 2}
    assert entries.megapixels() == 1.0
