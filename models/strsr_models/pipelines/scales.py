"""Weights of lite by scale: how much a decoder has to add depends on how far a picture was enlarged.

An enlargement by four lacks nearly all fine detail; one by two has most of it; at scale 1 nothing is missing but
what damage took. One decoder cannot tell a picture that is soft because it was enlarged from one that is meant to
be soft. So lite has a decoder for x4 and, beside it, ones for x2 and x1. Between two of these scales their weights are
mixed: they were trained from each other, so that a mix makes pictures that lie between theirs
(https://arxiv.org/abs/1809.00219, section 3.4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

FULL = 4.0  # the scale of a folder's main weights, and of all larger ones
STEPS = 4  # levels in an octave of scales: few enough to be kept, and so near that nobody sees a step

Tensors = Mapping[str, Tensor]


def level_of(scale: float) -> float:
    """The scale from 1 to 4 whose weights are used for a scale: the nearest of 2^(n / 4), n = 0 ... 8."""
    octaves = math.log2(min(max(scale, 1.0), FULL))
    return float(2 ** (round(octaves * STEPS) / STEPS))


@dataclass(frozen=True)
class ScaledWeights:
    """Tensors of a network in which it differs below x4, by the scale that they are for."""

    by_scale: dict[float, dict[str, Tensor]]

    def __deepcopy__(self, memo: dict[int, object]) -> ScaledWeights:
        """Return itself: nobody changes these tensors."""
        return self

    def mixed(self, own: Tensors, level: float) -> dict[str, Tensor]:
        """The tensors in which a network for a level from 1 to 4 differs from the one for x4.

        own: the tensors of the network for x4. Below the smallest scale that is known, its tensors stay the same.
        """
        scales = sorted((*self.by_scale, FULL))
        upper = next(scale for scale in scales if scale >= level)
        if upper == FULL == level:
            return {}
        lower = max((scale for scale in scales if scale <= level), default=upper)
        below, above = self._tensors(own, lower), self._tensors(own, upper)
        share = 0.0 if lower == upper else math.log2(level / lower) / math.log2(upper / lower)
        return {name: below[name].lerp(above[name], share) for name in below}

    def moved(self, moves: Tensors) -> ScaledWeights:
        """The same after a move of the network for x4, which those for smaller scales follow the less the smaller."""
        return ScaledWeights(
            {
                scale: {
                    name: tensor.float() + math.log(scale, FULL) * moves[name] if name in moves else tensor
                    for name, tensor in tensors.items()
                }
                for scale, tensors in self.by_scale.items()
            }
        )

    def _tensors(self, own: Tensors, scale: float) -> dict[str, Tensor]:
        """All tensors that differ at any scale, as they are at one of those that are known."""
        at_scale = self.by_scale.get(scale, {})
        names = {name for tensors in self.by_scale.values() for name in tensors}
        return {name: at_scale.get(name, own[name]).to(own[name]) for name in sorted(names)}
