"""A folder of good photos -> batches to train on: hq, lq_up and the picture each crop is part of.

A batch is a pure function of (seed, step): a run that is stopped and resumed sees the batches that
it would have seen, whatever the number of workers.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from strsr_models.errors import ImageError, UsageError
from strsr_models.pipelines.base import enlarge

from .degrade import DegradeConfig, chance, degrade, draw_recipe, resize, to_tensor, uniform
from .images import find_images, read_image

log = logging.getLogger(__name__)

PICTURE_SIZE = 128  # px: the low-quality picture, as the semantic encoder sees it


@dataclass(frozen=True)
class Batch:
    """hq and lq_up (b, 3, s, s), picture (b, 3, 128, 128), all in [0, 1]."""

    hq: Tensor
    lq_up: Tensor
    picture: Tensor


def load_photos(folders: list[Path], smallest: int) -> list[np.ndarray]:
    """All photos as uint8 (h, w, 3); unreadable ones and those below `smallest` px are listed and skipped."""
    photos: list[np.ndarray] = []
    for path in [path for folder in folders for path in find_images(folder)]:
        try:
            image = read_image(path)
        except ImageError as error:
            log.warning("skipped: %s", error)
            continue
        pixels = np.array(image.rgb8())  # a copy that may be written to, as torch wants
        if min(pixels.shape[:2]) < smallest:
            log.warning("skipped: %s: %dx%d px is smaller than %d", path, *pixels.shape[1::-1], smallest)
            continue
        photos.append(pixels)
    if not photos:
        where = ", ".join(map(str, folders))
        raise UsageError(f"--data {where}: no photo of at least {smallest} px on its short side")
    return photos


def draw_sample(photo: np.ndarray, crop_size: int, rng: torch.Generator, config: DegradeConfig) -> Batch:
    """One training sample from a photo (h, w, 3) uint8: a Batch of one.

    The square of the photo around the crop plays the picture; it and the crop go through one recipe.
    """
    height, width = photo.shape[:2]
    side = min(height, width)
    # A little shrinking sharpens the target.
    source = min(round(crop_size * uniform(rng, 1.0, 1.5)), side)
    top, left = (int(uniform(rng, 0, size - source + 1)) for size in (height, width))
    square_top = min(max(0, top - (side - source) // 2), height - side)
    square_left = min(max(0, left - (side - source) // 2), width - side)
    square = photo[square_top : square_top + side, square_left : square_left + side]
    crop = to_tensor(photo[top : top + source, left : left + source]).float() / 255
    turn = draw_turn(rng)
    hq = turn(resize(crop, (crop_size, crop_size), "bicubic"))
    small = cv2.resize(square, (PICTURE_SIZE, PICTURE_SIZE), interpolation=cv2.INTER_AREA)
    picture = turn(to_tensor(small).float() / 255)

    recipe = draw_recipe(rng, config)
    lq_up = enlarge(degrade(hq, recipe, rng), crop_size, crop_size)
    return Batch(hq, lq_up, degrade(picture, recipe, rng, scale=1.0))


def draw_turn(rng: torch.Generator) -> Callable[[Tensor], Tensor]:
    """One of the eight flips and quarter turns of square images."""
    dims = [dim for dim in (-1, -2) if chance(rng, 0.5)]
    swap = chance(rng, 0.5)
    return lambda image: (image.flip(dims).mT if swap else image.flip(dims)).contiguous()


class Crops(Dataset[Batch]):
    """Item number i is sample i of the run: the same photo, crop and noise whenever it is asked for."""

    def __init__(self, photos: list[np.ndarray], crop_size: int, seed: int, config: DegradeConfig) -> None:
        self.photos, self.crop_size, self.seed, self.config = photos, crop_size, seed, config

    def __getitem__(self, number: int) -> Batch:
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        photo = self.photos[int(torch.randint(len(self.photos), (), generator=rng))]
        return draw_sample(photo, self.crop_size, rng, self.config)


class FromStep(Sampler[list[int]]):
    """Sample numbers of the batches start, start + 1, ... stop - 1."""

    def __init__(self, start: int, stop: int, batch_size: int) -> None:
        self.start, self.stop, self.batch_size = start, stop, batch_size

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self):  # type: ignore[no-untyped-def]
        for step in range(self.start, self.stop):
            yield list(range(step * self.batch_size, (step + 1) * self.batch_size))


def join(samples: list[Batch]) -> Batch:
    """Batches of one to one batch."""
    return Batch(*(torch.cat([getattr(s, name) for s in samples]) for name in ("hq", "lq_up", "picture")))


def batches(crops: Crops, start: int, stop: int, batch_size: int, workers: int) -> DataLoader[Batch]:
    """The batches of steps start..stop-1, prepared by `workers` processes ahead of time."""
    return DataLoader(
        crops,
        batch_sampler=FromStep(start, stop, batch_size),
        collate_fn=join,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_parent,
    )


def _leave_signals_to_parent(_worker: int) -> None:
    """A signal to the whole process group must not kill the workers under the last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
