"""The events of a worker's reporter, on their way to the one reporter of the driver."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from ...batch.report import Reporter, message_of

# One call of a reporter's method: its name and its arguments.
Event = tuple[str, tuple[Any, ...], dict[str, Any]]
# The events that end an image; the first argument is its name.
LAST = ("done", "skipped", "left", "failed")
LOST_DEVICE = "CUDA error"  # how the errors begin after which a process has no GPU any more


class Forwarder(Reporter):
    """A reporter that keeps all events until they are fetched; what modules log is among them."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        super().__init__(quiet, verbose)
        self._events: list[Event] = []
        # The latest of those events of which only the latest counts.
        self._tile: Event | None = None
        # Set when no more events will come for now.
        self.ended = threading.Event()

    def add(self, name: str, *arguments: Any, **named: Any) -> None:
        """Keep one event."""
        with self.one_at_a_time:
            self._events.append((name, arguments, named))

    def fetch(self) -> list[Event]:
        """Return what has come since the last time."""
        with self.one_at_a_time:
            events, self._events = self._events, []
            if self._tile is not None:
                events.append(self._tile)
                self._tile = None
            return events

    def done(self, source: str, target: str, *sizes: Any, **grid: Any) -> None:
        """Forward an image that was written."""
        self.add("done", source, target, *sizes, **grid)

    def failed(self, source: str, reason: str) -> None:
        """Forward an image that could not be done; but where the GPU is lost, this process ends in its place.

        Every later image would fail here, and none of them is at fault: other workers make them.
        """
        if reason.removeprefix(f"{source}: ").startswith(LOST_DEVICE):
            os._exit(1)
        self.add("failed", source, reason)

    def skipped(self, source: str, target: str, reason: str = "", **grid: Any) -> None:
        """Forward an output that is there already."""
        self.add("skipped", source, target, reason, **grid)

    def left(self, source: str, target: str, reason: str) -> None:
        """Forward an image that another process makes."""
        self.add("left", source, target, reason)

    def note(self, text: str) -> None:
        """Forward something that a person should know."""
        self.add("note", text)

    def looked(self, done: int, total: int) -> None:
        """Forward that one more image's condition is known."""
        self.add("looked", done, total)

    def tile(self, done: int, total: int) -> None:
        """Forward, now and then, how many tiles of an image are computed."""
        with self.one_at_a_time:
            self._tile = ("tile", (done, total), {})

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a message logged by any module of ours."""
        self.add("logged", record.levelno, message_of(record))


def replay(event: Event, reporter: Reporter) -> None:
    """Report in this process what a worker has reported in its own."""
    name, arguments, named = event
    if name != "logged":
        getattr(reporter, name)(*arguments, **named)
        return
    level, text = arguments
    if level >= reporter.level:
        reporter.handle(
            logging.makeLogRecord({"levelno": level, "levelname": logging.getLevelName(level), "msg": text})
        )
