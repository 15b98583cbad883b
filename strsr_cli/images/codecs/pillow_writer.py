"""WebP, AVIF and BMP of 8 bits, written by strips (BMP) or whole; and metadata as Pillow takes it."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..metadata.directories import Exif, pack_exif
from ..rows import RowLayout, restrip
from .png import METRE

log = logging.getLogger(__name__)

JPEG_SEGMENT = {"EXIF": 65_527, "XMP": 65_504}  # bytes that one of JPEG's segments can hold
BMP_STRIP = 2**20  # bytes of pixels that are written at a time


def write_whole(
    file: BinaryIO, layout: RowLayout, bands: Iterable[np.ndarray], form: str, quality: int
) -> None:
    """Write WebP or AVIF, whose encoders want the whole picture; their largest is 268 million px."""
    pixels = np.empty((layout.height, layout.width, layout.channels), layout.dtype)
    top = 0
    for strip in restrip(bands, layout, layout.strip_rows):
        pixels[top : top + len(strip)] = strip
        top += len(strip)
    file.write(save_with_pillow(pixels, form, quality=quality, **pillow_metadata(layout, form)))


def write_bmp(file: BinaryIO, layout: RowLayout, bands: Iterable[np.ndarray]) -> None:
    """Write BMP, gray as a palette of 256 or BGR; rows lie from the bottom up, each put where it belongs."""
    gray = layout.channels == 1
    stride = -(-layout.row_bytes // 4) * 4
    palette = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(256, 4) * np.array([1, 1, 1, 0], np.uint8)
    colors = 256 if gray else 0
    start = 54 + 4 * colors
    size = stride * layout.height
    if start + size >= 2**32:
        raise ValueError("more than 4 GB")
    x, y = (round(value / METRE) for value in layout.metadata.dpi or (0, 0))
    file.write(struct.pack("<2sIII", b"BM", start + size, 0, start))
    bits = 8 * layout.channels
    file.write(
        struct.pack("<IiiHHIIiiII", 40, layout.width, layout.height, 1, bits, 0, size, x, y, colors, colors)
    )
    file.write(palette.tobytes() if gray else b"")
    bottom = layout.height
    for strip in restrip(bands, layout, max(1, min(layout.height, BMP_STRIP // layout.row_bytes))):
        rows = np.zeros((len(strip), stride), np.uint8)
        rows[:, : layout.row_bytes] = strip[::-1, :, ::-1].reshape(len(strip), -1)
        bottom -= len(strip)
        file.seek(start + bottom * stride)
        file.write(rows.data)


def pillow_metadata(layout: RowLayout, form: str) -> dict[str, Any]:
    """Return a layout's metadata as Pillow's options for saving in the format that it calls `form`."""
    meta = layout.metadata
    if form in ("WEBP", "AVIF") and meta.dpi is not None:
        # These formats have no other place for a resolution than EXIF.
        meta = replace(meta, exif=meta.exif or pack_exif(Exif()))
    # AVIF has a box for orientation; Pillow would take the tag out, and write the rest anew, less well.
    exif = meta.exif_of(layout.height, layout.width, orientation=form != "AVIF", texts=True)
    xmp = meta.xmp_of(layout.height, layout.width)
    options: dict[str, Any] = {"icc_profile": layout.icc}
    if form == "JPEG":
        exif = _fit_segment(exif, "EXIF", meta.name)
        xmp = _fit_segment(xmp, "XMP", meta.name)
    if exif is not None:
        # JPEG's segment begins with these letters; the other formats hold EXIF without them.
        options["exif"] = b"Exif\0\0" + exif if form == "JPEG" else exif
    if xmp is not None:
        options["xmp"] = xmp
    if meta.dpi is not None:
        options["dpi"] = meta.dpi
    return options


def _fit_segment(data: bytes | None, what: str, name: str) -> bytes | None:
    """Return metadata that one of JPEG's segments can hold; others are dropped with a warning."""
    if data is not None and len(data) > JPEG_SEGMENT[what]:
        log.warning("%s: its %s of %d bytes is more than JPEG can hold: dropped", name, what, len(data))
        return None
    return data


def save_with_pillow(pixels: np.ndarray, form: str, **options: Any) -> bytes:
    """Encode pixels (h, w, 1 to 4) uint8 in the format that Pillow calls `form`."""
    if form == "WEBP":
        options["exact"] = True
    elif form == "AVIF":
        options["subsampling"] = "4:0:0" if pixels.shape[2] == 1 else "4:4:4"
    image = Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels))
    if form == "AVIF" and image.mode == "RGB":
        # libavif rounds RGBA to YCbCr twice as well as RGB, and leaves out alpha that is opaque everywhere.
        image.putalpha(255)
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
