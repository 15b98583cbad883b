"""Short runs of `strsr train`, and what they leave behind: for all tests of the training room."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from strsr_cli.training.run.folder import Run
from strsr_cli.training.train import train

BASE = [
    "batch_size=2",
    "crop_size=32",
    "workers=0",
    "log_every=1",
    "warmup_steps=1",
    "device=cpu",
    "precision=fp32",
    "tensorboard=false",
]
SMALL = ["--set", "device=cpu", "--set", "crop_size=32"]


def run(photos: Path, out: Path, config: Path, *settings: str) -> Path:
    return train([photos], out, config, [*BASE, *settings], lambda _line: None)


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def newest(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint: weights, averages and the optimiser's moments."""
    folder = Run(out).latest()
    assert folder is not None
    tensors = {**load_file(folder / "model.safetensors")}
    tensors |= {f"average.{k}": v for k, v in load_file(folder / "average.safetensors").items()}
    for number, moments in torch.load(folder / "optimizer.bin", weights_only=True)["state"].items():
        tensors |= {f"adam.{number}.{k}": v for k, v in moments.items() if isinstance(v, torch.Tensor)}
    return tensors


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def limit_files(line: str, most: int = 100_000) -> None:
    """Behind step 3 no file may grow past so many bytes."""
    if line.startswith("step 3/"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def limits_end() -> Iterator[None]:
    """Inside, a limit may be set: writing then fails as on a full disk. Behind it, pytest writes again."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
