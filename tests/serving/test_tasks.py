"""The queue of a server: turns, refusals, what is kept and what is forgotten. What enlarges waits for the test."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from strsr_cli.serving.tasks import MOST_KEPT, MOST_WAITING, QueueFull, Task, TaskQueue

from .server import png


class Gate:
    """Enlarges by copying, one picture for each `open`; keeps the order."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.names: list[str] = []

    def __call__(
        self, image: Path, scale: float, *, output: Path, on_tile: Callable[[int, int], None]
    ) -> None:
        self.names.append(output.parent.name)
        self.begun.release()
        self.allowed.acquire()
        on_tile(1, 1)
        shutil.copy(image, output)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def queue(gate: Gate, tmp_path: Path) -> Iterator[TaskQueue]:
    queue = TaskQueue(gate, tmp_path, 10_000, "test-serve")
    yield queue
    gate.allowed.release(1000)
    while queue.busy:
        pass
    queue.close()


def sent(queue: TaskQueue, scale: float = 1) -> Task:
    task = queue.new("a.png", scale, "png")
    task.source.write_bytes(png(np.zeros((9, 9), np.uint8)))
    queue.add(task)
    return task


def test_pictures_are_taken_in_turn_one_at_a_time(queue: TaskQueue, gate: Gate) -> None:
    tasks = [sent(queue) for _ in range(3)]
    gate.begun.acquire()
    assert [task.state for task in tasks] == ["working", "waiting", "waiting"]
    assert [queue.before(task) for task in tasks[1:]] == [1, 2]
    assert queue.busy == 3
    gate.allowed.release(3)
    for task in tasks:
        assert task.ended.wait(30)
    assert gate.names == [task.id for task in tasks]
    assert [task.state for task in tasks] == ["done"] * 3
    assert all(task.target.exists() and not task.source.exists() for task in tasks)


def test_a_queue_that_is_full_takes_no_more(queue: TaskQueue, gate: Gate) -> None:
    first = sent(queue)
    gate.begun.acquire()
    for _ in range(MOST_WAITING):
        sent(queue)
    with pytest.raises(QueueFull):
        sent(queue)
    gate.allowed.release(1)
    assert first.ended.wait(30)
    gate.begun.acquire()
    assert sent(queue).state == "waiting"


def test_who_is_forgotten_leaves_nothing_and_holds_nobody_up(queue: TaskQueue, gate: Gate) -> None:
    working, waiting, last = sent(queue), sent(queue), sent(queue)
    gate.begun.acquire()
    queue.forget(working)
    queue.forget(waiting)
    assert not waiting.folder.exists()
    gate.allowed.release(2)
    assert last.ended.wait(30)
    assert last.state == "done"
    assert gate.names == [working.id, last.id]
    assert not working.folder.exists()
    assert queue.find(working.id) is queue.find(waiting.id) is None


def test_the_oldest_results_make_room(queue: TaskQueue, gate: Gate) -> None:
    gate.allowed.release(100)
    tasks = []
    for _ in range(MOST_KEPT + 2):
        tasks.append(sent(queue))
        assert tasks[-1].ended.wait(30)
    sent(queue)
    assert [task.folder.exists() for task in tasks[:3]] == [False, False, True]
    assert queue.find(tasks[1].id) is None


def test_an_output_that_is_too_large_is_refused_before_it_is_made(queue: TaskQueue, gate: Gate) -> None:
    task = queue.new("wide.png", 16, "png")
    task.source.write_bytes(png(np.zeros((1, 10_000), np.uint8)))
    queue.add(task)
    gate.allowed.release(5)
    assert task.ended.wait(30)
    assert task.state == "done"
    huge = TaskQueue(gate, task.folder.parent, 10**9, "test-serve-huge")
    task = huge.new("huge.png", 16, "png")
    task.source.write_bytes(png(np.zeros((2000, 2000), np.uint8)))
    huge.add(task)
    assert task.ended.wait(30)
    assert task.reason.startswith("huge.png: would become 32000x32000, more than 400 megapixels")
    huge.close()
