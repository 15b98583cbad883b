"""`strsr train`: a folder of photos -> lite's weights, by L1 and feature distance in one step.

The loop runs the same four verbs that `strsr upscale` runs, with gradients on.
"""

from __future__ import annotations

import copy
import hashlib
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from strsr_models.devices import autocast, resolve_device, resolve_precision
from strsr_models.encoders.features import FeatureNetwork
from strsr_models.errors import StrsrError, UsageError
from strsr_models.load import load_pipeline
from strsr_models.losses.perceptual import feature_distance
from strsr_models.pipelines.lite import LiteConfig, LitePipeline

from .data import Batch, Crops, batches, draw_sample, join, load_photos
from .degrade import DegradeConfig
from .journal import whole_file
from .runs import Run, read_config

SAMPLES = 6  # rows of a sample sheet
NON_FINITE_LIMIT = 10  # steps in a row


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a run's result, but for the photos themselves."""

    steps: int = 200_000
    batch_size: int = 16
    crop_size: int = 128  # px, a multiple of 16
    learning_rate: float = 8e-4
    warmup_steps: int = 200
    final_learning_rate: float = 1e-6  # at the last step, along a cosine
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW
    gradient_clip: float = 0.02  # norm over all parameters; 0.005 to 0.01 is usual
    ema_decay: float = 0.999
    l1_weight: float = 1.0
    perceptual_weight: float = 0.0
    perceptual_network: str = "squeezenet"
    perceptual_weights: str = ""  # safetensors file; needed when perceptual_weight > 0
    init: str = ""  # folder of weights to start from; empty: from random
    seed: int = 0
    workers: int = 1  # processes that prepare batches
    log_every: int = 50  # steps
    save_every: int = 500
    sample_every: int = 2000
    device: str = "auto"
    precision: str = "auto"
    model: LiteConfig = field(default_factory=LiteConfig)
    degrade: DegradeConfig = field(default_factory=DegradeConfig)

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.log_every, self.save_every, self.sample_every) < 1:
            raise ValueError("steps, batch_size and the intervals must be at least 1")
        if self.crop_size < 32 or self.crop_size % 16:
            raise ValueError(f"crop_size {self.crop_size}: must be a multiple of 16, at least 32")
        if self.perceptual_weight > 0 and not self.perceptual_weights:
            raise ValueError("perceptual_weight > 0 needs perceptual_weights, a safetensors file")
        if not 0 < self.learning_rate < 1 or not 0 <= self.ema_decay < 1:
            raise ValueError("learning_rate must lie in (0, 1), ema_decay in [0, 1)")


def train(
    data: list[Path],
    out: Path,
    config_file: Path | None,
    settings: list[str],
    report: Callable[[str], None],
) -> Path:
    """Run or resume the training in `out`; returns the folder of the exported weights."""
    config = read_config(TrainConfig, config_file, settings)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    run = Run(out)
    state = run.load()
    torch.manual_seed(config.seed)
    pipeline = build_pipeline(config).to(device)
    ema = copy.deepcopy(pipeline).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        pipeline.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        # A mean over all pixels makes gradients of 1e-9 deep inside; at the usual 1e-8 they would not count.
        eps=1e-12,
        weight_decay=config.weight_decay,
    )
    features = None
    if config.perceptual_weight > 0:
        features = FeatureNetwork(config.perceptual_network, Path(config.perceptual_weights)).to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    step = 0
    if state is not None:
        step = resume(state, pipeline, ema, optimizer, scaler)
        run.trim_log(step)
        report(f"resumed at step {step}")
    run.write_config(config)
    photos = load_photos(data, config.crop_size)
    report(f"{len(photos)} photos, {sum(p.numel() for p in pipeline.parameters()) / 1e6:.2f} M parameters")
    crops = Crops(photos, config.crop_size, config.seed, config.degrade)
    sheet = sample_batch(photos, config)
    stop_asked = catch_sigterm()

    def checkpoint() -> None:
        run.save(
            {
                "step": step,
                "pipeline": pipeline.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
            }
        )
        run.export(ema, {"steps": str(step), "config": config_hash(config)})

    totals: dict[str, float] = {}
    failed, logged, began = 0, step, time.monotonic()
    for batch in batches(crops, step, config.steps, config.batch_size, config.workers):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        losses = forward(pipeline, batch, config, features, device, precision)
        loss = (
            losses["l1_loss"] * config.l1_weight
            + losses.get("perceptual_loss", 0.0) * config.perceptual_weight
        )
        step += 1
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(pipeline.parameters(), config.gradient_clip)
        if math.isfinite(norm):
            scaler.step(optimizer)
            average(ema, pipeline, min(config.ema_decay, step / (step + 10)))
            failed = 0
        else:
            failed += 1
            if failed == NON_FINITE_LIMIT:
                raise StrsrError(
                    f"step {step}: {failed} steps in a row were not finite; the last checkpoint is "
                    f"{run.checkpoint}; go on with a lower learning_rate or precision=fp32"
                )
        scaler.update()

        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + float(value.detach())
        if step % config.log_every == 0 or step == config.steps:
            count = step - logged  # fewer than log_every after a resume
            means = {name: round(total / count, 6) for name, total in totals.items()}
            rate = count * config.batch_size / (time.monotonic() - began)
            run.log(
                {"step": step, **means, "lr": learning_rate(config, step - 1), "crops_per_s": round(rate, 2)}
            )
            report(
                f"step {step}/{config.steps}  "
                + "  ".join(f"{k} {v:.5f}" for k, v in means.items())
                + f"  {rate:.1f} crops/s"
            )
            totals, logged, began = {}, step, time.monotonic()
        if step % config.sample_every == 0:
            write_sheet(run.folder / "samples" / f"{step:07d}.png", ema, sheet, precision)
        if step % config.save_every == 0 or step == config.steps or stop_asked():
            checkpoint()
        if stop_asked():
            report(f"stopped at step {step}; the same command goes on from here")
            break
    return run.folder / "model"


def build_pipeline(config: TrainConfig) -> LitePipeline:
    """A pipeline with random weights, or with those of `init`."""
    if not config.init:
        return LitePipeline(config.model).train()
    pipeline = load_pipeline("lite", weights=config.init)
    assert isinstance(pipeline, LitePipeline)
    if pipeline.config != config.model and config.model != LiteConfig():
        raise UsageError(f"init {config.init}: its config.json differs from [model]; leave [model] out")
    return pipeline.requires_grad_(True).train()


def forward(
    pipeline: LitePipeline,
    batch: Batch,
    config: TrainConfig,
    features: FeatureNetwork | None,
    device: torch.device,
    precision: str,
) -> dict[str, Tensor]:
    """The losses of one batch, by the pipeline's four verbs."""
    hq, lq_up = batch.hq.to(device), batch.lq_up.to(device)
    with autocast(device, precision):
        cond = pipeline.encode_condition(batch.picture.to(device))
        pred = pipeline.restore(lq_up, cond)
        losses = {"l1_loss": F.l1_loss(pred, hq)}
        if features is not None:
            losses["perceptual_loss"] = feature_distance(pred, hq, features)
    return losses


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` at the last step."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps)))
    return warm * (config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * fall)


@torch.no_grad()
def average(ema: LitePipeline, pipeline: LitePipeline, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * pipeline."""
    torch._foreach_lerp_(list(ema.parameters()), list(pipeline.parameters()), 1 - decay)


def resume(
    state: dict[str, object],
    pipeline: LitePipeline,
    ema: LitePipeline,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> int:
    """Fill everything from a checkpoint; returns the number of steps done."""
    try:
        pipeline.load_state_dict(state["pipeline"])  # type: ignore[arg-type]
        ema.load_state_dict(state["ema"])  # type: ignore[arg-type]
        optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        scaler.load_state_dict(state["scaler"])  # type: ignore[arg-type]
    except (KeyError, RuntimeError, ValueError) as error:
        raise UsageError(f"the checkpoint does not fit this configuration: {error}") from error
    return int(state["step"])  # type: ignore[call-overload,no-any-return]


def catch_sigterm() -> Callable[[], bool]:
    """From now on SIGTERM and SIGINT only ask for a stop; the function returned tells whether they did."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: asked.append(received))
    return lambda: bool(asked)


def config_hash(config: TrainConfig) -> str:
    """A short name for a configuration, kept in the weights' metadata."""
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


def sample_batch(photos: list[np.ndarray], config: TrainConfig) -> Batch:
    """The few samples that every sheet of the run shows."""
    rng = torch.Generator().manual_seed(config.seed + 1)
    chosen = torch.randint(len(photos), (SAMPLES,), generator=rng).tolist()
    return join([draw_sample(photos[number], config.crop_size, rng, config.degrade) for number in chosen])


def write_sheet(path: Path, pipeline: LitePipeline, batch: Batch, precision: str) -> None:
    """A picture with a row for each sample: lq_up | restored | hq."""
    device = pipeline.device
    with torch.inference_mode(), autocast(device, precision):
        cond = pipeline.encode_condition(batch.picture.to(device))
        restored = pipeline.restore(batch.lq_up.to(device), cond).float().clamp(0, 1).cpu()
    rows = torch.cat([batch.lq_up, restored, batch.hq], dim=-1)  # (b, 3, s, 3s)
    sheet = torch.cat(list(rows), dim=-2).permute(1, 2, 0)
    with whole_file(path) as file:
        Image.fromarray(np.rint(sheet.numpy() * 255).astype(np.uint8)).save(file, "PNG")
