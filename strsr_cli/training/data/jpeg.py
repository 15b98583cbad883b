"""Baseline JPEG with 4:2:0 chroma as a function of tensors: to the bit what libjpeg makes of the pixels.

Sources: ITU-T T.81 (tables of annex K), JFIF (colour), and the integer arithmetic of libjpeg's defaults:
the "islow" DCT after Loeffler, Ligtenberg and Moschytz (ICASSP 1989) and "fancy" chroma upsampling.
Every number on the way is a binary fraction that its float type holds exactly (24 bits in float32, 53
in float64), so neither the device nor the size of the batch changes a result. Entropy coding loses
nothing and is left out. Letters: b images, c planes, h w pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# T.81, tables K.1 and K.2, row by row: what quality 50 divides luma and chroma coefficients by.
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# Rows: sqrt(8) * 2^13 times the DCT's basis vectors, as the 13-bit constants of the fast algorithm
# multiply out to. Some differ by one from the rounded cosines, and so must ours.
DCT = (
    (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
    (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
    (9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633),
    (8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437),
    (4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433),
    (2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260),
)
BITS = 13  # of the fraction in DCT
EXTRA = 2  # bits of fraction kept between the two directions


def jpeg(images: Tensor, qualities: Sequence[int]) -> Tensor:
    """Save and open (b, 3, h, w) in [0, 1] as JPEG, image i at qualities[i] (1 to 100); in 8-bit steps.

    Equals libjpeg(-turbo) with its defaults, as Pillow and OpenCV use it, at 5 px of width and more
    (narrower pictures get their chroma from it without interpolation). Needs float64: no MPS.
    """
    h, w = images.shape[-2:]
    y, chroma = to_ycc(images.contiguous().clamp(0, 1).mul(255).round_())
    chroma = halve(extend(chroma, 2, 16))
    y = code_blocks(extend(y, 8, 8), LUMA, qualities)
    chroma = code_blocks(extend(chroma, 8, 8), CHROMA, qualities)
    chroma = double(chroma[..., : -(-h // 2), : -(-w // 2)])
    return to_rgb(y[..., :h, :w], chroma[..., :h, :w]).div_(255)


@functools.cache
def quantisation(table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """libjpeg's scaling of a table of quality 50 to a quality of 1 to 100: (8, 8) float64, 1 to 255."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    scaled = [[min(max((q * percent + 50) // 100, 1), 255) for q in row] for row in table]
    return torch.tensor(scaled, dtype=torch.float64)


@functools.cache
def matrices(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The DCT from the right, from the left, and its inverse from the right; from the left it is the first.

    libjpeg rounds to integers after each; the shares of DCT's unit that it rounds at are multiplied in.
    """
    dct = torch.tensor(DCT, dtype=torch.float64, device=device)
    first, second = 2.0 ** (EXTRA - BITS), 2.0 ** -(EXTRA + BITS)
    return dct.T.contiguous() * first, dct * second, dct * (second / 8)


def to_ycc(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """JFIF luma (b, 1, h, w) and chroma (b, 2, h, w) of rgb (b, 3, h, w), all integers in 0..255."""
    r, g, b = rgb.chunk(3, dim=1)
    y = (r * fixed(19595)).add_(g, alpha=fixed(38470)).add_(b, alpha=fixed(7471)).add_(0.5)
    # One below a half: libjpeg rounds chroma's halves down, so that 255.5 cannot become 256.
    centre = 128 + fixed(32767)
    cb = (b * 0.5).sub_(r, alpha=fixed(11059)).sub_(g, alpha=fixed(21709)).add_(centre)
    cr = (r * 0.5).sub_(g, alpha=fixed(27439)).sub_(b, alpha=fixed(5329)).add_(centre)
    return y.floor_(), torch.cat([cb, cr], dim=1).floor_()


def to_rgb(y: Tensor, chroma: Tensor) -> Tensor:
    """RGB (b, 3, h, w) in 0..255 of luma and chroma: the way back from `to_ycc`."""
    cb, cr = (chroma - 128).chunk(2, dim=1)
    red = (cr * fixed(91881)).add_(0.5).floor_()
    green = (cb * fixed(-22554)).sub_(cr, alpha=fixed(46802)).add_(0.5).floor_()
    blue = (cb * fixed(116130)).add_(0.5).floor_()
    return torch.cat([red, green, blue], dim=1).add_(y).clamp_(0, 255)


def fixed(number: int) -> float:
    """A number of 1/65536, libjpeg's unit for colour; times a byte it is exact in float32."""
    return number / 65536


def extend(planes: Tensor, rows_of: int, columns_of: int) -> Tensor:
    """Repeat the last row and column of (b, c, h, w) until the sides are multiples of `rows_of` and `columns_of`."""
    h, w = planes.shape[-2:]
    if h % rows_of == 0 and w % columns_of == 0:
        return planes
    return F.pad(planes, (0, -w % columns_of, 0, -h % rows_of), mode="replicate")


def halve(chroma: Tensor) -> Tensor:
    """Halve the sides of (b, c, h, w) by means of 2x2 pixels, halves rounded down and up in turn along a row."""
    rows = chroma[..., ::2, :] + chroma[..., 1::2, :]
    bias = torch.full((chroma.shape[-1] // 2,), 0.25, device=chroma.device)
    bias[1::2] = 0.5
    return (rows[..., ::2] + rows[..., 1::2]).mul_(0.25).add_(bias).floor_()


def double(chroma: Tensor) -> Tensor:
    """Double the sides of (b, c, h, w), each pixel 3/4 its source and 1/4 the next nearest, in both directions."""
    b, c, h, w = chroma.shape
    padded = F.pad(chroma, (1, 1, 1, 1), mode="replicate").mul_(1 / 16)
    near, rows = padded[..., 1:-1, :], padded.new_empty(b, c, h, 2, w + 2)
    torch.add(padded[..., :-2, :], near, alpha=3, out=rows[..., 0, :])
    torch.add(padded[..., 2:, :], near, alpha=3, out=rows[..., 1, :])
    near, both = rows[..., 1:-1], padded.new_empty(b, c, h, 2, w, 2)
    torch.add(rows[..., :-2], near, alpha=3, out=both[..., 0])
    torch.add(rows[..., 2:], near, alpha=3, out=both[..., 1])
    # Halves are rounded up on the left and down on the right.
    both.add_(torch.tensor([8 / 16, 7 / 16], device=chroma.device))
    return both.floor_().view(b, c, 2 * h, 2 * w)


def code_blocks(planes: Tensor, table: tuple[tuple[int, ...], ...], qualities: Sequence[int]) -> Tensor:
    """Send planes (b, c, h, w) in 0..255 through DCT, quantisation and back; h and w are multiples of 8."""
    b, c, h, w = planes.shape
    # A plane (b, c, h, w) seen as (n, 8, w) has columns of blocks to multiply from the left; seen
    # as (n, 8), rows of blocks to multiply from the right. No pixel has to move.
    columns, rows = (-1, 8, w), (-1, 8)
    transposed, forward, inverse = matrices(planes.device)
    x = (planes.double() - 128).view(rows) @ transposed
    x = forward @ x.add_(0.5).floor_().view(columns)
    # The coefficients are 8 times those of the orthonormal DCT.
    x = x.add_(0.5).floor_().view(b, c, h // 8, 8, w)
    step = torch.stack([quantisation(table, quality) for quality in qualities]).to(planes.device)
    step = step.repeat(1, 1, w // 8).view(b, 1, 1, 8, w)
    x /= 8 * step
    # They are rounded to the nearest multiple, halves away from zero.
    x = x.add_(x.sign(), alpha=0.5).trunc_().mul_(step).view(columns)
    x = (transposed @ x).add_(0.5).floor_().view(rows) @ inverse
    return x.add_(128.5).floor_().clamp_(0, 255).view(b, c, h, w).to(planes.dtype)
