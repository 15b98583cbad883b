"""Settings of `strsr distill`, and what they have a student judged by: distances, a coach, frequencies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from strsr_models.encoders.dit_trunk import DiTTrunk
from strsr_models.encoders.features import FEATURES, FeatureNetwork, FeatureTrunk
from strsr_models.errors import UsageError, nearest
from strsr_models.losses.adversarial import R1_SIGMA, discriminator_loss, generator_loss, r1_penalty
from strsr_models.losses.fdl import FrequencyDistributionLoss
from strsr_models.networks.discriminator import Coach, Discriminator, DiscriminatorConfig
from strsr_models.pipelines.base import OneStepPipeline
from strsr_models.pipelines.lite import LitePipeline

from .degrade import draw_below, seeded
from .engine import LoopConfig, check_files, image_losses, make_distance, names
from .teachers import TeacherConfig

COACHES = ("conv", "dit", "none")
TURNS = ("alternate", "both")
TARGETS = ("photo", "teacher", "both")
REALS = ("photo", "teacher")
FDL_TRIAL = 8  # px of each map that the frequency loss is tried on when a run begins
CONVNEXT_STRIDE = 32  # px: of a larger window, its last stage would not see the rest
LEAST = {"rank": 1, "coach_hidden": 1, "fdl_projections": 1, "fdl_from": 0, "r1_sigma": 0}
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
    perceptual_network: str | tuple[str, ...] = "lpips"
    save_every: int = 500
    precision: str = "bf16"

    student: str = "lite"  # lite, zimage, flux2, or a folder of lite's weights or run to go on from
    models_dir: str = ""  # where the published checkpoints of zimage and flux2 are; empty: the default
    rank: int = 256  # of LoRA
    # File of an x4 restorer to learn from, or a table of files by kind of degradation; empty: none.
    teacher: str | TeacherConfig = ""
    teacher_weight: float = 1.0  # of L1 towards its output
    photo_share: float = 0.0  # of the photo in that output, as it is learnt: less sharp, nearer to the truth
    perceptual_target: str = "photo"  # or teacher, both: what the perceptual distance is measured to
    # Folder, or several, of pairs that --make-pairs has made; empty: teachers run in every step.
    pairs: str | tuple[str, ...] = ""
    pair_size: int = 256  # px, of the pairs to be made
    largest_crop: int = 0  # px: with pairs, each step draws a side from crop_size to this one; 0: crop_size
    semantic_tokens: bool = True  # false: lite does without them for good, an ablation
    turns: str = "alternate"  # student and coach batch by batch; or both: each on every batch
    coach: str = "conv"  # or dit: the student's own kind, the baseline; or none
    # Frozen trunk of a conv coach: an open_clip ConvNeXt, or a feature network (resnet50v2, vgg19, squeezenet).
    # Or a list of feature networks, with a file of each.
    coach_network: str | tuple[str, ...] = "convnext_xxlarge"
    coach_weights: str | tuple[str, ...] = ""  # its file; empty: where huggingface_hub keeps it
    coach_real: str = "photo"  # or teacher: what it takes for real
    coach_noise: float = 0.0  # standard deviation of the noise on all that it sees, of images in [0, 1]
    coach_floor: float = 0.0  # it does not learn while its loss per head is below this; 0.69 is guessing
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
    fdl_share: float = 1.0  # part of each batch, over all processes, that it is computed on
    judge_shift: int = 0  # px: coach, perceptual distance and FDL see a window smaller by this (`shifted`)

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = (
            ("coach", COACHES),
            ("turns", TURNS),
            ("perceptual_target", TARGETS),
            ("coach_real", REALS),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} {getattr(self, name)!r}: unknown; {nearest(getattr(self, name), known)}"
                )
        if len(names(self.coach_network)) != 1 and not (names(self.coach_network) and self.coach_on_features):
            raise ValueError(
                f"coach_network {list(names(self.coach_network))}: a list is of feature networks alone: {', '.join(FEATURES)}"
            )
        if self.coach == "conv" and self.coach_on_features:
            check_files(self, "coach_network", "coach_weights", 'or set coach="none"')
        if not self.teacher and "teacher" in (self.perceptual_target, self.coach_real):
            raise ValueError("perceptual_target or coach_real is teacher, and there is none: set teacher")
        if self.pairs and not self.teacher:
            raise ValueError("pairs are of a teacher's: set teacher")
        if self.pairs and (self.pair_size < max(self.crop_size, self.largest_crop) or self.pair_size % 16):
            raise ValueError(
                f"pair_size {self.pair_size}: must be a multiple of 16, "
                f"at least crop_size {self.crop_size} and largest_crop {self.largest_crop}"
            )
        if not 0 <= self.photo_share <= 1:
            raise ValueError(f"photo_share {self.photo_share}: must lie in [0, 1]")
        if self.coach_noise < 0 or not 0 <= self.coach_floor < 1:
            raise ValueError("coach_noise must not be negative, coach_floor must lie in [0, 1)")
        if self.stage_two and not self.fdl_weights:
            raise ValueError("fdl_weight > 0 needs fdl_weights, a file of fdl_network; or set fdl_weight=0")
        if not 0 < self.fdl_share <= 1 or not 0 < self.coach_learning_rate < 1:
            raise ValueError("fdl_share must lie in (0, 1], coach_learning_rate in (0, 1)")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {least}")
        if min(self.fdl_strides, default=1) < 1:
            raise ValueError(f"fdl_strides {list(self.fdl_strides)}: must be at least 1")
        self._check_window()

    def _check_window(self) -> None:
        """Raise ValueError for windows that the judges cannot see in whole."""
        window = self.crop_size - self.judge_shift
        stride = 1
        if self.coach == "dit":
            stride = 16
        elif self.coach == "conv" and not self.coach_on_features:
            stride = CONVNEXT_STRIDE
        if not 0 <= self.judge_shift <= self.crop_size - 32 or window % stride:
            raise ValueError(
                f"judge_shift {self.judge_shift}: leaves {window} px of crop_size {self.crop_size}; "
                f"must not be negative, and leave at least 32 px{f' and a multiple of {stride}' if stride > 1 else ''}"
            )

    @property
    def coach_on_features(self) -> bool:
        """Whether the coach's trunk is made of feature networks, rather than a ConvNeXt of open_clip's."""
        return all(name in FEATURES for name in names(self.coach_network))

    @property
    def stage_two(self) -> bool:
        """Whether the frequency loss ever counts."""
        return self.fdl_weight > 0 and self.fdl_from < self.steps


# What differs from the published configuration when lite is the student: all of it trains, on crops an eighth as
# large. With teachers and pairs: examples/training/lite-teachers.toml and lite-coach.toml.
LITE_PRESET: dict[str, Any] = {
    "steps": 20_000,
    "batch_size": 16,
    "crop_size": 128,
    "learning_rate": 2e-4,
    "warmup_steps": 100,
    "final_learning_rate": 4e-6,
    "betas": (0.9, 0.99),
    "adam_eps": 1e-10,
    "gradient_clip": 0.3,
    "gradient_checkpointing": False,
    "ema_decay": 0.999,
    "perceptual_weight": 0.1,
    "gan_weight": 0.002,
    "perceptual_network": "squeezenet",
    "precision": "auto",
    "turns": "both",
    "coach_network": "squeezenet",
    "coach_hidden": 64,
    "coach_learning_rate": 2e-4,
    "coach_noise": 0.02,
    "coach_floor": 0.5,
    "fdl_weight": 1e-6,  # of "vgg19", whose maps are 58 times as large as those of "vgg19_torchvision"
    "fdl_from": 14_000,
    "fdl_network": "vgg19",
    "fdl_projections": 32,
    "fdl_strides": (2, 1, 1),
    "fdl_share": 0.125,
    "judge_shift": 16,  # the largest stride of its judges
}


class Criterion:
    """What the student is judged by: functions of (restored, hq), none of which it shares parameters with."""

    def __init__(self, student: OneStepPipeline, config: DistillConfig, device: torch.device) -> None:
        self.config = config
        self.distance = make_distance(config, device)
        coach = build_coach(student, config)
        # What feature networks are made of runs up to twice as fast in this order.
        self.coach = coach and coach.to(device).to(memory_format=torch.channels_last)
        self.features: FeatureNetwork | None = None
        if config.stage_two:
            self.features = FeatureNetwork(config.fdl_network, Path(config.fdl_weights)).to(device)
            strides = config.fdl_strides or 1
            self.fdl = FrequencyDistributionLoss(
                self.features.channels, config.fdl_projections, strides=strides
            ).to(device)
            side = config.crop_size - config.judge_shift
            crop = torch.zeros(1, 3, side, side, device=device)
            with torch.no_grad():  # a crop too small for the last map is told now, not at step fdl_from
                corners = [m[..., :FDL_TRIAL, :FDL_TRIAL] for m in self.features(crop)]
                self.fdl(corners, corners)

    def networks(self) -> list[nn.Module]:
        """All that takes memory here."""
        parts: list[nn.Module] = [] if self.coach is None else [self.coach]
        if self.distance is not None:
            parts += self.distance.networks
        if self.features is not None:
            parts += [self.features, self.fdl]
        return parts

    def __call__(
        self, restored: Tensor, hq: Tensor, step: int, numbers: Sequence[int], teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """l1_loss, teacher_loss, perceptual_loss, gan_loss and, in stage 2, fdl_loss of crops (b, 3, s, s) in [0, 1].

        numbers: of the samples in the run. teacher: what the teachers made of the same crops.
        """
        config = self.config
        losses = image_losses(restored, hq, config, None)
        if teacher is not None:
            losses["teacher_loss"] = F.l1_loss(restored.float(), teacher)
        restored, hq = (shifted(image, config.judge_shift, config.seed, step) for image in (restored, hq))
        taught = hq if teacher is None else shifted(teacher, config.judge_shift, config.seed, step)
        if self.distance is not None:
            targets = {"photo": [hq], "teacher": [taught], "both": [hq, taught]}[config.perceptual_target]
            distances = [self.distance(restored, target) for target in targets]
            losses["perceptual_loss"] = torch.stack(distances).mean()
        if self.coach is not None and config.gan_weight:
            real = taught if config.coach_real == "teacher" else hq
            real, fake = (with_noise(image, config, step, numbers) for image in (real, restored))
            losses["gan_loss"] = self._gan_loss(self.coach, fake, real)
        if self.features is not None and step >= config.fdl_from:
            losses["fdl_loss"] = self._fdl_loss(self.features, restored, hq, numbers)
        return losses

    def _fdl_loss(
        self, features: FeatureNetwork, restored: Tensor, hq: Tensor, numbers: Sequence[int]
    ) -> Tensor:
        """Of those samples here that the batch's share falls on, such that the mean over all parts is theirs."""
        rows = [row for row, number in enumerate(numbers) if in_share(number, self.config)]
        if not rows:
            return restored.new_zeros((), dtype=torch.float32)
        if len(rows) < len(hq):
            restored, hq = restored[rows], hq[rows]
        part = len(rows) / (len(numbers) * share_of_batch(self.config) / self.config.batch_size)
        # In bfloat16 the features would round away a grid of 1/255, the very thing to be seen.
        with torch.autocast(restored.device.type, enabled=False):
            with torch.no_grad():
                target = features(hq)
            return part * self.fdl(features(restored.float()), target)  # type: ignore[no-any-return]

    def _gan_loss(self, coach: Coach, restored: Tensor, hq: Tensor) -> Tensor:
        coach.eval()  # its spectral norms move on in its own turn only
        coach.heads.requires_grad_(False)
        with torch.no_grad():
            real_logits = coach(hq)
        loss = generator_loss(real_logits, coach(restored))
        coach.heads.requires_grad_(True)
        coach.train()
        return loss


def with_noise(image: Tensor, config: DistillConfig, step: int, numbers: Sequence[int]) -> Tensor:
    """(b, 3, h, w) as a coach sees it: what is finer than the noise tells it nothing of what is real."""
    if not config.coach_noise:
        return image
    rng = seeded("coach noise", config.seed, step, numbers[0], device=image.device)
    noise = torch.randn(image.shape, generator=rng, device=image.device)
    return image.float() + config.coach_noise * noise


def share_of_batch(config: DistillConfig) -> int:
    """How many samples of a batch, over all processes, the frequency loss is computed on."""
    return max(1, round(config.fdl_share * config.batch_size))


def in_share(number: int, config: DistillConfig) -> bool:
    """Whether a sample is one of them; they are spread evenly over the batch, and so over processes."""
    place, some = number % config.batch_size, share_of_batch(config)
    return (place + 1) * some // config.batch_size > place * some // config.batch_size


def shifted(image: Tensor, shift: int, seed: int, step: int) -> Tensor:
    """A window of (b, 3, s, s), `shift` px smaller, somewhere else in each step.

    Networks with strides pass gradients that repeat with the stride, always at the same place: the
    student learns them as a grid. Seen from another place in each step, they average out.
    """
    height, width = (side - shift for side in image.shape[-2:])
    top, left = (draw_below(shift + 1, "shift", axis, seed, step) for axis in ("y", "x"))
    return image[..., top : top + height, left : left + width]


def build_coach(student: OneStepPipeline, config: DistillConfig) -> Coach | None:
    """Frozen trunk and new heads, as configured; only the heads ever train."""
    if config.coach == "none":
        return None
    files = names(config.coach_weights)
    trunk: Any
    if config.coach == "dit":
        if not isinstance(student, LitePipeline):
            raise UsageError("coach=dit: a copy of the student as its own judge is made for lite only")
        maps = min(DIT_MAPS, student.config.dit.depth)
        trunk = DiTTrunk(student.structural_encoder, student.dit, maps, 1000 * student.sigma)
    elif config.coach_on_features:
        known = zip(names(config.coach_network), files, strict=True)
        trunk = FeatureTrunk(*(FeatureNetwork(name, Path(file)) for name, file in known))
    else:
        from strsr_models.encoders.convnext import ConvNextTrunk  # needs open_clip

        (name,), (file,) = names(config.coach_network), files
        trunk = ConvNextTrunk(file or None, name, checkpointing=config.gradient_checkpointing)
    heads = DiscriminatorConfig(tuple(trunk.channels), trunk.embedding_channels, config.coach_hidden)
    return Coach(trunk, Discriminator(heads))


class CoachTurn(nn.Module):
    """The coach's own losses in one forward pass, as processes that train together need it."""

    def __init__(self, coach: Coach, config: DistillConfig) -> None:
        super().__init__()
        self.heads = coach.heads  # all that trains and is saved
        self._coach: Callable[[Tensor], list[Tensor]] = lambda image: coach(image)
        self.config = config

    def forward(
        self, hq: Tensor, restored: Tensor, numbers: Sequence[int], step: int = 0
    ) -> dict[str, Tensor]:
        """coach_loss and r1_loss of photos and restored crops (b, 3, s, s) in [0, 1]; numbers: of the samples."""
        rng = seeded("r1", self.config.seed, numbers[0])
        hq, restored = (with_noise(image, self.config, step, numbers) for image in (hq, restored))
        with parametrize.cached():  # one power iteration for all three passes
            real_logits = self._coach(hq)
            losses = {"coach_loss": discriminator_loss(real_logits, self._coach(restored))}
            losses["r1_loss"] = r1_penalty(self._coach, hq, real_logits, rng, self.config.r1_sigma)
        return losses

    def rests(self, coach_loss: Tensor) -> bool:
        """Whether the coach is ahead of its student by so much that it should not learn in this step."""
        heads = len(self.heads.on_maps) + (self.heads.on_embedding is not None)
        return bool(self.config.coach_floor and coach_loss < heads * self.config.coach_floor)
