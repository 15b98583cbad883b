"""What a run is spread over: accelerate's process group, and what `accelerate launch` says in the environment.

A run's results follow from its own settings. Variables that would change them are refused by name; those of a dynamo
backend, which change the speed, are followed by compiling in place, so that no name of a parameter changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch

from strsr_models.compute.devices import resolve_device, resolve_precision
from strsr_models.errors import UsageError, first_line
from strsr_models.packages import install_command

from .run.checkpoint import keep_trained_only
from .settings import LoopConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


# Plugins that take parameters apart: ACCELERATE_USE_...
SPREADING = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
TRUE = ("true", "1", "yes", "y", "t", "on")
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
NO_BACKEND = ("", "no")


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Make accelerate's process group with the device and precision that the configuration says.

    Raises UsageError when accelerate is not installed, is told in the environment to do otherwise than the
    configuration says, or the batch cannot be shared out evenly.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise UsageError(f"training needs accelerate: {install_command('strsr[train]')}") from error
    device = resolve_device(config.device)
    if device.type == "cuda":
        # Crops have so few sizes that trying convolutions out pays.
        torch.backends.cudnn.benchmark = True
        if device.index is not None:
            torch.cuda.set_device(device)
    precision = resolve_precision(config.precision, device)
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("precision=fp16: CPUs do not train in it; use bf16, fp32 or auto")
    check_environment(precision)
    dynamo_options()
    try:
        # What accelerate compiles, it wraps, which renames all parameters: `compile_parts` compiles.
        accelerator = Accelerator(
            mixed_precision=MIXED_PRECISION[precision], cpu=device.type == "cpu", dynamo_backend="no"
        )
    except ValueError as error:
        # accelerate keeps one state for the whole process, so that a second run must want the same.
        raise UsageError(f"precision={precision}, device={config.device}: {error}") from error
    if accelerator.device.type != device.type:
        raise UsageError(
            f"device={config.device} is {device.type} here, and accelerate is set up for {accelerator.device.type} "
            f"(ACCELERATE_USE_CPU, ACCELERATE_TORCH_DEVICE): set device={accelerator.device.type}"
        )
    keep_trained_only(accelerator)
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise UsageError(
            f"batch_size {config.batch_size}: must be a multiple of processes x accumulate, "
            f"{accelerator.num_processes} x {config.accumulate}"
        )
    return accelerator


def check_environment(precision: str) -> None:
    """Raise UsageError for a variable of accelerate's that would change what a run in `precision` learns.

    `accelerate launch` tells its processes by them what its options and its configuration file say.
    """
    for name in SPREADING:
        if _said(f"USE_{name}") in TRUE:
            raise UsageError(
                f"ACCELERATE_USE_{name}: accelerate is set up for {name}, which does not work here: set it up for DDP "
                "(accelerate launch --multi_gpu); for less memory use accumulate and gradient_checkpointing"
            )
    steps = _said("GRADIENT_ACCUMULATION_STEPS")
    if steps not in ("", "1"):
        raise UsageError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={steps}: would make gradients smaller; unset it: "
            "--set accumulate=N computes a step in N parts"
        )
    backend = _said("FP8_BACKEND")
    if backend not in NO_BACKEND:
        raise UsageError(
            f"ACCELERATE_FP8_BACKEND={backend}: would replace layers by those of 8 bits; unset it"
        )
    mixed, own = _said("MIXED_PRECISION"), MIXED_PRECISION[precision]
    # A launcher that was not asked says "no", too.
    if mixed not in ("", "no", own):
        raise UsageError(
            f"ACCELERATE_MIXED_PRECISION={mixed}: this run computes in {precision}; "
            f"--set precision={mixed if mixed in MIXED_PRECISION else 'bf16'}, or launch without --mixed_precision"
        )


def _said(name: str) -> str:
    """What one of accelerate's variables says, in small letters; "" where it is not set."""
    return os.environ.get(f"ACCELERATE_{name}", "").strip().lower()


class Compilable(Protocol):
    """A part that torch.compile can make faster in place, as modules can."""

    def compile(self, **options: Any) -> None:
        """Compile by torch.compile's options."""


def compile_parts(config: LoopConfig, parts: Iterable[Compilable | None]) -> None:
    """Have torch compile a student's networks and its judges, if settings or environment say so; names and weights stay."""
    options = {"mode": config.compile_mode} if config.compile else dynamo_options()
    if options is not None:
        for part in parts:
            if part is not None:
                part.compile(**options)


def dynamo_options() -> dict[str, Any] | None:
    """The options of torch.compile that `accelerate launch --dynamo_backend` asks for; None where it does not.

    Raises UsageError for a backend that accelerate does not know.
    """
    if _said("DYNAMO_BACKEND") in NO_BACKEND:
        return None
    from accelerate.utils import TorchDynamoPlugin

    try:
        return dict(TorchDynamoPlugin().to_kwargs())
    except ValueError as error:
        raise UsageError(f"ACCELERATE_DYNAMO_BACKEND: {first_line(error)}") from error


def begin_step(config: LoopConfig) -> None:
    """Tell torch that a step begins: what compiled networks gave in the last one may be overwritten."""
    if config.compile or _said("DYNAMO_BACKEND") not in NO_BACKEND:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
