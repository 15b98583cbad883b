"""What became of each picture of a run, told by a reporter's events, and which pictures the page compares."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..batch.report import DONE, EXISTS

MOST_COMPARED = 48  # pictures with a slider
MOST_FLAGGED = 12  # more of them, for outputs in which a grid was found
# Megapixels of outputs that are read back while others are made, and at the end where all was made before: one core
# reads about 30 of them a second.
MOST_READ, MOST_READ_BEFORE = 4000, 1000
COMPARABLE = (DONE, EXISTS)  # reasons of skipping by which an output comes from its input


@dataclass(frozen=True)
class Detail:
    """A cut-out of a picture before and after, as data URIs, and where it lies.

    size: (width, height) in px of the cut-out in the output. own: the same in the input. box: left, top, width and
    height of the cut-out in shares of the picture, [0, 1].
    """

    size: tuple[int, int]
    own: tuple[int, int]
    box: tuple[float, float, float, float]
    input: str
    bicubic: str
    output: str
    whole: str  # the whole input, small


@dataclass
class Entry:
    """One picture: sizes are (width, height) in px, None where they are not known."""

    source: str
    target: str
    size: tuple[int, int] | None = None
    to_size: tuple[int, int] | None = None
    # planned, done, skipped, failed or left; planned at the end: not reached.
    state: str = "planned"
    reason: str = ""
    seconds: float | None = None
    verdict: str | None = None
    score_db: float | None = None
    detail: Detail | None = None
    # Why there is no detail, where there was to be one.
    remark: str = ""


@dataclass
class Entries:
    """All pictures of a run, in the order in which they were planned. Any thread may tell of any picture."""

    items: dict[str, Entry] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # How many pictures are planned to be made, and the number of each among them.
    _numbers: dict[str, int] = field(default_factory=dict)
    # Every so many of them is compared; None: not known yet.
    _stride: int | None = None
    _megapixels: float = 0.0  # planned
    _compared: int = 0
    _flagged: int = 0

    def hear(self, event: str, fields: dict[str, Any]) -> Entry | None:
        """Take one event of a reporter in. Returns the picture if it was made just now and is to be compared."""
        if event not in ("planned", "done", "skipped", "failed", "left"):
            return None
        with self._lock:
            entry = self.items.setdefault(fields["input"], Entry(fields["input"], fields.get("output", "")))
            if event == "planned":
                self._plan(entry, fields)
                return None
            entry.state, entry.reason = event, str(fields.get("reason", ""))
            entry.seconds = fields.get("seconds")
            entry.verdict, entry.score_db = fields.get("verdict"), fields.get("score_db")
            if event != "done":
                return None
            entry.to_size = (fields["width"], fields["height"])
            return entry if self._is_compared(entry) else None

    def _plan(self, entry: Entry, fields: dict[str, Any]) -> None:
        """Take in what was planned of a picture."""
        if "width" in fields:
            entry.size = (fields["width"], fields["height"])
        if "to_width" in fields:
            entry.to_size = (fields["to_width"], fields["to_height"])
        if "error" not in fields and not fields.get("skip"):
            self._numbers[entry.source] = len(self._numbers)
            self._megapixels += megapixels(entry)

    def _is_compared(self, entry: Entry) -> bool:
        """Whether a picture that was made gets a slider: one of those spread over the list, or one with a grid."""
        if self._stride is None:
            parts = max(len(self._numbers) / MOST_COMPARED, self._megapixels / MOST_READ)
            self._stride = max(1, math.ceil(parts))
        number = self._numbers.get(entry.source, 0)
        if number % self._stride == 0 and self._compared < MOST_COMPARED:
            self._compared += 1
            return True
        if entry.verdict == "grid" and self._flagged < MOST_FLAGGED:
            self._flagged += 1
            return True
        return False

    def to_fill(self) -> list[Entry]:
        """Return pictures made before, spread over the list, as many as there is place for beside those made now."""
        with self._lock:
            before = [
                entry
                for entry in self.items.values()
                if entry.state == "skipped" and entry.reason in COMPARABLE
            ]
            mean = sum(map(megapixels, before)) / max(1, len(before))
            most = MOST_COMPARED - self._compared
            return spread(before, min(most, max(1, int(MOST_READ_BEFORE / mean))) if mean else most)

    def counts(self) -> Counter[str]:
        """The number of pictures in each state; those that are planned and no more are called unreached."""
        with self._lock:
            counts = Counter(entry.state for entry in self.items.values())
        counts["unreached"] = counts.pop("planned", 0)
        return counts

    def megapixels(self) -> float:
        """Millions of pixels of all outputs made in this run."""
        with self._lock:
            return sum(megapixels(entry) for entry in self.items.values() if entry.state == "done")


def megapixels(entry: Entry) -> float:
    """Millions of pixels of an output; 0 where its size is not known."""
    return 0.0 if entry.to_size is None else entry.to_size[0] * entry.to_size[1] / 1e6


def spread(entries: list[Entry], most: int) -> list[Entry]:
    """Return at most so many of some entries, at even distances."""
    if len(entries) <= most:
        return entries
    return [entries[number * len(entries) // most] for number in range(max(0, most))]
