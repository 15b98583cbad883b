"""The parts that the loops of `strsr train` and `strsr distill` share: accelerate, AdamW, learning rates, batches.

Distribution, mixed precision and the files of a checkpoint are Hugging Face accelerate's
(https://huggingface.co/docs/accelerate): start a run with `accelerate launch -m strsr_cli train ...`
and it is spread over the processes that were asked for.

All randomness of a step is a function of (seed, step), so that no generator has a state to save.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from strsr_models.compute.devices import resolve_device, resolve_precision
from strsr_models.errors import UsageError
from strsr_models.packages import install_command
from strsr_models.pipelines.base import OneStepPipeline

from .data.crops import Batch, Crops, Teach, batches
from .run.checkpoint import keep_trained_only
from .settings import LoopConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


SPREADING = ("FSDP", "DEEPSPEED", "MEGATRON_LM")  # plugins that take parameters apart
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Make accelerate's process group with the device and precision that the configuration says.

    Raises UsageError when accelerate is not installed, is set up to spread parameters over processes,
    or the batch cannot be shared out evenly.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise UsageError(f"training needs accelerate: {install_command('strsr[train]')}") from error
    # `accelerate launch` tells its processes so in the environment.
    for name in SPREADING:
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("true", "1", "yes"):
            raise UsageError(
                f"accelerate is set up for {name}, which does not work here: set it up for DDP "
                "(accelerate launch --multi_gpu); for less memory use accumulate and gradient_checkpointing"
            )
    device = resolve_device(config.device)
    if device.type == "cuda":
        # Crops have so few sizes that trying convolutions out pays.
        torch.backends.cudnn.benchmark = True
        if device.index is not None:
            torch.cuda.set_device(device)
    precision = resolve_precision(config.precision, device)
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("precision=fp16: CPUs do not train in it; use bf16, fp32 or auto")
    try:
        accelerator = Accelerator(mixed_precision=MIXED_PRECISION[precision], cpu=device.type == "cpu")
    except ValueError as error:
        # accelerate keeps one state for the whole process, so that a second run must want the same.
        raise UsageError(f"precision={precision}, device={config.device}: {error}") from error
    keep_trained_only(accelerator)
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise UsageError(
            f"batch_size {config.batch_size}: must be a multiple of processes x accumulate, "
            f"{accelerator.num_processes} x {config.accumulate}"
        )
    return accelerator


class Compilable(Protocol):
    """A part that torch.compile can make faster in place, as modules can."""

    def compile(self, *, mode: str) -> None:
        """Compile in torch.compile's `mode`."""


def compile_parts(config: LoopConfig, parts: Iterable[Compilable | None]) -> None:
    """Have torch compile a student's networks and its judges, if the configuration says so; names and weights stay."""
    if config.compile:
        for part in parts:
            if part is not None:
                part.compile(mode=config.compile_mode)


def begin_step(config: LoopConfig) -> None:
    """Tell torch that a step begins: what compiled networks gave in the last one may be overwritten."""
    if config.compile:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


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
        fused=all(parameter.is_cuda for parameter in parameters),
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
