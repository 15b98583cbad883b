"""Signals, closed pipes and exit codes: a batch or a run ends between two steps, or at once but clean."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The module typing has it from Python 3.11 on.
    from typing_extensions import Self


EXIT_SOME_FAILED, EXIT_USAGE, EXIT_NOT_AVAILABLE = 1, 2, 3
EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED = 130, 141, 143
OUR_THREADS = "strsr-"  # how the names of threads begin that read, restore and write


class EndedBySignal(KeyboardInterrupt):
    """The end of a process at once, by a signal. exit_code: 128 plus the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Stop:
    """The wish of the person at the keyboard that a batch end; the loop asks for it before each image.

    The first ^C sets `requested`, once images are under way; before that, and the second time, it raises
    EndedBySignal in the main thread, as SIGTERM does. The third is Python's own, and ends everything.
    """

    def __init__(self, quiet: bool = True) -> None:
        self.requested = False
        # Whether an image is under way, which a first ^C lets finish.
        self.working = False
        # Whether it is only waited for images, so that nothing is said of those under way.
        self.idle = False
        # What a signal has raised.
        self.ended: EndedBySignal | None = None
        self._quiet = quiet

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Take the signals, and give them back at the end. Only the main thread can; elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # A shell starts what runs in its background with ^C ignored, and that is respected.
        heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.working and not self.requested:
            self.requested = True
            # Written by os.write, because a print may be what has been interrupted.
            if not self._quiet and not self.idle:
                with contextlib.suppress(OSError):
                    os.write(2, b"\nstopping when the images under way are done; ^C again stops at once\n")
            return
        self.requested = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.ended = EndedBySignal(number)
        raise self.ended


def quiet_pipes() -> None:
    """Let nothing more be written to pipes that nobody reads, so that Python does not complain at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def leave_at_once(code: int) -> None:
    """End the process where threads of ours still compute, whose results nobody waits for; else do nothing.

    Daemon threads count too: torch aborts the process (SIGABRT) if they are inside it while Python ends.
    """
    if any(thread.name.startswith(OUR_THREADS) for thread in threading.enumerate()):
        end_process(code)


def end_process(code: int) -> None:
    """End the process at once, with what was written to its streams, and without taking Python apart."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that was closed before the start is None.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


class StopSignals:
    """A context in which SIGTERM and SIGINT only ask for a stop, which comes after the step under way."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Catch the signals, where this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, _frame: object) -> None:
        # A second signal ends the process at once, whatever is lost.
        if self._received:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        self._received.append(number)

    @property
    def requested(self) -> bool:
        """Whether this process was asked to stop."""
        return bool(self._received)

    @property
    def exit_code(self) -> int:
        """The exit code that a shell expects of a stopped process: 130 for SIGINT, 143 for SIGTERM; 0 without a signal."""
        return 128 + self._received[0] if self._received else 0

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Stopped(Exception):
    """The end of a run by a signal, once its checkpoint is written."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
