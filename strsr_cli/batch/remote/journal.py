"""The record of a remote OUTPUT: objects of JSON lines below OUTPUT/.strsr-journal/, each written by one process.

Objects cannot be appended to, so that a process puts its object anew with each line, and begins another one when that
has grown. Lines of outputs that are finished at the same time go into one put.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from typing import Any

from ...images.places import Place, RemoteFile
from ...system.processes import machine_id
from ..job import Source
from ..journal import Made, entry_of, line_of, made_of
from ..journal_files import JOURNAL

MOST_LINES = 500  # of an object: some 250 kB


class RemoteJournal:
    """What was made below a remote OUTPUT, and what failed; threads may share it. Lines are told in full when asked for."""

    def __init__(self, place: Place, silent: bool = False, blind: bool = False) -> None:
        """Read all that is there. silent: nothing is put. blind: nothing is read. Raises ImageError."""
        self.place, self.silent = Place(f"{place.url}/{JOURNAL}"), silent
        # Lines by the output's name, in the order of their times; a million of them must fit the memory.
        self._lines: dict[str, list[bytes]] = {}
        # Reasons of failure by the output's name, where the last try failed.
        self.reasons: dict[str, str] = {}
        self._writer = f"{machine_id()}-{secrets.token_hex(6)}"
        # The number of this process's object, its lines, and how many lines there have been, and were put, in all.
        self._number = 0
        self._own: list[bytes] = []
        self._added = self._stored = 0
        self._lock, self._putting = threading.Lock(), threading.Lock()
        if not blind:
            self._read()

    def _read(self) -> None:
        entries = []
        keys = sorted(file.key for file in self.place.objects())
        for data in self.place.read_all(keys):
            for line in data.split(b"\n"):
                at_and_entry = _parsed(line)
                if at_and_entry is not None:
                    entries.append((*at_and_entry, line))
        # Processes take turns, each by its own clock.
        entries.sort(key=lambda entry: entry[0])
        for _, name, reason, line in entries:
            self._take(name, reason, line)

    def _take(self, name: str, reason: str | None, line: bytes) -> None:
        if reason is not None:
            self.reasons[name] = reason
            return
        self.reasons.pop(name, None)
        self._lines.setdefault(name, []).append(line)

    def records(self, name: str) -> list[tuple[Made, str]]:
        """Return what was made under that name, the newest last, each with the MD5 of the output."""
        records = []
        for line in self._lines.get(name, ()):
            entry = json.loads(line)
            records.append((made_of(entry), str(entry["output"].get("md5", ""))))
        return records

    def source(self, name: str) -> str:
        """Return the input's name that an output was last made from; empty where there is no record."""
        lines = self._lines.get(name)
        return str(json.loads(lines[-1])["input_name"]) if lines else ""

    def sources(self) -> dict[str, str]:
        """Return each output that is recorded, with the name of its input."""
        return {name: self.source(name) for name in self._lines}

    @property
    def empty(self) -> bool:
        """Whether nothing is recorded."""
        return not (self._lines or self.reasons)

    def done(self, target: RemoteFile, source: Source, made: Made, md5: str) -> None:
        """Remember an output that is about to be put. Raises ImageError: without a record it must not be."""
        entry = entry_of(made)
        entry["output"]["md5"] = md5
        self._append(target, source, entry, None)

    def failed(self, target: RemoteFile, source: Source, reason: str) -> None:
        """Remember that an output could not be made. Raises ImageError."""
        self._append(target, source, {"state": "failed", "reason": reason}, reason)

    def _append(self, target: RemoteFile, source: Source, entry: dict[str, Any], reason: str | None) -> None:
        line = line_of(target.key, str(source), time.time_ns() // 1000, entry)
        with self._lock:
            self._take(target.key, reason, line)
            self._own.append(line)
            self._added += 1
            mine = self._added
        if not self.silent:
            self._put(mine)

    def _put(self, mine: int) -> None:
        """Put the object that holds line number `mine`, unless another thread's put has taken it along."""
        with self._putting:
            with self._lock:
                if self._stored >= mine:
                    return
                lines, added = list(self._own), self._added
            self.place.put(f"{self._writer}-{self._number:06}.jsonl", b"\n".join(lines) + b"\n")
            with self._lock:
                self._stored = added
                if len(lines) >= MOST_LINES:
                    self._number, self._own = self._number + 1, self._own[len(lines) :]


def _parsed(line: bytes) -> tuple[str, str, str | None] | None:
    """Return time, output's name and reason of failure in a line; None where it is no line of ours."""
    try:
        entry = json.loads(line)
        name, at = entry["output_name"], str(entry["at"])
        if not isinstance(name, str):
            return None
        if entry["state"] == "failed":
            return at, name, str(entry["reason"])
        made_of(entry)
        return at, name, None if entry["state"] == "done" else str(entry["reason"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def read_sources(place: Place) -> dict[str, str]:
    """Return each output that the journal of a place names, with its input. Raises ImageError."""
    return RemoteJournal(place, silent=True).sources()
