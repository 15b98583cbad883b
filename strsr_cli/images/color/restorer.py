"""The colours that the networks see, and how what they add comes back into the picture's own.

Networks know sRGB's numbers. A picture in another colour space is shown to them in sRGB, clipped where
its colours are wider; only the difference between their answer and what they saw is taken back, and added
to an enlargement that never left the picture's own space: so wide colours stay, and nothing shifts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.nn import functional as F

from strsr_models.tiling.enlargement import Enlargement

from ..picture import Picture
from .floats import has_highlights

STEP = 5  # of 255 between the nodes of a table
BAND = 256  # rows that go through a table at a time
VISIBLE = 1 / 32  # opacity from which on a pixel's colour counts as its own
ALL = slice(None)


def network_input(picture: Picture, rows: slice = ALL, columns: slice = ALL) -> Tensor:
    """Return what the networks see of a picture, or of a rectangle of it: (1, 3, h, w) in [0, 1], sRGB."""
    color = to_tensor(picture.color[rows, columns]).clamp(0, 1)
    space = space_of(picture)
    if space is not None:
        color = space.to_srgb(color)
    return color.expand(-1, 3, -1, -1)


def srgb8(picture: Picture) -> np.ndarray:
    """Return what the networks see of a picture's colours as (h, w, 3) uint8, without alpha."""
    if space_of(picture) is None:
        return picture.rgb8()
    height, width = picture.color.shape[:2]
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, BAND):
        rows = slice(top, top + BAND)
        pixels[rows] = to_pixels(network_input(picture, rows).clamp(0, 1), pixels.dtype)
    return pixels


@dataclass(frozen=True)
class ColorRestorer:
    """A picture's own colours, enlarged, with what a network adds to them, some rows at a time.

    target: (height, width) of the output.
    """

    picture: Picture
    target: tuple[int, int]

    @functools.cached_property
    def enlargement(self) -> Enlargement:
        """The plain enlargement of the picture to the output's size."""
        height, width = self.picture.color.shape[:2]
        return Enlargement((height, width), self.target)

    @property
    def channels(self) -> int:
        """The number of channels of the output, alpha included."""
        color = int(self.picture.color.shape[2])
        return color if self.picture.alpha is None else color + 1

    @property
    def direct(self) -> bool:
        """Whether the network's answer is the output, rounded: it saw the picture's own numbers."""
        return self.picture.color.dtype == np.uint8 and space_of(self.picture) is None

    @functools.cached_property
    def highlights(self) -> bool:
        """Whether the picture has colours outside of [0, 1], which a plain enlargement would ring around."""
        return has_highlights(self.picture.color)

    def keep_needed(self, hq: Tensor) -> Tensor:
        """Reduce the network's rows (1, 3, n, W) in [0, 1] to what has to be kept for `output_rows`."""
        if self.picture.color.shape[2] == 1:
            hq = hq.mean(1, keepdim=True)
        return (255 * hq).round_().to(torch.uint8) if self.direct else hq

    def output_rows(self, top: int, rows: Tensor) -> np.ndarray:
        """Return rows of the output from `top` on: (n, W, channels) of the picture's own type.

        rows: the network's, as `keep_needed` has left them.
        """
        dtype = self.picture.color.dtype
        parts = [rows if self.direct else self._restore_colors(top, rows)]
        if self.picture.alpha is not None:
            alpha = self.picture.alpha
            parts.append(self._enlarge(top, rows, lambda place: to_tensor(alpha[place])).clamp(0, 1))
        pixels = [to_pixels(part, dtype) for part in parts]
        return pixels[0] if len(pixels) == 1 else np.concatenate(pixels, axis=2)

    def _restore_colors(self, top: int, hq: Tensor) -> Tensor:
        """Add the difference between the network's answer and its input to the enlarged own colours."""
        space = space_of(self.picture)
        channels = self.picture.color.shape[2]
        floats = self.picture.color.dtype == np.float32
        if space is None and not floats:
            return hq
        own = self._enlarge(top, hq, self._own_colors)
        shown = self._enlarge(top, hq, lambda place: network_input(self.picture, *place)[:, :channels])
        shown = shown.clamp(0, 1)
        if not floats:
            own = own.clamp(0, 1)
        if space is not None:
            hq = space.from_srgb(hq)
            shown = space.from_srgb(shown)
        restored = own + (hq - shown)
        if self.highlights:
            return self._within_neighbours(top, restored)
        # Numbers of another range were counts, which have a least and a largest.
        return restored if self.picture.white[0] == 1 else restored.clamp(0, 1)

    def _own_colors(self, place: tuple[slice, slice]) -> Tensor:
        """Return the picture's own colours (1, c, h, w) of a place, on the curve where it has highlights."""
        color = to_tensor(self.picture.color[place])
        return compress(color) if self.highlights else color

    def _within_neighbours(self, top: int, restored: Tensor) -> Tensor:
        """Take rows off the curve, and into the range of the input's pixels around each of theirs."""
        low, high = self.enlargement.extremes(
            lambda *place: to_tensor(self.picture.color[place]),
            slice(top, top + restored.shape[-2]),
            slice(0, self.target[1]),
        )
        return torch.minimum(torch.maximum(expand(restored), low), high)

    def _enlarge(self, top: int, like: Tensor, part: Callable[[tuple[slice, slice]], Tensor]) -> Tensor:
        """Enlarge rows from `top` on, as many as `like` has. part: gives (1, c, h, w) of a place."""
        rows = slice(top, top + like.shape[-2])
        columns = slice(0, self.target[1])
        return self.enlargement.crop(lambda *place: part(place), rows, columns)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Turn uint8 or uint16 pixels (h, w, c) into float32 (1, c, h, w) in [0, 1]; floats keep their values."""
    top = 1 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max
    return torch.from_numpy(pixels.astype(np.float32) / top).permute(2, 0, 1)[None].contiguous()


def to_pixels(image: Tensor, dtype: np.dtype) -> np.ndarray:
    """Round (1, c, h, w) in [0, 1] to integers (h, w, c) of a type; floats and uint8 keep their values."""
    planes = image[0].cpu().numpy()  # (c, h, w)
    values = np.empty((*planes.shape[1:], len(planes)), planes.dtype)
    # Plane by plane this takes a quarter of the time of one transposition.
    for channel, plane in enumerate(planes):
        values[..., channel] = plane
    if image.dtype == torch.uint8 or dtype == np.float32:
        return values
    top = np.iinfo(dtype).max
    return np.asarray(np.rint((values.astype(np.float64) * top).clip(0, top)), dtype)


# --- highlights ------------------------------------------------------------------------------------


def compress(values: Tensor) -> Tensor:
    """Bring values below 0 and above 1 near by a logarithm; those of [0, 1] stay, and so does the slope there."""
    high = 1 + torch.log(values.clamp(min=1))
    low = -torch.log1p(-values.clamp(max=0))
    return torch.where(values > 1, high, torch.where(values < 0, low, values))


def expand(values: Tensor) -> Tensor:
    """Undo `compress`."""
    high = torch.exp(values.clamp(min=1) - 1)
    low = -torch.expm1(-values.clamp(max=0))
    return torch.where(values > 1, high, torch.where(values < 0, low, values))


# --- transparency ----------------------------------------------------------------------------------


def fill_transparent(picture: Picture) -> Picture:
    """Put the colours around in place of those that a picture's transparency hides.

    Hidden colours are arbitrary, often black, and would bleed into the edge.
    """
    if picture.alpha is None:
        return picture
    color, alpha = to_tensor(picture.color), to_tensor(picture.alpha)
    return replace(picture, color=to_pixels(without_hidden(color, alpha), picture.color.dtype))


def without_hidden(color: Tensor, alpha: Tensor) -> Tensor:
    """Replace colours (1, c, h, w) by those around wherever alpha (1, 1, h, w) hides them."""
    weight = (alpha / VISIBLE).clamp(0, 1)
    if bool((weight == 1).all()) or not bool((weight > 0).any()):
        return color
    return weight * color + (1 - weight) * _surroundings(color * weight, weight)


def _surroundings(color: Tensor, weight: Tensor) -> Tensor:
    """Return weighted means of colours over the smallest surroundings with any weight.

    The image is halved until all of it has weight, and then enlarged again.
    """
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
    """A colour space other than sRGB, as two tables of n nodes a side: (3, n, n, n), or (1, n) for gray."""

    forward: Tensor
    backward: Tensor

    def to_srgb(self, color: Tensor) -> Tensor:
        """Convert colours (1, c, h, w) in [0, 1] from the space's own numbers to sRGB's."""
        bands = torch.split(color, BAND, dim=2)
        return torch.cat([_look_up(self.forward, rows) for rows in bands], dim=2)

    def from_srgb(self, color: Tensor) -> Tensor:
        """Convert colours (1, c, h, w) in [0, 1] from sRGB's numbers to the space's own."""
        return _look_up(self.backward, color)


def space_of(picture: Picture) -> Space | None:
    """Return the picture's space; None for sRGB, the space of pictures without a usable profile too."""
    return None if picture.icc is None else _space(picture.icc, picture.color.shape[2])


@functools.lru_cache(maxsize=8)
def _space(icc: bytes, channels: int) -> Space | None:
    """Return a profile's space; None for sRGB, and for a profile that is damaged or of other channels."""
    mode = "L" if channels == 1 else "RGB"
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(icc))
        if own.profile.xcolor_space.strip() != ("GRAY" if mode == "L" else "RGB"):
            return None
        srgb = ImageCms.createProfile("sRGB")
        forward = ImageCms.buildTransform(own, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
        table = _table(forward, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    same = _identity(table.ndim - 1, len(table), table.shape[-1])
    if (table - same).abs().max() <= 2 / 255:
        return None
    try:
        backward = ImageCms.buildTransform(srgb, own, "RGB", mode, ImageCms.Intent.RELATIVE_COLORIMETRIC)
        return Space(table, _table(backward, mode))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        # A scanner's table leads one way alone: what a network adds is added to its numbers as it is.
        return Space(table, same)


def _table(transform: ImageCms.ImageCmsTransform, mode: str) -> Tensor:
    """Tabulate a transform at every fifth of 256 numbers a channel, in [0, 1].

    The transform rounds to 8 bits. Nodes are means over them and their neighbours, so that rounding
    does not turn into steps of the slope, by which the network's detail is scaled.
    """
    nodes = np.arange(0, 256, STEP)
    # The first and the last node have no neighbours on one side, and are taken alone.
    inner = np.stack([nodes[1:-1] - 1, nodes[1:-1], nodes[1:-1] + 1], axis=1).flatten()
    axis = np.array([0, *inner, 255], np.uint8)
    if mode == "L":
        stacked = axis[None, :, None].repeat(3, 2)
    else:
        stacked = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(len(axis), -1, 3)
    image = Image.fromarray(stacked)
    if transform.input_mode == "L":
        image = image.getchannel(0)
    values = np.asarray(ImageCms.applyTransform(image, transform), np.uint16)
    if mode == "L":
        values = values[0] if values.ndim == 2 else values[0, :, 0]
        return torch.from_numpy(_node_means(values, 0) / 255)[None].float()
    values = values.reshape(len(axis), len(axis), len(axis), 3)
    for dim in range(3):
        values = _node_means(values, dim)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(3, 0, 1, 2)) / 255).float()


def _node_means(values: np.ndarray, dim: int) -> np.ndarray:
    """The means of each node and its two neighbours along an axis, whose ends are nodes without neighbours."""
    values = np.moveaxis(values, dim, 0)
    before, node, after = values[1:-1:3], values[2:-1:3], values[3:-1:3]
    means = np.concatenate([values[:1], (before + (node + after)) / 3, values[-1:]])
    return np.moveaxis(means, 0, dim)


def _identity(dims: int, channels: int, size: int) -> Tensor:
    """Return the table (channels, size, ...) of so many dimensions that leaves colours as they are."""
    axis = torch.linspace(0, 1, size)
    return torch.stack(torch.meshgrid(*[axis] * dims, indexing="ij")[:channels])


def _look_up(table: Tensor, color: Tensor) -> Tensor:
    """Look colours (1, c, h, w) in [0, 1] up in a table, linearly between its nodes."""
    if table.ndim == 2:
        place = color * (table.shape[-1] - 1)
        low = place.floor().clamp(0, table.shape[-1] - 2)
        left, right = table[0][low.long()], table[0][low.long() + 1]
        return left + (right - left) * (place - low)
    # `grid_sample` wants the coordinate of the table's last axis first.
    grid = (2 * color - 1).flip(1).permute(0, 2, 3, 1)[:, None]
    colors = F.grid_sample(table[None], grid, mode="bilinear", padding_mode="border", align_corners=True)
    return colors[:, :, 0]
