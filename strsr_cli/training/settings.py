"""All settings of `strsr train` and `strsr distill` on one page: their defaults, and their checks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from strsr_models.config import as_tuple
from strsr_models.encoders.features import FEATURES
from strsr_models.errors import nearest
from strsr_models.losses.adversarial import R1_SIGMA
from strsr_models.losses.lattice import LEAST_CROP
from strsr_models.pipelines.lite import LiteConfig

from .data.degrade import DegradeConfig, check_shares
from .data.photos import CACHE_GB
from .data.teachers import TeacherConfig
from .judge_files import check_files

PHOTO_COLORS = ("srgb", "stored")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class LoopConfig:
    """Settings of every loop that teaches a pipeline."""

    steps: int = 200_000
    minutes: float = 0.0  # of training, after which a run ends, its learning rate fallen; 0: `steps` says
    # How many of them are over, in a run whose folder is gone and whose weights this one starts from.
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
    # A file for each; empty: torchvision's own of squeezenet, vgg19 and lpips, as `strsr models pull` gets them.
    perceptual_weights: str | tuple[str, ...] = ""
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
    compile_mode: str = "default"  # torch.compile's; reduce-overhead replays steps as CUDA graphs
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    # "srgb": profiles of photos count, as `strsr upscale` counts them; "stored": their numbers are taken as they are.
    photo_colors: str = "srgb"

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
        if self.perceptual_weight > 0:
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
        if self.compile_mode not in COMPILE_MODES:
            raise ValueError(
                f"compile_mode {self.compile_mode!r}: unknown; {nearest(self.compile_mode, COMPILE_MODES)}"
            )
        if self.photo_colors not in PHOTO_COLORS:
            raise ValueError(
                f"photo_colors {self.photo_colors!r}: unknown; {nearest(self.photo_colors, PHOTO_COLORS)}"
            )
        check_shares(self, "graphics_share")
        amounts = ("workers", "warmup_steps", "cache_gb", "weight_decay", "minutes", "minutes_before")
        if min(getattr(self, name) for name in amounts) < 0:
            raise ValueError(f"{', '.join(amounts[:-1])} and {amounts[-1]} must not be negative")


STAGES = ("autoencoder", "flow", "pixel")  # of `strsr train`


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """Settings of `strsr train`, which decide a run's result together with the photos."""

    stage: str = "pixel"  # or autoencoder, flow
    init: str = ""  # folder of weights, or of a run, to start from; empty: from random
    flow_weight: float = 1.0
    flow_noise: float = 0.05  # added to the degraded end of the path; latents are about 1
    model: LiteConfig = field(default_factory=LiteConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage not in STAGES:
            raise ValueError(f"stage {self.stage!r}: unknown; {nearest(self.stage, STAGES)}")
        if self.flow_noise < 0:
            raise ValueError(f"flow_noise {self.flow_noise}: must not be negative")
        if self.stage == "flow" and not self.init:
            raise ValueError("stage flow needs init: the weights of an autoencoder run, whose latents stay")


COACHES = ("conv", "dit", "none")
TRAINS = ("all", "decoder")
TURNS = ("alternate", "both")
TARGETS = ("photo", "teacher", "both")
REALS = ("photo", "teacher")
CONVNEXT_STRIDE = 32  # px: of a larger window, its last stage would not see the rest
LEAST = {"rank": 1, "coach_hidden": 1, "fdl_projections": 1, "fdl_from": 0, "r1_sigma": 0}


@dataclass(frozen=True)
class DistillConfig(LoopConfig):
    """Settings of `strsr distill`, which decide a run's result together with the photos. Defaults: as published."""

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
    trains: str = "all"  # or decoder: lite's alone, as for the faithful end of --fidelity
    turns: str = "alternate"  # student and coach batch by batch; or both: each on every batch
    coach: str = "conv"  # or dit: the student's own kind, the baseline; or none
    # Frozen trunk of a conv coach: an open_clip ConvNeXt, a feature network (resnet50v2, vgg19, squeezenet),
    # or a list of feature networks with a file for each.
    coach_network: str | tuple[str, ...] = "convnext_xxlarge"
    coach_weights: str | tuple[str, ...] = ""  # its file; empty: as pulled
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
    fdl_weights: str = ""  # its file; empty: torchvision's, as pulled
    fdl_projections: int = 256
    fdl_strides: tuple[int, ...] = ()  # of the projections, for each map; empty: 1
    fdl_share: float = 1.0  # part of each batch, over all processes, that it is computed on
    # Coach, perceptual distance and FDL see a window smaller by so many px (`criterion.random_window`).
    judge_shift: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = (
            ("coach", COACHES),
            ("trains", TRAINS),
            ("turns", TURNS),
            ("perceptual_target", TARGETS),
            ("coach_real", REALS),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} {getattr(self, name)!r}: unknown; {nearest(getattr(self, name), known)}"
                )
        networks = as_tuple(self.coach_network)
        if not networks or (len(networks) > 1 and not self.coach_on_features):
            raise ValueError(
                f"coach_network {list(networks)}: a list is of feature networks alone: {', '.join(FEATURES)}"
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
        if self.stage_two:
            check_files(self, "fdl_network", "fdl_weights", "or set fdl_weight=0")
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
            multiple = f" and a multiple of {stride}" if stride > 1 else ""
            raise ValueError(
                f"judge_shift {self.judge_shift}: leaves {window} px of crop_size {self.crop_size}; "
                f"must not be negative, and leave at least 32 px{multiple}"
            )

    @property
    def coach_on_features(self) -> bool:
        """Whether the coach's trunk is made of feature networks, rather than a ConvNeXt of open_clip's."""
        return all(name in FEATURES for name in as_tuple(self.coach_network))

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
    # Of "vgg19", whose maps have the size of Caffe's, also with torchvision's weights; it is some 58 times
    # that of "vgg19_torchvision".
    "fdl_weight": 1e-6,
    "fdl_from": 14_000,
    "fdl_network": "vgg19",
    "fdl_projections": 32,
    "fdl_strides": (2, 1, 1),
    "fdl_share": 0.125,
    "judge_shift": 16,  # the largest stride of its judges
}


# Settings that may differ when a run is resumed: they decide how long and where, not what is learnt.
LENGTH = {"steps", "minutes", "minutes_before"}
RATES = {"learning_rate", "final_learning_rate", "warmup_steps", "coach_learning_rate"}
NOTES = {"log_every", "save_every", "sample_every", "tensorboard"}
MACHINE = {
    "device",
    "precision",
    "accumulate",
    "gradient_checkpointing",
    "compile",
    "compile_mode",
    "workers",
    "cache_gb",
}
PLACES = {
    "models_dir",
    "perceptual_weights",
    "coach_weights",
    "fdl_weights",
    "init",
    "student",
    "pairs",
    "teacher",
}
MAY_CHANGE = LENGTH | RATES | NOTES | MACHINE | PLACES


def config_hash(config: LoopConfig) -> str:
    """The short hash that names a configuration."""
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


# Settings that are younger than the first runs, by their dotted names, and what was done before they existed. A run that
# is gone on with, and whose config.toml lacks one, goes on with this value. A new setting needs its line here.
LATER: dict[str, Any] = {
    "adam_eps": 1e-12,
    "accumulate": 1,
    "gradient_checkpointing": False,
    "cache_gb": CACHE_GB,
    "tensorboard": True,
    "stage": "pixel",
    "flow_weight": 1.0,
    "flow_noise": 0.05,
    "lattice_weight": 0.0,
    "compile": False,
    "compile_mode": "default",
    "minutes": 0.0,
    "minutes_before": 0.0,
    "graphics_share": 0.0,
    "photo_colors": "stored",
    "semantic_tokens": True,
    "trains": "all",
    "judge_shift": 0,
    "teacher": "",
    "teacher_weight": 1.0,
    "photo_share": 0.0,
    "perceptual_target": "photo",
    "pairs": "",
    "pair_size": 256,
    "largest_crop": 0,
    "coach_real": "photo",
    "coach_noise": 0.0,
    "coach_floor": 0.0,
    "degrade.sharpen": 0.0,
    "degrade.lens_share": 0.0,
    "degrade.medium_share": 0.0,
    "model.dit.unpatchify": "patch",
    "model.autoencoder.grain_maps": 0,
    "model.least_scale": 1.0,
}
# What these two are like does not matter where they have no share.
LATER |= {
    f"degrade.{kind}.{name}": list(value) if isinstance(value, tuple) else value
    for kind in ("lens", "medium")
    for name, value in vars(getattr(DegradeConfig(), kind)).items()
}
