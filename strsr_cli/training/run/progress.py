"""Progress of a training run, for a person: a live line on a terminal, plain lines elsewhere, and logs."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from strsr_models.errors import UsageError
from strsr_models.packages import install_command

from ...system.atomic import cannot_write, writing
from ...system.console import Tell, make_console
from ...system.terminal import takes_escapes
from .folder import Run

if TYPE_CHECKING:
    from accelerate import Accelerator
    from typing_extensions import Self  # typing has it from Python 3.11 on


class Progress:
    """The writer of every log interval's means to metrics.jsonl, TensorBoard and the terminal, in the main process alone.

    On a terminal with rich installed the newest numbers stay on one live line; else each interval is a line.
    """

    def __init__(self, main: bool, steps: int, run: Run, step: int, tensorboard: bool, report: Tell) -> None:
        """step: where the run is resumed; later lines of its logs are dropped, since they will be made again."""
        self.main, self.steps, self.run, self.report = main, steps, run, report
        self._start, self._began = step, time.monotonic()
        # Only a run that goes by the clock has it.
        self.seconds_left: Callable[[], float] | None = None
        self._speed = ""
        self._live: Any = None
        self._board: Any = None
        self._events = run.folder / "tensorboard"
        self._hook = threading.excepthook
        if main:
            run.trim_log(step)
            if tensorboard:
                with writing(self._events, run.advice):
                    self._board = _summary_writer(self._events, step)

    def __enter__(self) -> Self:
        """Open the live line, where there is a terminal for it."""
        if self.main and takes_escapes(sys.stderr):
            self._live = _live_line(self.steps)
        if self._live is not None:
            self._live.start()
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back, and the event file."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._board is not None:
            try:
                self._board.close()
            except OSError as failure:
                # An error of the run matters more than this.
                if error is None:
                    raise cannot_write(self._events, failure, self.run.advice) from failure
        threading.excepthook = self._hook

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Keep quiet about TensorBoard's writer, which fails in a thread of its own; the next `log` says why, in one line."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._hook(failure)

    def say(self, text: str) -> None:
        """Print one line for the person at the terminal."""
        if not self.main:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            self.report(text)

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write the means of an interval that ended with `step`."""
        if not self.main:
            return
        self.run.log({"step": step, **values})
        if self._board is not None:
            with writing(self._events, self.run.advice):
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
                # Flushed, so that a full disk is noticed now.
                self._board.flush()
        numbers = "  ".join(f"{name} {value:.5g}" for name, value in values.items() if name != "crops_per_s")
        # What comes between two intervals, as samples do, has no speed.
        if "crops_per_s" in values:
            self._speed = speed_text(values["crops_per_s"])
        if self._live is not None:
            task = self._live.task_ids[0]
            self._live.update(task, completed=step, numbers=numbers, speed=self._speed)
        else:
            words = [f"step {step}/{self.steps}", numbers, self._speed, self._left(step)]
            self.report("  ".join(filter(None, words)))

    def _left(self, step: int) -> str:
        """The time to the end at the speed so far, in words."""
        done = max(step - self._start, 1)
        left = (time.monotonic() - self._began) / done * (self.steps - step)
        if self.seconds_left is not None:
            left = min(left, max(0.0, self.seconds_left()))
        seconds = round(left)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"


def speed_text(crops_per_s: float) -> str:
    """A speed in words that say something of slow runs too."""
    if crops_per_s >= 1:
        return f"{crops_per_s:.1f} crops/s"
    return f"{1 / max(crops_per_s, 1e-9):.3g} s a crop"


def _live_line(steps: int) -> Any:
    """A rich progress bar with a row of numbers below it, or None where rich is not installed."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.text import Text
    except ImportError:
        return None

    class TwoRows(Progress):
        """A bar whose numbers stand in a row of their own: what does not fit there is cut off, never step or time."""

        def get_renderables(self) -> Iterator[Any]:
            """Yield the bar, then the numbers of its task."""
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                yield Text(task.fields["numbers"], no_wrap=True, overflow="ellipsis")

    live = TwoRows(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        console=make_console(stderr=True),
    )
    live.add_task("", total=steps, numbers="", speed="")
    return live


def _summary_writer(folder: Path, step: int) -> Any:
    """TensorBoard's writer, which drops what was logged after `step`. Raises UsageError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            f"tensorboard is not installed: {install_command('strsr[train]')}, or set tensorboard=false"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


class Meter:
    """A meter of the means since the last line of the log, and of the speed."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        # Each (3,) holds sum and count of the finite values, and the count of the others.
        self._sums: dict[str, Tensor] = {}
        self._began = time.monotonic()

    def add(self, values: dict[str, Tensor]) -> None:
        """Remember scalars, without waiting for the device; one that is not finite is only counted."""
        for name, value in values.items():
            value = value.detach().float()
            finite = value.isfinite()
            row = torch.stack([torch.where(finite, value, 0.0), finite.float(), 1 - finite.float()])
            self._sums[name] = self._sums[name] + row if name in self._sums else row

    def take(self, crops: int) -> dict[str, float]:
        """Return means over processes and steps, and crops per second; start anew.

        A mean of nothing is NaN. `not_finite`: how many losses were left out of the means, if any.
        """
        means: dict[str, float] = {}
        not_finite = 0.0
        if self._sums:
            rows = self.accelerator.reduce(torch.stack(list(self._sums.values())), "sum").tolist()
            for name, (total, finite, infinite) in zip(self._sums, rows, strict=True):
                means[name] = round(total / finite, 7) if finite else math.nan
                # Only losses count: a lattice that cannot be measured on small crops is no failure.
                if name.endswith("_loss"):
                    not_finite += infinite
        rate = crops / max(time.monotonic() - self._began, 1e-9)
        self._sums, self._began = {}, time.monotonic()
        if not_finite:
            means["not_finite"] = not_finite
        means["crops_per_s"] = round(rate, 2) if rate >= 1 else float(f"{rate:.3g}")
        return means
