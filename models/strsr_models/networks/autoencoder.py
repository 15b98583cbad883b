"""Lite's structural encoder and its decoder: pixels to latents eight times smaller, and back.

The encoder moves 8x8 blocks into channels at once, so that all of its work happens at 1/8 size.
The decoder climbs 8 -> 4 -> 2 -> 1 by pixel shuffles. A shuffle prints a lattice of its own
(arXiv 1707.02937), so each one starts as nearest-neighbour enlargement (ICNR) and the last one is
followed by a smoothing convolution.

Letters: b batch, c latent channels, H W pixels, e a stage's channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Detail is some hundredths of the image's range. Fixed outside of the last layer, the factor lets
# that layer's weights be of the size that the optimiser's steps are made for.
DETAIL_SCALE = 0.1
DOWNSCALE = 8  # pixels per latent pixel and side: three shuffles by 2 in the decoder


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of the structural encoder and the decoder."""

    latent_channels: int = 32
    encoder_channels: int = 128
    encoder_blocks: int = 1
    decoder_channels: tuple[int, int, int] = (128, 64, 32)  # at 1/8, 1/4 and 1/2 size
    decoder_blocks: tuple[int, int, int] = (3, 2, 1)
    pixel_channels: int = 8  # at full size, before the smoothing convolution

    def __post_init__(self) -> None:
        for name in ("latent_channels", "encoder_channels", "decoder_channels", "pixel_channels"):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"{name} {value}: must be at least 1")
        if min(self.encoder_blocks, *self.decoder_blocks) < 0:
            raise ValueError("encoder_blocks and decoder_blocks must not be negative")


def keep_variance(conv: nn.Conv2d, gain: float = 1.0) -> None:
    """Start a convolution such that its output varies as its input does.

    PyTorch's own start shrinks a signal by sqrt(3) per layer, which left latents and gradients so
    small that training drifted off before it began.
    """
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    with torch.no_grad():
        conv.weight.mul_(gain)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(x))): 3x3, no normalisation, which would cost contrast (EDSR)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        keep_variance(self.conv1)
        keep_variance(self.conv2, gain=0.3)  # start close to the identity

    def forward(self, x: Tensor) -> Tensor:
        """(b, e, h, w) -> (b, e, h, w)."""
        return x + self.conv2(F.silu(self.conv1(x)))  # type: ignore[no-any-return]


class ShuffleUp(nn.Module):
    """Twice the size: convolution to four times the channels, then pixel shuffle."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1)
        keep_variance(self.conv)
        with torch.no_grad():  # ICNR: the four sub-pixels of a channel start out equal
            self.conv.weight.copy_(self.conv.weight[::4].repeat_interleave(4, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """(b, e, h, w) -> (b, e', 2h, 2w)."""
        return F.pixel_shuffle(self.conv(x), 2)


def whitening_dct(channels: int) -> Tensor:
    """A start (channels, 192) for the encoder's first layer: the lowest frequencies of an 8x8 DCT.

    Photos hold most of their energy in the mean of a block and little in the detail that matters
    here. Each coefficient is therefore scaled up by about the inverse of its usual size, for
    luma and two colour differences. From this start the loss fell three times as far in the
    first 150 steps as from a random one.
    """
    k = torch.arange(DOWNSCALE, dtype=torch.float32)
    dct = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / DOWNSCALE) * (2 / DOWNSCALE) ** 0.5
    dct[0] /= 2**0.5
    opponent = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    opponent = opponent / opponent.norm(dim=1, keepdim=True)
    coefficients = sorted(
        (math.hypot(u, v) + (3 if color else 0), color, u, v)  # colour detail comes later
        for color in range(3)
        for u in range(DOWNSCALE)
        for v in range(DOWNSCALE)
    )
    rows = torch.zeros(channels, 3 * DOWNSCALE**2)
    for row, (_, color, u, v) in zip(rows, coefficients, strict=False):
        frequency = math.hypot(u, v)
        gain = (6.0 if color else 3.0) * (min(4.0, frequency**1.5) if frequency else 0.25)
        basis = opponent[color][:, None, None] * dct[u][:, None] * dct[v]  # (3, 8, 8)
        row.copy_(gain * basis.flatten())
    return rows


class StructuralEncoder(nn.Module):
    """Where things are: an image at output size to latents eight times smaller."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        e = config.encoder_channels
        self.conv_in = nn.Conv2d(3 * DOWNSCALE**2, e, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(e) for _ in range(config.encoder_blocks)))
        self.conv_out = nn.Conv2d(e, config.latent_channels, 3, padding=1)
        keep_variance(self.conv_in, gain=0.05)
        with torch.no_grad():
            self.conv_in.weight[:, :, 1, 1] += whitening_dct(e)
        keep_variance(self.conv_out)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, 3, H, W) in [-1, 1], H and W multiples of 8 -> (b, c, H/8, W/8)."""
        x = F.pixel_unshuffle(x, DOWNSCALE)  # (b, 192, H/8, W/8)
        x = self.blocks(self.conv_in(x))  # (b, e, H/8, W/8)
        return self.conv_out(x)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latents to the detail that the bicubic enlargement lacks."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        eighth, quarter, half = config.decoder_channels
        blocks = [
            nn.Sequential(*(ResidualBlock(e) for _ in range(count)))
            for e, count in zip(config.decoder_channels, config.decoder_blocks, strict=True)
        ]
        self.conv_in = nn.Conv2d(config.latent_channels, eighth, 3, padding=1)
        self.at_eighth, self.at_quarter, self.at_half = blocks
        self.to_quarter = ShuffleUp(eighth, quarter)
        self.to_half = ShuffleUp(quarter, half)
        self.to_full = ShuffleUp(half, config.pixel_channels)
        self.conv_out = nn.Conv2d(config.pixel_channels, 3, 3, padding=1)
        keep_variance(self.conv_in)
        keep_variance(self.conv_out, gain=0.3)  # start as the bicubic enlargement, nearly

    def forward(self, latents: Tensor) -> Tensor:
        """(b, c, H/8, W/8) -> detail (b, 3, H, W), to be added to an image in [-1, 1]."""
        x = self.at_eighth(self.conv_in(latents))  # (b, e8, H/8, W/8)
        x = self.at_quarter(self.to_quarter(x))  # (b, e4, H/4, W/4)
        x = self.at_half(self.to_half(x))  # (b, e2, H/2, W/2)
        return DETAIL_SCALE * self.conv_out(self.to_full(x))  # type: ignore[no-any-return]
