"""Batches of a run in order, and their comparison."""

from __future__ import annotations

import torch

from strsr_cli.training.data.crops import Batch, Crops, batches
from strsr_cli.training.data.degrade import DegradeConfig

CPU = torch.device("cpu")
FIELDS = ("hq", "lq_up", "picture")


def run(crops: Crops, start: int = 0, stop: int = 3, batch_size: int = 4, **more: int) -> list[Batch]:
    options = {"workers": 0, **more}
    return list(
        batches(crops, DegradeConfig(), CPU, start=start, stop=stop, batch_size=batch_size, **options)
    )


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for name in FIELDS:
            assert torch.equal(getattr(a, name), getattr(b, name)), name
