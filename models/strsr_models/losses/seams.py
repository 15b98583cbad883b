"""A price on seams: pixels that differ more, or less, across the borders of a decoder's cells than inside them.

A pixel shuffle makes a cell of pixels from one place of a map. Even where it prints nothing into a flat field, detail
may be a little stronger at some places of a cell than at others. An eye hardly sees it; a spectrum does, all over
a picture with the same phase. `lattice_loss` compares pictures' own lines; this one compares the roughness between
neighbouring pixels, and asks for its phase alone: as `spectrum.phase.coherence` does, but differentiably.

Letters: b batch, n blocks, k harmonics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError
from ..spectrum import luma
from ..spectrum.survey import LEAST_PERIODS, SEAM_FLOOR, seam_values

PERIODS = (4, 8)  # px: of the shuffle, and of its doubled cells
EDGE = 16  # px of a crop that do not count: what a network pads is another matter
LEAST_CROP = 2 * EDGE + LEAST_PERIODS * max(PERIODS)  # px
OPPOSITE = 0.5  # what an agreement counts in which blocks may differ by the sign


def seam_loss(pred: Tensor, periods: Sequence[int] = PERIODS) -> Tensor:
    """How far blocks agree on the phase of seams, 0 to about 1, as a scalar; pred (b, 3, h, w) in [0, 1].

    The mean over periods, axes and harmonics of squared lengths of mean unit vectors: over the blocks of each picture,
    and over those of all of them. Chance leaves 1 / n. The crops begin where a decoder's cell does. Float32
    inside autocast. Raises UsageError for crops that hold less than four periods beside a border of 16 px.
    """
    least = 2 * EDGE + LEAST_PERIODS * max(periods)
    if min(pred.shape[-2:]) < least:
        raise UsageError(f"seam loss: crops of {min(pred.shape[-2:])} px; give {least} px or more")
    with torch.autocast(pred.device.type, enabled=False):
        y = luma(pred)[:, EDGE:-EDGE, EDGE:-EDGE]
        terms = [agreement(values) for period in periods for values in seam_values(y, period)]
        return torch.stack(terms).mean()


def agreement(values: Tensor) -> Tensor:
    """The squared agreement of phases of values (b, n, k), a scalar: of each picture, and of all."""
    power = values.real.square() + values.imag.square()
    unit = values / (power + SEAM_FLOOR).sqrt()
    length = unit.abs()
    opposite = unit * unit / length.clamp_min(1e-6)
    own = _squared(unit, length) + OPPOSITE * _squared(opposite, length)
    shared = _squared(unit.flatten(0, 1)[None], length.flatten(0, 1)[None])
    return own.mean() + shared.mean()


def _squared(unit: Tensor, length: Tensor) -> Tensor:
    """The squared length (b, k) of the mean over n of vectors (b, n, k), each of which counts by its length."""
    mean = unit.sum(1) / length.sum(1).clamp_min(1e-3)
    return mean.real.square() + mean.imag.square()
