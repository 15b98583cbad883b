"""Whether blocks agree on the phase of a lattice: `coherence` of those that show it, `certainty` of all by their noise.

Letters: n blocks, k harmonics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .survey import Survey, on_diagonal

LOPSIDED = 3.0  # dB
CHANCE = 3.09  # standard deviations: one in a thousand
FAINT = 0.3  # dB of excess: what stands out less has no phase to speak of
LOG_MEAN = 10 * 0.5772156649 / math.log(10)  # dB by which the mean log-power of noise lies below its power
ROUNDED = (
    4.0  # times the floor: rounding alone exceeds it in one block of fifty, in noise; in curved ramps oftener
)
LEAST_SEEN = 0.1  # share of the blocks that must show something
CLIP = 2.0  # deviations of its own noise: no block counts for more
LEAST_PRINT = 0.1 / 255  # root mean square: what is weaker nobody sees, however sure it is


def coherence(survey: Survey, pick: list[int], either_sign: bool = True) -> float:
    """The agreement of blocks on the phase of some harmonics, 0 to 1, beyond what one in a thousand has by chance.

    1: the same phase in all blocks, or with either_sign the opposite one (a weave under a beat changes its sign); each
    harmonic counts by its excess in dB. Blocks in which nothing is to be seen do not count; nor do their strengths
    else. 0 where the harmonics stand out by less than FAINT on average: that proves nothing.
    """
    assert survey.values is not None
    if not pick or float(survey.excess[0, pick].mean()) < FAINT:
        return 0.0
    weights = survey.excess[0, pick].clamp_min(0)
    # A line one bin aside, of another period, turns by half a circle from block to block: no change of sign.
    even = survey.lopsided[0, pick] < LOPSIDED
    values = survey.values[:, pick]
    power = values.real.square() + values.imag.square()
    # (n, k), length near 1 or, where nothing is to be seen, 0.
    unit = values / (power + survey.floor).sqrt() * (power > ROUNDED * survey.floor)
    length = unit.abs()
    if float(length.mean()) < LEAST_SEEN:
        return 0.0
    total = length.sum(0).clamp_min(1e-9)
    doubled = unit * unit / length.clamp_min(1e-9)
    same, opposite = (sums.sum(0).abs() / total for sums in (unit, doubled))  # (k,)
    # Of agreement squared, at random phases.
    chance = survey.overlap * length.square().sum(0) / total.square()
    agreed = _beyond_chance(same, chance, weights)
    # Any two real numbers agree but for their signs: that proves nothing.
    if survey.real or not either_sign:
        return agreed
    return max(agreed, _beyond_chance(opposite * even, chance, weights))


def _beyond_chance(agreement: Tensor, chance: Tensor, weights: Tensor) -> float:
    """The root mean square of agreements (k,), less what chance would give in 999 of 1000 cases."""
    weights = weights / weights.sum()
    # As of a mean of that many exponentials: a gamma distribution.
    shape = 1 / float(weights.square().sum())
    # Wilson and Hilferty's quantile.
    reach = (1 - 1 / (9 * shape) + CHANCE / (3 * math.sqrt(shape))) ** 3
    bound = float((weights * chance).sum()) * reach
    if bound >= 1:
        return 0.0
    squared = float((weights * agreement.square()).sum())
    return math.sqrt(min(1.0, max(0.0, (squared - bound) / (1 - bound))))


def certainty(printed: Survey, period: int) -> float:
    """-log10 of the chance that random phases add up as these do over the whole picture: 3 is one in a thousand.

    Each block's value is divided by its own noise, as its neighbours in the spectrum tell it, and counts by that: a
    lattice shows in the smooth places, whatever stands beside them. The least of the chances of single harmonics and
    of sums over those of an axis, both axes, the diagonals, and all cross-points; each times the number of its kind.
    0 where the pattern is weaker than LEAST_PRINT.
    """
    assert printed.values is not None
    assert printed.standing is not None
    values = printed.values
    power = values.real.square() + values.imag.square()
    seen = power > printed.floor
    # (n,)
    seen = seen.any(dim=1)
    if not bool(seen.any()):
        return 0.0
    noise = (power + printed.floor) * 10 ** ((LOG_MEAN - printed.standing) / 10)
    # A flat block speaks against a lattice as loudly as any, not louder: a blown-out sky cannot show one.
    noise = torch.where(seen[:, None], noise, noise[seen].median(0).values)
    deviation = noise.sqrt()
    inverse = 1 / noise  # (n, k)
    bounded = values / deviation
    bounded = bounded * (CLIP / bounded.abs().clamp_min(CLIP))
    information = printed.overlap * inverse.sum(0)  # (k,)
    # Exponentials of mean 1, where phases are random.
    strength = (bounded / deviation).sum(0).abs().square() / information
    if _rms(values, inverse, information, printed) < LEAST_PRINT:
        return 0.0
    groups = _groups(printed, period)
    single = [
        _surprise(strength[pick].amax()[None]) - math.log10(len(pick)) for pick in groups["single"] if pick
    ]
    pairs = [_surprise(strength[pick]) - math.log10(len(groups["pairs"])) for pick in groups["pairs"]]
    sums = [_surprise(strength[pick]) for pick in groups["sums"] if pick]
    return max(0.0, *single, *pairs, *sums)


def _groups(printed: Survey, period: int) -> dict[str, list[list[int]]]:
    """The numbers of harmonics that are looked at one by one, in pairs of both axes, and as sums."""
    points = printed.harmonics
    across = [i for i, point in enumerate(points) if point.axis == "x"]
    down = [i for i, point in enumerate(points) if point.axis == "y"]
    cross = [i for i, point in enumerate(points) if point.axis == "xy"]
    diagonal = [i for i in cross if on_diagonal(points[i], period)]
    pairs = [[i, j] for i in across for j in down if points[i].across == points[j].down]
    return {
        "single": [across + down, diagonal, cross],
        "pairs": pairs,
        "sums": [across + down, diagonal, cross],
    }


def _surprise(strength: Tensor) -> float:
    """-log10 of the chance that as many exponentials of mean 1 have as large a sum: a gamma distribution's tail."""
    total, count = float(strength.double().sum()), len(strength)
    if total <= count:
        return 0.0
    # The sum over i < count of total^i / i!, times e^-total.
    terms = [i * math.log(total) - math.lgamma(i + 1) for i in range(count)]
    largest = max(terms)
    tail = largest + math.log(sum(math.exp(term - largest) for term in terms)) - total
    return -tail / math.log(10)


def _rms(values: Tensor, inverse: Tensor, information: Tensor, printed: Survey) -> float:
    """The root mean square of the pattern in [0, 1], over all harmonics, less what noise would make of it."""
    mean = (values * inverse).sum(0).abs().square() / inverse.sum(0).square()  # (k,)
    noise = information / inverse.sum(0).square()
    side = printed.boxes[0][2]
    # A wave of rms 1 has s^2 * (2 / 3)^2 / 2 on its bin, by the Hann window.
    total = float((mean - noise).sum()) * 4.5 / side**2
    return math.sqrt(max(0.0, total))
