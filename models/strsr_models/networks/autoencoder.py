"""Lite's structural encoder and its decoder, in two shapes: pixels to latents, and latents to detail.

Quarter, the shape of the embedded weights: all work is done at a quarter of the output size, behind
one pixel unshuffle and before one pixel shuffle. The shuffle is balanced (`BalancedShuffle`), so
that it prints nothing into flat fields.

Pyramid, the shape before it: the encoder moves 8x8 blocks into channels, the decoder climbs 8 -> 4 ->
2 -> 1 by pixel shuffles. A shuffle prints a lattice of its own (arXiv 1707.02937), so each one
starts as nearest-neighbour enlargement (ICNR) and the last one is followed by a smoothing
convolution. Weights of this shape still load.

Letters: b batch, c latent channels, H W pixels, e a stage's channels, f the shuffle's factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    # The module typing has it from Python 3.11 on.
    from typing_extensions import Self


# Detail is some hundredths of the image's range. Fixed outside of the last layer, the factor lets
# that layer's weights be of the size that the optimiser's steps are made for.
DETAIL_SCALE = 0.1
QUARTER, EIGHTH = 4, 8  # output px per latent pixel and side, of the two shapes
# Before every block grain costs four times as much, and does no more.
GRAIN_EVERY = 4  # blocks


@dataclass(frozen=True)
class QuarterConfig:
    """The shape of an encoder and a decoder that do all of their work at a quarter of the output size."""

    latent_channels: int = 64  # of every layer
    encoder_blocks: int = 2
    decoder_blocks: int = 16
    # In output px: the side of the cells over which the detail has no mean (`level`); 0: it may have one.
    level_cell: int = 32
    # Of random numbers (networks/grain.py), which every fourth of the decoder's blocks gets.
    grain_maps: int = 0

    downscale: ClassVar[int] = QUARTER

    def __post_init__(self) -> None:
        if self.latent_channels < 1:
            raise ValueError(f"latent_channels {self.latent_channels}: must be at least 1")
        for name in ("encoder_blocks", "decoder_blocks", "level_cell", "grain_maps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)}: must not be negative")

    def build(self) -> tuple[QuarterEncoder, QuarterDecoder]:
        """Make the structural encoder and the decoder, with random weights."""
        return QuarterEncoder(self), QuarterDecoder(self)


@dataclass(frozen=True)
class PyramidConfig:
    """The shape of an encoder at 1/8 of the output size and of a decoder that climbs by three shuffles."""

    latent_channels: int = 32
    encoder_channels: int = 128
    encoder_blocks: int = 1
    decoder_channels: tuple[int, int, int] = (128, 64, 32)  # at 1/8, 1/4 and 1/2 size
    decoder_blocks: tuple[int, int, int] = (3, 2, 1)
    pixel_channels: int = 8  # at full size, before the smoothing convolution

    downscale: ClassVar[int] = EIGHTH
    level_cell: ClassVar[int] = 0
    grain_maps: ClassVar[int] = 0

    def __post_init__(self) -> None:
        for name in ("latent_channels", "encoder_channels", "decoder_channels", "pixel_channels"):
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"{name} {value}: must be at least 1")
        if min(self.encoder_blocks, *self.decoder_blocks) < 0:
            raise ValueError("encoder_blocks and decoder_blocks must not be negative")

    def build(self) -> tuple[StructuralEncoder, Decoder]:
        """Make the structural encoder and the decoder, with random weights."""
        return StructuralEncoder(self), Decoder(self)


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
    """A residual block x + conv(silu(conv(x))): 3x3, without normalisation, which would cost contrast (EDSR)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        keep_variance(self.conv1)
        # The block starts close to the identity.
        keep_variance(self.conv2, gain=0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (b, e, h, w) to features of the same shape."""
        return x + self.conv2(F.silu(self.conv1(x)))  # type: ignore[no-any-return]


class BalancedShuffle(nn.Module):
    """An enlargement by f: convolution and pixel shuffle that answer a flat field alike in all phases.

    A shuffle's f x f phases have weights of their own, and where their sums differ the network prints its
    phase pattern into every sky. For each output and input channel the taps of every phase are
    therefore shifted by one number, so that their sum is the mean over the phases:

        W' = W - (sum W - mean over phases of sum W) / 9

    The bias is shared by all phases. Doing so twice changes nothing, so that it can be done once for
    all when a network is loaded (`fold`).
    """

    def __init__(self, channels_in: int, channels_out: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.folded = False
        self.weight = nn.Parameter(torch.empty(channels_out * factor**2, channels_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        # The first output of the network is nearly the bicubic enlargement.
        nn.init.normal_(self.weight, std=0.3 / (9 * channels_in) ** 0.5)

    def balanced_weight(self) -> Tensor:
        """The weights (e' * f * f, e, 3, 3) as they count, each phase's taps shifted to the same sum."""
        phases = self.weight.reshape(-1, self.factor**2, *self.weight.shape[1:])  # (e', f*f, e, 3, 3)
        sums = phases.sum((-1, -2), keepdim=True)  # (e', f*f, e, 1, 1)
        balanced: Tensor = phases - (sums - sums.mean(1, keepdim=True)) / 9
        return balanced.flatten(0, 1)  # (e'*f*f, e, 3, 3)

    @torch.no_grad()
    def fold(self) -> None:
        """Balance the weights themselves, so that `forward` need not; training unfolds."""
        self.weight.copy_(self.balanced_weight())
        self.folded = True

    def train(self, mode: bool = True) -> Self:
        """Set the mode; training moves the weights, so that each forward pass has to balance them anew."""
        self.folded = self.folded and not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge features (b, e, h, w) to (b, e', f*h, f*w)."""
        weight = self.weight if self.folded else self.balanced_weight()
        bias = self.bias.repeat_interleave(self.factor**2)  # (e'*f*f,)
        x = F.conv2d(x, weight, bias, padding=1)  # (b, e'*f*f, h, w)
        return F.pixel_shuffle(x, self.factor)  # (b, e', f*h, f*w)


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is in float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def level(image: Tensor, cell: int) -> Tensor:
    """The slow part of an image (b, c, H, W): means over cells of `cell` px, smoothed over three and enlarged.

    Restorers shift saturated colours, by up to 30 levels of 255 on plain fields. Taken off the detail, its level
    stays in the bicubic enlargement, which knows it: colours are kept by construction.
    """
    h, w = image.shape[-2:]
    # The letters m n stand for the cells of an axis, rounded up.
    if h % cell or w % cell:
        image = F.pad(image, (0, -w % cell, 0, -h % cell), mode="replicate")  # (b, c, m*cell, n*cell)
    # The backward pass of replicate padding knows no channels_last when it is compiled.
    means = F.avg_pool2d(image, cell).contiguous()  # (b, c, m, n)
    # Two means over two cells are the filter [1, 2, 1] / 4 on each axis.
    means = F.pad(means, (1, 1, 1, 1), mode="replicate")  # (b, c, m+2, n+2)
    means = F.avg_pool2d(F.avg_pool2d(means, 2, 1), 2, 1)  # (b, c, m, n)
    return enlarge(means, cell)[..., :h, :w]  # (b, c, H, W)


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Enlarge maps x (b, c, h, w) by a whole factor, bilinearly; returns (b, c, factor*h, factor*w).

    On a CPU, where no gradient is wanted, by a product for each axis: PyTorch's own kernel turns maps that are
    channels_last around and back, 9 ms for 64 maps of 136 px in place of 0.4, and leaves them so that the convolution
    behind has to turn them again; OpenVINO's takes 5 ms for three maps, in place of 0.4. The sums are the same two
    terms, equal but for rounding.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    b, c, h, w = x.shape
    by_row, by_column = (hats(side, factor, x.dtype) for side in (h, w))  # (factor*h, h), (factor*w, w)
    with torch.autocast(x.device.type, enabled=False):
        if x.is_contiguous():
            return by_row @ x @ by_column.T
        x = by_row @ x.permute(0, 2, 3, 1).reshape(b, h, w * c)  # (b, factor*h, w*c)
        x = by_column @ x.view(b, factor * h, w, c)  # (b, factor*h, factor*w, c)
    return x.permute(0, 3, 1, 2)


def hats(side: int, factor: int, dtype: torch.dtype) -> Tensor:
    """The weights (factor*side, side) by which an axis is enlarged bilinearly."""
    place = ((torch.arange(factor * side, dtype=dtype) + 0.5) / factor - 0.5).clamp(0, side - 1)
    return (1 - (place[:, None] - torch.arange(side, dtype=dtype)).abs()).clamp_min(0)


class QuarterEncoder(nn.Module):
    """The encoder of where things are: an image at output size to latents four times smaller."""

    downscale = QUARTER

    def __init__(self, config: QuarterConfig) -> None:
        super().__init__()
        c = config.latent_channels
        self.conv_in = nn.Conv2d(3 * QUARTER**2, c, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(c) for _ in range(config.encoder_blocks)))
        keep_variance(self.conv_in)

    def forward(self, x: Tensor) -> Tensor:
        """Encode x (b, 3, H, W) in [-1, 1], H and W multiples of 4, as latents (b, c, H/4, W/4)."""
        x = F.pixel_unshuffle(x, QUARTER)  # (b, 48, H/4, W/4)
        return self.blocks(self.conv_in(x))  # type: ignore[no-any-return]  # (b, c, H/4, W/4)


class QuarterDecoder(nn.Module):
    """The decoder of latents to the detail that the bicubic enlargement lacks, by one balanced shuffle."""

    def __init__(self, config: QuarterConfig) -> None:
        super().__init__()
        c = config.latent_channels
        self.blocks = nn.Sequential(*(ResidualBlock(c) for _ in range(config.decoder_blocks)))
        self.shuffle = BalancedShuffle(c, 3, QUARTER)
        self.level_cell = config.level_cell
        if config.grain_maps:
            convs = [nn.Conv2d(config.grain_maps, c, 1, bias=False) for _ in self.blocks[::GRAIN_EVERY]]
            # It starts without.
            for conv in convs:
                nn.init.zeros_(conv.weight)
            self.grain = nn.ModuleList(convs)

    def forward(self, latents: Tensor, grain: Tensor | None = None) -> Tensor:
        """Decode latents (b, c, H/4, W/4) to detail (b, 3, H, W), to be added to an image in [-1, 1].

        grain: random numbers (b, n, H/4, W/4), for a decoder of `grain_maps`.
        """
        x = latents  # (b, c, H/4, W/4)
        for number, block in enumerate(self.blocks):
            if grain is not None and number % GRAIN_EVERY == 0:
                x = x + self.grain[number // GRAIN_EVERY](grain)
            x = block(x)
        x = F.silu(x)
        detail: Tensor = DETAIL_SCALE * wide(self.shuffle(x))  # (b, 3, H, W)
        if not self.level_cell:
            return detail
        return detail - level(detail, self.level_cell)  # (b, 3, H, W)


class ShuffleUp(nn.Module):
    """An enlargement by two: convolution to four times the channels, then pixel shuffle."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1)
        keep_variance(self.conv)
        # ICNR: the four sub-pixels of a channel start out equal.
        with torch.no_grad():
            self.conv.weight.copy_(self.conv.weight[::4].repeat_interleave(4, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge features (b, e, h, w) to (b, e', 2h, 2w)."""
        x = self.conv(x)  # (b, 4e', h, w)
        return F.pixel_shuffle(x, 2)  # (b, e', 2h, 2w)


def whitening_dct(channels: int) -> Tensor:
    """The start (channels, 192) of the encoder's first layer: the lowest frequencies of an 8x8 DCT.

    Photos hold most of their energy in the mean of a block and little in the detail that matters
    here. Each coefficient is therefore scaled up by about the inverse of its usual size, for
    luma and two colour differences. From this start the loss fell three times as far in the
    first 150 steps as from a random one.
    """
    k = torch.arange(EIGHTH, dtype=torch.float32)
    dct = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / EIGHTH) * (2 / EIGHTH) ** 0.5  # (8, 8)
    dct[0] /= 2**0.5
    opponent = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    opponent = opponent / opponent.norm(dim=1, keepdim=True)
    coefficients = sorted(
        # The detail of colours comes later than that of luma.
        (math.hypot(u, v) + (3 if color else 0), color, u, v)
        for color in range(3)
        for u in range(EIGHTH)
        for v in range(EIGHTH)
    )
    rows = torch.zeros(channels, 3 * EIGHTH**2)
    for row, (_, color, u, v) in zip(rows, coefficients, strict=False):
        frequency = math.hypot(u, v)
        gain = (6.0 if color else 3.0) * (min(4.0, frequency**1.5) if frequency else 0.25)
        basis = opponent[color][:, None, None] * dct[u][:, None] * dct[v]  # (3, 8, 8)
        row.copy_(gain * basis.flatten())
    return rows


class StructuralEncoder(nn.Module):
    """The pyramid's structural encoder: an image at output size to latents eight times smaller."""

    downscale = EIGHTH

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        e = config.encoder_channels
        self.conv_in = nn.Conv2d(3 * EIGHTH**2, e, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(e) for _ in range(config.encoder_blocks)))
        self.conv_out = nn.Conv2d(e, config.latent_channels, 3, padding=1)
        keep_variance(self.conv_in, gain=0.05)
        with torch.no_grad():
            self.conv_in.weight[:, :, 1, 1] += whitening_dct(e)
        keep_variance(self.conv_out)

    def forward(self, x: Tensor) -> Tensor:
        """Encode x (b, 3, H, W) in [-1, 1], H and W multiples of 8, as latents (b, c, H/8, W/8)."""
        x = F.pixel_unshuffle(x, EIGHTH)  # (b, 192, H/8, W/8)
        x = self.blocks(self.conv_in(x))  # (b, e, H/8, W/8)
        return self.conv_out(x)  # type: ignore[no-any-return]  # (b, c, H/8, W/8)


class Decoder(nn.Module):
    """The pyramid's decoder: latents to the detail that the bicubic enlargement lacks."""

    def __init__(self, config: PyramidConfig) -> None:
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
        # The first output of the network is nearly the bicubic enlargement.
        keep_variance(self.conv_out, gain=0.3)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode latents (b, c, H/8, W/8) to detail (b, 3, H, W), to be added to an image in [-1, 1]."""
        x = self.at_eighth(self.conv_in(latents))  # (b, e8, H/8, W/8)
        x = self.at_quarter(self.to_quarter(x))  # (b, e4, H/4, W/4)
        x = self.at_half(self.to_half(x))  # (b, e2, H/2, W/2)
        x = self.to_full(x)  # (b, pixel_channels, H, W)
        return DETAIL_SCALE * self.conv_out(x)  # type: ignore[no-any-return]  # (b, 3, H, W)
