"""Pictures that were sent: they wait in turn, one is enlarged at a time, and what was made is kept for a while."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from strsr_models.errors import ImageError, StrsrError, first_line
from strsr_models.tiling.sizes import output_size

from ..gallery.details import make_detail
from ..gallery.entries import Entry
from ..images.read import read_size
from ..system.console import visible

MOST_WAITING = 20  # pictures; more are refused until some are done
MOST_KEPT = 20  # pictures that are done or failed; the oldest are forgotten
MOST_OUTPUT_PIXELS = 400_000_000
KINDS = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}  # that all browsers show


class Enlarge(Protocol):
    """What enlarges a file into another one: strsr.Upscaler.upscale."""

    def __call__(
        self, image: Path, scale: float, *, output: Path, on_tile: Callable[[int, int], None]
    ) -> Any: ...


class QueueFull(Exception):
    """Too many pictures wait."""


class Forgotten(Exception):
    """Nobody waits for the picture under way any longer."""


@dataclass
class Task:
    """A picture that was sent. name: as its sender calls it. state: waiting, working, done or failed."""

    name: str
    scale: float
    kind: str
    folder: Path
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = "waiting"
    reason: str = ""
    tiles: int = 0
    tiles_done: int = 0
    entry: Entry = field(default_factory=lambda: Entry("", ""))
    ended: threading.Event = field(default_factory=threading.Event)
    forgotten: bool = False

    @property
    def source(self) -> Path:
        """The file that was sent. Its name says nothing: what it is, its first bytes tell."""
        return self.folder / "input"

    @property
    def target(self) -> Path:
        """The file that is made."""
        return self.folder / f"output.{self.kind}"

    @property
    def download_name(self) -> str:
        """What a browser calls the file that is made."""
        stem = Path(self.name.replace("\\", "/")).stem or "picture"
        return f"{stem}_x{self.scale:g}.{self.kind}"


class TaskQueue:
    """The pictures of one server, and the thread that enlarges them in turn.

    folder: for what was sent and made; it is the caller's to remove.
    """

    def __init__(self, enlarge: Enlarge, folder: Path, max_pixels: int, thread_name: str) -> None:
        self._enlarge = enlarge
        self._folder = folder
        self._max_pixels = max_pixels
        self._lock = threading.Condition()
        self._waiting: list[Task] = []
        self._tasks: dict[str, Task] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=thread_name, daemon=True)
        self._thread.start()

    def new(self, name: str, scale: float, kind: str) -> Task:
        """Return a task with a folder for its file, which does not wait yet. Raises QueueFull."""
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                raise QueueFull
        task = Task(visible(name)[:200] or "picture", scale, kind, self._folder)
        task.folder = self._folder / task.id
        task.folder.mkdir(mode=0o700)
        return task

    def add(self, task: Task) -> None:
        """Let a task wait for its turn; the oldest of those that have ended may be forgotten for it."""
        with self._lock:
            self._tasks[task.id] = task
            self._waiting.append(task)
            over = [old for old in self._tasks.values() if old.ended.is_set()][:-MOST_KEPT]
            self._lock.notify()
        for old in over:
            self.forget(old)

    def find(self, number: str) -> Task | None:
        """Return the task of an id, unless it was forgotten."""
        return self._tasks.get(number)

    def before(self, task: Task) -> int:
        """Return how many pictures come before a task that waits."""
        with self._lock:
            working = sum(other.state == "working" for other in self._tasks.values())
            return working + (self._waiting.index(task) if task in self._waiting else 0)

    @property
    def busy(self) -> int:
        """How many pictures wait or are under way."""
        with self._lock:
            return sum(not task.ended.is_set() for task in self._tasks.values())

    def forget(self, task: Task) -> None:
        """Drop a task with its files; the picture under way ends after its tile."""
        task.forgotten = True
        with self._lock:
            self._tasks.pop(task.id, None)
            if task in self._waiting:
                self._waiting.remove(task)
        if task.state != "working":
            shutil.rmtree(task.folder, ignore_errors=True)

    def close(self) -> None:
        """Take no more tasks; the thread ends at once if nothing is under way."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        if not self.busy:
            self._thread.join()

    def _work(self) -> None:
        """Enlarge what waits, in turn, until the end."""
        while True:
            with self._lock:
                while not self._waiting and not self._closed:
                    self._lock.wait()
                if self._closed:
                    return
                task = self._waiting.pop(0)
                task.state = "working"
            self._do(task)

    def _do(self, task: Task) -> None:
        """Enlarge one picture; what is wrong with it is its reason."""
        began = time.monotonic()
        try:
            self._make(task)
            task.entry.seconds = time.monotonic() - began
            task.state = "done"
        except Forgotten:
            task.state = "failed"
        except (StrsrError, OSError, MemoryError, RuntimeError, ValueError) as error:
            reason = str(error) if isinstance(error, StrsrError) else first_line(error)
            # Where the file lies here means nothing to its sender.
            task.reason = visible(
                reason.replace(str(task.source), task.name).replace(str(task.target), task.name)
            )
            task.state = "failed"
        finally:
            with contextlib.suppress(OSError):
                task.source.unlink()
            if task.forgotten:
                shutil.rmtree(task.folder, ignore_errors=True)
            task.ended.set()

    def _make(self, task: Task) -> None:
        """Read, enlarge and write one picture, and cut out of it what is compared."""
        entry = task.entry = Entry(task.name, task.name, state="done")
        height, width = read_size(task.source, self._max_pixels)
        to_height, to_width = output_size(height, width, task.scale)
        if to_height * to_width > MOST_OUTPUT_PIXELS:
            raise ImageError(
                f"{task.name}: would become {to_width}x{to_height}, more than {MOST_OUTPUT_PIXELS // 10**6} "
                "megapixels; choose a smaller scale, or use the command strsr upscale"
            )
        entry.size, entry.to_size = (width, height), (to_width, to_height)

        def on_tile(done: int, tiles: int) -> None:
            task.tiles_done, task.tiles = done, tiles
            if task.forgotten:
                raise Forgotten

        self._enlarge(task.source, task.scale, output=task.target, on_tile=on_tile)
        try:
            entry.detail = make_detail(task.source, task.target, None)
        except (ImageError, MemoryError) as error:
            entry.remark = first_line(error)
