"""Judges of a student: distances, a coach, frequencies; and the weighted sum of their losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from strsr_models.config import as_tuple
from strsr_models.encoders.features import FeatureNetwork, FeatureTrunk
from strsr_models.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from strsr_models.losses.fdl import FrequencyDistributionLoss
from strsr_models.losses.lattice import lattice_loss
from strsr_models.losses.perceptual import Lpips, feature_distance
from strsr_models.networks.discriminator import Coach, Discriminator, DiscriminatorConfig
from strsr_models.pipelines.base import OneStepPipeline

from .data.seeds import draw_below, generator_for
from .judge_files import named_files
from .settings import DistillConfig, LoopConfig


class Distance:
    """The perceptual loss that a configuration names: the mean over its networks.

    Not a module: its networks belong neither into checkpoints nor to the student.
    """

    def __init__(self, config: LoopConfig, device: torch.device) -> None:
        """Load the networks. Raises UsageError or WeightsError for one that is unknown or has no weights."""
        self._feature_distance = feature_distance
        self.networks: list[Lpips | FeatureNetwork] = []
        for name, weights in named_files(config.perceptual_network, config.perceptual_weights):
            network: Lpips | FeatureNetwork
            network = Lpips("vgg", weights) if name == "lpips" else FeatureNetwork(name, weights)
            network.to(device).to(memory_format=torch.channels_last)
            self.networks.append(network)

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the distance of images (b, 3, h, w) in [0, 1], a scalar."""
        # As the networks are; a window has the strides of the crop it is cut from.
        pred, target = (image.contiguous(memory_format=torch.channels_last) for image in (pred, target))
        # A few samples of another size are not worth another compilation.
        measure = self._feature_distance if pred.requires_grad else feature_distance
        distances = [
            network(pred, target) if isinstance(network, Lpips) else measure(pred, target, network)
            for network in self.networks
        ]
        return torch.stack(distances).mean()

    def compile(self, **options: Any) -> None:
        """Have torch compile the feature distance: it is mostly arithmetic on large maps, which becomes one pass."""
        self._feature_distance = torch.compile(feature_distance, **options)


def make_distance(config: LoopConfig, device: torch.device) -> Distance | None:
    """Make the perceptual loss, or None when its weight is 0."""
    return Distance(config, device) if config.perceptual_weight else None


def image_losses(
    pred: Tensor, hq: Tensor, config: LoopConfig, distance: Distance | None
) -> dict[str, Tensor]:
    """Losses by name: l1_loss; lattice_loss where it has a weight; perceptual_loss where there is a distance."""
    losses = {"l1_loss": F.l1_loss(pred.float(), hq)}
    if config.lattice_weight:
        losses["lattice_loss"] = lattice_loss(pred, hq)
    if distance is not None:
        losses["perceptual_loss"] = distance(pred, hq)
    return losses


def weighted_sum(losses: dict[str, Tensor], config: LoopConfig) -> Tensor:
    """The sum of losses times the configuration's weights: `l1_loss` times `l1_weight`, and so on."""
    terms = []
    for name, value in losses.items():
        weight = getattr(config, name.removesuffix("_loss") + "_weight")
        terms.append(weight * value)
    return torch.stack(terms).sum()


FDL_TRIAL = 8  # px of each map that the frequency loss is tried on when a run begins
DIT_MAPS = 4  # blocks that a DiT as coach is tapped behind


class Criterion:
    """The judges of a student: functions of (restored, hq), none of which it shares parameters with."""

    def __init__(self, student: OneStepPipeline, config: DistillConfig, device: torch.device) -> None:
        self.config = config
        self.distance = make_distance(config, device)
        coach = build_coach(student, config)
        # The layers of feature networks run up to twice as fast in this memory format.
        self.coach = coach and coach.to(device).to(memory_format=torch.channels_last)
        self.features: FeatureNetwork | None = None
        if config.stage_two:
            ((name, weights),) = named_files(config.fdl_network, config.fdl_weights)
            self.features = FeatureNetwork(name, weights).to(device)
            strides = config.fdl_strides or 1
            self.fdl = FrequencyDistributionLoss(
                self.features.channels, config.fdl_projections, strides=strides
            ).to(device)
            side = config.crop_size - config.judge_shift
            crop = torch.zeros(1, 3, side, side, device=device)
            # A trial, so that a crop too small for the last map fails now, not at step fdl_from.
            with torch.no_grad():
                corners = [m[..., :FDL_TRIAL, :FDL_TRIAL] for m in self.features(crop)]
                self.fdl(corners, corners)

    def networks(self) -> list[nn.Module]:
        """Return the judges that take memory."""
        parts: list[nn.Module] = [] if self.coach is None else [self.coach]
        if self.distance is not None:
            parts += self.distance.networks
        if self.features is not None:
            parts += [self.features, self.fdl]
        return parts

    def __call__(
        self, restored: Tensor, hq: Tensor, step: int, numbers: Sequence[int], teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of crops (b, 3, s, s) in [0, 1]: l1_loss, teacher_loss, perceptual_loss, gan_loss and, in stage 2, fdl_loss.

        numbers: the samples' numbers in the run. teacher: the teachers' output for the same crops.
        """
        config = self.config
        losses = image_losses(restored, hq, config, None)
        if teacher is not None:
            losses["teacher_loss"] = F.l1_loss(restored.float(), teacher)
        restored, hq = (
            random_window(image, config.judge_shift, config.seed, step) for image in (restored, hq)
        )
        if teacher is not None:
            teacher = random_window(teacher, config.judge_shift, config.seed, step)
        lesson = hq if teacher is None else teacher
        if self.distance is not None:
            targets = {"photo": [hq], "teacher": [lesson], "both": [hq, lesson]}[config.perceptual_target]
            distances = [self.distance(restored, target) for target in targets]
            losses["perceptual_loss"] = torch.stack(distances).mean()
        if self.coach is not None and config.gan_weight:
            real = lesson if config.coach_real == "teacher" else hq
            real, fake = (with_noise(image, config, step, numbers) for image in (real, restored))
            losses["gan_loss"] = self._gan_loss(self.coach, fake, real)
        if self.features is not None and step >= config.fdl_from:
            losses["fdl_loss"] = self._fdl_loss(self.features, restored, hq, numbers)
        return losses

    def _fdl_loss(
        self, features: FeatureNetwork, restored: Tensor, hq: Tensor, numbers: Sequence[int]
    ) -> Tensor:
        """The frequency loss of those samples that the batch's share falls on, such that the mean over all parts is theirs."""
        rows = [row for row, number in enumerate(numbers) if in_share(number, self.config)]
        if not rows:
            return restored.new_zeros((), dtype=torch.float32)
        if len(rows) < len(hq):
            restored, hq = restored[rows], hq[rows]
        part = len(rows) / (len(numbers) * share_of_batch(self.config) / self.config.batch_size)
        # In bfloat16 the features would round away a grid of 1/255, the very thing to see.
        with torch.autocast(restored.device.type, enabled=False):
            with torch.no_grad():
                target = features(hq)
            return part * self.fdl(features(restored.float()), target)  # type: ignore[no-any-return]

    def _gan_loss(self, coach: Coach, restored: Tensor, hq: Tensor) -> Tensor:
        """The student's part of the game against the coach, whose heads get no gradient."""
        # The coach's spectral norms move on in its own turn only.
        coach.eval()
        coach.heads.requires_grad_(False)
        with torch.no_grad():
            real_logits = coach(hq)
        loss = generator_loss(real_logits, coach(restored))
        coach.heads.requires_grad_(True)
        coach.train()
        return loss


def with_noise(image: Tensor, config: DistillConfig, step: int, numbers: Sequence[int]) -> Tensor:
    """An image (b, 3, h, w) as a coach sees it: what is finer than the noise cannot tell it what is real."""
    if not config.coach_noise:
        return image
    rng = generator_for("coach noise", config.seed, step, numbers[0], device=image.device)
    noise = torch.randn(image.shape, generator=rng, device=image.device)
    return image.float() + config.coach_noise * noise


def share_of_batch(config: DistillConfig) -> int:
    """The number of samples of a batch, over all processes, that the frequency loss is computed on."""
    return max(1, round(config.fdl_share * config.batch_size))


def in_share(number: int, config: DistillConfig) -> bool:
    """Whether the frequency loss is computed on a sample; such samples are spread evenly over the batch, and over processes."""
    place = number % config.batch_size
    share = share_of_batch(config)
    before = place * share // config.batch_size
    with_this = (place + 1) * share // config.batch_size
    return with_this > before


def random_window(image: Tensor, shift: int, seed: int, step: int) -> Tensor:
    """A window of (b, 3, s, s), `shift` px smaller, which lies somewhere else in each step.

    Networks with strides pass gradients that repeat with the stride, always at the same place: the
    student learns them as a grid. Seen from another place in each step, they average out.
    """
    height, width = (side - shift for side in image.shape[-2:])
    top, left = (draw_below(shift + 1, "shift", axis, seed, step) for axis in ("y", "x"))
    return image[..., top : top + height, left : left + width]


def build_coach(student: OneStepPipeline, config: DistillConfig) -> Coach | None:
    """Build the configured coach, a frozen trunk with new heads; only the heads ever train."""
    if config.coach == "none":
        return None
    trunk: Any
    if config.coach == "dit":
        trunk = student.coach_trunk(DIT_MAPS)
    elif config.coach_on_features:
        pairs = named_files(config.coach_network, config.coach_weights)
        trunk = FeatureTrunk(*(FeatureNetwork(name, file) for name, file in pairs))
    else:
        # This import needs the package open_clip.
        from strsr_models.encoders.convnext import ConvNextTrunk

        (name,), (file,) = as_tuple(config.coach_network), as_tuple(config.coach_weights)
        trunk = ConvNextTrunk(
            file or None,
            name,
            checkpointing=config.gradient_checkpointing,
            models_dir=Path(config.models_dir) if config.models_dir else None,
        )
    heads = DiscriminatorConfig(tuple(trunk.channels), trunk.embedding_channels, config.coach_hidden)
    return Coach(trunk, Discriminator(heads))


class CoachTurn(nn.Module):
    """The coach's own losses in one forward pass, as processes that train together need it."""

    def __init__(self, coach: Coach, config: DistillConfig) -> None:
        super().__init__()
        # The heads alone are a submodule, for they are all that trains and is saved.
        self.heads = coach.heads
        self._coach: Callable[[Tensor], list[Tensor]] = lambda image: coach(image)
        self.config = config

    def forward(
        self, hq: Tensor, restored: Tensor, numbers: Sequence[int], step: int = 0
    ) -> dict[str, Tensor]:
        """Return coach_loss and r1_loss of photos and restored crops (b, 3, s, s) in [0, 1]; numbers: the samples' numbers."""
        rng = generator_for("r1", self.config.seed, numbers[0])
        hq, restored = (with_noise(image, self.config, step, numbers) for image in (hq, restored))
        # All three passes share one power iteration of the spectral norms.
        with parametrize.cached():
            real_logits = self._coach(hq)
            losses = {"coach_loss": discriminator_loss(real_logits, self._coach(restored))}
            losses["r1_loss"] = r1_penalty(self._coach, hq, real_logits, rng, self.config.r1_sigma)
        return losses

    def rests(self, coach_loss: Tensor) -> bool:
        """Whether the coach is so far ahead of its student that it should not learn in this step."""
        heads = len(self.heads.on_maps) + (self.heads.on_embedding is not None)
        return bool(self.config.coach_floor and coach_loss < heads * self.config.coach_floor)
