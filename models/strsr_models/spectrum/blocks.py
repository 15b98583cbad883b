"""Blocks: overlapping, windowed pieces of an image, whose spectra compare whatever the size of the image.

A lattice of period p is energy at harmonics of 1/p cycles per pixel. How far those stand out of a spectrum is
computed here, and nowhere else: `excess`, over an index of bins that `bins_of` makes.

Letters: b batch, h w pixels, n blocks, s side of a block, p period, k harmonics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import UsageError

BLOCK = 128  # px: side of the blocks whose spectra are averaged, for images of twice that and more
ROUNDING = 1 / 255**2 / 12  # variance of rounding to 8 bits: what is weaker is not seen
HANN_LOBE = 20 * math.log10(2)  # dB by which a line on a bin is lower in the two bins beside it
BT601 = (0.299, 0.587, 0.114)
# Weights of R, G and B in a channel.
CHANNELS = {
    "luma": BT601,
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "cb": (-0.168736, -0.331264, 0.5),
    "cr": (0.5, -0.418688, -0.081312),
}
CLOSEST_NEIGHBOUR = 2  # bins: 0 and 1 are the line itself


def luma(image: Tensor) -> Tensor:
    """BT.601 luma (b, h, w) in [0, 1] of an image (b, 3, h, w), or the one channel of (b, 1, h, w)."""
    if image.ndim != 4 or image.shape[1] not in (1, 3) or 0 in image.shape:
        raise UsageError(f"expected an image (b, 3, h, w) or (b, 1, h, w), got {tuple(image.shape)}")
    image = image.float()
    if image.shape[1] == 1:
        return image[:, 0]
    # No second copy of the image.
    return (image.new_tensor(BT601) @ image.flatten(2)).view(-1, *image.shape[2:])


def one_channel(image: Tensor, channel: str) -> Tensor:
    """A channel (b, h, w) of an image (b, 3, h, w), or the one channel of (b, 1, h, w).

    channel: a key of CHANNELS. Raises UsageError for others, and for what is no image.
    """
    if channel not in CHANNELS:
        raise UsageError(f"channel {channel!r}: must be one of {', '.join(CHANNELS)}")
    weights = CHANNELS[channel]
    if weights == BT601 or image.ndim != 4 or image.shape[1] != 3:
        return luma(image)
    return luma(torch.einsum("bchw,c->bhw", image.float(), image.new_tensor(weights).float())[:, None])


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


# --- harmonics and their excess -----------------------------------------------------------------------


@dataclass(frozen=True)
class Harmonic:
    """A point of the spectrum, down and across in units of 1/p cycles per pixel.

    axis: "x" for stripes across columns, on the axis of rows; "y" for stripes across rows; "xy" for a cross-point.
    """

    down: int
    across: int
    axis: str


@lru_cache
def harmonics_of(period: int) -> tuple[Harmonic, ...]:
    """All points (i/p, j/p) that belong to no shorter lattice, one of each pair that mirror each other."""
    points = []
    for across in range(period // 2 + 1):
        # On these columns a point's mirror image is beside it.
        mirrored = across in (0, period / 2)
        for down in range(period // 2 + 1 if mirrored else period):
            if math.gcd(down, across, period) == 1:
                axis = "x" if down == 0 else "y" if across == 0 else "xy"
                points.append(Harmonic(down, across, axis))
    return tuple(points)


@dataclass(frozen=True)
class Bins:
    """Flat indices into half a spectrum (s, s/2 + 1), or (1, s/2 + 1), for k harmonics.

    near: rows of `at`, and the indices (rows, m) of their neighbours. beside: for each entry of near the indices
    (rows, 2 or 4) of the bins that touch the harmonics.
    """

    at: Tensor  # (k,)
    near: tuple[tuple[Tensor, Tensor], ...]
    beside: tuple[Tensor, ...]


@lru_cache(maxsize=64)
def bins_of(
    points: tuple[Harmonic, ...],
    period: int,
    side: int,
    device: torch.device,
    rows: int | None = None,
    farthest: int | None = None,
) -> Bins:
    """The bins of harmonics, and those of their neighbours: from 2 bins away to half-way to the next harmonic.

    On an axis neighbours lie on it, since edges in photos make it brighter than what is beside it; around a
    cross-point they fill a square ring. rows: 1 for spectra of lines. farthest: in bins, in place of half-way.
    """
    spacing = side // period
    far = spacing // 2 if farthest is None else farthest
    reach = range(-far, far + 1)
    steps = [step for step in reach if abs(step) >= CLOSEST_NEIGHBOUR]
    ring = [(v, u) for v in reach for u in reach if max(abs(u), abs(v)) >= CLOSEST_NEIGHBOUR]
    around = {"x": [(0, u) for u in steps], "y": [(u, 0) for u in steps], "xy": ring}
    touching = {"x": [(0, -1), (0, 1)], "y": [(-1, 0), (1, 0)]}
    touching["xy"] = touching["x"] + touching["y"]

    def flat(point: Harmonic, shift: tuple[int, int]) -> int:
        down = (point.down * spacing + shift[0]) % side
        across = (point.across * spacing + shift[1]) % side
        if across > side // 2:
            down, across = -down % side, side - across
        return (down if rows is None else 0) * (side // 2 + 1) + across

    def tensor(table: list[list[int]] | list[int]) -> Tensor:
        # It is kept for later calls, which may want gradients.
        with torch.inference_mode(False):
            return torch.tensor(table, device=device)

    near, beside = [], []
    for axis in ("x", "y", "xy"):
        numbers = [i for i, point in enumerate(points) if point.axis == axis]
        if numbers:
            neighbours = [[flat(points[i], shift) for shift in around[axis]] for i in numbers]
            near.append((tensor(numbers), tensor(neighbours)))
            beside.append(tensor([[flat(points[i], shift) for shift in touching[axis]] for i in numbers]))
    return Bins(tensor([flat(point, (0, 0)) for point in points]), tuple(near), tuple(beside))


def excess(log_power: Tensor, index: Bins, *, limited: bool = True, lower: bool = False) -> Tensor:
    """dB (b, k) by which harmonics stand above the median of their neighbours, of log-powers (b, bins) in dB.

    limited: count of a harmonic only what a line on the very bin can explain. Such a line is 6 dB lower in the bins
    beside it, by the Hann window; where one of those is lower than that tells, the energy belongs to a frequency
    between bins, to another period. lower: take the lower of the two middle neighbours for the median, not their
    mean, as torch.median does.
    """
    columns = log_power.new_zeros(log_power.shape[0], len(index.at))
    for (rows, near), beside in zip(index.near, index.beside, strict=True):
        around, peak = log_power[:, near], log_power[:, index.at[rows]]  # (b, rows, m), m even; (b, rows)
        if limited:
            peak = torch.minimum(peak, log_power[:, beside].amin(-1) + HANN_LOBE)
        if lower:
            median = around.median(dim=-1).values
        else:
            half = near.shape[1] // 2
            median = around.sort(dim=-1).values[..., half - 1 : half + 1].mean(-1)
        columns = columns.index_copy(1, rows, peak - median)
    return columns


def lopsidedness(log_power: Tensor, index: Bins) -> Tensor:
    """dB (b, k) between the bins that touch a harmonic: much where a line lies aside. log_power: (b, bins)."""
    columns = log_power.new_zeros(log_power.shape[0], len(index.at))
    for (rows, _), beside in zip(index.near, index.beside, strict=True):
        lowest, highest = log_power[:, beside].aminmax(dim=-1)
        columns = columns.index_copy(1, rows, highest - lowest)
    return columns
