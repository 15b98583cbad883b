"""Blocks: overlapping, windowed pieces of an image, from which spectra of any size of image compare.

Letters: b batch, h w pixels, n blocks, s side of a block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import UsageError

BLOCK = 128  # px: side of the blocks whose spectra are averaged, for images of twice that and more
ROUNDING = 1 / 255**2 / 12  # variance of rounding to 8 bits: what is weaker is not seen
HANN_LOBE = 20 * math.log10(2)  # dB by which a line on a bin is lower in the two bins beside it
BT601 = (0.299, 0.587, 0.114)


def luma(image: Tensor) -> Tensor:
    """BT.601 luma (b, h, w) in [0, 1] of an image (b, 3, h, w), or the one channel of (b, 1, h, w)."""
    if image.ndim != 4 or image.shape[1] not in (1, 3) or 0 in image.shape:
        raise UsageError(f"expected an image (b, 3, h, w) or (b, 1, h, w), got {tuple(image.shape)}")
    image = image.float()
    if image.shape[1] == 1:
        return image[:, 0]
    # No second copy of the image.
    return (image.new_tensor(BT601) @ image.flatten(2)).view(-1, *image.shape[2:])


def block_spectra(y: Tensor, side: int) -> Tensor:
    """Power (b, n, s, s/2 + 1) of each of the n overlapping blocks of y (b, h, w), as in `power_spectrum`."""
    window = hann(side, y)
    weights = window[:, None] * window
    rows = [cut_blocks(y[:, top : top + side], side).transpose(1, 2) for top in starts(y.shape[-2], side)]
    pieces = without_plane(torch.cat(rows, dim=1))  # (b, n, s, s)
    power: Tensor = torch.fft.rfft2(pieces * weights).abs().square() / weights.square().sum()
    return power


def hann(side: int, like: Tensor) -> Tensor:
    """The periodic Hann window (s,): a line on a bin leaks into the two bins beside it only."""
    return torch.hann_window(side, periodic=True, dtype=like.dtype, device=like.device)


def starts(length: int, side: int, most: int | None = None) -> list[int]:
    """Where blocks begin that cover `length`, evenly, overlapping by half of a side at least; or fewer: `most`."""
    count = 1 + math.ceil(2 * (length - side) / side)
    if most is not None:
        count = min(count, most)
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]


def cut_blocks(lines: Tensor, side: int) -> Tensor:
    """Overlapping blocks (b, h, count, s) of lines (b, h, w)."""
    return torch.stack([lines[..., left : left + side] for left in starts(lines.shape[-1], side)], dim=2)


def without_line(x: Tensor) -> Tensor:
    """x (..., s) minus the straight line that fits it best."""
    return x - x.mean(-1, keepdim=True) - _slope(x)


def without_plane(x: Tensor) -> Tensor:
    """x (..., s, s) minus the plane that fits it best."""
    across, down = _slope(x.mean(-2)), _slope(x.mean(-1))
    return x - x.mean((-2, -1), keepdim=True) - across[..., None, :] - down[..., None]


def _slope(x: Tensor) -> Tensor:
    """The best straight line through x (..., s), less its mean."""
    ramp = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
    ramp = ramp - ramp.mean()
    return (x * ramp).sum(-1, keepdim=True) / ramp.square().sum().clamp_min(1) * ramp
