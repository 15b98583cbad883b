"""A price on the grid itself: lines of the spectrum at the harmonics of the decoder's own period.

L1 does not see a lattice of a fifth of an 8-bit step in a smooth sky; feature networks and coaches,
which have strides, teach one as texture. This loss compares log-powers, so that what counts is how far a line stands
out of its surroundings, in a smooth block as in a rough one. It is the idea of `spectrum.lattice_excess` for all
harmonics of two dimensions: a checkerboard has none on the axes.

What it does not see is a weave that changes its strength every 40 px or so, whose lines lie beside the harmonics: with a
large perceptual weight a network finds that way out. A price on everything that stands out of the spectrum was
tried against it: chance alone stands out as far, and training did not lower it.

Letters: b batch, c channels, n blocks, s side of a block, p period.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError
from ..spectrum.blocks import ROUNDING, Harmonic, bins_of, block_spectra, excess

PERIOD = 16  # px: a transformer's patch; holds the harmonics of 2, 4 and 8, which a decoder's shuffles print
LEAST_PERIODS = 4  # in a block
MOST_PERIODS = 8
LEAST_CROP = LEAST_PERIODS * PERIOD  # px
NEAR, FAR = 2, 3  # bins: neighbours lie in the square ring between, and 2 bins short of the next harmonic


def lattice_loss(pred: Tensor, target: Tensor, period: int = PERIOD) -> Tensor:
    """The mean over harmonics of max(0, excess of pred - excess of target)^2, in dB^2, as a scalar.

    pred, target: (b, c, h, w) in [0, 1]. Harmonics: (i / p, j / p) cycles per px, but for the mean. Excess:
    log-power minus the median of its neighbours'; of `target` at least 0. Log-powers are means over blocks,
    channels and the batch: a line that chance or a fence puts into one picture costs little, one that all
    pictures share costs all of itself. Blocks are up to 8 periods wide, at most half of the shorter side unless
    that would be less than 4 periods. `target` gets no gradient. Float32 inside autocast. Raises UsageError for
    images of less than 4 periods.
    """
    shorter = min(pred.shape[-2:])
    if shorter < LEAST_PERIODS * period:
        raise UsageError(
            f"lattice loss: images of {shorter} px hold no {LEAST_PERIODS} periods of {period} px"
        )
    periods = max(LEAST_PERIODS, min(MOST_PERIODS, shorter // 2 // period))
    with torch.autocast(pred.device.type, enabled=False):
        with torch.no_grad():
            allowed = _excess(target, periods * period, period).clamp_min(0)
        above = _excess(pred, periods * period, period) - allowed
        return above.clamp_min(0).square().mean()


def _excess(image: Tensor, side: int, period: int) -> Tensor:
    """The excess (harmonics,) in dB of a batch (b, c, h, w) as a whole."""
    power = block_spectra(image.float().flatten(0, 1), side)  # (b * c, n, s, s/2 + 1)
    log_power = (10 * torch.log10(power + ROUNDING)).mean((0, 1))  # (s, s/2 + 1)
    index = bins_of(
        _all_points(period), period, side, log_power.device, farthest=min(FAR, side // period - NEAR)
    )
    # Not limited to lines on the very bins: a network must not learn to move its lines aside.
    return excess(log_power.flatten()[None], index, limited=False, lower=True)[0]


def _all_points(period: int) -> tuple[Harmonic, ...]:
    """All points (i / p, j / p) of half a spectrum but the mean: those of shorter lattices too."""
    points = [(down, across) for down in range(period) for across in range(period // 2 + 1)]
    return tuple(Harmonic(down, across, "xy") for down, across in points[1:])
