"""JPEG, BMP, WebP and AVIF, of 8 bits: by strips where the format allows it, else whole."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable
from dataclasses import replace
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .metadata import packed, parse_exif
from .png import METRE
from .strips import Sheet, cut

log = logging.getLogger(__name__)

JPEG_SEGMENT = {"EXIF": 65_527, "XMP": 65_504}  # bytes that one of JPEG's segments can hold
JPEG_STRIP = 2**23  # bytes of pixels that libjpeg is given at a time
BMP_STRIP = 2**20
RESTART_ROWS = 64  # eight rows of JPEG's blocks, after which its restart markers count from 0 again
RST7, EOI = b"\xff\xd7", b"\xff\xd9"
APPLICATION = range(0xE0, 0xF0)  # segments that do not concern the pixels
START_OF_FRAME, START_OF_SCAN = 0xC0, 0xDA


def write_whole(file: BinaryIO, sheet: Sheet, bands: Iterable[np.ndarray], form: str, quality: int) -> None:
    """WebP and AVIF, whose encoders want the whole picture; their largest is 268 million px."""
    pixels = np.empty((sheet.height, sheet.width, sheet.channels), sheet.dtype)
    top = 0
    for strip in cut(bands, sheet, sheet.strip_rows):
        pixels[top : top + len(strip)] = strip
        top += len(strip)
    file.write(_saved(pixels, form, quality=quality, **_metadata(sheet, form)))


def write_jpeg(file: BinaryIO, sheet: Sheet, bands: Iterable[np.ndarray], quality: int) -> None:
    """Strips encoded one by one, and joined at restart markers: the coefficients are those of the whole.

    By OpenCV, which lets other threads work meanwhile; Pillow, whose bytes are the same, writes metadata.
    """
    rows = RESTART_ROWS * max(1, JPEG_STRIP // (RESTART_ROWS * sheet.row_bytes))
    joined = sheet.height > rows
    file.write(_jpeg_head(sheet))
    for n, strip in enumerate(cut(bands, sheet, min(rows, sheet.height))):
        tables, scan = _jpeg_parts(_jpeg(strip, quality, joined), sheet.height)
        file.write(tables if n == 0 else RST7)
        file.write(scan)
    file.write(EOI)


def _jpeg(strip: np.ndarray, quality: int, restarts: bool) -> bytes:
    """(h, w, 1 or 3) with full chroma and the standard's Huffman tables; a restart marker per row of blocks."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    if restarts:
        options += [cv2.IMWRITE_JPEG_RST_INTERVAL, -(-strip.shape[1] // 8)]
    pixels = strip if strip.shape[2] == 1 else cv2.cvtColor(strip, cv2.COLOR_RGB2BGR)
    try:
        made, data = cv2.imencode(".jpg", pixels, options)
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err}") from error
    if not made:
        raise ValueError("OpenCV gives no reason")
    return bytes(data)


def _jpeg_head(sheet: Sheet) -> bytes:
    """A JPEG file up to its tables: JFIF, EXIF, XMP and profile."""
    data = _saved(np.zeros((8, 8, sheet.channels), np.uint8), "JPEG", **_metadata(sheet, "JPEG"))
    at = 2
    while data[at + 1] in APPLICATION:
        at = _next_segment(data, at)
    return data[:at]


def _jpeg_parts(data: bytes, height: int) -> tuple[bytes, memoryview]:
    """From the tables up to the entropy-coded data, made to say that there are `height` rows; and that data."""
    at, start, size = 2, 2, 0
    while data[at + 1] != START_OF_SCAN:
        if data[at + 1] in APPLICATION:
            start = _next_segment(data, at)
        elif data[at + 1] == START_OF_FRAME:
            size = at + 5
        at = _next_segment(data, at)
    at = _next_segment(data, at)
    tables = bytearray(data[start:at])
    struct.pack_into(">H", tables, size - start, height)
    return bytes(tables), memoryview(data)[at : -len(EOI)]


def _next_segment(data: bytes, at: int) -> int:
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def write_bmp(file: BinaryIO, sheet: Sheet, bands: Iterable[np.ndarray]) -> None:
    """Gray as a palette of 256, or BGR; rows from the bottom up, each put where it belongs."""
    gray = sheet.channels == 1
    stride = -(-sheet.row_bytes // 4) * 4
    palette = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(256, 4) * np.array([1, 1, 1, 0], np.uint8)
    colors = 256 if gray else 0
    start, size = 54 + 4 * colors, stride * sheet.height
    if start + size >= 2**32:
        raise ValueError("more than 4 GB")
    x, y = (round(value / METRE) for value in sheet.metadata.dpi or (96, 96))
    file.write(struct.pack("<2sIII", b"BM", start + size, 0, start))
    bits = 8 * sheet.channels
    file.write(
        struct.pack("<IiiHHIIiiII", 40, sheet.width, sheet.height, 1, bits, 0, size, x, y, colors, colors)
    )
    file.write(palette.tobytes() if gray else b"")
    bottom = sheet.height
    for strip in cut(bands, sheet, max(1, min(sheet.height, BMP_STRIP // sheet.row_bytes))):
        rows = np.zeros((len(strip), stride), np.uint8)
        rows[:, : sheet.row_bytes] = strip[::-1, :, ::-1].reshape(len(strip), -1)
        bottom -= len(strip)
        file.seek(start + bottom * stride)
        file.write(rows.data)


def _metadata(sheet: Sheet, form: str) -> dict[str, Any]:
    """As Pillow takes it."""
    meta = sheet.metadata
    if form in ("WEBP", "AVIF") and meta.dpi is not None:
        meta = replace(meta, exif=meta.exif or packed(parse_exif(None)))  # there is no other place for it
    # AVIF has a box for orientation; Pillow would take the tag out, and write the rest anew, less well.
    exif, xmp = meta.exif_of(sheet.height, sheet.width, orientation=form != "AVIF"), meta.xmp
    options: dict[str, Any] = {"icc_profile": sheet.icc}
    if form == "JPEG":
        exif, xmp = _fitting(exif, "EXIF"), _fitting(xmp, "XMP")
    if exif is not None:
        # JPEG's segment begins with these letters; the other formats hold EXIF without them.
        options["exif"] = b"Exif\0\0" + exif if form == "JPEG" else exif
    if xmp is not None:
        options["xmp"] = xmp
    if meta.dpi is not None:
        options["dpi"] = meta.dpi
    return options


def _fitting(data: bytes | None, what: str) -> bytes | None:
    if data is not None and len(data) > JPEG_SEGMENT[what]:
        log.warning("%s of %d bytes is more than JPEG can hold: dropped", what, len(data))
        return None
    return data


def _saved(pixels: np.ndarray, form: str, **options: Any) -> bytes:
    """(h, w, 1 to 4) uint8 in the format that Pillow calls `form`."""
    if form == "WEBP":
        options["exact"] = True
    elif form == "AVIF":
        options["subsampling"] = "4:0:0" if pixels.shape[2] == 1 else "4:4:4"
    image = Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels))
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
