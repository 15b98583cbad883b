"""Failures at every stage of the overlapped batch, by chance: it ends, tells each picture's fate once, and leaves nothing."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from strsr_cli.batch.journal_files import JOURNAL
from strsr_cli.batch.locks import FOLDER
from strsr_cli.batch.plan import make_plan
from strsr_cli.batch.report import Reporter
from strsr_cli.batch.state import BatchState
from strsr_cli.batch.target_size import TargetSize
from strsr_cli.images import read as images
from strsr_cli.images import write as encode
from strsr_cli.images.color.restorer import ColorRestorer
from strsr_cli.system.atomic import TEMPORARY_PREFIX
from strsr_cli.upscale.options import UpscaleOptions
from strsr_cli.upscale.stages import upscale_batch
from strsr_models import WeightsError
from strsr_models.errors import ImageError
from strsr_models.pipelines.lite import LitePipeline

SEEDS = int(os.environ.get("STRSR_STRESS_SEEDS", "3"))
PATIENCE = 60.0  # s for a run that takes a tenth of one
SUFFIXES = ("png", "jpg", "tif", "webp", "bmp")

# What may go wrong in one picture, and what ends everything.
OWN = (
    lambda: ImageError("injected"),
    lambda: MemoryError("injected"),
    lambda: RuntimeError("injected"),
    lambda: ZeroDivisionError("injected"),
)
FATAL = (lambda: WeightsError("injected"),)


class Told(Reporter):
    """Remembers each picture's fate; asks for a stop after some of them."""

    def __init__(self, state: BatchState, stop_after: int | None) -> None:
        super().__init__(quiet=True)
        self.fates: list[tuple[str, str]] = []
        self.state, self.stop_after = state, stop_after

    def say(self, event: str, **fields: Any) -> None:
        if event in ("done", "failed", "left"):
            self.fates.append((fields["input"], event))
            if self.stop_after is not None and len(self.fates) >= self.stop_after:
                self.state.stop.requested = True


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    """Pictures from one pixel to several rows of tiles, and two that cannot be read."""
    root = tmp_path / "in"
    root.mkdir()
    rng = random.Random(0)
    for number in range(14):
        height, width = rng.choice([(1, 1), (3, 50), (24, 24), (60, 33), (70, 9)])
        suffix = SUFFIXES[number % len(SUFFIXES)]
        Image.fromarray(photo[number : number + height, :width]).save(root / f"{number:02}.{suffix}")
    (root / "broken.png").write_text("no")
    (root / "cut.png").write_bytes((root / "00.png").read_bytes()[:40])
    return root


class Faults:
    """Raises what `kinds` make, by chance, at the places that it is put into."""

    def __init__(self, seed: int, kinds: tuple[Callable[[], Exception], ...], rate: float) -> None:
        self.rng, self.kinds, self.rate = random.Random(seed), kinds, rate
        self.raised: list[Exception] = []

    def put(
        self, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, *more: Callable[[], Exception]
    ) -> None:
        inner = getattr(where, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            if self.rng.random() < self.rate:
                self.raised.append(error := self.rng.choice(self.kinds + more)())
                raise error
            return inner(*args, **options)

        monkeypatch.setattr(where, name, wrapped)


def run(
    folder: Path, out: Path, weights: Path, stop_after: int | None = None, **options: Any
) -> tuple[Told, Any]:
    """One batch in a thread of its own, since it might not end; what it told, and what it raised."""
    settings = {"size": TargetSize(3.0), "model": "lite", "weights": weights, "tile": 64, "overlap": 16}
    settings |= {"device": "cpu", "precision": "fp32", "quality": 95, "jobs": 1, **options}
    state = BatchState(out)
    told, raised = Told(state, stop_after), list[BaseException]()
    told.on_failed = state.failed
    state.reporter = told

    def work() -> None:
        try:
            upscale_batch(
                make_plan(str(folder), str(out), "keep").jobs, UpscaleOptions(**settings), told, state
            )
        except BaseException as error:  # noqa: BLE001  (looked at below)
            raised.append(error)
        finally:
            state.close()
            told.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the batch does not end"
    return told, raised[0] if raised else None


def outputs(out: Path) -> dict[str, bytes]:
    return (
        {path.name: path.read_bytes() for path in out.iterdir() if path.name != JOURNAL}
        if out.exists()
        else {}
    )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_pictures_fail_alone_whatever_fails_and_wherever(
    seed: int, folder: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.active_count()
    told, raised = run(folder, tmp_path / "expected", tiny_weights)
    expected = outputs(tmp_path / "expected")
    assert raised is None
    assert len(expected) == 14
    assert Counter(fate for _, fate in told.fates) == {"done": 14, "failed": 2}

    rng = random.Random(seed)
    kinds = OWN if seed % 3 else (*OWN, *FATAL)
    faults = Faults(seed, kinds, rng.choice([0.0, 0.02, 0.1, 0.5]))
    full = lambda: OSError(errno.ENOSPC, "injected")
    faults.put(monkeypatch, images, "_decode", full)
    faults.put(monkeypatch, LitePipeline, "encode_condition")
    faults.put(monkeypatch, LitePipeline, "restore")
    faults.put(monkeypatch, ColorRestorer, "keep_needed")
    faults.put(monkeypatch, ColorRestorer, "output_rows")
    for writer in ("write_png", "write_jpeg", "write_tiff", "write_bmp", "write_whole"):
        faults.put(monkeypatch, encode, writer, full)
    faults.put(monkeypatch, os, "fsync", full)
    out = tmp_path / "out"
    told, raised = run(
        folder,
        out,
        tiny_weights,
        stop_after=rng.choice([None, None, 3]),
        jobs=rng.choice([1, 2, 8]),
        batch=rng.choice([1, 3, 40]),
        device=",".join(["cpu"] * rng.choice([1, 2, 5])),
    )
    monkeypatch.undo()
    assert raised is None or raised in faults.raised
    fates = Counter(name for name, _ in told.fates)
    assert set(fates.values()) <= {1}
    if raised is None and told.stop_after is None:
        assert len(fates) == 16
    made = outputs(out)  # what is left unfinished, or a lock, would be among them
    assert made.items() <= expected.items()
    done = {Path(name).name for name, fate in told.fates if fate == "done"}
    assert done <= made.keys()
    assert raised is not None or done == made.keys()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:  # a heart stops a moment later
        time.sleep(0.01)
    assert [thread.name for thread in threading.enumerate()][before:] == []

    told, raised = run(folder, out, tiny_weights)  # and again without faults
    assert raised is None
    assert outputs(out) == expected
    assert not list(out.glob(f"{TEMPORARY_PREFIX}*"))
    assert not (out / FOLDER).exists()
