"""The parts that the loops of `strsr train` and `strsr distill` share: AdamW, learning rates, batches.

Distribution, mixed precision and the files of a checkpoint are Hugging Face accelerate's
(https://huggingface.co/docs/accelerate): start a run with `accelerate launch -m strsr_cli train ...`
and it is spread over the processes that were asked for.

All randomness of a step is a function of (seed, step), so that no generator has a state to save.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from strsr_models.errors import UsageError
from strsr_models.pipelines.base import OneStepPipeline

from .data.crops import Batch, Crops, Teach, batches
from .settings import LoopConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def check_crop_size(config: LoopConfig, pipeline: OneStepPipeline) -> None:
    """Raise UsageError for crops that the pipeline's patches do not fit into."""
    if config.crop_size % pipeline.multiple_of:
        raise UsageError(
            f"crop_size {config.crop_size}: must be a multiple of {pipeline.multiple_of} px here"
        )


def make_adamw(parameters: list[nn.Parameter], config: LoopConfig, learning_rate: float) -> torch.optim.AdamW:
    """Make AdamW with the configuration's betas, epsilon and decay."""
    return torch.optim.AdamW(
        parameters,
        lr=learning_rate,
        betas=config.betas,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        # One kernel for all parameters, where each would have a dozen.
        fused=all(parameter.device.type in ("cuda", "cpu") for parameter in parameters),
    )


def learning_rate(config: LoopConfig, step: int, share: float | None = None) -> float:
    """The learning rate of a step: a linear warm-up, then a cosine down to `final_learning_rate` at the end of the run.

    share: the share of the run that is over, where that is not a matter of steps.
    """
    share = step / config.steps if share is None else share
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return warm * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * fall)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def describe(pipeline: OneStepPipeline) -> str:
    """The size of a pipeline in words, and how much of it trains where that is not all."""
    count = sum(p.numel() for p in pipeline.parameters())
    trained = sum(p.numel() for p in pipeline.parameters() if p.requires_grad)
    partly = f", {trained / 1e6:.2f} M of them train" if 0 < trained < count else ""
    return f"{count / 1e6:.2f} M parameters{partly}"


def batches_from(
    step: int,
    stop: int,
    crops: Crops,
    config: LoopConfig,
    accelerator: Accelerator,
    teachers: Teach | None = None,
) -> Iterator[tuple[Batch, list[int]]]:
    """Yield this process's share of each batch of steps step..stop-1, and the numbers of its samples."""
    world, rank = accelerator.num_processes, accelerator.process_index
    loader = batches(
        crops,
        config.degrade,
        accelerator.device,
        start=step,
        stop=stop,
        batch_size=config.batch_size,
        workers=config.workers,
        rank=rank,
        world=world,
        teachers=teachers,
    )
    for number, batch in enumerate(loader, start=step):
        first = number * config.batch_size + rank * len(batch.hq)
        yield batch, list(range(first, first + len(batch.hq)))


def in_parts(
    accelerator: Accelerator, module: nn.Module, batch: tuple[Any, ...], parts: int
) -> Iterator[tuple[Any, ...]]:
    """Yield slices of a batch's tensors and lists (or None), to run forward and backward on one after the other.

    Gradients of several processes meet once, after the last part.
    """
    size = len(batch[0]) // parts
    for number in range(parts):
        last = number == parts - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(module):
            part = slice(number * size, (number + 1) * size)
            yield tuple(None if values is None else values[part] for values in batch)
