"""A sheet of samples as the network will see them, for a person to look at before a long run."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..images.color.restorer import to_pixels
from ..system.atomic import sweep, whole_file, writing
from .data.crops import Crops, sample_noise, sample_recipe, step_sizes
from .data.degrade import KINDS, DegradeConfig, degrade, sharpen
from .data.photos import load_photos
from .settings import LoopConfig

CELL = 192  # px, at least: smaller crops are shown several times as large
LABEL = 124  # px, width of the column of labels
HEAD = 28  # px, height of the row of headings
GAP = 6  # px
CHOICE = 8  # samples among which each row of the sheet is chosen


def draw_preview(path: Path, data: list[Path], config: LoopConfig) -> None:
    """Write the sheet of a run that has not begun. Raises StrsrError when it cannot be written."""
    photos = load_photos(data, config.crop_size, cache_gb=0, colors=config.photo_colors)
    crops = Crops(photos, config.crop_size, config.seed, config.graphics_share)
    with writing(path, "nothing else was written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep([path.parent])
        write_preview(path, crops, config.degrade, config.batch_size)


def write_preview(path: Path, crops: Crops, config: DegradeConfig, batch_size: int, rows: int = 8) -> None:
    """Write a PNG of rows hq | lq: samples of a run's first steps, of each kind in turn.

    The lq is shown as large as the hq, each pixel a square, so that nothing is smoothed away.
    batch_size: that of the run, which decides which samples belong to a step. Raises OSError.
    """
    chosen = choose_samples(config, crops.seed, batch_size, rows)
    side = crops.crop_size * -(-CELL // crops.crop_size)
    sheet = Image.new("RGB", (LABEL + 2 * (side + GAP), HEAD + len(chosen) * (side + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    columns = [LABEL + column * (side + GAP) for column in range(2)]
    for left, heading in zip(columns, ("hq: the target", "lq: the input"), strict=True):
        draw.text((left, HEAD // 2), heading, "black", font, anchor="lm")
    for row, (step, number, kind) in enumerate(chosen):
        hq, lq, scale = degrade_sample(crops, step, number, config)
        top = HEAD + row * (side + GAP)
        label = f"{kind}\n1/{scale:.3g} size\n{lq.shape[-1]}x{lq.shape[-2]} px\nstep {step + 1}"
        draw.multiline_text((8, top + 4), label, "black", font, spacing=6)
        for left, image in zip(columns, (hq, lq), strict=True):
            sheet.paste(to_square(image, side), (left, top))
    with whole_file(path) as file:
        sheet.save(file, "PNG")


def choose_samples(
    config: DegradeConfig, seed: int, batch_size: int, rows: int
) -> list[tuple[int, int, str]]:
    """Choose the first samples of early steps, of each kind in turn: (step, sample number, kind)."""
    samples: dict[str, list[tuple[int, int, str]]] = {kind: [] for kind in KINDS}
    for step in range(CHOICE * rows):
        kind = sample_recipe(step * batch_size, config, seed).kind
        samples[kind].append((step, step * batch_size, kind))
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*samples.values()))
    return [sample for sample in in_turn if sample is not None][:rows]


def degrade_sample(
    crops: Crops, step: int, number: int, config: DegradeConfig
) -> tuple[Tensor, Tensor, float]:
    """Degrade one sample of a run: returns hq (1, 3, s, s), lq (1, 3, h, w) and their scale."""
    recipe = sample_recipe(number, config, crops.seed)
    sizes = step_sizes(step, recipe.kind, config, crops.seed)
    hq = crops[number].hq.float() / 255
    if config.sharpen:
        hq = sharpen(hq, config.sharpen)
    lq = degrade(hq, [recipe], sizes, [sample_noise(number, crops.seed, torch.device("cpu"))])
    return hq, lq, sizes.scale


def to_square(image: Tensor, side: int) -> Image.Image:
    """Enlarge (1, 3, h, w) in [0, 1] to side x side px, by nearest neighbour."""
    return Image.fromarray(to_pixels(image, np.dtype(np.uint8))).resize(
        (side, side), Image.Resampling.NEAREST
    )
