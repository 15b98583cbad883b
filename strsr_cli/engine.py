"""What `strsr train` and `strsr distill` share in their loops: settings, accelerate, batches, losses, means.

Distribution, mixed precision and the files of a checkpoint are Hugging Face accelerate's
(https://huggingface.co/docs/accelerate): start a run with `accelerate launch -m strsr_cli train ...`
and it is spread over the processes that were asked for.

All randomness of a step is a function of (seed, step), so that no generator has a state to save.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strsr_models.devices import resolve_device, resolve_precision
from strsr_models.encoders.features import FeatureNetwork
from strsr_models.errors import UsageError
from strsr_models.losses.lattice import LEAST_CROP, lattice_loss
from strsr_models.losses.perceptual import Lpips, feature_distance
from strsr_models.pipelines.base import OneStepPipeline
from strsr_models.pipelines.lite import LitePipeline

from .data import CACHE_GB, Batch, Crops, Teach, batches
from .degrade import DegradeConfig, check_shares
from .safety import keep_trained_only

if TYPE_CHECKING:
    from accelerate import Accelerator

SPREADING = ("FSDP", "DEEPSPEED", "MEGATRON_LM")  # they take parameters apart
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class LoopConfig:
    """Settings of every loop that teaches a pipeline."""

    steps: int = 200_000
    minutes: float = 0.0  # of training, after which a run ends, its learning rate fallen; 0: `steps` says
    # Of those minutes, in a run whose folder is gone and whose weights this one starts from.
    minutes_before: float = 0.0
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
    # squeezenet, vgg19, resnet50v2, lpips, or a list of them, whose distances are averaged.
    perceptual_network: str | tuple[str, ...] = "squeezenet"
    perceptual_weights: str | tuple[str, ...] = ""  # a safetensors file of each; lpips has its own
    graphics_share: float = 0.0  # of crops that are drawn: plain colours, ramps, shapes, letters
    lattice_weight: float = 0.0  # of lines in the spectrum at the harmonics of 16 px
    seed: int = 0
    workers: int = 1  # processes that read and crop photos
    cache_gb: float = CACHE_GB  # of decoded photos, kept in memory by each process
    log_every: int = 50  # steps
    save_every: int = 500
    sample_every: int = 2000
    tensorboard: bool = True
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False  # by torch.compile: faster steps on a GPU, after a minute or two of compiling
    degrade: DegradeConfig = field(default_factory=DegradeConfig)

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulate", "log_every", "save_every", "sample_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.crop_size < 32 or self.crop_size % 16:
            raise ValueError(f"crop_size {self.crop_size}: must be a multiple of 16, at least 32")
        if self.lattice_weight and self.crop_size < LEAST_CROP:
            raise ValueError(
                f"lattice_weight > 0 needs crop_size from {LEAST_CROP} on, or set lattice_weight=0"
            )
        if self.perceptual_weight > 0 and names(self.perceptual_network) != ("lpips",):
            check_files(self, "perceptual_network", "perceptual_weights", "or set perceptual_weight=0")
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
        check_shares(self, "graphics_share")
        amounts = ("workers", "warmup_steps", "cache_gb", "weight_decay", "minutes", "minutes_before")
        if min(getattr(self, name) for name in amounts) < 0:
            raise ValueError(f"{', '.join(amounts[:-1])} and {amounts[-1]} must not be negative")


def names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """One or several names, as a setting has them, as several."""
    return (value,) if isinstance(value, str) else value


def check_files(config: object, networks: str, files: str, advice: str) -> None:
    """Raise ValueError unless the setting `files` names one for each network of the setting `networks`."""
    wanted, given = (names(getattr(config, name)) for name in (networks, files))
    if len(given) != len(wanted) or not all(given):
        raise ValueError(f"{networks} needs {files}, a safetensors file for each of {list(wanted)}; {advice}")


def make_accelerator(config: LoopConfig) -> Accelerator:
    """accelerate's process group, device and precision as the configuration says.

    Raises UsageError when accelerate is not installed, is told to spread parameters over processes,
    or the batch cannot be shared out evenly.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise UsageError("training needs accelerate: pip install 'strsr[train]'") from error
    for name in SPREADING:  # what accelerate launch tells its processes
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("true", "1", "yes"):
            raise UsageError(
                f"accelerate is set up for {name}, which does not work here: set it up for DDP "
                "(accelerate launch --multi_gpu); for less memory use accumulate and gradient_checkpointing"
            )
    device = resolve_device(config.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # crops have few sizes
        if device.index is not None:
            torch.cuda.set_device(device)
    precision = resolve_precision(config.precision, device)
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("precision=fp16: CPUs do not train in it; use bf16, fp32 or auto")
    try:
        accelerator = Accelerator(mixed_precision=MIXED_PRECISION[precision], cpu=device.type == "cpu")
    except ValueError as error:  # accelerate's state is the process's; a second run must want the same
        raise UsageError(f"precision={precision}, device={config.device}: {error}") from error
    keep_trained_only(accelerator)
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise UsageError(
            f"batch_size {config.batch_size}: must be a multiple of processes x accumulate, "
            f"{accelerator.num_processes} x {config.accumulate}"
        )
    return accelerator


def compile_networks(config: LoopConfig, pipeline: OneStepPipeline) -> None:
    """Have torch compile a pipeline's networks, if the configuration says so; names and weights stay as they are."""
    for network in pipeline.children() if config.compile else ():
        network.compile()


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


def learning_rate(config: LoopConfig, step: int, share: float | None = None) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` at the end of the run.

    share: of the run that is over, where that is not a matter of steps.
    """
    share = step / config.steps if share is None else share
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return warm * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * fall)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """For all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def describe(pipeline: OneStepPipeline) -> str:
    """How large a pipeline is, and how much of it trains where that is not all."""
    everything = sum(p.numel() for p in pipeline.parameters())
    trained = sum(p.numel() for p in pipeline.parameters() if p.requires_grad)
    partly = f", {trained / 1e6:.2f} M of them train" if 0 < trained < everything else ""
    return f"{everything / 1e6:.2f} M parameters{partly}"


def batches_from(
    step: int,
    stop: int,
    crops: Crops,
    config: LoopConfig,
    accelerator: Accelerator,
    teachers: Teach | None = None,
) -> Iterator[tuple[Batch, list[int]]]:
    """Of steps step..stop-1, this process's share of each batch, and the numbers of its samples."""
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
    """Slices of a batch's tensors and lists (or None), to run forward and backward on one after the other.

    Gradients of several processes meet once, after the last part.
    """
    size = len(batch[0]) // parts
    for number in range(parts):
        last = number == parts - 1
        with contextlib.nullcontext() if last else accelerator.no_sync(module):
            part = slice(number * size, (number + 1) * size)
            yield tuple(None if values is None else values[part] for values in batch)


def condition_image(pipeline: OneStepPipeline, lq_up: Tensor, picture: Tensor) -> Tensor:
    """What the semantic encoder sees while training, and when samples are restored.

    Lite's looks at the whole picture around a crop; the vision-language model, as published, at the
    crop itself in its original size, a quarter.
    """
    if isinstance(pipeline, LitePipeline):
        return picture
    size = [side // 4 for side in lq_up.shape[-2:]]
    return F.interpolate(lq_up, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


class Distance:
    """The perceptual loss that a configuration names: the mean over its networks.

    Not a module: its networks belong neither into checkpoints nor to the student.
    """

    def __init__(self, config: LoopConfig, device: torch.device) -> None:
        """Raises UsageError or WeightsError for a network that is unknown or has no weights."""
        files = names(config.perceptual_weights)
        self.networks: list[Lpips | FeatureNetwork] = []
        for number, name in enumerate(names(config.perceptual_network)):
            weights = Path(files[number]) if number < len(files) and files[number] else None
            network: Lpips | FeatureNetwork
            if name == "lpips":
                network = Lpips("vgg", weights)
            else:
                assert weights is not None  # LoopConfig has made sure
                network = FeatureNetwork(name, weights)
            network.to(device).to(memory_format=torch.channels_last)
            self.networks.append(network)

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        """Of images (b, 3, h, w) in [0, 1]: a scalar."""
        distances = [
            network(pred, target) if isinstance(network, Lpips) else feature_distance(pred, target, network)
            for network in self.networks
        ]
        return torch.stack(distances).mean()


def make_distance(config: LoopConfig, device: torch.device) -> Distance | None:
    """The perceptual loss, or None when its weight is 0."""
    return Distance(config, device) if config.perceptual_weight else None


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
        self._sums: dict[str, Tensor] = {}  # (3,): sum and count of finite values, count of the others
        self._began = time.monotonic()

    def add(self, values: dict[str, Tensor]) -> None:
        """Remember scalars, without waiting for the device; one that is not finite is only counted."""
        for name, value in values.items():
            value = value.detach().float()
            finite = value.isfinite()
            row = torch.stack([torch.where(finite, value, 0.0), finite.float(), 1 - finite.float()])
            self._sums[name] = self._sums[name] + row if name in self._sums else row

    def take(self, crops: int) -> dict[str, float]:
        """Means over processes and steps, and crops per second; starts anew.

        A mean of nothing is NaN. `not_finite`: how many losses were left out of the means, if any.
        """
        means: dict[str, float] = {}
        lost = 0.0
        if self._sums:
            rows = self.accelerator.reduce(torch.stack(list(self._sums.values())), "sum").tolist()
            for name, (total, count, others) in zip(self._sums, rows, strict=True):
                means[name] = round(total / count, 7) if count else math.nan
                # What cannot be measured on crops so small is no failure.
                lost += others if name.endswith("_loss") else 0.0
        rate = crops / max(time.monotonic() - self._began, 1e-9)
        self._sums, self._began = {}, time.monotonic()
        return {**means, **({"not_finite": lost} if lost else {}), "crops_per_s": round(rate, 2)}
