"""A price on detail that is locked to the grid of the input: fine waves that are images of coarser ones.

An enlargement by 4 repeats each wave of its input at distances of 1/4 cycle per px (its images, in a filter's terms),
and a network that enlarges mostly shapes these repeats: what it draws between the input's pixels then follows from where
they lie, the same way all over a picture and in all pictures. No pattern is printed, for the coarse waves themselves
differ from place to place, yet meshes and rows of dots of 4 and 8 px run through textures. In photos, two waves at such a
distance have nothing to do with each other, since edges begin anywhere in a cell.

So the price is the squared coherence of all pairs of waves that far apart (cyclic coherence: Gardner, "Exploitation of
spectral redundancy in cyclostationary signals", 1991): 0 where the second moments of a picture are the same at each
place of a cell. A wave of 8 px and its mirror image are such a pair: a phase that all blocks share but for the sign.

Letters: b batch, n blocks, s side of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError
from ..spectrum import luma
from ..spectrum.blocks import ROUNDING, hann, without_plane

CELL = 4  # px of the output between pixels of the input
SIDE = 8 * CELL  # px of a block
STEP = SIDE // 2  # px between blocks, a multiple of a cell, so that phases need not be turned
# Multiples of 1/CELL cycles per px down and across; their opposites would pair the same waves.
DISTANCES = ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2))
LEAST = 1e-2  # share of blocks in which both waves show, below which a pair counts less


def grid_lock_loss(pred: Tensor) -> Tensor:
    """How far waves 1/4 cycle per px apart agree, as a scalar of 0 to 2; pred (b, 3, h, w) in [0, 1].

    Blocks of 32 px, half of that apart, have values z at all frequencies. What is returned is the mean over pairs of
    frequencies of |sum z z'*|^2 / (sum |z z'|)^2 with sums over a picture's blocks (the mean over pictures), plus the
    same with sums over the blocks of all pictures. |z z'| is 1 but where z or z' is no more than rounding to 8 bits
    leaves: pairs seen in a part of the blocks count as such a part. Chance leaves about 1 / n for n blocks,
    for each of the two. Crops begin where a cell does. Float32 inside autocast. Raises UsageError for crops of less than
    32 px.
    """
    if min(pred.shape[-2:]) < SIDE:
        raise UsageError(f"grid lock loss: crops of {min(pred.shape[-2:])} px; give {SIDE} px or more")
    with torch.autocast(pred.device.type, enabled=False):
        y = luma(pred)
        window = hann(SIDE, y)
        weights = window[:, None] * window
        blocks = y.unfold(1, SIDE, STEP).unfold(2, SIDE, STEP).flatten(1, 2)  # (b, n, s, s)
        spectra = torch.fft.fft2(without_plane(blocks) * weights / weights.square().sum().sqrt())
        # Not spectra.abs(): its gradient at 0 is none.
        power = spectra.real.square() + spectra.imag.square()
        shown = power / (power + ROUNDING)
        unit = spectra / (power + ROUNDING).sqrt()
        terms = []
        for down, across in DISTANCES:
            shift = (down * SIDE // CELL, across * SIDE // CELL)
            products = (unit * torch.roll(unit, shift, (2, 3)).conj()).mean(1)  # (b, s, s)
            lengths = (shown * torch.roll(shown, shift, (2, 3))).mean(1)
            terms.append(_agreement(products, lengths).mean())
            terms.append(_agreement(products.mean(0), lengths.mean(0)).mean())
        return torch.stack(terms).sum() / len(DISTANCES)


def _agreement(products: Tensor, lengths: Tensor) -> Tensor:
    """Squared agreement of mean products, each pair counting by the share of blocks in which it shows."""
    return (products.real.square() + products.imag.square()) / lengths.clamp_min(LEAST)
