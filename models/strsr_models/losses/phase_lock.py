"""A price on detail that is locked to the grid of the input: one phase at a harmonic, or its opposite, all over a picture.

Of a wave that is as fine as pixels 4 px apart can hold, the input shows a cosine about these pixels and nothing of the
sine between them. Where a network makes no sine up, its finest detail stands still against the grid: no pattern is
printed, since signs differ from place to place, yet meshes and rows of dots of 4 and 8 px run through textures. In
photos all phases are equally frequent.

Letters: b batch, n blocks, k harmonics.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..errors import UsageError
from ..spectrum import luma
from ..spectrum.blocks import ROUNDING, hann, without_plane
from .seams import squared_agreement

PERIOD = 8  # px: of the finest wave that an input enlarged by 4 can hold
SIDE = 4 * PERIOD  # px of a block
STEP = SIDE // 2  # px between blocks, a multiple of the period, so that phases need not be turned


def phase_lock_loss(pred: Tensor) -> Tensor:
    """How far the phases of each picture's detail agree but for their signs, 0 to 1, as a scalar; pred (b, 3, h, w) in [0, 1].

    Blocks of 32 px, half of that apart, have complex values z at the harmonics (i / 8, j / 8) cycles per px. What is
    returned is the mean over harmonics and pictures of |sum u|^2 / n^2, with u = z^2 / |z|^2, to which a change of sign
    does nothing. Blocks that hold no more at a harmonic than rounding to 8 bits leaves do not count. Photos are at 1 / n,
    which is chance. Crops begin where a cell of 4 px does. Float32 inside autocast. Raises UsageError for crops of less
    than 32 px.
    """
    if min(pred.shape[-2:]) < SIDE:
        raise UsageError(f"phase lock loss: crops of {min(pred.shape[-2:])} px; give {SIDE} px or more")
    with torch.autocast(pred.device.type, enabled=False):
        y = luma(pred)
        window = hann(SIDE, y)
        weights = window[:, None] * window
        blocks = y.unfold(1, SIDE, STEP).unfold(2, SIDE, STEP).flatten(1, 2)  # (b, n, s, s)
        spectra = torch.fft.rfft2(without_plane(blocks) * weights / weights.square().sum().sqrt())
        values = spectra.flatten(2)[..., _bins().to(y.device)]  # (b, n, k)
        power = values.real.square() + values.imag.square()
        # Not values.abs(): its gradient at 0 is none.
        counts = power / (power + ROUNDING)
        doubled = values * values / (power + ROUNDING)
        return squared_agreement(doubled, counts).mean()


@lru_cache
def _bins() -> Tensor:
    """Flat indices (k,) into half a spectrum of a block: all harmonics of PERIOD, one of each pair that mirror each other."""
    half, periods = PERIOD // 2, SIDE // PERIOD
    points = []
    for across in range(half + 1):
        # On these columns a point's mirror image is beside it, and where both are 0 or 1/2 values are real.
        mirrored = across in (0, half)
        for down in range(1, half) if mirrored else range(PERIOD):
            points.append(periods * (down * (SIDE // 2 + 1) + across))
    return torch.tensor(points)
