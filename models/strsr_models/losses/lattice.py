"""A price on the grid itself: whatever stands out of a spectrum where the photos' own does not.

L1 does not see a lattice of a fifth of an 8-bit step in a smooth sky; feature networks and coaches, which have
strides, teach one as texture. This loss compares log-powers, so that what counts is how far energy stands out of
its surroundings, in a smooth block as in a rough one.

All bins count, not the harmonics of a period alone: punished there and nowhere else (`spectrum.lattice_excess`), a network
soon prints the same weave with its lines moved aside by one part in sixteen, which the eye sees as before.

Letters: b batch, c channels, n blocks, s side of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError
from ..spectrum import ROUNDING, block_spectra

SIDE = 64  # px, of the blocks
AROUND = 6  # bins in each direction: wider than half a harmonic with its sidebands, so that the median is free of them
LOWEST = 4  # bins: below, the fall of a photo's spectrum is steeper than its surroundings tell


def lattice_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Mean over bins of max(0, excess of pred - excess of target)^2, in dB^2, as a scalar.

    pred, target: (b, c, h, w) in [0, 1]. Excess: log-power minus the median of the 13 x 13 bins around; of
    `target` at least 0. Log-powers are means over blocks, channels and the batch: what chance or a fence puts into one picture
    costs little, what all pictures share costs all of itself. Blocks are 64 px wide, or as the shorter side. No gradient to
    `target`, nor to the surroundings: what stands out is to sink, and not the rest to rise. Float32 inside
    autocast. Raises UsageError for images under 32 px.
    """
    shorter = min(pred.shape[-2:])
    if shorter < SIDE // 2:
        raise UsageError(f"lattice loss: images of {shorter} px are too small, 32 px are needed")
    side = min(SIDE, shorter)
    with torch.autocast(pred.device.type, enabled=False):
        with torch.no_grad():
            log_power = _log_power(target, side)
            allowed = (log_power - _surroundings(log_power)).clamp_min(0)
        log_power = _log_power(pred, side)
        above = log_power - _surroundings(log_power.detach()) - allowed
        rows = torch.fft.fftfreq(side, 1 / side, device=pred.device)
        far = torch.hypot(rows[:, None], rows[: side // 2 + 1].abs()) >= LOWEST
        return (above.clamp_min(0).square() * far).mean()


def _log_power(image: Tensor, side: int) -> Tensor:
    """Mean log-power (s, s/2 + 1) in dB of a batch (b, c, h, w)."""
    power = block_spectra(image.float().flatten(0, 1), side)  # (b * c, n, s, s/2 + 1)
    return (10 * torch.log10(power + ROUNDING)).mean((0, 1))


def _surroundings(spectrum: Tensor) -> Tensor:
    """Median around each bin of half a spectrum (s, s/2 + 1), which repeats and whose other half mirrors it."""
    side = spectrum.shape[0]
    rest = spectrum[:, 1 : (side + 1) // 2].roll(-1, 0).flip(0, 1)  # F(-y, -x) is F(y, x)'s conjugate
    whole = torch.cat([spectrum, rest], dim=1)  # (s, s)
    size = 2 * AROUND + 1
    padded = F.pad(whole[None, None], [AROUND] * 4, mode="circular")
    around = F.unfold(padded, size)[0].median(dim=0).values.view(side, -1)
    return around[:, : spectrum.shape[1]]
