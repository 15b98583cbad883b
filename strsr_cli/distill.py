"""`strsr distill`: one-step restoration taught by an asymmetric coach and a frequency filter (StrSR).

Stage 1: L1, a perceptual distance, and a coach: a frozen network unlike the student, with trained
heads that tell photos from restored ones. Stage 2, from step `fdl_from` on: the same and the
Frequency Distribution Loss (arXiv 2603.06275).

The student restores by the verbs that `strsr upscale` runs. Only what its family trains gets a
gradient: all of lite; LoRA and projector of zimage and flux2.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from strsr_models.checkpoints import default_models_dir
from strsr_models.devices import resolve_device, resolve_precision
from strsr_models.encoders.dit_trunk import DiTTrunk
from strsr_models.encoders.features import FEATURES, FeatureNetwork, FeatureTrunk
from strsr_models.errors import UsageError, nearest
from strsr_models.load import MODELS, load_pipeline
from strsr_models.losses.adversarial import R1_SIGMA, discriminator_loss, generator_loss, r1_penalty
from strsr_models.losses.fdl import FrequencyDistributionLoss
from strsr_models.networks.discriminator import Coach, Discriminator, DiscriminatorConfig
from strsr_models.pipelines.base import OneStepPipeline
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.pipelines.pretrained import PretrainedOptions

from .data import Crops, load_photos
from .degrade import seeded
from .engine import (
    Average,
    Distance,
    LoopConfig,
    batches_from,
    check_crop_size,
    describe,
    estimate_memory,
    image_losses,
    in_parts,
    learning_rate,
    make_accelerator,
    make_adamw,
    make_distance,
    set_learning_rate,
    weighted_sum,
)
from .logbook import Logbook
from .progress import Report
from .runs import Run, read_config, to_toml

COACHES = ("conv", "dit", "none")
TURNS = ("alternate", "both")
COACH_CLIP = 1.0  # norm of the gradient over all heads
SHIFT = 16  # px: the largest stride of the networks that judge
FDL_TRIAL = 8  # px of each map that the frequency loss is tried on when a run begins
DIT_MAPS = 4  # blocks that a DiT as coach is tapped behind


@dataclass(frozen=True)
class DistillConfig(LoopConfig):
    """All that decides a run's result, but for the photos themselves. Defaults: as published."""

    steps: int = 60_000
    batch_size: int = 8
    crop_size: int = 1024
    learning_rate: float = 5e-6
    warmup_steps: int = 0
    final_learning_rate: float = 5e-6  # constant
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    gradient_clip: float = 1.0
    gradient_checkpointing: bool = True
    ema_decay: float = 0.0
    perceptual_weight: float = 3.0
    perceptual_network: str = "lpips"
    save_every: int = 500
    precision: str = "bf16"

    student: str = "lite"  # lite, zimage, flux2, or a folder of lite's weights or run to go on from
    models_dir: str = ""  # where the published checkpoints of zimage and flux2 are; empty: the default
    rank: int = 256  # of LoRA
    turns: str = "alternate"  # student and coach batch by batch; or both: each on every batch
    coach: str = "conv"  # or dit: the student's own kind, the baseline; or none
    # Frozen trunk of a conv coach: an open_clip ConvNeXt, or a feature network (resnet50v2, vgg19, squeezenet).
    coach_network: str = "convnext_xxlarge"
    coach_weights: str = ""  # its file; empty: where huggingface_hub keeps it
    coach_hidden: int = 512  # width of the heads
    coach_learning_rate: float = 1e-6  # constant
    coach_weight: float = 1.0  # of its own loss
    gan_weight: float = 0.1
    r1_weight: float = 10.0
    r1_sigma: float = R1_SIGMA  # of images in [0, 1]
    fdl_weight: float = 0.002  # 0: no stage 2
    fdl_from: int = 40_000  # step
    fdl_network: str = "vgg19_torchvision"
    fdl_weights: str = ""  # its file
    fdl_projections: int = 256
    fdl_strides: tuple[int, ...] = ()  # of the projections, for each map; empty: 1
    fdl_share: float = 1.0  # part of each batch that it is computed on

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("coach", COACHES), ("turns", TURNS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} {getattr(self, name)!r}: unknown; {nearest(getattr(self, name), known)}"
                )
        if self.coach == "conv" and self.coach_network in FEATURES and not self.coach_weights:
            raise ValueError(f"coach_network {self.coach_network} needs coach_weights, a file")
        if self.stage_two and not self.fdl_weights:
            raise ValueError("fdl_weight > 0 needs fdl_weights, a file of fdl_network; or set fdl_weight=0")
        if (
            not 0 < self.fdl_share <= 1
            or not 0 < self.coach_learning_rate < 1
            or min(self.rank, self.coach_hidden) < 1
        ):
            raise ValueError(
                "fdl_share must lie in (0, 1], coach_learning_rate in (0, 1), rank and coach_hidden from 1"
            )

    @property
    def stage_two(self) -> bool:
        """Whether the frequency loss ever counts."""
        return self.fdl_weight > 0 and self.fdl_from < self.steps


# What differs from the published configuration when lite is the student: all of it trains, from an
# L1 optimum, on crops a tenth as large.
LITE_PRESET: dict[str, Any] = {
    "steps": 20_000,
    "batch_size": 8,
    "crop_size": 192,
    "learning_rate": 1e-4,
    "warmup_steps": 100,
    "final_learning_rate": 1e-6,
    "betas": (0.9, 0.99),
    "adam_eps": 1e-10,
    "gradient_checkpointing": False,
    "ema_decay": 0.999,
    "perceptual_weight": 0.05,
    "gan_weight": 0.01,
    "perceptual_network": "squeezenet",
    "precision": "auto",
    "turns": "both",
    "coach_network": "resnet50v2",
    "coach_hidden": 128,
    "coach_learning_rate": 5e-5,
    "fdl_weight": 1e-6,  # of "vgg19", whose maps are 58 times as large as those of "vgg19_torchvision"
    "fdl_from": 14_000,
    "fdl_network": "vgg19",
    "fdl_projections": 64,
    "fdl_strides": (2, 1, 1),
}


def distill(
    student: str, data: list[Path], out: Path, config_file: Path | None, settings: list[str], report: Report
) -> Path:
    """Run or resume the distillation in `out`; returns the folder of the exported weights."""
    config = read_distill_config(student, config_file, settings)
    accelerator = make_accelerator(config)
    torch.manual_seed(config.seed)
    pipeline = build_student(config).to(accelerator.device)
    parameters = pipeline.trainable_parameters()
    criterion = Criterion(pipeline, config, accelerator.device)
    crops = Crops(load_photos(data, config.crop_size, config.cache_gb), config.crop_size, config.seed)
    run, average = Run(out), Average(pipeline, config.ema_decay)
    model, optimizer = accelerator.prepare(pipeline, make_adamw(parameters, config, config.learning_rate))
    heads: list[nn.Parameter] = []
    if criterion.coach is not None:
        heads = list(criterion.coach.heads.parameters())
        turn, coach_optimizer = accelerator.prepare(
            CoachTurn(criterion.coach, config), make_adamw(heads, config, config.coach_learning_rate)
        )
    with Logbook(
        run, accelerator, config, crops, average, criterion.distance, describe(pipeline), report
    ) as logbook:
        for batch, numbers in batches_from(logbook.step, crops, config, accelerator):
            step = logbook.step
            students_turn = not heads or config.turns == "both" or step % 2 == 0
            coachs_turn = bool(heads) and (config.turns == "both" or step % 2 == 1)
            rate = learning_rate(config, step)
            set_learning_rate(optimizer, rate)
            if heads:
                set_learning_rate(coach_optimizer, config.coach_learning_rate)
            tensors = (batch.hq, batch.lq_up, batch.picture)
            restored_parts = []
            for hq, lq_up, picture in in_parts(accelerator, model, tensors, config.accumulate):
                with torch.set_grad_enabled(students_turn):
                    restored = model(lq_up, condition_image(pipeline, lq_up, picture))
                if students_turn:
                    with accelerator.autocast():
                        losses = criterion(restored, hq, step)
                    accelerator.backward(weighted_sum(losses, config) / config.accumulate)
                    logbook.meter.add(losses)
                restored_parts.append(restored.detach())
            if students_turn:
                stepped = logbook.guard.step(
                    accelerator, optimizer, parameters, config.gradient_clip, step + 1
                )
                if stepped:
                    average.update(step + 1)
            if coachs_turn:
                fakes = torch.cat(restored_parts).float()
                pairs = (*(shifted(image, config.seed, step) for image in (batch.hq, fakes)), numbers)
                for hq, fake, part in in_parts(accelerator, turn, pairs, config.accumulate):
                    losses = turn(hq, fake, part)
                    accelerator.backward(weighted_sum(losses, config) / config.accumulate)
                    logbook.meter.add(losses)
                logbook.coach_guard.step(accelerator, coach_optimizer, heads, COACH_CLIP, step + 1)
            if logbook.after_step(restored_parts[-1], hq, {"learning_rate": rate}):
                break
    return logbook.finish()


def read_distill_config(student: str, config_file: Path | None, settings: list[str]) -> DistillConfig:
    """Published values for zimage and flux2, lite's preset for lite; then the file, then settings."""
    preset: dict[str, Any] = {} if student in MODELS and student != "lite" else dict(LITE_PRESET)
    return read_config(DistillConfig, config_file, [*settings, f"student={json.dumps(student)}"], preset)


def build_student(config: DistillConfig) -> OneStepPipeline:
    """The pipeline to teach, on the CPU, with just its family's trainable parts trainable."""
    name = config.student
    if name in MODELS and name != "lite":
        folder = Path(config.models_dir) if config.models_dir else default_models_dir()
        # Frozen parts in the run's precision: in float32, 6 B of them would not fit.
        precision = resolve_precision(config.precision, resolve_device(config.device))
        pipeline = load_pipeline(name, folder, options=PretrainedOptions(adapter="none", precision=precision))
    else:
        pipeline = load_pipeline("lite", None if name == "lite" else lite_folder(name))
    pipeline.prepare_training(config.rank)
    pipeline.set_gradient_checkpointing(config.gradient_checkpointing)
    check_crop_size(config, pipeline)
    return pipeline


def lite_folder(name: str) -> Path:
    """The weights that `--student NAME` means: a run's model/, or the folder itself."""
    folder = Path(name)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else nearest(name, MODELS)
        raise UsageError(f"--student {name}: {what}; or give the folder of a run or of weights")
    return folder / "model" if (folder / "model").is_dir() else folder


def condition_image(pipeline: OneStepPipeline, lq_up: Tensor, picture: Tensor) -> Tensor:
    """What the semantic encoder sees while training.

    Lite's looks at the whole picture around a crop; the vision-language model, as published, at the
    crop itself in its original size, a quarter.
    """
    if isinstance(pipeline, LitePipeline):
        return picture
    size = [side // 4 for side in lq_up.shape[-2:]]
    return F.interpolate(lq_up, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


class Criterion:
    """What the student is judged by: functions of (restored, hq), none of which it shares parameters with."""

    def __init__(self, student: OneStepPipeline, config: DistillConfig, device: torch.device) -> None:
        self.config = config
        self.distance: Distance | None = make_distance(config, device)
        coach = build_coach(student, config)
        self.coach = None if coach is None else coach.to(device)
        self.features: FeatureNetwork | None = None
        if config.stage_two:
            self.features = FeatureNetwork(config.fdl_network, Path(config.fdl_weights)).to(device)
            strides = config.fdl_strides or 1
            self.fdl = FrequencyDistributionLoss(
                self.features.channels, config.fdl_projections, strides=strides
            ).to(device)
            side = config.crop_size - SHIFT
            crop = torch.zeros(1, 3, side, side, device=device)
            with torch.no_grad():  # a crop too small for the last map is told now, not at step fdl_from
                corners = [m[..., :FDL_TRIAL, :FDL_TRIAL] for m in self.features(crop)]
                self.fdl(corners, corners)

    def __call__(self, restored: Tensor, hq: Tensor, step: int) -> dict[str, Tensor]:
        """l1_loss, perceptual_loss, gan_loss and, in stage 2, fdl_loss of crops (b, 3, s, s) in [0, 1]."""
        losses = image_losses(restored, hq, self.config, None)
        restored, hq = (shifted(image, self.config.seed, step) for image in (restored, hq))
        if self.distance is not None:
            losses["perceptual_loss"] = self.distance(restored, hq)
        if self.coach is not None and self.config.gan_weight:
            losses["gan_loss"] = self._gan_loss(self.coach, restored, hq)
        if self.features is not None and step >= self.config.fdl_from:
            some = max(1, round(self.config.fdl_share * len(hq)))
            # In bfloat16 the features would round away a grid of 1/255, the very thing to be seen.
            with torch.autocast(restored.device.type, enabled=False):
                with torch.no_grad():
                    target = self.features(hq[:some])
                losses["fdl_loss"] = self.fdl(self.features(restored[:some].float()), target)
        return losses

    def _gan_loss(self, coach: Coach, restored: Tensor, hq: Tensor) -> Tensor:
        coach.eval()  # its spectral norms move on in its own turn only
        coach.heads.requires_grad_(False)
        with torch.no_grad():
            real_logits = coach(hq)
        loss = generator_loss(real_logits, coach(restored))
        coach.heads.requires_grad_(True)
        coach.train()
        return loss


def shifted(image: Tensor, seed: int, step: int) -> Tensor:
    """A window of (b, 3, s, s), SHIFT px smaller, somewhere else in each step.

    Networks with strides pass gradients that repeat with the stride, always at the same place: the
    student learns them as a grid. Seen from another place in each step, they average out.
    """
    rng = seeded("shift", seed, step)
    top, left = torch.randint(SHIFT + 1, (2,), generator=rng).tolist()
    height, width = (side - SHIFT for side in image.shape[-2:])
    return image[..., top : top + height, left : left + width]


def build_coach(student: OneStepPipeline, config: DistillConfig) -> Coach | None:
    """Frozen trunk and new heads, as configured; only the heads ever train."""
    if config.coach == "none":
        return None
    weights = config.coach_weights or None
    trunk: Any
    if config.coach == "dit":
        if not isinstance(student, LitePipeline):
            raise UsageError("coach=dit: a copy of the student as its own judge is made for lite only")
        maps = min(DIT_MAPS, student.config.dit.depth)
        trunk = DiTTrunk(student.structural_encoder, student.dit, maps, 1000 * student.sigma)
    elif config.coach_network in FEATURES:
        trunk = FeatureTrunk(FeatureNetwork(config.coach_network, Path(config.coach_weights)))
    else:
        from strsr_models.encoders.convnext import ConvNextTrunk  # needs open_clip

        trunk = ConvNextTrunk(weights, config.coach_network, checkpointing=config.gradient_checkpointing)
    heads = DiscriminatorConfig(tuple(trunk.channels), trunk.embedding_channels, config.coach_hidden)
    return Coach(trunk, Discriminator(heads))


class CoachTurn(nn.Module):
    """The coach's own losses in one forward pass, as processes that train together need it."""

    def __init__(self, coach: Coach, config: DistillConfig) -> None:
        super().__init__()
        self.heads = coach.heads  # all that trains and is saved
        self._coach: Callable[[Tensor], list[Tensor]] = lambda image: coach(image)
        self.seed, self.sigma = config.seed, config.r1_sigma

    def forward(self, hq: Tensor, restored: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        """coach_loss and r1_loss of photos and restored crops (b, 3, s, s) in [0, 1]."""
        rng = seeded("r1", self.seed, int(numbers[0]))
        with parametrize.cached():  # one power iteration for all three passes
            real_logits = self._coach(hq)
            losses = {"coach_loss": discriminator_loss(real_logits, self._coach(restored))}
            losses["r1_loss"] = r1_penalty(self._coach, hq, real_logits, rng, self.sigma)
        return losses


def dry_run(
    student: str, data: list[Path], config_file: Path | None, settings: list[str], report: Report
) -> None:
    """Tell what `distill` would run; memory for lite only, whose crops are quickly tried. Writes nothing."""
    config = read_distill_config(student, config_file, settings)
    accelerator = make_accelerator(config)
    photos = load_photos(data, config.crop_size, cache_gb=0)
    pipeline = build_student(config)
    report(to_toml(config))
    report(f"# {len(photos)} photos, {describe(pipeline)}")
    if isinstance(pipeline, LitePipeline):
        criterion = Criterion(pipeline, config, torch.device("cpu"))
        crop = torch.rand(1, 3, config.crop_size, config.crop_size)

        def forward() -> object:
            restored = pipeline(crop, condition_image(pipeline, crop, crop))
            return criterion(restored, crop, config.fdl_from)

        estimate = estimate_memory(pipeline, config, accelerator.num_processes, forward)
        report(f"# memory on each device: {estimate}")
