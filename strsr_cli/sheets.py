"""Pictures and curves of a run: what the network makes of the same few crops, and whether it prints a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from strsr_models.pipelines.base import OneStepPipeline
from strsr_models.spectrum import lattice_excess

from .data import Batch, Crops, join, prepare
from .degrade import DegradeConfig
from .journal import whole_file

if TYPE_CHECKING:
    from accelerate import Accelerator

SAMPLES = 8  # rows of a sheet
PERIODS = (4, 8, 16)  # px


def sample_batch(crops: Crops, config: DegradeConfig) -> Batch:
    """The few samples that every sheet of the run shows: not those that its first steps train on."""
    other = Crops(crops.photos, crops.crop_size, crops.seed + 1)
    raw = join([other[number] for number in range(SAMPLES)])
    return prepare(raw, 0, config, other.seed, torch.device("cpu"))


@torch.inference_mode()
def write_sheet(path: Path, pipeline: OneStepPipeline, batch: Batch, accelerator: Accelerator) -> float:
    """Draw a row for each sample, lq_up | restored | hq, restored in the run's precision.

    Returns the mean gain in dB PSNR over lq_up: on the same samples each time, it tells progress where
    the losses of random batches hide it.
    """
    device = pipeline.device
    rows, gains = [], []
    for lq_up, hq, picture in zip(batch.lq_up, batch.hq, batch.picture, strict=True):
        with accelerator.autocast():
            cond = pipeline.encode_condition(picture[None].to(device))
            restored = pipeline.restore(lq_up[None].to(device), cond)
        result = restored[0].float().clamp(0, 1).cpu()  # (3, s, s)
        rows.append(torch.cat([lq_up, result, hq], dim=-1))  # (3, s, 3s)
        errors = [(image - hq).square().mean() + 1e-10 for image in (lq_up, result)]
        gains.append(10 * torch.log10(errors[0] / errors[1]))
    sheet = torch.cat(rows, dim=-2).permute(1, 2, 0)
    with whole_file(path) as file:
        Image.fromarray(np.rint(sheet.numpy() * 255).astype(np.uint8)).save(file, "PNG")
    return round(float(torch.stack(gains).mean()), 4)


@torch.no_grad()
def lattice_curve(restored: Tensor, hq: Tensor) -> dict[str, Tensor]:
    """Mean lattice excess in dB of restored crops over that of the photos, at periods 4, 8 and 16 px."""
    over = lattice_excess(restored.float().clamp(0, 1), PERIODS) - lattice_excess(hq.float(), PERIODS)
    means = over.mean(0).unbind()
    return {f"lattice_{period}_db": value for period, value in zip(PERIODS, means, strict=True)}
