"""Pixels -> files: what a format cannot hold is brought to what it can, before it is encoded."""

from __future__ import annotations

import logging
from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from strsr_models.errors import ImageError

from .formats import OUTPUT_FORMATS, check_fits
from .images import Picture, to_8bit
from .metadata import Metadata, packed, parse_exif
from .png import XMP_KEYWORD, encode_deep_png
from .tiff import encode_tiff

log = logging.getLogger(__name__)

JPEG_SEGMENT = {"EXIF": 65_527, "XMP": 65_504}  # bytes that one of JPEG's segments can hold


def encode_image(picture: Picture, kind: str, quality: int) -> bytes:
    """The bytes of an image file of format `kind`, a key of OUTPUT_FORMATS.

    quality: 1 to 100, for JPEG and AVIF (both always 4:4:4) and WebP. What a format cannot hold is
    brought to what it can: floats to 16 bits, 16 bits to 8, transparency onto white. Raises ImageError
    when the image is too large for it.
    """
    form = OUTPUT_FORMATS[kind]
    height, width = picture.color.shape[:2]
    check_fits(kind, height, width)
    if picture.alpha is not None and not form.alpha:
        picture = replace(picture, color=_onto_white(picture.color, picture.alpha), alpha=None)
    change = (lambda pixels: pixels) if kind == "tif" else to_16bit if form.deep else to_8bit
    pixels = change(picture.color)
    if picture.alpha is not None:
        pixels = np.concatenate([pixels, change(picture.alpha)], axis=2)
    try:
        if kind == "tif":
            return encode_tiff(pixels, picture.icc, picture.metadata)
        if pixels.dtype == np.uint16:
            meta = picture.metadata
            exif = meta.exif_of(height, width)
            return encode_deep_png(pixels, picture.icc, exif, meta.xmp, meta.dpi, meta.software)
        return _by_pillow(pixels, form.pillow, quality, picture.icc, picture.metadata)
    except (OSError, ValueError, RuntimeError, SystemError) as error:
        raise ImageError(f"cannot be encoded as {form.pillow}: {error}") from error


def _by_pillow(pixels: np.ndarray, form: str, quality: int, icc: bytes | None, meta: Metadata) -> bytes:
    """(h, w, 1 to 4) uint8 in the format that Pillow calls `form`."""
    height, width = pixels.shape[:2]
    if form in ("WEBP", "AVIF") and meta.dpi is not None:
        meta = replace(meta, exif=meta.exif or packed(parse_exif(None)))  # there is no other place for it
    # AVIF has a box for orientation; Pillow would take the tag out, and write the rest anew, less well.
    exif, xmp = meta.exif_of(height, width, orientation=form != "AVIF"), meta.xmp
    if form == "JPEG":
        exif, xmp = _fitting(exif, "EXIF"), _fitting(xmp, "XMP")
    by_format: dict[str, dict[str, object]] = {
        "PNG": {"pnginfo": _png_text(xmp, meta.software)},
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality, "exact": True},
        "AVIF": {"quality": quality, "subsampling": "4:0:0" if pixels.shape[2] == 1 else "4:4:4"},
    }
    options = by_format.get(form, {})
    if exif is not None:
        # JPEG's segment begins with these letters; the other formats hold EXIF without them.
        options["exif"] = b"Exif\0\0" + exif if form == "JPEG" else exif
    if xmp is not None and form != "PNG":
        options["xmp"] = xmp
    if meta.dpi is not None:
        options["dpi"] = meta.dpi
    image = Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels))
    buffer = BytesIO()
    image.save(buffer, form, icc_profile=icc, **options)
    return buffer.getvalue()


def _fitting(data: bytes | None, what: str) -> bytes | None:
    if data is not None and len(data) > JPEG_SEGMENT[what]:
        log.warning("%s of %d bytes is more than JPEG can hold: dropped", what, len(data))
        return None
    return data


def _png_text(xmp: bytes | None, software: str | None) -> PngInfo:
    text = PngInfo()
    if xmp is not None:
        text.add_itxt(XMP_KEYWORD.decode(), xmp.decode("utf-8", "replace"))
    if software is not None:
        text.add_text("Software", software)
    return text


def to_16bit(pixels: np.ndarray) -> np.ndarray:
    """Floats near [0, 1] to uint16, rounded; integers as they are."""
    if pixels.dtype != np.float32:
        return pixels
    return np.rint(pixels.clip(0, 1) * np.float64(65_535)).astype(np.uint16)


def _onto_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    top = 1 if color.dtype == np.float32 else np.iinfo(color.dtype).max
    opaque = alpha.astype(np.float32) / top
    mixed = color * opaque + top * (1 - opaque)
    return mixed if top == 1 else np.rint(mixed).astype(color.dtype)
