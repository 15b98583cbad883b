"""A price on the grid itself: what `spectrum.lattice_excess` measures, as a loss.

L1 does not see a lattice of a fifth of an 8-bit step in a smooth sky, and a feature network teaches one.
This loss does: it compares log-powers, so that what counts is how far a line stands out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..spectrum import lattice_excess

PERIODS = (2, 4, 8)  # px: all that a decoder with three shuffles by 2 can print


def lattice_loss(pred: Tensor, target: Tensor, periods: Sequence[int] = PERIODS) -> Tensor:
    """Mean over periods of max(0, excess of pred - excess of target)^2, in dB^2, as a scalar.

    pred, target: (b, 3 or 1, h, w) in [0, 1]. The excess is averaged over the batch first: a line that chance or
    a fence puts into one picture costs little, one that all pictures share costs all of itself.
    `target` gets no gradient. Float32 inside autocast. Periods that the images are too small for are left out.
    """
    with torch.autocast(pred.device.type, enabled=False):
        with torch.no_grad():
            allowed = lattice_excess(target, periods).mean(0)
        above = (lattice_excess(pred, periods).mean(0) - allowed).clamp_min(0)
        return torch.nan_to_num(above).square().mean()
