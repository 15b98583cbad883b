"""The trace of a plain enlargement: pixels that follow from their neighbours, by weights that repeat every few px.

An enlargement by a whole factor s (bilinear, bicubic, Lanczos, any kernel) makes s pixels of each input pixel, so
that a pixel is a weighted sum of its neighbours to within rounding, with one set of weights for each of the s places
in a cell. Where nothing of the kind was done a second set of weights predicts no better than the first. Nearest
neighbour is the case where the pixels of a cell are equal: those are blocks.

The weights are found by least squares along rows and along columns. Letters: b batch, h w pixels, t taps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

REACH = 8  # px on either side that a pixel is predicted from: an enlargement by 2 wants all of them
CLASSES = 48  # places in a row that are told apart: all factors below divide it
FACTORS = (2, 3, 4, 6, 8, 12, 16)
MOST_SAMPLES = 200_000  # pixels along each axis that the weights are fitted to: enough for three digits
LEAST_SAMPLES = 180  # for each place in a cell: ten for each weight
# 8-bit steps, root mean square: what rounding, twice at most, leaves at the worst place of a cell.
ROUNDED = 0.55
ROUNDED_CLEARLY = 0.9, 3.0  # or so much, where a cell's own weights are better by so many dB
LEAST_GAIN = 0.05  # dB, beyond what chance gives
# Of the greatest gain: the smallest factor that has as much is the one, since 4 holds the weights of 2 too.
NEARLY_ALL = 0.9
# Pixels of JPEG's blocks follow from each other too where few waves are left of each; but they end in a jump.
BLOCK = 8  # px from which on blocks are thought of
JUMP = 1.16  # a gap's differences over those of the gaps beside it
JUMP_CLEARLY = 1.35, 3.0  # of short kernels such as Hamming's, whose gain is so many dB at least
STEPS = 1 / 3  # 8-bit steps squared: twice what rounding adds to a difference's square
LEAST_CONTRAST = 0.05  # 8-bit steps: root mean square of differences; of what is flatter nothing can be told
# Variance of windows less their best parabola, over rounding's: what has no more is a ramp or a bowl, whose stairs
# of rounding may follow from each other by any weights.
LEAST_ROUGHNESS = 2.0
# An enlargement by 3 / 2 has weights that repeat after 3 px too, but two numbers of its input in a cell.
COUNTED = (3, 4, 6)
MOST_NUMBERS = 1.25
SEEN = 0.6  # 8-bit steps squared: seven times what rounding gives a number
EQUAL = 1e-5  # of [0, 1]: equal colours may differ by so much as luma, by the order of sums
SOME_LINES = 64
LEAST_CELLS = 8  # of equal pixels, along each axis


@dataclass(frozen=True)
class Interpolation:
    """A plain enlargement: its factor, and how sure that is.

    gain: dB by which weights for each place in a cell predict pixels better than the same for all. residual: 8-bit
    steps, root mean square, by which the prediction is off at the worst place. blocks: whether it was by nearest
    neighbour, so that the pixels of a cell are equal; gain and residual are 0 then. smooth: whether along one axis the
    image holds no more than ramps and bowls, whose stairs of rounding look like that too: then it is not known.
    """

    factor: int
    gain: float
    residual: float
    blocks: bool
    smooth: bool = False


def find_interpolation(y: Tensor, clipped: Tensor | None = None) -> Interpolation | None:
    """Find by which whole factor an image y (1, h, w) in [0, 1] was enlarged, the same along both axes; None if it was not.

    clipped: (h, w) bool: pixels that are black or white in any channel, which need not follow from their neighbours.
    """
    side = _side_of_cells(y)
    if side > 1:
        return Interpolation(side, 0.0, 0.0, True)
    plane = y[0] * 255
    if clipped is None:
        clipped = (y[0] <= 0) | (y[0] >= 1)
    tables = []
    for pixels, hidden in ((plane, clipped), (plane.T, clipped.T)):
        table = _products(pixels, hidden)
        if table is None:
            return None
        tables.append(table)
    smooth = min(map(_roughness, tables)) < LEAST_ROUGHNESS
    fits = {factor: fit for factor in FACTORS if (fit := _fit_both(tables, factor)) is not None}
    greatest = max((gain for gain, _ in fits.values()), default=0.0)
    for factor, (gain, residual) in fits.items():
        if gain >= NEARLY_ALL * greatest:
            if (
                factor in COUNTED
                and max(_numbers_of_a_cell(table, factor) for table in tables) > MOST_NUMBERS
            ):
                return None
            if factor >= BLOCK and _greatest_jump(plane, factor) >= _jump_allowed(gain):
                return None
            return Interpolation(factor, gain, residual, False, smooth)
    return None


def _jump_allowed(gain: float) -> float:
    """The greatest jump that an enlargement of such a gain has."""
    larger, clearly = JUMP_CLEARLY
    return larger if gain >= clearly else JUMP


def _greatest_jump(plane: Tensor, side: int) -> float:
    """The root mean square difference across one gap in a cell of `side` px over that across the gaps beside it.

    The greatest of both axes of a plane (h, w), which enlargements leave near 1: even a short kernel's slope is as
    steep beside the middle between two pixels of the input.
    """
    jumps = []
    for pixels in (plane, plane.T):
        differences = pixels[:, 1:] - pixels[:, :-1]
        count = differences.shape[1] // side * side
        # Where a sky takes one step in a cell, rounding says at which gap.
        gaps = (differences[:, :count].square().mean(0).view(-1, side).mean(0) + STEPS).sqrt()
        beside = torch.maximum(gaps.roll(1), gaps.roll(-1))
        jumps.append(float((gaps / beside).max()))
    return max(jumps)


def _side_of_cells(y: Tensor) -> int:
    """The side in px of square cells of equal pixels that y (1, h, w) consists of; 1 where there are none."""
    sides = []
    for axis in (1, 2):
        size = y.shape[axis]
        # Some lines tell most images from cells.
        some = y.narrow(3 - axis, 0, min(y.shape[3 - axis], SOME_LINES))
        if bool(
            (some.narrow(axis, 1, size - 1) - some.narrow(axis, 0, size - 1))
            .abs()
            .gt(EQUAL)
            .any(3 - axis)
            .all()
        ):
            return 1
        differs = (y.narrow(axis, 1, size - 1) - y.narrow(axis, 0, size - 1)).abs() > EQUAL
        places = differs.any(3 - axis)[0].nonzero().flatten().tolist()
        side = math.gcd(*(place - places[0] for place in places))
        # A drawing of a few lines has its edges on multiples of something too.
        if side < 2 or len(places) < max(LEAST_CELLS, size / side / 2):
            return 1
        sides.append(side)
    return math.gcd(*sides)


def _products(pixels: Tensor, clipped: Tensor) -> Tensor | None:
    """Sums of products (CLASSES, t + 1, t + 1) of pixels (h, w) of a row and 1, for each place in CLASSES.

    Each window of t = 2 REACH + 1 px is less its mean. None where the image is too small, or too smooth.
    """
    height, width = pixels.shape
    taps = 2 * REACH + 1
    count = (width - taps + 1) // CLASSES * CLASSES
    if count <= 0:
        return None
    step = max(1, height * width // MOST_SAMPLES)
    rows, hidden = pixels[::step].double(), clipped[::step]
    if float((rows[:, 1:] - rows[:, :-1]).square().mean()) < LEAST_CONTRAST**2:
        return None
    windows = rows.unfold(1, taps, 1)[:, :count]  # (rows, count, t)
    seen = ~hidden.unfold(1, taps, 1)[:, :count].any(-1)
    windows = windows - windows.mean(-1, keepdim=True)
    windows = torch.cat([windows, torch.ones_like(windows[..., :1])], dim=-1) * seen[..., None]
    by_class = windows.reshape(len(windows), -1, CLASSES, taps + 1).permute(2, 0, 1, 3).flatten(1, 2)
    products: Tensor = by_class.mT @ by_class
    return products


def _roughness(table: Tensor) -> float:
    """The variance of windows less the parabola that fits each best, over that of rounding; see `_products`."""
    products = table.sum(0)
    ramp = torch.linspace(-1, 1, len(products) - 1, dtype=table.dtype, device=table.device)
    basis: Tensor = torch.linalg.qr(torch.stack([ramp**0, ramp, ramp**2], dim=1)).Q
    covariance = products[:-1, :-1] / products[-1, -1].clamp_min(1)
    left = covariance.trace() - (basis.mT @ covariance @ basis).trace()
    return 12 * float(left) / (len(ramp) - basis.shape[1])


def _numbers_of_a_cell(table: Tensor, factor: int) -> float:
    """How many numbers tell the pixels of one cell more: 1 after an enlargement by a whole factor.

    By how many the covariance of a window has more that stand out of rounding than that of one that is whole cells
    shorter, at each of the places.
    """
    by_place = _centred(table, factor)[0]
    cells = BLOCK // factor
    counts = [
        (torch.linalg.eigvalsh(by_place[:, :size, :size]) > SEEN).sum(-1).double().mean()
        for size in (by_place.shape[1], by_place.shape[1] - cells * factor)
    ]
    return float(counts[0] - counts[1]) / cells


def _fit_both(tables: list[Tensor], factor: int) -> tuple[float, float] | None:
    """The lesser gain and the greater residual of both axes for a factor; None where it explains nothing."""
    gains, residuals = [], []
    for table in tables:
        covariances, counts = _centred(table, factor)
        if float(counts.min()) < LEAST_SAMPLES:
            return None
        by_place = covariances * counts[:, None, None]
        errors, common = _unexplained(by_place), float(_unexplained(by_place.sum(0, keepdim=True)))
        own = max(float(errors.sum()), 1e-12)
        # As many weights more as these have make an error less by their share of the samples.
        chance = 10 * math.log10(1 + 4 * REACH * (factor - 1) / float(counts.sum()))
        gains.append(10 * math.log10(max(common, 1e-12) / own) - 3 * chance)
        residuals.append(math.sqrt(max(0.0, float((errors / counts).max()))))
    gain, residual = min(gains), max(residuals)
    looser, clearly = ROUNDED_CLEARLY
    plain = residual <= ROUNDED or (residual <= looser and gain >= clearly)
    return (gain, residual) if plain and gain >= LEAST_GAIN else None


def _centred(table: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The covariance (factor, t, t) of windows at each place in a cell, and their numbers (factor,).

    What each place has more or less than others is left to the lattices.
    """
    by_place = table.reshape(-1, factor, *table.shape[1:]).sum(0)
    counts = by_place[:, -1, -1]
    means = by_place[:, :-1, -1] / counts[:, None].clamp_min(1)
    products = by_place[:, :-1, :-1] / counts[:, None, None].clamp_min(1)
    return products - means[:, :, None] * means[:, None, :], counts


def _unexplained(products: Tensor) -> Tensor:
    """Sums of squares (n,) of the middle pixel that the others do not explain, of sums of products (n, t, t)."""
    # The outermost is left out: windows are less their mean, so that it follows from the rest.
    others = [i for i in range(1, 2 * REACH + 1) if i != REACH]
    known = products[:, others][:, :, others]
    asked = products[:, others, REACH]
    ridge = 1e-3 * torch.eye(len(others), dtype=products.dtype, device=products.device)
    weights = torch.linalg.solve(known + ridge, asked)
    left = products[:, REACH, REACH] - 2 * (weights * asked).sum(-1)
    errors: Tensor = left + torch.einsum("ni,nij,nj->n", weights, known, weights)
    return errors.clamp_min(0)
