"""The ranges that `--precision int8` needs of lite's weights, measured on pictures of a folder."""

from __future__ import annotations

import logging
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strsr_models.checkpoints.locations import FAITHFUL_NAME
from strsr_models.errors import ImageError, UsageError
from strsr_models.load import load_pipeline
from strsr_models.pipelines.int8 import Ranges, joined, measure_ranges
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.pipelines.options import LiteOptions

from ..images.color.restorer import srgb8
from ..images.find import find_images
from ..images.read import read_image

log = logging.getLogger(__name__)

COUNT, SIDE = 64, 128  # pictures, and px of a side of each


def read_pictures(folder: Path) -> list[Tensor]:
    """Up to COUNT pictures below a folder, evenly taken, as (1, 3, h, w) in [0, 1]: the middle of each.

    Raises UsageError where there is none that can be read.
    """
    if not folder.is_dir():
        problem = "is not a folder; give one with pictures in it" if folder.exists() else "no such folder"
        raise UsageError(f"--ranges {folder}: {problem}")
    paths = find_images(folder)
    pictures = []
    for path in paths[:: -(-len(paths) // COUNT) or 1]:
        try:
            pixels = torch.from_numpy(np.array(srgb8(read_image(path))))
        except ImageError as error:
            log.warning("%s", error)
            continue
        top, left = (max(0, (side - SIDE) // 2) for side in pixels.shape[:2])
        middle = pixels[top : top + SIDE, left : left + SIDE]
        pictures.append(middle.permute(2, 0, 1)[None].float() / 255)
    if not pictures:
        raise UsageError(f"--ranges {folder}: no picture that can be read")
    return pictures


def ranges_of(folder: Path, pictures: list[Tensor]) -> Ranges:
    """The ranges of lite's layers on pictures, at both ends of fidelity where there are two."""
    ends = [0.0, 1.0] if (folder / FAITHFUL_NAME).exists() else [0.0]
    ranges = []
    for fidelity in ends:
        pipeline = load_pipeline("lite", folder, options=LiteOptions(fidelity))
        assert isinstance(pipeline, LitePipeline)
        ranges.append(measure_ranges(pipeline, pictures))
    return reduce(joined, ranges)
