"""Lite's semantic encoder, from the whole low-quality picture to a few tokens.

Letters: b batch, h w pixels, e channels, m tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.autoencoder import ResidualBlock

MOST_PIXELS = 2**22  # of a picture that is resized to 128 px at once


@dataclass(frozen=True)
class SemanticConfig:
    """The shape of the semantic encoder."""

    short_side: int = 128  # px to which every picture is resized first
    channels: tuple[int, int, int, int] = (24, 48, 96, 128)  # at 1/2, 1/4, 1/8 and 1/16 size
    grid: int = 4  # tokens per side

    def __post_init__(self) -> None:
        smallest = {"short_side": self.short_side, "channels": min(self.channels), "grid": self.grid}
        for name, value in smallest.items():
            if value < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")


def reduction(height: int, width: int) -> int:
    """The whole number by which a picture is reduced before all else, so that it takes little memory."""
    return math.ceil(math.sqrt(height * width / MOST_PIXELS))


def reduced(image: Tensor, factor: int) -> Tensor:
    """Return means of (b, 3, h, w) over factor x factor px; cells at the right and below may be smaller."""
    return F.avg_pool2d(image, factor, ceil_mode=True) if factor > 1 else image


def resize_short_side(image: Tensor, short_side: int) -> Tensor:
    """Resize (b, 3, h, w) so that the short side is `short_side` px and the long one at most 4x.

    A panorama longer than that is squeezed: its tokens then stand for wider regions.
    """
    h, w = image.shape[-2:]
    factor = short_side / min(h, w)
    size = [min(round(side * factor), 4 * short_side) for side in (h, w)]
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)


class SemanticEncoder(nn.Module):
    """The encoder of what the picture is: grid x grid tokens of the whole low-quality image."""

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__()
        self.config = config
        stages: list[nn.Module] = []
        channels_in = 3
        for channels in config.channels:
            stages += [nn.Conv2d(channels_in, channels, 3, stride=2, padding=1), nn.SiLU()]
            channels_in = channels
        self.stages = nn.Sequential(*stages, ResidualBlock(channels_in))
        self.norm = nn.LayerNorm(channels_in)
        self.positions = nn.Parameter(0.02 * torch.randn(config.grid**2, channels_in))

    def forward(self, image: Tensor) -> Tensor:
        """Return the tokens (b, m, e) of an image (b, 3, h, w) in [-1, 1], of any size."""
        factor = reduction(*image.shape[-2:])
        x = reduced(image, factor)  # (b, 3, h/factor, w/factor), rounded up
        # From here on the letters h w are those of the resized picture.
        x = resize_short_side(x, self.config.short_side)  # (b, 3, h, w)
        x = self.stages(x)  # (b, e, h/16, w/16)
        x = F.adaptive_avg_pool2d(x, self.config.grid)  # (b, e, grid, grid)
        x = x.flatten(2).transpose(1, 2)  # (b, m, e)
        return self.norm(x) + self.positions  # type: ignore[no-any-return]  # (b, m, e)
