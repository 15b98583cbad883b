"""A folder of good photos -> batches to train on: hq, lq_up and the picture each crop is part of.

A batch is a pure function of (seed, step): a run that is stopped and resumed sees the batches that
it would have seen, whatever the number of workers, and processes that share a batch see the parts
of what one process would have seen. Worker processes decode, crop and turn (`Crops`, 8 bits per
channel); `prepare` degrades on the device that trains.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from strsr_models.errors import StrsrError, UsageError
from strsr_models.tiling.enlargement import enlarge

from .degrade import KINDS, DegradeConfig, Recipe, Sizes, degrade, draw_recipe, draw_sizes, sharpen
from .graphics import draw_graphic
from .photos import Photos
from .seeds import generator_for, happens, uniform

log = logging.getLogger(__name__)


PICTURE_SIZE = 128  # px: the low-quality picture, as the semantic encoder sees it


@dataclass(frozen=True)
class RawBatch:
    """A batch before degradation: hq (b, 3, s, s) and picture (b, 3, 128, 128), uint8, and the samples' numbers.

    lost: messages about photos that others stand in for. drawn: rows that are drawn, not cut from photos.
    """

    hq: Tensor
    picture: Tensor
    numbers: list[int]
    lost: tuple[str, ...]
    drawn: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """A batch to train on: hq and lq_up (b, 3, s, s), picture (b, 3, 128, 128), all float in [0, 1].

    teacher (b, 3, s, s): what the teachers make of the degraded crops, where there are any. kinds: of the samples'
    degradations. dropped: rows whose teacher's output was not finite; another row's sample stands there.
    """

    hq: Tensor
    lq_up: Tensor
    picture: Tensor
    teacher: Tensor | None = None
    kinds: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()


class Crops(Dataset[RawBatch]):
    """The samples of a run before degradation: item i is the same photo and crop whenever it is asked for."""

    def __init__(self, photos: Photos, crop_size: int, seed: int, graphics_share: float = 0.0) -> None:
        """graphics_share: the share of samples that are drawn, see graphics.py."""
        self.photos, self.crop_size, self.seed = photos, crop_size, seed
        self.graphics_share = graphics_share

    def __getitem__(self, number: int) -> RawBatch:
        rng = generator_for("graphic", self.seed, number)
        if self.graphics_share and happens(rng, self.graphics_share):
            hq = draw_graphic(self.crop_size, rng)
            picture = fit(hq[0].permute(1, 2, 0).numpy(), PICTURE_SIZE, "bilinear")
            return RawBatch(hq, picture, [number], (), (0,))
        rng = generator_for("crop", self.seed, number)
        photo, lost = self.photos.read(int(torch.randint(len(self.photos), (), generator=rng)))
        hq, picture = draw_crop(photo, self.crop_size, rng)
        return RawBatch(hq, picture, [number], lost)


def draw_crop(photo: np.ndarray, crop_size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A crop (1, 3, s, s) of a photo (h, w, 3) and the square around it (1, 3, 128, 128), all uint8.

    The square, as large as the photo's short side, plays the picture; both are turned alike.
    """
    height, width = photo.shape[:2]
    side = min(height, width)
    # Shrinking the source a little sharpens the target.
    source = min(round(crop_size * uniform(rng, 1.0, 1.5)), side)
    top, left = (int(uniform(rng, 0, size - source + 1)) for size in (height, width))
    square_top = min(max(0, top - (side - source) // 2), height - side)
    square_left = min(max(0, left - (side - source) // 2), width - side)
    square = photo[square_top : square_top + side, square_left : square_left + side]
    turn = draw_turn(rng)
    crop = fit(photo[top : top + source, left : left + source], crop_size, "bicubic")
    # The square is reduced by bilinear, as the semantic encoder reduces whole pictures.
    return turn(crop), turn(fit(square, PICTURE_SIZE, "bilinear"))


def fit(pixels: np.ndarray, side: int, mode: str) -> Tensor:
    """A square of pixels (h, h, 3) uint8 resized with antialias to (1, 3, side, side) uint8."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return F.interpolate(image, (side, side), mode=mode, align_corners=False, antialias=True)


def draw_turn(rng: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Draw one of the eight flips and quarter turns of square images, as a function."""
    dims = [dim for dim in (-1, -2) if happens(rng, 0.5)]
    swap = happens(rng, 0.5)

    def turn(image: Tensor) -> Tensor:
        flipped = image.flip(dims)
        return (flipped.mT if swap else flipped).contiguous()

    return turn


def join(samples: list[RawBatch]) -> RawBatch:
    """Join several batches to one."""
    return RawBatch(
        hq=torch.cat([sample.hq for sample in samples]),
        picture=torch.cat([sample.picture for sample in samples]),
        numbers=[number for sample in samples for number in sample.numbers],
        lost=tuple(message for sample in samples for message in sample.lost),
        drawn=tuple(row for row, sample in enumerate(samples) if sample.drawn),
    )


# Teachers as a function: their output for degraded crops (b, 3, h, w) of a kind, at a size (H, W); None where the kind
# has no teacher.
Teach = Callable[[Tensor, str, tuple[int, int]], Tensor | None]


class FromStep(Sampler[list[int]]):
    """Sample numbers of the batches of steps start, start + 1, ... stop - 1, or one process's part of each."""

    def __init__(self, start: int, stop: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        if batch_size % world:
            raise UsageError(
                f"batch_size {batch_size}: must be divisible by the number of processes, {world}"
            )
        self.start, self.stop, self.batch_size = start, stop, batch_size
        self.part = range(rank * batch_size // world, (rank + 1) * batch_size // world)

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.stop):
            yield [step * self.batch_size + place for place in self.part]


def batches(
    crops: Crops,
    config: DegradeConfig,
    device: torch.device,
    *,
    start: int,
    stop: int,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    teachers: Teach | None = None,
) -> Iterator[Batch]:
    """The batches of steps start..stop-1 on the device, cropped by `workers` processes ahead of time.

    batch_size: of all `world` processes together; this one, number `rank`, gets its part of each
    batch, in order. Raises UsageError at once when it cannot be divided.
    """
    sampler = FromStep(start, stop, batch_size, rank, world)

    def prepared() -> Iterator[Batch]:
        logged: set[str] = set()
        for step, raw in enumerate(_raw_batches(crops, sampler, workers), start):
            for message in raw.lost:
                if message not in logged:
                    log.warning("%s; another photo stands in for it", message)
                    logged.add(message)
            yield prepare(raw, step, config, crops.seed, device, teachers)

    return prepared()


def _raw_batches(crops: Crops, sampler: FromStep, workers: int) -> Iterator[RawBatch]:
    """The batches before degradation, cropped by `workers` processes; by this one where those cannot be had."""
    # Forked workers share the decoded photos, whatever Python's default has become.
    context = multiprocessing.get_context("fork") if workers and sys.platform == "linux" else None
    try:
        if workers:
            # Queues are locked by semaphores, and what workers send goes through shared memory (/dev/shm).
            multiprocessing.Lock()
            torch.zeros(1).share_memory_()  # type: ignore[no-untyped-call]
        loader = DataLoader(
            crops,
            batch_sampler=sampler,
            collate_fn=join,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals_to_parent,
            multiprocessing_context=context,
        )
        return iter(loader)
    except (OSError, ImportError, RuntimeError) as error:
        if not workers:
            raise
        reason = " ".join(str(error).split())[:200]
        log.warning("workers=%d: cannot be started here (%s); done without", workers, reason)
        return _raw_batches(crops, sampler, 0)


def _leave_signals_to_parent(_worker: int) -> None:
    """Ignore signals in a worker: one sent to the whole process group must not end it before the last step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def sample_recipe(number: int, config: DegradeConfig, seed: int) -> Recipe:
    """The recipe of a sample of a run, by its number."""
    return draw_recipe(generator_for("recipe", seed, number), config)


def sample_noise(number: int, seed: int, device: torch.device) -> torch.Generator:
    """The generator that makes the noise of a sample, first for its crop, then for its picture."""
    return generator_for("noise", seed, number, device=device)


def step_sizes(step: int, kind: str, config: DegradeConfig, seed: int) -> Sizes:
    """The sizes that the samples of a kind share in a step of a run."""
    return draw_sizes(generator_for("sizes", seed, step, kind), config, kind)


def prepare(
    raw: RawBatch,
    step: int,
    config: DegradeConfig,
    seed: int,
    device: torch.device,
    teachers: Teach | None = None,
) -> Batch:
    """Degrade the samples of a step, or some of them, on the device; the picture goes by its crop's recipe at scale 1.

    Sizes come from (seed, step), all else from (seed, sample number): a sample does not depend on
    those beside it, to the bit on a CPU; on a GPU as far as its FFT is the same for every batch size.
    Raises StrsrError when no output of the teachers is finite.
    """
    # The arithmetic of JPEG needs float64, which Apple's GPUs lack.
    degrading_device = device if device.type == "cuda" else torch.device("cpu")
    recipes = [sample_recipe(number, config, seed) for number in raw.numbers]
    with torch.inference_mode():
        images = _degrade_batch(raw, recipes, step, config, seed, degrading_device, teachers)
        dropped = _replace_dropped(images) if teachers is not None else ()
    # Autograd refuses tensors made in inference mode, but not their clones.
    hq, lq_up, picture, teacher = (None if image is None else image.clone().to(device) for image in images)
    assert hq is not None
    assert lq_up is not None
    assert picture is not None
    return Batch(
        hq,
        lq_up,
        picture,
        teacher=teacher,
        kinds=tuple(recipe.kind for recipe in recipes),
        dropped=dropped,
    )


def _replace_dropped(images: tuple[Tensor | None, ...]) -> tuple[int, ...]:
    """Put the first good sample in the place of rows whose teacher's output is not finite; returns these rows."""
    teacher = images[-1]
    assert teacher is not None
    finite = teacher.isfinite().flatten(1).all(1).cpu()
    if bool(finite.all()):
        return ()
    if not bool(finite.any()):
        raise StrsrError("the teachers' outputs are not finite for a whole batch; try precision=fp32")
    good, bad = int(finite.nonzero()[0]), (~finite).nonzero()[:, 0]
    for image in images:
        assert image is not None
        image[bad] = image[good].clone()
    return tuple(bad.tolist())


def _degrade_batch(
    raw: RawBatch,
    recipes: list[Recipe],
    step: int,
    config: DegradeConfig,
    seed: int,
    device: torch.device,
    teachers: Teach | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return hq, lq_up, picture and teacher, as `prepare` says."""
    hq, picture = (pixels.to(device).float() / 255 for pixels in (raw.hq, raw.picture))
    lq_up = torch.empty_like(hq)
    rngs = [sample_noise(number, seed, device) for number in raw.numbers]
    # One image at a time stays in a CPU's cache, which is twice as fast as all together, and exact.
    most = len(raw.numbers) if device.type == "cuda" else 1
    size = (hq.shape[-2], hq.shape[-1])
    if config.sharpen:
        hq = torch.cat([sharpen(part, config.sharpen) for part in torch.split(hq, most)])
    # Where a kind has no teacher, the photo stands for its output.
    teacher = None if teachers is None else hq.clone()
    for kind in KINDS:
        sizes = step_sizes(step, kind, config, seed)
        rows = [row for row, recipe in enumerate(recipes) if recipe.kind == kind]
        lqs = []
        for first in range(0, len(rows), most):
            part = rows[first : first + most]
            part_recipes = [recipes[row] for row in part]
            part_rngs = [rngs[row] for row in part]
            lq = degrade(hq[part], part_recipes, sizes, part_rngs)
            lqs.append(lq)
            lq_up[part] = enlarge(lq, *size)
            picture[part] = degrade(picture[part], part_recipes, sizes, part_rngs, scale=1.0)
        # No teacher knows more of a drawn picture than the drawing itself.
        places = [place for place, row in enumerate(rows) if row not in raw.drawn]
        if places and teachers is not None and teacher is not None:
            outputs = teachers(torch.cat(lqs)[places], kind, size)
            if outputs is not None:
                teacher[[rows[place] for place in places]] = outputs.to(device)
    return hq, lq_up, picture, teacher
