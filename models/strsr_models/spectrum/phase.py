"""Whether the blocks that show a lattice agree on its phase.

Letters: n blocks, k harmonics.
"""

from __future__ import annotations

import math

from torch import Tensor

from .survey import Survey

LOPSIDED = 3.0  # dB
CHANCE = 3.09  # standard deviations: one in a thousand
FAINT = 0.3  # dB of excess: what stands out less has no phase to speak of
ROUNDED = (
    4.0  # times the floor: rounding alone exceeds it in one block of fifty, in noise; in curved ramps oftener
)
LEAST_SEEN = 0.1  # share of the blocks that must show something


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
