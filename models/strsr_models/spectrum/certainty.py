"""How sure it is that a picture has a print of a period: the phases of small blocks, added up over the whole of it.

A faint lattice shows in the smooth places alone, and those are small: so blocks here are of three periods, not eight.
Each block's value at a harmonic is weighed by its own noise, and the sum is held against the same sums at
frequencies beside the harmonic, where no lattice is: the picture says itself how large a sum chance has there.

Letters: h w pixels, s side of a block, p period, k harmonics; blocks lie in d rows of a.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .blocks import ROUNDING, Harmonic, hann, harmonics_of, without_plane
from .survey import QUIET, grid_of_blocks, on_diagonal, side_of_blocks, unturn

PERIODS = 3  # a block holds: the fewest whose neighbours, two bins away, are neither the line nor the mean
APART = 2  # bins from a harmonic to the neighbours that tell its noise
# By which the power of noise is larger than e to the mean of its logarithms.
LOG_MEAN = math.exp(0.5772156649)
NEAR = 4  # steps of the finest frequencies within which those beside a cross-point are as loud as it
LEAST_CONTROLS = 4
LEAST_BLOCKS = (
    100  # of 256 x 256 px at a period of 16: among fewer a few contours of a photo agree too easily
)
HIGHEST = 2.0  # times the harmonic's power: where the finest frequencies that touch it have more, the line is theirs
LEAST_PRINT = 0.1 / 255  # root mean square: what is weaker nobody sees, however sure it is


def certainty(y: Tensor, period: int) -> float:
    """-log10 of the chance that a picture y (1, h, w) in [0, 1] without a print looks as this one does: 3 is 1 in 1000.

    The least of the chances of single harmonics, of the first wave on its own, of a harmonic on both axes or both
    diagonals, and of sums over those of an axis, both axes, the diagonals; each times the number of its kind.
    0 where the pattern is weaker than LEAST_PRINT, where y holds fewer than LEAST_BLOCKS blocks, and where all of it
    is flat.
    """
    if side_of_blocks(y.shape, period) == 0:
        return 0.0
    side = PERIODS * period
    tops, lefts = grid_of_blocks(y.shape[-2], y.shape[-1], side)
    if len(tops) * len(lefts) < LEAST_BLOCKS:
        return 0.0
    points = harmonics_of(period)
    at = torch.tensor([_bin(p.down * PERIODS, p.across * PERIODS, side) for p in points], device=y.device)
    near = [(numbers, torch.tensor(bins, device=y.device)) for numbers, bins in _neighbours(points, side)]
    rows = [_row_of_blocks(_spectra(y[0, top : top + side], lefts), at, near) for top in tops]
    scores, weights = (torch.stack(parts) for parts in zip(*rows, strict=True))  # (d, a, k)
    down, across = (torch.tensor([getattr(p, way) for p in points]).double() for way in ("down", "across"))
    turns = torch.tensor(tops)[:, None, None] * down + torch.tensor(lefts)[:, None] * across
    scores = scores * unturn(turns / period).to(y.device)
    response = [_response(begins, side, y) for begins in (tops, lefts)]
    if _rms(scores, weights, float(response[0][0] * response[1][0]), side) < LEAST_PRINT:
        return 0.0
    evidence = _evidence(scores, points, response[0][:, None] * response[1])
    return max(0.0, *(_least_chance(evidence, sets) for sets in _kinds(points, period)))


def _spectra(rows: Tensor, lefts: list[int]) -> Tensor:
    """Spectra (a, s * (s/2 + 1)) of the blocks of rows (s, w); 0 of flat ones. White noise has its variance's power."""
    side = len(rows)
    pieces = torch.stack([rows[:, left : left + side] for left in lefts])
    window = hann(side, rows)[:, None] * hann(side, rows)
    pieces = without_plane(pieces) * (window / window.square().sum().sqrt())
    pieces = pieces * (pieces.square().sum((-2, -1), keepdim=True) > QUIET)
    spectra: Tensor = torch.fft.rfft2(pieces).flatten(1)
    return spectra


def _row_of_blocks(
    spectra: Tensor, at: Tensor, near: list[tuple[list[int], Tensor]]
) -> tuple[Tensor, Tensor]:
    """Scores (a, k), complex, and weights (a, k) of a row of blocks, of harmonics at bins `at`, neighbours in `near`.

    Weight: 1 / (noise + power), the noise told by the neighbours. So a block counts by its noise where nothing
    is to be seen, and no block counts for much that stands far out: it is what a score test has where the noise's own
    power is known but roughly (Student's t of one degree of freedom). Score: value times weight; 0 in flat blocks.
    """
    power = spectra.real.square() + spectra.imag.square()
    log_power = (power + ROUNDING).log()
    weights = power.new_zeros(len(power), len(at))
    for numbers, bins in near:
        noise = LOG_MEAN * log_power[:, bins].mean(-1).exp()
        weights[:, numbers] = 1 / (noise + power[:, at[numbers]])
    weights = weights * (power.sum(1, keepdim=True) > 0)
    return spectra[:, at] * weights, weights


def _bin(down: int, across: int, side: int) -> int:
    """The flat index of a point of a block's spectrum in the half that rfft2 has."""
    down, across = down % side, across % side
    if across > side // 2:
        down, across = -down % side, side - across
    return down * (side // 2 + 1) + across


def _neighbours(points: tuple[Harmonic, ...], side: int) -> Iterator[tuple[list[int], list[list[int]]]]:
    """For harmonics of each axis: their numbers, and the flat indices (k, m) of the bins that tell their noise."""
    reach, ends = range(-APART, APART + 1), (-APART, APART)
    around = {
        "x": [(v, u) for v in (-1, 0, 1) for u in ends],
        "y": [(v, u) for v in ends for u in (-1, 0, 1)],
        "xy": [(v, u) for v in reach for u in reach if max(abs(v), abs(u)) == APART],
    }
    for axis, steps in around.items():
        numbers = [i for i, point in enumerate(points) if point.axis == axis]
        places = [(points[i].down * PERIODS, points[i].across * PERIODS) for i in numbers]
        if numbers:
            yield numbers, [[_bin(down + v, across + u, side) for v, u in steps] for down, across in places]


def _response(begins: list[int], side: int, like: Tensor) -> Tensor:
    """What white noise has of each frequency (n,) of sums over n blocks along an axis, which overlap: 1 on average."""
    count = len(begins)
    window = hann(side, like).double()
    hop = round((begins[-1] - begins[0]) / max(count - 1, 1))
    shared = float((window[hop:] * window[: max(side - hop, 0)]).sum() / window.square().sum())
    frequency = torch.arange(count, dtype=torch.float64, device=like.device) / count
    return 1 + 2 * (shared if count > 1 else 0.0) * torch.cos(2 * math.pi * frequency)


def _rms(scores: Tensor, weights: Tensor, overlap: float, side: int) -> float:
    """The root mean square of the pattern in [0, 1], over all harmonics, less what noise would make of it."""
    noise = overlap * scores.abs().square().sum((0, 1))
    wave = (scores.sum((0, 1)).abs().square() - noise) / weights.sum((0, 1)).square().clamp_min(1e-30)
    # A wave of rms 1 has s^2 * (2 / 3)^2 / 2 on its bin, by the Hann window.
    return math.sqrt(max(0.0, float(wave.sum()) * 4.5 / side**2))


def _evidence(scores: Tensor, points: tuple[Harmonic, ...], response: Tensor) -> list[float]:
    """-ln of the chance of each harmonic's sum over all blocks: exponentials of mean 1 where there is no lattice.

    A sum's power is held against its controls, the sums over the same blocks with phases that turn by whole circles
    over the picture: frequencies beside the harmonic. Those nearest are as loud as the harmonic would be, on
    an axis along with it; but they are few, so that they count only as far as they are louder than all.
    response: (d, a), what white noise has of each.
    """
    spectra = torch.fft.fft2(scores.movedim(-1, 0))
    power = (spectra.real.square() + spectra.imag.square()).double() / response  # (k, d, a)
    down, across = (torch.fft.fftfreq(size, 1 / size, device=scores.device).abs() for size in power.shape[1:])
    beside = (down[:, None] > 1) | (across > 1)
    alike = {
        "x": beside & (down[:, None] <= 1),
        "y": beside & (across <= 1),
        "xy": beside & (down[:, None] <= NEAR) & (across <= NEAR),
    }
    masks = torch.stack([beside, *alike.values()]).flatten(1).double()  # (4, d * a)
    counts = masks.sum(1).tolist()
    sums = (power.flatten(1) @ masks.mT).tolist()
    own = power[:, 0, 0].tolist()
    touching = torch.where(beside, 0.0, power).flatten(1).amax(1).tolist()
    evidence = []
    for point, here, there, (everywhere, *near) in zip(points, own, touching, sums, strict=True):
        number = 1 + [*alike].index(point.axis)
        count, total = counts[number], near[number - 1]
        if count < LEAST_CONTROLS or there > HIGHEST * here:
            evidence.append(0.0)
            continue
        level = max(everywhere / counts[0], total / count * (1 - 1 / math.sqrt(count)), 1e-30)
        # The tail of an exponential over a mean of so many others.
        evidence.append(count * math.log1p(here / level / count))
    return evidence


def _kinds(points: tuple[Harmonic, ...], period: int) -> list[list[list[int]]]:
    """What is asked for, by kinds: each a list of sets of numbers of harmonics, whose evidence is added up."""
    across = [i for i, point in enumerate(points) if point.axis == "x"]
    down = [i for i, point in enumerate(points) if point.axis == "y"]
    cross = [i for i, point in enumerate(points) if point.axis == "xy"]
    diagonal = [i for i in cross if on_diagonal(points[i], period)]
    pairs = [[i, j] for i in across for j in down if points[i].across == points[j].down]
    mirrored = [[i, j] for i in diagonal for j in diagonal if i < j and points[i].across == points[j].across]
    first = [i for i in across + down if max(points[i].across, points[i].down) == 1]
    kinds = [
        [[i] for i in first],
        [[i] for i in across + down],
        [[i] for i in diagonal],
        [[i] for i in cross],
        # The first wave on both, then any.
        pairs[:1],
        mirrored[:1],
        pairs,
        mirrored,
        [across, down],
        [across + down],
        [diagonal],
    ]
    return [sets for kind in kinds if (sets := [numbers for numbers in kind if numbers])]


def _least_chance(evidence: list[float], sets: list[list[int]]) -> float:
    """-log10 of the least chance that a set of a kind has, times the number of sets."""
    return max(_surprise([evidence[i] for i in numbers]) for numbers in sets) - math.log10(len(sets))


def _surprise(evidence: list[float]) -> float:
    """-log10 of the chance that as many exponentials of mean 1 have as large a sum: a gamma distribution's tail."""
    total, count = sum(evidence), len(evidence)
    if total <= count:
        return 0.0
    # The sum over i < count of total^i / i!, times e^-total.
    terms = [i * math.log(total) - math.lgamma(i + 1) for i in range(count)]
    largest = max(terms)
    tail = largest + math.log(sum(math.exp(term - largest) for term in terms)) - total
    return -tail / math.log(10)
