"""Pillow as a reader: kept quiet while it decodes, its images turned into gray or RGB pixels."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading
import warnings
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image

from ..color.icc import flaw_of
from ..metadata.blocks import Blocks
from ..metadata.directories import short_tag
from ..metadata.exif import ORIENTATION
from .avif import Aperture, read_aperture

log = logging.getLogger(__name__)

BAND = 256  # rows that are converted at a time


class QuietPillow:
    """Pillow without its limit and its warnings while any thread is inside: both are the whole process's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit = Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        _silence_libtiff()
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._limit = Image.MAX_IMAGE_PIXELS
                Image.MAX_IMAGE_PIXELS = None
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit
                self._warnings.__exit__(None, None, None)


@functools.cache
def _silence_libtiff() -> None:
    """Keep the libtiff inside of Pillow from writing to standard error, where it is a library of its own."""
    with contextlib.suppress(OSError, AttributeError, ImportError, TypeError):
        from PIL import _imaging

        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def load_pixels(file: BinaryIO, kind: str, name: str) -> tuple[np.ndarray, str]:
    """Decode a file to pixels, and name the mode that they had; Pillow's own copy of them is gone then.

    name: the file's, for warnings.
    """
    with Image.open(file, formats=(kind,)) as image:
        if kind == "TIFF":
            # By which Pillow would turn the pixels, where no tag does; that is decided elsewhere.
            image.info.pop("xmp", None)
        image.load()
        return pixels_of(image, name), image.mode


def blocks_of(image: Image.Image) -> Blocks:
    """Return what an image that Pillow has opened holds beside its pixels."""
    info = image.info
    # Readers of HEIC and JPEG XL turn images themselves, but for JPEGs within JPEG XL.
    turned = image.format == "HEIF" or (image.format == "JXL" and not getattr(image, "jpeg", False))
    blocks = Blocks(upright=turned)
    blocks.take_exif(info.get("exif"))
    blocks.take_xmp(info.get("xmp"))
    if image.format in ("JPEG", "MPO"):
        # Pillow's own "dpi" may be of one side only, or made up.
        factor = {1: 1.0, 2: 2.54}.get(info.get("jfif_unit", 0))
        if factor is not None:
            blocks.dpi = tuple(value * factor for value in info["jfif_density"])
        blocks.centimetres = info.get("jfif_unit") == 2
    else:
        blocks.dpi = info.get("dpi")
    if image.format == "GIF":
        blocks.comment = info.get("comment")
    if image.format == "AVIF":
        _restore_exif(blocks, image)
    return blocks


def _restore_exif(blocks: Blocks, image: Image.Image) -> None:
    """Take the file's own EXIF, with the orientation that its boxes state: Pillow writes all of it anew."""
    decoder = getattr(image, "_decoder", None)
    if blocks.exif is None or decoder is None:
        return
    stated = blocks.exif.number(ORIENTATION)
    own = decoder.get_info()[4]
    if own and own != image.info["exif"]:
        blocks.take_exif(own)
        if blocks.exif is not None:
            blocks.exif.first.tags[ORIENTATION] = short_tag(int(stated or 1), blocks.exif.order)


def pixels_of(image: Image.Image, name: str, gray: bool = False) -> np.ndarray:
    """Return pixels (h, w[, c]) of a loaded image, with the channels gray, gray-alpha, RGB or RGBA.

    name: the file's, for warnings. gray: whether its channels of colour are known to be equal.
    """
    if image.mode in ("F", "I;16"):
        return np.asarray(image)
    if image.mode == "I":
        raise ValueError("pixels of 32-bit integers; save it with 8 or 16 bits, or as 32-bit floats")
    if image.mode == "CMYK":
        image = _from_cmyk(image, name)
    has_alpha = image.has_transparency_data
    if gray or image.mode in ("1", "L", "LA", "La"):
        mode = "LA" if has_alpha else "L"
    else:
        mode = "RGBA" if has_alpha else "RGB"
    pixels = _convert(image, mode)
    # A BMP's fourth byte that is 0 everywhere has no meaning: every viewer shows such files opaque.
    if has_alpha and image.format == "BMP" and not pixels[..., -1].any():
        return np.ascontiguousarray(pixels[..., :-1])
    if image.mode in ("P", "PA") and _all_gray(pixels):
        return pixels[..., [0, 3]] if has_alpha else pixels[..., 0]
    return pixels


def _all_gray(pixels: np.ndarray) -> bool:
    """Whether no pixel (h, w, 3 or 4) has a colour, looked at some rows at a time."""
    bands = np.array_split(pixels, len(pixels) // BAND + 1)
    return all((rows[..., :3] == rows[..., :1]).all() for rows in bands)


def _convert(image: Image.Image, mode: str) -> np.ndarray:
    """Convert pixels to another mode, some rows at a time: Pillow and numpy would each copy the whole."""
    shape = (image.height, image.width, len(mode))[: 2 if mode == "L" else 3]
    pixels = np.empty(shape, np.uint8)
    for top in range(0, image.height, BAND):
        bottom = min(top + BAND, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)).convert(mode))
    return pixels


def _from_cmyk(image: Image.Image, name: str) -> Image.Image:
    """Convert inks to sRGB by their profile; without one that can be used, by Pillow's plain arithmetic."""
    from PIL import ImageCms

    if icc := image.info.get("icc_profile"):
        try:
            if flaw := flaw_of(icc):
                raise ValueError(flaw)
            srgb = ImageCms.createProfile("sRGB")
            inks = ImageCms.ImageCmsProfile(BytesIO(icc))
            faithful = ImageCms.Intent.RELATIVE_COLORIMETRIC
            if converted := ImageCms.profileToProfile(image, inks, srgb, faithful, outputMode="RGB"):
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            log.warning(
                "%s: its colour profile cannot be used, its inks are converted by plain arithmetic: %s",
                name,
                error,
            )
    return image.convert("RGB")


def view_of(image: Image.Image, file: BinaryIO) -> Aperture:
    """Return the part of an image that is to be seen, and the shape of its pixels, by what its open file says."""
    if image.format == "AVIF" and getattr(image, "n_frames", 1) == 1:
        return read_aperture(file, *image.size)
    across, down = 1, 1
    if image.info.get("jfif_unit") == 0:
        down, across = image.info.get("jfif_density", (1, 1))
    elif image.format == "GIF":
        file.seek(12)
        # 64 times a pixel's width to its height, less 15; 0 says nothing.
        across, down = (int.from_bytes(file.read(1), "big") or 49) + 15, 64
    return Aperture(shape=(across, down)) if across > 0 and down > 0 else Aperture()


def warn_of_view(name: str, view: Aperture) -> None:
    """Warn of what an image says of its view that is not followed."""
    across, down = view.shape
    if across != down:
        log.warning(
            "%s: its pixels are not square (%d wide to %d high); they are enlarged as they are, so stretch the output",
            name,
            across,
            down,
        )
    if view.odd:
        log.warning("%s: its crop does not lie in the image by whole pixels: the whole image is used", name)
