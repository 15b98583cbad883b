"""How large the maps of a feature network are, on pictures that are the same everywhere.

Networks of one architecture that were trained on inputs of another size have maps of another size. A loss that is not
free of it, as the frequency distribution loss, has one weight for all of them if maps are brought to one level first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

COUNT, SIDE = 4, 96  # of the pictures, px
MEAN, CONTRAST = 0.45, 0.2  # of their pixels
OWN, COMMON = 0.3, 0.9  # of what each colour has for itself, and of what all have


def pictures() -> Tensor:
    """Make pictures (4, 3, 96, 96) in [0, 1] with the spectrum of photos, 1/f, and nearly their colours."""
    rng = torch.Generator().manual_seed(0)
    down, across = torch.fft.fftfreq(SIDE)[:, None], torch.fft.rfftfreq(SIDE)[None]
    fall = 1 / torch.hypot(down, across).clamp_min(1 / SIDE)  # (s, s/2 + 1)
    white = torch.randn(COUNT, 3, SIDE, SIDE, generator=rng)
    colours = torch.fft.irfft2(torch.fft.rfft2(white) * fall, s=(SIDE, SIDE))  # (n, 3, s, s)
    colours = colours / colours.std((1, 2, 3), keepdim=True)
    images: Tensor = MEAN + CONTRAST * (COMMON * colours[:, :1] + OWN * colours)
    return images.clamp(0, 1)


@torch.no_grad()
def levels(network: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """Return the root mean squares (maps,) of a network's maps of `pictures()`."""
    return torch.stack([features.float().square().mean().sqrt() for features in network(pictures())])
