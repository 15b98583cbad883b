"""One picture restored in memory, by the steps that a batch takes in its threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from strsr_cli.images.color.restorer import fill_transparent
from strsr_cli.images.picture import Picture, split_alpha
from strsr_cli.upscale.restoration import begin
from strsr_models import OneStepPipeline
from strsr_models.tiling.memory import MemoryBudget


@torch.inference_mode()
def restored(pipeline: OneStepPipeline, picture: Picture, scale: float, precision: str = "fp32") -> Picture:
    """The picture at `scale` times its size: gray stays gray, 16 bits stay 16, alpha comes along."""
    one = begin(pipeline, fill_transparent(picture), scale, precision)
    bands, budget = [], MemoryBudget(1)
    for number in range(one.tiles):
        view = one.tiled.view(number)
        ((tile, _),) = pipeline.restore_tiles([view], [one.cond], precision, 1, budget)
        bands += [one.output_rows(top, rows) for top, rows in one.add(number, tile)]
    color, alpha = split_alpha(np.concatenate(bands))
    return replace(picture, color=color, alpha=alpha)
