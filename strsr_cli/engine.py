"""What `strsr train` and `strsr distill` share around their loops: settings, optimiser steps, averages, safety.

Distribution, mixed precision and the files of a checkpoint are Hugging Face accelerate's
(https://huggingface.co/docs/accelerate): start a run with `accelerate launch -m strsr_cli train ...`
and it is spread over the processes that were asked for.

All randomness of a step is a function of (seed, step), so that no generator has a state to save.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strsr_models.devices import resolve_device, resolve_precision
from strsr_models.encoders.features import FeatureNetwork
from strsr_models.errors import StrsrError, UsageError
from strsr_models.losses.lattice import lattice_loss
from strsr_models.losses.perceptual import Lpips, feature_distance
from strsr_models.pipelines.base import OneStepPipeline

from .data import CACHE_GB, Batch, Crops, batches
from .degrade import DegradeConfig
from .runs import FRESH, Run, cannot_write

if TYPE_CHECKING:
    from accelerate import Accelerator
    from typing_extensions import Self  # typing has it from Python 3.11 on

NON_FINITE_LIMIT = 10  # steps in a row
AVERAGE_NAME = "average.safetensors"  # in a checkpoint
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class LoopConfig:
    """Settings of every loop that teaches a pipeline."""

    steps: int = 200_000
    batch_size: int = 16  # crops per step, over all processes
    accumulate: int = 1  # parts that a process's share of a batch is computed in, one after the other
    gradient_checkpointing: bool = False
    crop_size: int = 128  # px, a multiple of 16
    learning_rate: float = 4e-4
    warmup_steps: int = 200
    final_learning_rate: float = 1e-6  # at the last step, along a cosine
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW
    # A mean over all pixels makes gradients of 1e-9 deep inside; at the usual 1e-8 they would not count.
    adam_eps: float = 1e-10
    gradient_clip: float = 0.02  # norm over all parameters
    ema_decay: float = 0.999  # 0: no average
    l1_weight: float = 1.0
    perceptual_weight: float = 0.0
    perceptual_network: str = "squeezenet"  # or vgg19, resnet50v2, lpips
    perceptual_weights: str = ""  # safetensors file of that network; lpips has its own
    lattice_weight: float = 0.0  # of the error's part that repeats every 8 px
    seed: int = 0
    workers: int = 1  # processes that read and crop photos
    cache_gb: float = CACHE_GB  # of decoded photos, kept in memory by each process
    log_every: int = 50  # steps
    save_every: int = 500
    sample_every: int = 2000
    tensorboard: bool = True
    device: str = "auto"
    precision: str = "auto"
    degrade: DegradeConfig = field(default_factory=DegradeConfig)

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulate", "log_every", "save_every", "sample_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.crop_size < 32 or self.crop_size % 16:
            raise ValueError(f"crop_size {self.crop_size}: must be a multiple of 16, at least 32")
        if self.perceptual_weight > 0 and not self.perceptual_weights and self.perceptual_network != "lpips":
            raise ValueError(
                "perceptual_weight > 0 needs perceptual_weights, a safetensors file of perceptual_network; "
                "or set perceptual_weight=0"
            )
        if not 0 < self.learning_rate < 1 or not 0 <= self.ema_decay < 1:
            raise ValueError("learning_rate must lie in (0, 1), ema_decay in [0, 1)")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError("final_learning_rate must lie between 0 and learning_rate")
        if not all(0 <= beta < 1 for beta in self.betas) or self.gradient_clip <= 0 or self.adam_eps <= 0:
            raise ValueError("betas must lie in [0, 1), gradient_clip and adam_eps above 0")
        if not abs(self.seed) < 2**31:
            raise ValueError(f"seed {self.seed}: must be below 2^31")
        for name, value in vars(self).items():
            if name.endswith("_weight") and value < 0:
                raise ValueError(f"{name} {value}: must not be negative")
        if min(self.workers, self.warmup_steps, self.cache_gb, self.weight_decay) < 0:
            raise ValueError("workers, warmup_steps, cache_gb and weight_decay must not be negative")


def make_accelerator(config: LoopConfig) -> Accelerator:
    """accelerate's process group, device and precision as the configuration says.

    Raises UsageError when accelerate is not installed or the batch cannot be shared out evenly.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise UsageError("training needs accelerate: pip install 'strsr[train]'") from error
    device = resolve_device(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    precision = resolve_precision(config.precision, device)
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("precision=fp16: CPUs do not train in it; use bf16, fp32 or auto")
    try:
        accelerator = Accelerator(mixed_precision=MIXED_PRECISION[precision], cpu=device.type == "cpu")
    except ValueError as error:  # accelerate's state is the process's; a second run must want the same
        raise UsageError(f"precision={precision}, device={config.device}: {error}") from error
    if accelerator.distributed_type.value in ("FSDP", "DEEPSPEED") and config.ema_decay:
        raise UsageError("parameters that are spread over processes cannot be averaged: set ema_decay=0")
    keep_trained_only(accelerator)
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise UsageError(
            f"batch_size {config.batch_size}: must be a multiple of processes x accumulate, "
            f"{accelerator.num_processes} x {config.accumulate}"
        )
    return accelerator


def check_crop_size(config: LoopConfig, pipeline: OneStepPipeline) -> None:
    """Raise UsageError for crops that the pipeline's patches do not fit into."""
    if config.crop_size % pipeline.multiple_of:
        raise UsageError(
            f"crop_size {config.crop_size}: must be a multiple of {pipeline.multiple_of} px here"
        )


def make_adamw(parameters: list[nn.Parameter], config: LoopConfig, learning_rate: float) -> torch.optim.AdamW:
    """AdamW with the configuration's betas, epsilon and decay."""
    return torch.optim.AdamW(
        parameters,
        lr=learning_rate,
        betas=config.betas,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
    )


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` at the last step."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
    return warm * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * fall)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """For all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Average:
    """Exponential moving average of a pipeline's trained parameters (EMA)."""

    def __init__(self, pipeline: OneStepPipeline, decay: float) -> None:
        self.decay = decay
        self.pipeline = copy.deepcopy(pipeline).requires_grad_(False).eval() if decay else pipeline
        ours, theirs = dict(self.pipeline.named_parameters()), dict(pipeline.named_parameters())
        self._pairs = (
            [(name, ours[name], theirs[name]) for name in pipeline.trainable_state()] if decay else []
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average = decay * average + (1 - decay) * trained; faster at first, when little is known."""
        if self._pairs:
            decay = min(self.decay, step / (step + 10))
            _, ours, theirs = zip(*self._pairs, strict=True)
            torch._foreach_lerp_(list(ours), list(theirs), 1 - decay)

    def save(self, path: Path) -> None:
        """Write the averages to a safetensors file."""
        from safetensors.torch import save_file

        save_file({name: ours.contiguous() for name, ours, _ in self._pairs}, path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Fill the averages from a file of `save`; an error when names or shapes are not the same."""
        from safetensors.torch import load_file

        saved = load_file(path)
        if saved.keys() != {name for name, _, _ in self._pairs}:
            raise StrsrError(f"{path.name} holds other parameters than this configuration trains")
        for name, ours, _ in self._pairs:
            ours.copy_(saved[name])


class Guard:
    """Skips optimiser steps whose gradients are not finite, and stops a run that has only such steps."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.skipped = 0  # in all
        self._in_a_row = 0

    @property
    def healthy(self) -> bool:
        """Whether the last step was taken."""
        return self._in_a_row == 0

    def step(
        self, accelerator: Accelerator, optimizer: Any, parameters: list[nn.Parameter], clip: float, step: int
    ) -> bool:
        """Clip and step, unless the gradient is not finite; whether it stepped. All processes agree."""
        norm = accelerator.clip_grad_norm_(parameters, clip)
        finite = bool(torch.isfinite(torch.as_tensor(norm)))
        if finite or accelerator.scaler is not None:  # a scaler skips by itself, and lowers its scale
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if finite:
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row == NON_FINITE_LIMIT:
            raise StrsrError(
                f"step {step}: {self._in_a_row} steps in a row were not finite; {self.run.advice}; go on with a lower learning_rate or precision=fp32"
            )
        return False


def save_checkpoint(run: Run, accelerator: Accelerator, step: int, average: Average) -> None:
    """What accelerate prepared, without its frozen parts, and the average: a new checkpoint, whole."""
    accelerator.wait_for_everyone()
    shared = run.checkpoints / f"parts{FRESH}"
    # Every process writes its part into one folder, which the main process then makes the newest.
    if accelerator.is_main_process:
        shutil.rmtree(shared, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(shared))
        if accelerator.is_main_process:
            average.save(shared / AVERAGE_NAME)
    except Exception as error:  # torch and safetensors have an error of their own for a full disk
        shutil.rmtree(shared, ignore_errors=True)
        raise cannot_write(shared, error, run.advice) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        run.keep(step, shared)
    accelerator.wait_for_everyone()


def load_checkpoint(run: Run, accelerator: Accelerator, average: Average) -> int:
    """Fill everything from the newest checkpoint; returns the number of steps done, 0 in a new run."""
    latest = run.latest()
    if latest is None:
        return 0
    try:
        _check_names(accelerator, latest)
        accelerator.load_state(str(latest), strict=False)  # frozen parts are not in it
        average.load(latest / AVERAGE_NAME)
    except Exception as error:  # accelerate, torch and safetensors raise many kinds; each means the same
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise StrsrError(
            f"{latest}: cannot be resumed ({reason}): it is damaged or of another configuration; "
            "move it away to go on from an older one or to start over"
        ) from error
    return int(latest.name)


def _check_names(accelerator: Accelerator, folder: Path) -> None:
    """Loading without frozen parts is lenient: make sure that all that trains is in the checkpoint."""
    from safetensors import safe_open

    for number, model in enumerate(accelerator._models):
        wanted = {
            name: list(parameter.shape)
            for name, parameter in accelerator.unwrap_model(model).named_parameters()
            if parameter.requires_grad
        }
        with safe_open(folder / f"model{f'_{number}' if number else ''}.safetensors", "pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        odd = sorted(name for name in wanted if found.get(name) != wanted[name])
        if odd:
            raise StrsrError(f"it has no {odd[0]} of shape {wanted[odd[0]]}, nor {len(odd) - 1} more")


def keep_trained_only(accelerator: Accelerator) -> None:
    """Leave parameters that do not train out of checkpoints: a base of 6 B, a coach's trunk, features."""

    def drop_frozen(models: list[nn.Module], weights: list[dict[str, Tensor]], _folder: str) -> None:
        for model, state in zip(models, weights, strict=True):
            parameters = dict(model.named_parameters())
            trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
            # Buffers count where something trains beside them, as the vectors of spectral norms do.
            organs = {name.split(".")[0] for name in trained}
            for name in list(state):
                if name in parameters.keys() - trained or name.split(".")[0] not in organs:
                    del state[name]

    accelerator.register_save_state_pre_hook(drop_frozen)


def config_hash(config: Any) -> str:
    """A short name for a configuration, kept in the weights' metadata."""
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


class StopSignals:
    """Inside `with`, SIGTERM and SIGINT only ask for a stop, which comes after the step under way."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Catch them, where this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, _frame: object) -> None:
        if self._received:  # asked twice: at once, whatever is lost
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        self._received.append(number)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has stopped: 130 for SIGINT, 143 for SIGTERM; 0: none."""
        return 128 + self._received[0] if self._received else 0

    def __exit__(self, *_: object) -> None:
        """As before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; all of them learn the same."""
        own = torch.tensor(float(bool(self._received)), device=accelerator.device)
        return bool(accelerator.reduce(own, "sum") > 0) if accelerator.num_processes > 1 else bool(own)


def describe(pipeline: OneStepPipeline) -> str:
    """How large a pipeline is, and how much of it trains where that is not all."""
    everything = sum(p.numel() for p in pipeline.parameters())
    trained = sum(p.numel() for p in pipeline.parameters() if p.requires_grad)
    partly = f", {trained / 1e6:.2f} M of them train" if 0 < trained < everything else ""
    return f"{everything / 1e6:.2f} M parameters{partly}"


def batches_from(
    step: int, crops: Crops, config: LoopConfig, accelerator: Accelerator
) -> Iterator[tuple[Batch, Tensor]]:
    """From `step` on, this process's share of each batch, and the numbers of its samples (b,)."""
    world, rank = accelerator.num_processes, accelerator.process_index
    loader = batches(
        crops,
        config.degrade,
        accelerator.device,
        start=step,
        stop=config.steps,
        batch_size=config.batch_size,
        workers=config.workers,
        rank=rank,
        world=world,
    )
    for number, batch in enumerate(loader, start=step):
        first = number * config.batch_size + rank * len(batch.hq)
        yield batch, torch.arange(first, first + len(batch.hq))


def in_parts(
    accelerator: Accelerator, module: nn.Module, tensors: tuple[Tensor, ...], parts: int
) -> Iterator[tuple[Tensor, ...]]:
    """Slices of a batch's tensors, to run forward and backward on one after the other.

    Gradients of several processes meet once, after the last part.
    """
    chunks = [tensor.chunk(parts) for tensor in tensors]
    for number in range(parts):
        last = number == parts - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(module):
            yield tuple(chunk[number] for chunk in chunks)


Distance = Callable[[Tensor, Tensor], Tensor]  # (pred, target) in [0, 1] -> scalar


def make_distance(config: LoopConfig, device: torch.device) -> Distance | None:
    """The perceptual loss that the configuration names, or None when its weight is 0.

    A function, not a module: its network belongs neither into checkpoints nor to the student.
    """
    if not config.perceptual_weight:
        return None
    weights = Path(config.perceptual_weights) if config.perceptual_weights else None
    if config.perceptual_network == "lpips":
        lpips = Lpips("vgg", weights).to(device)
        return lambda pred, target: lpips(pred, target)
    assert weights is not None  # LoopConfig has made sure
    features = FeatureNetwork(config.perceptual_network, weights).to(device)
    return lambda pred, target: feature_distance(pred, target, features)


def image_losses(
    pred: Tensor, hq: Tensor, config: LoopConfig, distance: Distance | None
) -> dict[str, Tensor]:
    """l1_loss; lattice_loss where it has a weight; perceptual_loss where there is a distance."""
    losses = {"l1_loss": F.l1_loss(pred.float(), hq)}
    if config.lattice_weight:
        losses["lattice_loss"] = lattice_loss(pred, hq)
    if distance is not None:
        losses["perceptual_loss"] = distance(pred, hq)
    return losses


def weighted_sum(losses: dict[str, Tensor], config: LoopConfig) -> Tensor:
    """The sum of losses times the configuration's weights: `l1_loss` times `l1_weight`, and so on."""
    terms = [
        getattr(config, name.removesuffix("_loss") + "_weight") * value for name, value in losses.items()
    ]
    return torch.stack(terms).sum()


class Meter:
    """Means of what was measured since the last line of the log, and the speed."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._began = time.monotonic()

    def add(self, values: dict[str, Tensor]) -> None:
        """Remember scalars, without waiting for the device."""
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros((), device=value.device), 0))
            self._sums[name] = (total + value.detach().float(), count + 1)

    def take(self, crops: int) -> dict[str, float]:
        """Means over processes and steps, and crops per second; starts anew."""
        means = {
            name: round(float(self.accelerator.reduce(total / count, "mean")), 7)
            for name, (total, count) in self._sums.items()
        }
        rate = crops / max(time.monotonic() - self._began, 1e-9)
        self._sums, self._began = {}, time.monotonic()
        return {**means, "crops_per_s": round(rate, 2)}


@dataclass(frozen=True)
class Estimate:
    """Memory that a run will need on its device, in GiB; activations are those of one part of a batch."""

    weights: float
    gradients_and_adam: float
    average: float
    activations: float

    def __str__(self) -> str:
        total = self.weights + self.gradients_and_adam + self.average + self.activations
        return (
            f"about {total:.3g} GiB (weights {self.weights:.3g}, gradients and Adam {self.gradients_and_adam:.3g}, "
            f"average {self.average:.3g}, activations {self.activations:.3g})"
        )


def estimate_memory(
    pipeline: OneStepPipeline, config: LoopConfig, processes: int, forward: Callable[[], object]
) -> Estimate:
    """Count parameters; run `forward()`, of one crop, and count what it keeps for the backward pass."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()  # a storage kept twice is there once
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = forward()
    own = {parameter.untyped_storage().data_ptr() for parameter in pipeline.parameters()}
    activations = sum(size for place, size in saved.items() if place not in own)
    del alive
    everything = sum(p.numel() * p.element_size() for p in pipeline.parameters())
    trained = sum(p.numel() * p.element_size() for p in pipeline.parameters() if p.requires_grad)
    crops = config.batch_size // (processes * config.accumulate)
    gib = 2.0**30
    average = everything if config.ema_decay else 0
    return Estimate(everything / gib, 3 * trained / gib, average / gib, crops * activations / gib)
