"""What the networks see of colours, and how what they add comes back into the picture's own.

Networks know sRGB's numbers. A picture in another colour space is shown to them in sRGB, clipped where
its colours are wider; of their answer only the difference to what they saw is taken back, and added to
an enlargement that never left the picture's own space: so wide colours stay, and nothing shifts.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.nn import functional as F

from strsr_models.pipelines.base import enlarge

from .images import Picture

log = logging.getLogger(__name__)

STEP = 5  # of 255 between the nodes of a table
BAND = 256  # rows that go through a table at a time
VISIBLE = 1 / 32  # opacity from which on a pixel's colour counts as its own


def network_input(picture: Picture) -> Tensor:
    """(1, 3, h, w) in [0, 1], sRGB: what the networks see of a picture."""
    color = own_color(picture).clamp(0, 1)
    space = space_of(picture)
    if space is not None:
        color = space.to_srgb(color)
    return color.expand(-1, 3, -1, -1)


def restored_color(picture: Picture, lq: Tensor, hq: Tensor) -> Tensor:
    """(1, 1 or 3, H, W) in the picture's own space.

    lq: `network_input(picture)`. hq (1, 3, H, W): what the network made of it.
    """
    height, width = hq.shape[-2:]
    gray = picture.color.shape[2] == 1
    if gray:
        lq, hq = lq[:, :1], hq.mean(1, keepdim=True)
    space = space_of(picture)
    if space is None and picture.color.dtype != np.float32:
        return hq
    own = own_color(picture)
    low = F.interpolate(own, (height, width), mode="bicubic", align_corners=False)
    if picture.color.dtype != np.float32:
        low = low.clamp(0, 1)
    seen = enlarge(lq, height, width)
    for top in range(0, height, BAND):
        rows = slice(top, top + BAND)
        after, before = hq[..., rows, :], seen[..., rows, :]
        if space is not None:
            after, before = space.from_srgb(after), space.from_srgb(before)
        low[..., rows, :] += after - before
    return low


def own_color(picture: Picture) -> Tensor:
    """(1, c, h, w) of the picture's own numbers, those of transparent pixels replaced."""
    color = to_tensor(picture.color)
    return color if picture.alpha is None else without_hidden(color, to_tensor(picture.alpha))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(h, w, c) uint8 or uint16 -> float32 (1, c, h, w) in [0, 1]; float32 as it is."""
    top = 1 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max
    return torch.from_numpy(pixels.astype(np.float32) / top).permute(2, 0, 1)[None].contiguous()


# --- transparency ----------------------------------------------------------------------------------


def without_hidden(color: Tensor, alpha: Tensor) -> Tensor:
    """color (1, c, h, w) with the colours around wherever alpha (1, 1, h, w) hides its own.

    What lies under full transparency is arbitrary, often black, and would bleed into the edge.
    """
    weight = (alpha / VISIBLE).clamp(0, 1)
    if bool((weight == 1).all()) or not bool((weight > 0).any()):
        return color
    return weight * color + (1 - weight) * _surroundings(color * weight, weight)


def _surroundings(color: Tensor, weight: Tensor) -> Tensor:
    """Weighted means of colours, over as little as has any weight: halved until all has, then back."""
    known = color / weight.clamp(min=1e-6)
    if min(color.shape[-2:]) == 1 and max(color.shape[-2:]) == 1:
        return known
    half = functools.partial(F.avg_pool2d, kernel_size=2, ceil_mode=True, count_include_pad=False)
    sums = half(weight)
    # The coarser level counts each of its pixels as known as soon as one of four is.
    coarse = _surroundings(half(color) / sums.clamp(min=1e-6) * (sums > 0), (sums > 0).float())
    coarse = F.interpolate(coarse, color.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(weight > 0, known, coarse)


# --- colour spaces ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """A colour space beside sRGB as two tables of n nodes a side: (3, n, n, n), of gray ones (1, n)."""

    forward: Tensor
    backward: Tensor

    def to_srgb(self, color: Tensor) -> Tensor:
        """(1, c, h, w) in [0, 1], its own numbers to sRGB's."""
        bands = torch.split(color, BAND, dim=2)
        return torch.cat([_look_up(self.forward, rows) for rows in bands], dim=2)

    def from_srgb(self, color: Tensor) -> Tensor:
        """The way back."""
        return _look_up(self.backward, color)


def space_of(picture: Picture) -> Space | None:
    """The picture's space; None for sRGB, which is also what pictures without a profile are in."""
    return None if picture.icc is None else _space(picture.icc, picture.color.shape[2])


@functools.lru_cache(maxsize=8)
def _space(icc: bytes, channels: int) -> Space | None:
    """None for a profile that says sRGB, cannot be read, or belongs to other channels."""
    mode = "L" if channels == 1 else "RGB"
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(icc))
        if own.profile.xcolor_space.strip() != ("GRAY" if mode == "L" else "RGB"):
            raise ValueError(f"it is for {own.profile.xcolor_space.strip()}")
        srgb = ImageCms.createProfile("sRGB")
        there = ImageCms.buildTransform(own, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
        back = ImageCms.buildTransform(srgb, own, "RGB", mode, ImageCms.Intent.RELATIVE_COLORIMETRIC)
        space = Space(_table(there, mode), _table(back, mode))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        log.warning("a colour profile cannot be used, its numbers are taken as sRGB's: %s", error)
        return None
    same = _identity(space.forward.ndim - 1, len(space.forward), space.forward.shape[-1])
    return None if (space.forward - same).abs().max() <= 2 / 255 else space


def _table(transform: ImageCms.ImageCmsTransform, mode: str) -> Tensor:
    """A transform at every fifth of 256 numbers a channel, in [0, 1].

    The transform rounds to 8 bits. Nodes are means over them and their neighbours, so that rounding
    does not turn into steps of the slope, by which the network's detail is scaled.
    """
    nodes = [n + d for n in range(0, 256, STEP) for d in ((0,) if n in (0, 255) else (-1, 0, 1))]
    starts = np.cumsum([0] + [1 if n in (0, 255) else 3 for n in range(0, 256, STEP)])
    axis, counts = np.array(nodes, np.uint8), np.diff(starts)
    if mode == "L":
        stacked = axis[None, :, None].repeat(3, 2)
    else:
        stacked = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(len(axis), -1, 3)
    image = Image.fromarray(stacked)
    if transform.input_mode == "L":
        image = image.getchannel(0)
    values = np.asarray(ImageCms.applyTransform(image, transform), np.float64)
    if mode == "L":
        values = values[0] if values.ndim == 2 else values[0, :, 0]
        return torch.from_numpy(np.add.reduceat(values, starts[:-1]) / counts / 255)[None].float()
    values = values.reshape(len(axis), len(axis), len(axis), 3)
    for dim in range(3):
        shape = [-1 if d == dim else 1 for d in range(4)]
        values = np.add.reduceat(values, starts[:-1], axis=dim) / counts.reshape(shape)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(3, 0, 1, 2)) / 255).float()


def _identity(dims: int, channels: int, size: int) -> Tensor:
    axis = torch.linspace(0, 1, size)
    return torch.stack(torch.meshgrid(*[axis] * dims, indexing="ij")[:channels])


def _look_up(table: Tensor, color: Tensor) -> Tensor:
    """color (1, c, h, w) in [0, 1] through a table, linearly between its nodes."""
    if table.ndim == 2:
        place = color * (table.shape[-1] - 1)
        low = place.floor().clamp(0, table.shape[-1] - 2)
        left, right = table[0][low.long()], table[0][low.long() + 1]
        return left + (right - left) * (place - low)
    grid = (2 * color - 1).flip(1).permute(0, 2, 3, 1)[:, None]  # the last axis of the table comes first
    found = F.grid_sample(table[None], grid, mode="bilinear", padding_mode="border", align_corners=True)
    return found[:, :, 0]
