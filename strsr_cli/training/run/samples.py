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

from ...images.color.restorer import to_pixels
from ...system.atomic import whole_file
from ..criterion import Distance
from ..data.crops import Batch, Crops, join, prepare
from ..data.degrade import DegradeConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


SAMPLES = 8  # rows of a sheet
PERIODS = (4, 8, 16)  # px


def sample_batch(crops: Crops, config: DegradeConfig) -> Batch:
    """Make the few samples that every sheet of the run shows, others than its first steps train on."""
    sample_crops = Crops(crops.photos, crops.crop_size, crops.seed + 1)
    raw = join([sample_crops[number] for number in range(SAMPLES)])
    return prepare(raw, 0, config, sample_crops.seed, torch.device("cpu"))


@torch.inference_mode()
def restore_samples(pipeline: OneStepPipeline, batch: Batch, accelerator: Accelerator) -> Tensor:
    """Restore the samples in the run's precision: (b, 3, s, s) in [0, 1] on the CPU."""
    restored = []
    for pair in zip(batch.lq_up, batch.picture, strict=True):
        lq_up, picture = (image[None].to(pipeline.device) for image in pair)
        with accelerator.autocast():
            cond = pipeline.encode_condition(pipeline.training_condition(lq_up, picture))
            restored.append(pipeline.restore(lq_up, cond).float().clamp(0, 1).cpu())
    return torch.cat(restored)


def write_sheet(path: Path, batch: Batch, restored: Tensor) -> None:
    """Draw a row for each sample: lq_up | restored | hq. Raises OSError."""
    rows = torch.cat([batch.lq_up, restored, batch.hq], dim=-1)  # (b, 3, s, 3s)
    sheet = torch.cat(list(rows), dim=-2)[None]  # (1, 3, b*s, 3s)
    with whole_file(path) as file:
        Image.fromarray(to_pixels(sheet, np.dtype(np.uint8))).save(file, "PNG")


@torch.inference_mode()
def sample_scores(
    batch: Batch, restored: Tensor, distance: Distance | None, device: torch.device
) -> dict[str, float]:
    """Score the samples, which are the same each time, where the losses of random batches hide progress.

    sample_gain_db: mean PSNR in dB above that of lq_up. sample_l1: mean absolute difference from hq.
    sample_perceptual: mean perceptual distance, where there is one.
    """
    error_before, error_after = (
        (image - batch.hq).square().mean((1, 2, 3)) + 1e-10 for image in (batch.lq_up, restored)
    )
    scores = {
        "sample_gain_db": 10 * torch.log10(error_before / error_after).mean(),
        "sample_l1": (restored - batch.hq).abs().mean(),
    }
    if distance is not None:
        pairs = zip(restored.to(device), batch.hq.to(device), strict=True)
        distances = [distance(pred[None], hq[None]) for pred, hq in pairs]
        scores["sample_perceptual"] = torch.stack(distances).mean()
    return {name: round(float(value), 5) for name, value in scores.items()}


@torch.no_grad()
def lattice_curve(restored: Tensor, hq: Tensor) -> dict[str, Tensor]:
    """Mean lattice excess in dB of restored crops over that of the photos, at periods 4, 8 and 16 px, on the axes."""
    restored, hq = restored.float().clamp(0, 1), hq.float()
    added = lattice_excess(restored, PERIODS, where="axes") - lattice_excess(hq, PERIODS, where="axes")
    means = added.mean(0).unbind()
    return {f"lattice_{period}_db": value for period, value in zip(PERIODS, means, strict=True)}
