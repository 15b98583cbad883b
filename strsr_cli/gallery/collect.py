"""The report page of `strsr upscale`: hears what becomes of each picture, and is written at the end, however that comes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strsr_models.errors import StrsrError, UsageError

from ..batch.job import Job
from ..batch.report import Reporter
from ..system.atomic import try_writing, whole_file, writing
from ..system.console import first_line, size_text
from ..system.paths import is_folder
from ..system.signals import OUR_THREADS, EndedBySignal, Stop
from .details import make_detail
from .entries import Entries, Entry
from .page import MARK, Run, render

log = logging.getLogger(__name__)

SUFFIXES = (".html", ".htm")
MANY = 4  # pictures to be read back for which a person waits knowingly


@contextlib.contextmanager
def report_page(
    path: Path | None,
    reporter: Reporter,
    stop: Stop,
    jobs: list[Job],
    settings: list[tuple[str, str, bool]],
    silent: bool = False,
) -> Iterator[None]:
    """Inside, a batch runs; at its end the page is written to `path`, also where it failed or was interrupted.

    settings: name, value and whether it was given, of each option. silent: say nothing of it at the end. Raises
    UsageError, before anything is made, for a path that is somebody's or takes no file, and StrsrError where the disk
    does not take the page. No page is written of a batch in which nothing was planned.
    """
    if path is None:
        yield
        return
    check_path(path)
    gallery = Gallery(path, stop, {job.name: job for job in jobs}, Run(settings))
    reporter.listeners.append(gallery.hear)
    try:
        yield
        gallery.fill()
        if gallery.waiting > MANY and not silent:
            reporter.note(f"report: {gallery.waiting} pictures are still to be read back; ^C leaves them out")
        gallery.wait()
    except BaseException as error:
        gallery.drop()
        gallery.run.ended = _ending(error)
        try:
            gallery.write()
        except StrsrError as refusal:
            log.warning("%s", refusal)
        raise
    if stop.requested:
        gallery.run.ended = "interrupted"
    size = gallery.write()
    if size and not silent:
        reporter.note(f"report: {path} ({size_text(size)})")


def _ending(error: BaseException) -> str:
    """Say in words how a batch has ended early."""
    if isinstance(error, EndedBySignal):
        return f"ended at once ({error})"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)


def check_path(path: Path) -> None:
    """Raise UsageError for a path that no page may be written to: somebody's file, another suffix, a closed folder."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--report {path}: is a web page, so its name must end in .html")
    try:
        if is_folder(path):
            raise UsageError(
                f"--report {path}: is a folder; name a file in it, such as {path / 'report.html'}"
            )
        if path.exists() and path.stat().st_size and not _is_own(path):
            raise UsageError(f"--report {path}: exists and was not made by strsr; choose another name")
        folder = path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not is_folder(folder):
            raise UsageError(f"--report {path}: {folder} is no folder; choose another place")
        try_writing(folder)
    except OSError as error:
        raise UsageError(
            f"--report {path}: cannot be written: {error.strerror or error}; choose another place"
        ) from error


def _is_own(path: Path) -> bool:
    """Whether a file is a page of ours, by its beginning. Raises OSError."""
    with open(path, "rb") as file:
        return MARK.encode() in file.read(1024)


@dataclass
class Gallery:
    """A page in the making. Pictures are read back and cut by one thread, one at a time, while others are made."""

    path: Path
    stop: Stop
    jobs: dict[str, Job]
    run: Run
    entries: Entries = field(default_factory=Entries)
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix=f"{OUR_THREADS}report")
    )
    _cuts: list[Future[None]] = field(default_factory=list)

    def hear(self, event: str, fields: dict[str, Any]) -> None:
        """Take in one event of the reporter, in any thread."""
        entry = self.entries.hear(event, fields)
        if entry is not None:
            self._compare(entry)

    def fill(self) -> None:
        """Compare pictures that were made before, where there is place for them; not after a wish to stop."""
        if not self.stop.requested:
            for entry in self.entries.to_fill():
                self._compare(entry)

    def _compare(self, entry: Entry) -> None:
        """Have a picture read back and cut."""
        # Without another thread the page does without this picture.
        with contextlib.suppress(RuntimeError):
            self._cuts.append(self._pool.submit(self._cut, entry))

    def _cut(self, entry: Entry) -> None:
        """Cut a picture; where that cannot be, the page says why."""
        job = self.jobs.get(entry.source)
        source = Path(entry.source) if job is None else job.source
        target = Path(entry.target) if job is None else job.target
        if source is None or target is None:
            entry.remark = "came or went through a stream, which cannot be read back"
            return
        if not (isinstance(source, Path) and isinstance(target, Path)):
            entry.remark = "lies in a remote place, from which nothing is read back"
            return
        try:
            entry.detail = make_detail(source, target, None if job is None else job.frame)
        # Whatever it is costs the page one picture, and the batch nothing.
        except Exception as error:
            log.debug("%s: not compared", entry.source, exc_info=error)
            entry.remark = first_line(error)

    @property
    def waiting(self) -> int:
        """The number of pictures that are still to be cut."""
        return sum(not cut.done() for cut in self._cuts)

    def wait(self) -> None:
        """Wait until all pictures are cut; after a wish to stop, only for the one under way."""
        pending = set(self._cuts)
        while pending:
            if self.stop.requested:
                pending = {cut for cut in pending if not cut.cancel()}
            # Short, since signals are looked after in between.
            pending = wait(pending, timeout=0.2).not_done
        self._pool.shutdown()

    def drop(self) -> None:
        """Wait for no more pictures."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def write(self) -> int:
        """Write the page, whole or not at all; return its bytes, 0 where there is nothing to show. Raises StrsrError."""
        if not self.entries.items:
            return 0
        with writing(self.path, "the pictures themselves are done"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            data = render(self.entries, self.run, self.path, self.jobs)
            with whole_file(self.path) as file:
                file.write(data)
        return len(data)
