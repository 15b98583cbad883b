"""A cut-out of a picture before and after, small enough for a page: where it lies, and its pixels as data URIs.

Where it lies is decided by the input alone, so that it is not chosen to flatter.
"""

from __future__ import annotations

import base64
import math
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from strsr_models.errors import ImageError

from ..images.picture import Picture, to_8bit
from ..images.read import read_frame, read_image, read_size, without_remarks
from ..system.memory import memory
from .entries import Detail

WIDTH, HEIGHT = 560, 420  # px of an output that are shown
WHOLE = 160  # px: the longer side of the whole input
QUALITY = 92  # of the JPEGs on the page, without chroma subsampling
# Bytes of one image; where it is larger, the quality is lowered until it is not.
MOST_BYTES, LEAST_QUALITY = 160_000, 20
LOOKED_AT = 512  # px: the longer side of what contours are looked for in
CLIP = 48  # of 255: stronger contours count as these, lest one black line outdo a face
MEMORY_PER_PIXEL = 12  # bytes that decoding takes


@dataclass(frozen=True)
class Region:
    """A rectangle of an image in whole px."""

    left: int
    top: int
    width: int
    height: int

    @property
    def rows(self) -> slice:
        """Its rows in an array."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Its columns in an array."""
        return slice(self.left, self.left + self.width)


def make_detail(source: Path, target: Path, frame: int | None) -> Detail:
    """Read an input and its output back, and cut the same part out of both.

    frame: the number, from 1, of a frame or page of the input. Raises ImageError where one cannot be read, or takes
    more memory than is free.
    """
    with without_remarks(True):
        _check_memory(source, frame)
        before = read_image(source, sys.maxsize) if frame is None else read_frame(source, frame, sys.maxsize)
        height, width = before.color.shape[:2]
        to_height, to_width = _check_memory(target, None)
        if not _same_shape((width, height), (to_width, to_height)):
            raise ImageError(f"{target}: is not an enlargement of {source}")
        own = liveliest(
            before,
            min(width, math.ceil(WIDTH * width / to_width)),
            min(height, math.ceil(HEIGHT * height / to_height)),
        )
        shown = flat(before, own)
        whole = thumbnail(before)
        enlarged = enlarge(before, own, (to_width / width, to_height / height))
        region = scaled(own, to_width / width, to_height / height)
        # One picture at a time is in memory.
        del before
        after = flat(read_image(target, sys.maxsize), region)
    return Detail(
        size=(region.width, region.height),
        own=(own.width, own.height),
        box=(own.left / width, own.top / height, own.width / width, own.height / height),
        input=lossless_uri(shown),
        bicubic=jpeg_uri(enlarged),
        output=jpeg_uri(after),
        whole=whole,
    )


def _check_memory(path: Path, frame: int | None) -> tuple[int, int]:
    """Return an image's (height, width) in px. Raises ImageError where it does not fit the free memory."""
    height, width = read_size(path, sys.maxsize, frame)
    free = memory().free
    if free is not None and height * width * MEMORY_PER_PIXEL > free:
        raise ImageError(f"{path}: too large to be read back into the memory that is free")
    return height, width


def _same_shape(size: tuple[int, int], to_size: tuple[int, int]) -> bool:
    """Whether an output of that (width, height) may be an enlargement of an input of the other."""
    scale = max(to_size[0] / size[0], to_size[1] / size[1])
    return all(abs(side * scale - to_side) <= scale + 1 for side, to_side in zip(size, to_size, strict=True))


def scaled(region: Region, across: float, down: float) -> Region:
    """Return the same part of the image in one that is so many times larger."""
    left, top = round(region.left * across), round(region.top * down)
    right = round((region.left + region.width) * across)
    bottom = round((region.top + region.height) * down)
    return Region(left, top, right - left, bottom - top)


def liveliest(picture: Picture, width: int, height: int) -> Region:
    """Return the part of a picture, of that size in px, in which contours are most; the middle where all are alike."""
    whole_height, whole_width = picture.color.shape[:2]
    step = max(1, math.ceil(max(whole_height, whole_width) / LOOKED_AT))
    gray = to_8bit(picture.color[::step, ::step]).mean(axis=2)
    contours = np.zeros_like(gray)
    contours[:, 1:] += np.minimum(np.abs(np.diff(gray, axis=1)), CLIP)
    contours[1:] += np.minimum(np.abs(np.diff(gray, axis=0)), CLIP)
    if picture.alpha is not None:
        contours *= picture.alpha[::step, ::step, 0] > 0
    sums = np.pad(contours.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    high = min(max(1, height // step), gray.shape[0])
    wide = min(max(1, width // step), gray.shape[1])
    inside = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    y, x = (np.linspace(-1, 1, side) if side > 1 else np.zeros(1) for side in inside.shape)
    # What lies in the middle is what the picture is of.
    inside = (inside + 1e-3) * (1 - 0.25 * np.maximum(np.abs(y)[:, None], np.abs(x)[None]))
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return Region(
        min(int(left) * step, whole_width - width), min(int(top) * step, whole_height - height), width, height
    )


def flat(picture: Picture, region: Region) -> Image.Image:
    """Return a part of a picture in sRGB, 8 bits, on white where it is transparent."""
    # PyTorch comes with it, which a run with nothing to do need not load.
    from ..images.color.restorer import network_input, to_pixels, to_tensor

    color = network_input(picture, region.rows, region.columns)
    if picture.alpha is not None:
        alpha = to_tensor(picture.alpha[region.rows, region.columns]).clamp(0, 1)
        color = alpha * color + (1 - alpha)
    return Image.fromarray(to_pixels(color, np.dtype(np.uint8)))


def enlarge(picture: Picture, region: Region, scale: tuple[float, float]) -> Image.Image:
    """Return a part of a picture enlarged by Pillow's bicubic, which sees what lies around it, too."""
    height, width = picture.color.shape[:2]
    left, top = max(0, region.left - 4), max(0, region.top - 4)
    right = min(width, region.left + region.width + 4)
    bottom = min(height, region.top + region.height + 4)
    around = flat(picture, Region(left, top, right - left, bottom - top))
    target = scaled(region, *scale)
    x, y = region.left - left, region.top - top
    return around.resize(
        (target.width, target.height),
        Image.Resampling.BICUBIC,
        box=(x, y, x + region.width, y + region.height),
    )


def thumbnail(picture: Picture) -> str:
    """Return the whole picture, small, as a data URI."""
    height, width = picture.color.shape[:2]
    # Larger pictures are thinned out first; Pillow's filter sees enough of the rest.
    step = max(1, max(height, width) // (4 * WHOLE))
    thin = Picture(
        picture.color[::step, ::step],
        None if picture.alpha is None else picture.alpha[::step, ::step],
        icc=picture.icc,
        format=picture.format,
    )
    image = flat(thin, Region(0, 0, thin.color.shape[1], thin.color.shape[0]))
    image.thumbnail((WHOLE, WHOLE), Image.Resampling.BICUBIC)
    return jpeg_uri(image, 80)


def jpeg_uri(image: Image.Image, quality: int = QUALITY) -> str:
    """Return an image as the data URI of a JPEG of at most MOST_BYTES, unless its quality would be too low."""
    while True:
        buffer = BytesIO()
        # Optimised tables would save little, and Pillow fails to write noise with them.
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
        if buffer.tell() <= MOST_BYTES or quality <= LEAST_QUALITY:
            return data_uri("jpeg", buffer.getvalue())
        quality -= 10


def lossless_uri(image: Image.Image) -> str:
    """Return an image as the data URI of a PNG; as one of a JPEG where that would be large."""
    buffer = BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return data_uri("png", buffer.getvalue()) if buffer.tell() <= MOST_BYTES else jpeg_uri(image, 95)


def data_uri(kind: str, data: bytes) -> str:
    """Return the bytes of an image file as a URI that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
