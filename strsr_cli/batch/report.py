"""The reports of a batch: what a person or a program is told while it runs.

There are three voices for the same events: rich bars on a terminal, plain lines elsewhere, JSON on request.
All but JSON goes to stderr; stdout belongs to results.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from ..images.find import describe_passed_over
from ..system.console import make_console, size_text, visible
from ..system.terminal import takes_escapes

EXISTS = "exists (--overwrite makes it again)"
DONE = "done before"
VERDICTS = ("clean", "suspect", "grid")
MOST_REASONS = 3  # to skip images, that the end of a batch tells
# The file that this thread is at; what is logged meanwhile is about that file.
_SUBJECT = contextvars.ContextVar("subject", default="")


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Work on a file: messages that are logged inside by this thread begin with its name, if they do not have it."""
    before = _SUBJECT.set(name)
    try:
        yield
    finally:
        _SUBJECT.reset(before)


def message_of(record: logging.LogRecord) -> str:
    """Return what was logged, with the name of the file that it is about. To be called by the thread that logs."""
    message, name = record.getMessage(), _SUBJECT.get()
    return message if name in message else f"{name}: {message}"


class Reporter(logging.Handler):
    """The counts and events of one batch, as plain lines; a logging handler too, whose warnings join them.

    Every image found ends in one of the counts: done, skipped, failed, left (to other processes), or it was
    not reached. Any thread may report any image.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        level = logging.WARNING
        if verbose:
            level = logging.DEBUG
        elif quiet:
            level = logging.ERROR
        super().__init__(level)
        self.quiet, self.verbose = quiet, verbose
        self.counts = {"found": 0, "done": 0, "skipped": 0, "failed": 0, "left": 0}
        # How many files are no inputs, by kind.
        self.passed_over: Counter[str] = Counter()
        # Called with the name and the reason of each failure.
        self.on_failed: Callable[[str, str], None] | None = None
        # Where all outputs are, in words; "" where that is no place.
        self.place = ""
        # How many images are skipped for each reason.
        self.reasons: Counter[str] = Counter()
        # How many outputs have each verdict on their grid.
        self.verdicts: Counter[str] = Counter()
        # Called with the name and the fields of each event of a picture, by the thread that reports it.
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []
        self.one_at_a_time = threading.RLock()
        self.megapixels = 0.0
        self.bytes = 0
        self.began = time.monotonic()
        self._levels: dict[str, int] = {}
        for name in ("strsr_cli", "strsr_models"):
            logger = logging.getLogger(name)
            self._levels[name] = logger.level
            logger.setLevel(level)
            logger.addHandler(self)

    # --- events, in the order in which they come ---

    def planned(self, source: str, target: str, **sizes: Any) -> None:
        """Report an image that was found, and what is to become of it."""
        self.count("found")
        self.announce("planned", input=source, output=target, **sizes)

    def elsewhere(self, count: int) -> None:
        """Count images that were found and belong to other shards; they are not reported one by one.

        count: negative for those that this process takes from them, and reports from now on.
        """
        self.count("found", count)
        self.count("left", count)

    def skipped(self, source: str, target: str, reason: str = EXISTS, **grid: Any) -> None:
        """Report that an output is there already, or is not to be made for another reason. grid: as in `done`."""
        self.count("skipped")
        with self.one_at_a_time:
            self.reasons[reason] += 1
        self._judge(grid)
        self.announce("skipped", input=source, output=target, reason=reason, **grid)

    def left(self, source: str, target: str, reason: str) -> None:
        """Report that another process makes an image."""
        self.count("left")
        self.announce("left", input=source, output=target, reason=reason)

    def note(self, text: str) -> None:
        """Report something that a person should know, and that is no warning."""
        self.say("message", level="info", text=text)

    def prepare(self) -> None:
        """Report that pictures are looked at and weights are loaded, which takes seconds."""

    def start(self, pending: int) -> None:
        """Report that the work begins, with `pending` images left to do."""

    def looked(self, done: int, total: int) -> None:
        """Report that the conditions of `done` of `total` images are known, in models that have two phases."""

    def tile(self, done: int, total: int) -> None:
        """Report that `done` of `total` tiles of the current image are computed."""

    def scored(self, done: int, total: int) -> None:
        """Report that `done` of `total` outputs of earlier runs have been looked at for a grid."""

    def idle(self) -> None:
        """Report that all is done for now, and more may come."""

    def _judge(self, grid: dict[str, Any]) -> None:
        """Count the verdict of an output, where it has one."""
        if grid.get("verdict"):
            with self.one_at_a_time:
                self.verdicts[grid["verdict"]] += 1

    def done(
        self,
        source: str,
        target: str,
        width: int,
        height: int,
        seconds: float,
        size: int | None = None,
        **grid: Any,
    ) -> None:
        """Report an image that was written, width x height px, in a file of `size` bytes where it is one.

        grid: verdict and score_db, where a grid was looked for.
        """
        self.count("done")
        with self.one_at_a_time:
            self.megapixels += width * height / 1e6
            self.bytes += size or 0
        self._judge(grid)
        sizes: dict[str, Any] = {"width": width, "height": height, "seconds": round(seconds, 3)}
        if size is not None:
            sizes["bytes"] = size
        self.announce("done", input=source, output=target, **sizes, **grid)

    def failed(self, source: str, reason: str) -> None:
        """Report an image that could not be done; the batch goes on."""
        self.count("failed")
        self.announce("failed", input=source, reason=reason)
        if self.on_failed is not None:
            self.on_failed(source, reason)

    def forecast(self, **numbers: Any) -> None:
        """Report the last event of a dry run: how many are to_make, skipped and will_fail; bytes and seconds."""
        self.say("forecast", **numbers, passed_over=dict(self.passed_over))

    def summary(self) -> None:
        """Report the last event: all counts, and what the batch took."""
        counts = dict(self.counts)
        ended = counts["done"] + counts["skipped"] + counts["failed"] + counts["left"]
        counts["unreached"] = counts["found"] - ended
        seconds = round(time.monotonic() - self.began, 3)
        verdicts = {"verdicts": dict(self.verdicts)} if self.verdicts else {}
        self.say(
            "summary",
            **counts,
            **verdicts,
            passed_over=dict(self.passed_over),
            megapixels=round(self.megapixels, 3),
            seconds=seconds,
            bytes=self.bytes,
        )

    def close(self) -> None:
        """Give the terminal and the loggers back."""
        for name, level in self._levels.items():
            logging.getLogger(name).removeHandler(self)
            logging.getLogger(name).setLevel(level)
        super().close()

    # --- voices ---

    def count(self, what: str, number: int = 1) -> None:
        """Add to one of the counts."""
        with self.one_at_a_time:
            self.counts[what] += number

    def announce(self, event: str, **fields: Any) -> None:
        """Tell the listeners of an event of a picture, and say it."""
        for listener in self.listeners:
            listener(event, fields)
        self.say(event, **fields)

    def say(self, event: str, **fields: Any) -> None:
        """Say one event."""
        lines = [as_text(event, fields, self.verbose)]
        if event == "summary":
            end = lines[0] + describe_place(self.place, self.bytes)
            lines = [*describe_reasons(self.reasons), describe_verdicts(self.verdicts), end]
        for line in filter(None, lines):
            if not self.quiet or event == "failed":
                self.write_line(line)

    def write_line(self, text: str) -> None:
        """Write one line to stderr."""
        with self.one_at_a_time:
            print(visible(text), file=sys.stderr, flush=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Report a message logged by any module of ours."""
        self.write_line(f"{record.levelname.lower()}: {message_of(record)}")


def as_text(event: str, fields: dict[str, Any], verbose: bool) -> str:
    """Return an event as a line for people; "" for those that only programs and --verbose need."""
    if event == "planned":
        return describe_plan(fields) if verbose else ""
    score = f", grid {fields['score_db']:.1f} dB: {fields['verdict']}" if fields.get("verdict") else ""
    if event in ("skipped", "left"):
        # A second run over a large folder would have a line for each of its images.
        return f"{event} {fields['output']}: {fields['reason']}{score}" if verbose or score else ""
    if event == "message":
        return str(fields["text"])
    if event == "done":
        size = f"{fields['width']}x{fields['height']}"
        return f"done {fields['output']} {size} in {fields['seconds']:.1f} s{score}"
    if event == "failed":
        return f"failed {fields['reason']}"
    return "" if event == "forecast" else describe_summary(fields)


def describe_summary(fields: dict[str, Any]) -> str:
    """Return the last line of a batch: counts, speed, and what was passed over."""
    counts = f"{fields['done']} done, {fields['skipped']} skipped, {fields['failed']} failed"
    for name, words in (("left", "left to other processes"), ("unreached", "not reached")):
        counts += f", {fields[name]} {words}" if fields[name] else ""
    rate = f", {fields['megapixels'] / max(fields['seconds'], 1e-3):.2f} MP/s" if fields["megapixels"] else ""
    passed = describe_passed_over(Counter(fields["passed_over"]))
    return f"{counts} in {fields['seconds']:.1f} s{rate}" + (f"; {passed}" if passed else "")


def describe_place(place: str, size: int) -> str:
    """Return where a batch's outputs are, and how large those are that it has made; "" where it has made none."""
    return f"; {size_text(size)} in {place}" if place and size else ""


def describe_verdicts(verdicts: Counter[str]) -> str:
    """Return a line on how many outputs have each verdict on their grid; "" where none was looked at."""
    counts = [f"{verdicts[word]} {word}" for word in VERDICTS if verdicts[word]]
    return f"grid: {', '.join(counts)}" if counts else ""


def describe_reasons(reasons: Counter[str]) -> list[str]:
    """Return a line for each of the most frequent reasons to skip an image, but that it was done before."""
    others = [(reason, count) for reason, count in reasons.most_common() if reason != DONE]
    lines = [f"skipped {count}: {reason}" for reason, count in others[:MOST_REASONS]]
    if rest := sum(count for _, count in others[MOST_REASONS:]):
        lines.append(f"skipped {rest} for other reasons (--verbose lists them)")
    return lines


def describe_plan(fields: dict[str, Any]) -> str:
    """Return one line of a plan: source, target and sizes, or why the image will fail."""
    line = f"{fields['input']} -> {fields['output']}"
    if "error" in fields:
        return f"{line}  will fail: {fields['error']}"
    if "to_width" in fields:
        line += f"  {fields['width']}x{fields['height']} -> {fields['to_width']}x{fields['to_height']}"
    return line + (f"  skipped: {fields['reason']}" if fields.get("skip") else "")


class JsonReporter(Reporter):
    """The voice for programs: one JSON object per event on stdout, and nothing else there."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        super().__init__(quiet, verbose)
        # Kept, because an engine may send to nowhere what others print meanwhile.
        self._stdout = sys.stdout

    def say(self, event: str, **fields: Any) -> None:
        """Say one event."""
        with self.one_at_a_time:
            self._stdout.write(json.dumps({"event": event, **fields}) + "\n")
            self._stdout.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Report a message logged by any module of ours."""
        self.say("message", level=record.levelname.lower(), text=message_of(record))


class RichReporter(Reporter):
    """The voice on a terminal: bars for files and tiles, and failures above them."""

    def __init__(self, verbose: bool = False) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(verbose=verbose)
        self.console = make_console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.conditions = self.progress.add_task("looked at", total=None, rate="", visible=False)
        self.files = self.progress.add_task("files", total=None, rate="", visible=False)
        self.tiles = self.progress.add_task("tiles", total=None, rate="", visible=False)
        self.scores = self.progress.add_task("scored", total=None, rate="", visible=False)
        self.waiting = self.console.status("getting ready")

    def prepare(self) -> None:
        """Show that something is done, until the bars can."""
        self.waiting.start()

    def start(self, pending: int) -> None:
        """Show the bars; what failed before is not among the files that are left to do."""
        self.waiting.stop()
        self.progress.update(self.files, total=pending, completed=0, visible=True)
        self.progress.start()

    def looked(self, done: int, total: int) -> None:
        """Move the first phase's bar, which vanishes once all images are looked at."""
        self.progress.update(self.conditions, completed=done, total=total, visible=done < total)

    def tile(self, done: int, total: int) -> None:
        """Move the lower bar."""
        self.progress.update(self.tiles, completed=done, total=total, visible=True)

    def scored(self, done: int, total: int) -> None:
        """Move the bar of what was made before, which vanishes in the end."""
        self.waiting.stop()
        self.progress.update(self.scores, completed=done, total=total, visible=done < total)
        self.progress.start()

    def idle(self) -> None:
        """Show that something is waited for."""
        self.progress.stop()
        self.waiting.update("watching; ^C ends")
        self.waiting.start()

    def say(self, event: str, **fields: Any) -> None:
        """Say one event: a move of the upper bar, and a line where a person needs one."""
        if event in ("done", "failed", "left"):
            seconds = time.monotonic() - self.began
            rate = f"{self.megapixels / seconds:.2f} MP/s" if self.megapixels else ""
            self.progress.update(self.files, advance=1, rate=rate)
        if event == "summary":
            self.waiting.stop()
            self.progress.stop()
        if event != "done" or self.verbose or fields.get("verdict"):
            super().say(event, **fields)

    def write_line(self, text: str) -> None:
        """Write one line above the bars."""
        style = None
        if text.startswith("failed"):
            style = "red"
        elif text.startswith("warning"):
            style = "yellow"
        self.console.print(visible(text), style=style, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back."""
        self.waiting.stop()
        self.progress.stop()
        super().close()


def make_reporter(json_events: bool, quiet: bool, verbose: bool) -> Reporter:
    """Return the voice that suits the options and the terminal."""
    if json_events:
        return JsonReporter(quiet, verbose)
    if takes_escapes(sys.stderr) and not quiet:
        return RichReporter(verbose)
    return Reporter(quiet, verbose)
