"""The overlapped stages: whatever goes on at once, the files are the same, and nobody waits for ever."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

import strsr_cli
import strsr_models
from strsr_cli.batch.job import Job
from strsr_cli.batch.locks import FOLDER
from strsr_cli.batch.plan import make_plan
from strsr_cli.batch.report import Reporter
from strsr_cli.batch.state import BatchState
from strsr_cli.batch.target_size import TargetSize
from strsr_cli.upscale.options import UpscaleOptions
from strsr_cli.upscale.stages import Stages, upscale_batch
from strsr_cli.upscale.workers import prefetch, set_thread_count, thread_pool, threads_for_workers
from strsr_models import WeightsError
from strsr_models.encoders.lite import SemanticEncoder
from strsr_models.networks.autoencoder import StructuralEncoder
from strsr_models.networks.dit import Attention
from strsr_models.pipelines.lite import LitePipeline

from ..helpers.hooks import before_forward

Made = dict[str, bytes]


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    """Pictures of several sizes and kinds; two are of one size."""
    pictures = tmp_path / "in"
    pictures.mkdir()
    for number, (height, width) in enumerate([(40, 50), (24, 24), (40, 50), (7, 60), (33, 18)]):
        Image.fromarray(photo[number : number + height, :width]).save(pictures / f"{number}.png")
    Image.fromarray(photo[:30, :30, 0]).save(pictures / "gray.jpg")
    return pictures


@pytest.fixture
def make(folder: Path, tiny_weights: Path, tmp_path: Path) -> Callable[..., Made]:
    """Upscale the folder with options; the outputs by name."""

    def run(state: BatchState | None = None, **options: object) -> Made:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        settings = UpscaleOptions(
            **{
                "size": TargetSize(3.0),
                "model": "lite",
                "weights": tiny_weights,
                "tile": 64,
                "overlap": 16,
                "device": "cpu",
                "precision": "fp32",
                "quality": 95,
                "jobs": 1,
                **options,
            }
        )
        reporter = Reporter(quiet=True)
        try:
            upscale_batch(make_plan(str(folder), str(out), "keep").jobs, settings, reporter, state)
        finally:
            reporter.close()
        return {path.name: path.read_bytes() for path in sorted(out.iterdir())} if out.exists() else {}

    return run


def test_batches_workers_and_threads_change_no_byte(make: Callable[..., Made]) -> None:
    expected = make()
    assert len(expected) == 6
    assert make(batch=8) == expected
    assert make(jobs=4) == expected
    assert make(device="cpu,cpu,cpu,cpu", batch=3, jobs=3) == expected


def test_tiles_of_one_shape_change_pixels_hardly(
    make: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: all tiles square, small pictures reflected up to a tile."""
    expected = make(tile=96)
    monkeypatch.setattr(Stages, "one_shape", True)
    seen = set()
    with before_forward(StructuralEncoder, lambda lq_up: seen.add(tuple(lq_up.shape[-2:]))):
        made = make(tile=96)
    assert seen == {(96, 96)}
    assert made.keys() == expected.keys()


def test_a_picture_that_the_network_cannot_do_costs_itself_alone(make: Callable[..., Made]) -> None:
    expected = make()

    def refuse_low_tiles(lq_up: torch.Tensor) -> None:
        if lq_up.shape[-2] == 32:  # 3.png alone
            raise RuntimeError("no such kernel")

    with before_forward(StructuralEncoder, refuse_low_tiles):
        made = make(batch=8)
    assert made == {name: data for name, data in expected.items() if name != "3.png"}


def test_damaged_weights_end_the_batch_and_leave_nothing(
    make: Callable[..., Made], tiny: LitePipeline, tiny_weights: Path, tmp_path: Path
) -> None:
    before = threading.active_count()
    with torch.no_grad():
        tiny.dit.patch_out.weight.fill_(float("nan"))
    tiny.save(tiny_weights, {})
    with pytest.raises(WeightsError, match="damaged"):
        make()
    assert not list(tmp_path.glob("out*/*"))
    assert threading.active_count() == before


def test_an_interruption_leaves_no_thread_and_no_partial_file(
    make: Callable[..., Made], tmp_path: Path
) -> None:
    before, calls = threading.active_count(), []

    def interrupt_the_fourth(picture: torch.Tensor) -> None:
        calls.append(picture)
        if len(calls) == 4:
            raise KeyboardInterrupt

    # Pictures are begun in the main thread, which is where ^C arrives.
    with before_forward(SemanticEncoder, interrupt_the_fourth), pytest.raises(KeyboardInterrupt):
        make()
    for path in tmp_path.glob("out*/*"):
        with Image.open(path) as image:
            image.load()
    assert threading.active_count() == before


def test_an_unforeseen_error_fails_its_picture_and_is_named(
    make: Callable[..., Made], capsys: pytest.CaptureFixture[str]
) -> None:
    """One odd file among thousands must not end the batch, nor be passed over."""

    class Odd(BatchState):
        def recorder(self, job: Job) -> Callable[[Path], None] | None:
            if job.name.endswith("1.png"):
                raise ZeroDivisionError("at\nodds")
            return super().recorder(job)

    expected = make()
    made = make(Odd())
    assert made == {name: data for name, data in expected.items() if name != "1.png"}
    (line,) = capsys.readouterr().err.splitlines()
    assert "1.png: ZeroDivisionError: at; this is a bug of strsr" in line


def test_a_picture_that_was_taken_over_is_left(folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Losing(BatchState):
        def recorder(self, job: Job) -> Callable[[Path], None] | None:
            if job.name.endswith("1.png"):
                for path in (out / FOLDER).glob("[0-9a-f]*"):
                    path.write_text(f"run-{0:016}")
            return super().recorder(job)

    state = Losing(out)
    reporter = Reporter(quiet=True)
    options = UpscaleOptions(TargetSize(3.0), "lite", tiny_weights, 64, 16, "cpu", "fp32", 95, jobs=1)
    upscale_batch(make_plan(str(folder / "1.png"), f"{out}/", "keep").jobs, options, reporter, state)
    assert reporter.counts == {"found": 0, "done": 0, "skipped": 0, "failed": 0, "left": 1}
    reporter.close()
    state.close()
    assert list(out.rglob("*")) == []


def test_pictures_do_not_pile_up_before_slow_writers(make: Callable[..., Made], folder: Path) -> None:
    """Each is in memory, and claimed, and finished after ^C."""
    for number in range(20):
        Image.new("RGB", (8, 8)).save(folder / f"small{number}.png")
    claimed: list[Job] = []
    most = 0

    class Slow(BatchState):
        def take(self, job: Job) -> bool:
            nonlocal most
            claimed.append(job)
            most = max(most, len(claimed))
            return super().take(job)

        def recorder(self, job: Job) -> Callable[[Path], None] | None:
            time.sleep(0.01)
            return super().recorder(job)

        def release(self, job: Job) -> None:
            claimed.remove(job)
            super().release(job)

    assert len(make(Slow())) == 26
    assert 2 < most < 10


def test_pictures_read_ahead_are_given_back_at_the_end(
    folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    """While the last picture is finished, which may take long, other processes can make the rest."""
    out = tmp_path / "out"
    claims: list[int] = []

    class Stopping(BatchState):
        def recorder(self, job: Job) -> Callable[[Path], None] | None:
            self.stop.requested = True
            deadline = time.monotonic() + 2
            while len(left := list((out / FOLDER).glob("[0-9a-f]*"))) > 1 and time.monotonic() < deadline:
                time.sleep(0.01)
            claims.append(len(left))
            return super().recorder(job)

    state = Stopping(out)
    reporter = Reporter(quiet=True)
    options = UpscaleOptions(TargetSize(3.0), "lite", tiny_weights, 64, 16, "cpu", "fp32", 95, jobs=1)
    upscale_batch(make_plan(str(folder), str(out), "keep").jobs, options, reporter, state)
    reporter.close()
    state.close()
    assert claims[-1] == 1
    assert reporter.counts["done"] < 6


def test_reading_ahead_is_bounded_by_number_and_weight() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            begun.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        used = []
        for item, future in prefetch(pool, lambda number: number, items(), lambda number: 1, depth=3):
            assert future.result() == item
            assert len(begun) - item <= 5
            used.append(item)
        assert used == list(range(10))
        begun.clear()
        for item, _ in prefetch(pool, lambda number: number, items(), lambda number: 2**26, depth=3):
            assert len(begun) - item <= 2


def test_threads_keep_the_number_of_threads_they_were_given() -> None:
    """PyTorch gives a new thread what was set last, anywhere, at its first operation and not before."""
    found: list[int] = []
    given, other = threading.Event(), threading.Event()

    def worker() -> None:
        set_thread_count(2)
        given.set()
        other.wait()
        torch.rand(300_000).mul_(2)
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=worker)
    with threads_for_workers():
        thread.start()
        given.wait()
        with thread_pool(1, "test") as pool:
            pool.submit(torch.get_num_threads).result()
        other.set()
        thread.join()
    assert found == [2]


def own_calls(frame: FrameType | None) -> list[tuple[str, str]]:
    """The file and function of each call of ours that led to a frame, outermost first; torch's are left out.

    Comprehensions, which have frames of their own before Python 3.12, are no calls.
    """
    calls = []
    while frame is not None:
        path, function = Path(frame.f_code.co_filename), frame.f_code.co_name
        for package in (Path(strsr_cli.__file__).parent, Path(strsr_models.__file__).parent):
            if path.is_relative_to(package) and not function.startswith("<"):
                calls.append((path.relative_to(package.parent).as_posix(), function))
        frame = frame.f_back
    return calls[::-1]


def test_three_hops_from_restore_to_the_transformer(
    folder: Path, tiny_weights: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    """The way that the architecture page shows: command, stages, pipeline, network; nothing lies between."""
    main, ways = threading.get_ident(), []

    def look_around(_tokens: torch.Tensor) -> None:
        ways.append((own_calls(sys._getframe()), own_calls(sys._current_frames()[main])))

    with before_forward(Attention, look_around):
        result = strsr("upscale", folder / "1.png", tmp_path / "out.png", "--weights", tiny_weights)
    assert result.exit_code == 0, result.output
    computing, waiting = ways[0]
    way = computing[computing.index(("strsr_cli/upscale/stages.py", "restore")) :]
    way = way[: way.index(("strsr_models/networks/dit.py", "forward")) + 1]
    assert len(way) <= 8, way
    assert len({file for file, _ in way}) <= 5, way
    assert "strsr_cli/commands/upscale.py" in {file for file, _ in waiting}
