"""The bridge from a semantic encoder's tokens to the DiT's width (StrSR, arXiv 2603.06275)."""

from __future__ import annotations

from torch import nn


class Projector(nn.Sequential):
    """The layers Linear(h, d/2), SiLU, Linear(d/2, d): tokens (b, m, h) -> (b, m, d).

    A plain Sequential, so that its keys are those of the released `projector.pth`:
    0.weight, 0.bias, 2.weight, 2.bias.
    """

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__(nn.Linear(channels_in, width // 2), nn.SiLU(), nn.Linear(width // 2, width))
