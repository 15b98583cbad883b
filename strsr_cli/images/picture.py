"""Pixels in memory: the Picture, its bit depths, its transparency, its orientation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from .metadata.carried import Metadata

HIDDEN_LEAST = 0.01  # share of a picture's pixels: fewer that are hidden change no measure of it


@dataclass(frozen=True)
class Picture:
    """Decoded pixels, upright.

    color: (h, w, 3), or (h, w, 1) for gray pictures; uint8, uint16, or float32 near [0, 1]. alpha:
    (h, w, 1) of the same type, or None. icc: the colour profile's bytes, or None; always one of these
    channels. format: Pillow's name, such as "PNG". white: the numbers that were 1 in the file, of colours
    and of alpha; files of floats get them back. color_chunks: (type, body) of the chunks by which a PNG
    states the same colours as the profile.
    """

    color: np.ndarray
    alpha: np.ndarray | None
    icc: bytes | None
    format: str
    metadata: Metadata = field(default_factory=Metadata)
    white: tuple[float, float] = (1.0, 1.0)
    color_chunks: tuple[tuple[bytes, bytes], ...] = ()

    def rgb8(self) -> np.ndarray:
        """Return the colours as (h, w, 3) uint8, without alpha."""
        color = to_8bit(self.color)
        return np.broadcast_to(color, (*color.shape[:2], 3))


def reduced_picture(picture: Picture, size: tuple[int, int]) -> Picture:
    """Reduce a picture to (height, width) px by Pillow's Lanczos filter, channel by channel, in its own type."""
    alpha = None if picture.alpha is None else _reduced(picture.alpha, size)
    return replace(picture, color=_reduced(picture.color, size), alpha=alpha)


def _reduced(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Reduce pixels (h, w, c) to (height, width, c)."""
    # Pillow resizes bytes and floats, one channel at a time.
    whole = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(whole, 2, 0)]
    smaller = np.stack(
        [np.asarray(channel.resize(size[::-1], Image.Resampling.LANCZOS)) for channel in channels], axis=-1
    )
    if smaller.dtype == pixels.dtype:
        return smaller
    return np.asarray(np.rint(smaller).clip(0, np.iinfo(pixels.dtype).max), pixels.dtype)


def split_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Split pixels (h, w[, c]) of 1 to 4 channels into colour (h, w, 1 or 3) and alpha (h, w, 1) or None."""
    if pixels.ndim == 2:
        return pixels[..., None], None
    if pixels.shape[2] in (2, 4):
        return pixels[..., :-1], pixels[..., -1:]
    return pixels, None


def visible_color(color: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Return colours (h, w, c) with one flat colour wherever alpha (h, w, 1) hides them wholly: their visible mean.

    What nobody sees is arbitrary, and no measure of the picture should count it. Where less than HIDDEN_LEAST of the
    picture is hidden, colours are returned as they are.
    """
    if alpha is None:
        return color
    hidden = alpha[..., 0] <= 0
    share = float(hidden.mean())
    if share < HIDDEN_LEAST:
        return color
    mean = color[~hidden].mean(0, dtype=np.float64) if share < 1 else np.zeros(color.shape[2])
    if color.dtype != np.float32:
        mean = np.rint(mean)
    return np.where(hidden[..., None], mean.astype(color.dtype), color)


def to_8bit(pixels: np.ndarray) -> np.ndarray:
    """Round uint16, or floats near [0, 1], to uint8; uint8 is returned as it is."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return np.asarray((pixels.astype(np.uint32) * 255 + 32_767) // 65_535, np.uint8)
    return np.asarray(np.rint(pixels.clip(0, 1) * 255), np.uint8)


def to_16bit(pixels: np.ndarray) -> np.ndarray:
    """Round floats near [0, 1] to uint16; integers are returned as they are."""
    if pixels.dtype != np.float32:
        return pixels
    return np.rint(pixels.clip(0, 1) * np.float64(65_535)).astype(np.uint16)


def apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright. orientation: EXIF's, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def swap_red_blue(pixels: np.ndarray) -> np.ndarray:
    """Change pixels (h, w, 3 or 4) between OpenCV's order and ours, in place: a copy may be gigabytes."""
    for top in range(0, len(pixels), 64):
        rows = pixels[top : top + 64]
        rows[..., [0, 2]] = rows[..., [2, 0]]
    return pixels
