"""What `upscale` takes and returns: Pillow images, arrays and files as Pictures, and pixels as what came in."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from strsr_cli.images.codecs.pillow_reader import blocks_of, pixels_of
from strsr_cli.images.codecs.pillow_writer import pillow_metadata
from strsr_cli.images.color.floats import scale_to_white
from strsr_cli.images.formats import FORMAT_BY_SUFFIX
from strsr_cli.images.metadata.blocks import collect
from strsr_cli.images.metadata.carried import Metadata
from strsr_cli.images.picture import Picture, split_alpha, to_8bit
from strsr_cli.images.read import make_picture, read_image
from strsr_cli.images.rows import RowLayout
from strsr_cli.images.write import whites_of
from strsr_models.errors import ImageError, UsageError, nearest

log = logging.getLogger(__name__)

ARRAYS = "uint8, uint16, float16, float32 or float64"
FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Given:
    """A picture as it was given. name: what messages call it.

    give_back: makes the answer, of the kind that was given, of a layout and its pixels (h, w, channels).
    """

    picture: Picture
    name: str
    give_back: Callable[[RowLayout, np.ndarray], Any]


def picture_of(image: object, max_pixels: int) -> Given:
    """Take a Pillow image, an array, or the path of a file, of at most `max_pixels`.

    Raises UsageError for anything else, and ImageError for an image that cannot be used.
    """
    if isinstance(image, Image.Image):
        return given_image(image)
    if isinstance(image, np.ndarray):
        return given_array(image)
    if isinstance(image, str | os.PathLike):
        return given_file(Path(image), max_pixels)
    raise UsageError(
        f"cannot enlarge a {type(image).__name__}: give a path, a Pillow image, a NumPy array (h, w, c) or a "
        "tensor (3, h, w)"
    )


def given_file(path: Path, max_pixels: int) -> Given:
    """Read a file as the command does; the answer is a Pillow image. Raises ImageError."""
    if path.is_dir():
        raise ImageError(
            f"{path}: is a folder; enlarge its files one by one, or by the command strsr upscale"
        )
    return Given(read_image(path, max_pixels), str(path), image_of)


# --- Pillow ----------------------------------------------------------------------------------------


def given_image(image: Image.Image) -> Given:
    """Take a Pillow image of any mode that the command reads; it is turned upright. Raises ImageError."""
    name = str(getattr(image, "filename", "") or "the image")
    if 0 in image.size:
        raise ImageError(f"{name}: has no pixels ({image.width}x{image.height})")
    try:
        image.load()
        pixels, white = _pixels_of_image(image, name)
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be used: {error}") from error
    blocks = blocks_of(image)
    picture = make_picture(
        pixels,
        orientation=blocks.orientation,
        icc=None if image.mode == "CMYK" else image.info.get("icc_profile"),
        kind=image.format or "",
        metadata=collect(blocks, name),
        name=name,
        white=white,
    )
    return Given(picture, name, image_of)


def _pixels_of_image(image: Image.Image, name: str) -> tuple[np.ndarray, tuple[float, float]]:
    """Return pixels (h, w[, c]) of a loaded image, and what was white where they are floats."""
    if image.mode.startswith("I;16"):
        # Of either order of bytes.
        return np.asarray(image).astype(np.uint16), (1.0, 1.0)
    pixels = pixels_of(image, name)
    if image.mode != "F":
        return pixels, (1.0, 1.0)
    pixels = pixels.copy()
    return pixels, scale_to_white(pixels, has_alpha=False)


def image_of(layout: RowLayout, pixels: np.ndarray) -> Image.Image:
    """Return pixels as a Pillow image: L, LA, RGB, RGBA, I;16 or F, with profile and metadata in `info`.

    Pillow has no mode for deep colours: these are rounded to 8 bits, which is said in a warning.
    """
    if pixels.dtype != np.uint8 and layout.channels > 1:
        log.warning(
            "%s: Pillow holds no colours of %d bits, the image has 8; name an output=, or give an array",
            layout.metadata.name or "the image",
            8 * pixels.dtype.itemsize,
        )
        pixels = to_8bit(pixels)
    elif pixels.dtype == np.float32:
        pixels = _with_white(layout, pixels)
    image = Image.fromarray(pixels[..., 0] if layout.channels == 1 else pixels)
    info = pillow_metadata(layout, "PNG")
    if "exif" in info:
        # As Pillow's own readers leave it.
        info["exif"] = b"Exif\0\0" + info["exif"]
    image.info.update({key: value for key, value in info.items() if value is not None})
    return image


# --- NumPy -----------------------------------------------------------------------------------------


def given_array(array: np.ndarray) -> Given:
    """Take an array (h, w) or (h, w, 1 to 4); the answer has the same type and number of dimensions.

    Channels are gray, gray and alpha, RGB, or RGB and alpha. Raises UsageError for arrays of other kinds,
    and ImageError for floats that are not finite.
    """
    shape = "x".join(map(str, array.shape))
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (2,), (3,), (4,)):
        hint = "; move its channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise UsageError(f"an array of {shape}: use (h, w) or (h, w, c) with 1 to 4 channels{hint}")
    if array.size == 0:
        raise UsageError(f"an array of {shape}: has no pixels")
    if array.dtype.name not in ("uint8", "uint16", *FLOATS):
        raise UsageError(f"an array of {array.dtype}: use {ARRAYS}")
    pixels, white = array[..., None] if array.ndim == 2 else array, (1.0, 1.0)
    if array.dtype.name in FLOATS:
        pixels = pixels.astype(np.float32)
        try:
            white = scale_to_white(pixels, has_alpha=pixels.shape[2] in (2, 4))
        except ValueError as error:
            raise ImageError(f"the array: {error}") from error
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))
    color, alpha = split_alpha(pixels)

    def give_back(layout: RowLayout, large: np.ndarray) -> np.ndarray:
        large = _with_white(layout, large) if large.dtype == np.float32 else large
        return np.asarray(large[..., 0] if array.ndim == 2 else large, array.dtype)

    metadata = Metadata(size=(array.shape[0], array.shape[1]))
    picture = Picture(color, alpha, icc=None, format="", metadata=metadata, white=white)
    return Given(picture, "the array", give_back)


def _with_white(layout: RowLayout, pixels: np.ndarray) -> np.ndarray:
    """Return floats with the white that their input had."""
    white = whites_of(layout)
    return pixels if white is None else pixels * white


# --- outputs ---------------------------------------------------------------------------------------


def output_kind(path: Path, image: object) -> str:
    """Return the format that a file's name asks for, a key of OUTPUT_FORMATS.

    Raises UsageError for a name without one, and for the file that `image` names.
    """
    if isinstance(image, str | os.PathLike) and path.exists() and path.samefile(image):
        raise UsageError(f"output {path}: is the image itself; give it another name")
    kind = FORMAT_BY_SUFFIX.get(path.suffix.lower())
    if kind is None:
        raise UsageError(
            f"output {path}: {path.suffix or 'no suffix'} is no format that is written; "
            f"{nearest(path.suffix.lower(), FORMAT_BY_SUFFIX)}"
        )
    return kind


def layout_without_metadata(layout: RowLayout) -> RowLayout:
    """Return a layout whose pixels alone, with their colours, are kept."""
    return replace(layout, metadata=Metadata())
