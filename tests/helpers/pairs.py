"""Pairs of three photos and a tiny teacher: where they lie, how they are made and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from strsr_cli.training.data.pairs import PairWindows
from strsr_cli.training.data.photos import load_photos
from strsr_cli.training.distill import make_teachers_pairs, read_distill_config

from .teachers import save_teacher

CPU = torch.device("cpu")
IMAGES = ("hq", "lq_up", "teacher", "picture")
COUNT = 8  # in two groups
BASE = [
    "batch_size=4",
    "crop_size=32",
    "pair_size=64",
    "workers=0",
    "device=cpu",
    "precision=fp32",
    "tensorboard=false",
    "coach=none",
    "fdl_weight=0",
    "perceptual_weight=0",
    "judge_shift=0",
    "log_every=1",
    "warmup_steps=1",
    "degrade.clean_share=0.5",
    "degrade.mild_share=0.5",
]


class Usage(NamedTuple):
    """Of a disk, in bytes."""

    total: int
    used: int
    free: int


def quiet(_line: str) -> None:
    pass


def with_set(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


class Home:
    """Three photos, a tiny teacher, and a folder of pairs made from them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.photos, self.pairs = folder, folder / "photos", folder / "pairs"
        self.teacher = folder / "teacher.safetensors"

    @property
    def settings(self) -> list[str]:
        return [*BASE, f"teacher={self.teacher}", f"pairs={self.pairs}"]

    def make(self, *more: str, count: int = COUNT, report: Callable[[str], None] = quiet) -> Path:
        return self.make_by([*self.settings, *more], count, report)

    def make_by(self, settings: list[str], count: int, report: Callable[[str], None] = quiet) -> Path:
        """Four pairs are made together, and noted, so that few make several groups."""
        return make_teachers_pairs([self.photos], count, None, settings, report, group=4, note_every=1)

    def windows(self, *more: str) -> PairWindows:
        config = read_distill_config("lite", None, [*self.settings, *more])
        return PairWindows(config, load_photos([self.photos], config.pair_size), 16, CPU)

    def array(self, name: str) -> np.ndarray:
        return np.load(self.pairs / f"{name}.npy")

    def state(self, **changes: object) -> None:
        path = self.pairs / "pairs.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_photos(home: Home) -> list[str]:
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(home.photos / "more.png")
    return []


def other_teacher(home: Home) -> list[str]:
    save_teacher(home.teacher, seed=9)
    return []
