"""PNG read by its chunks: metadata in bounds, and the 16-bit pixels that Pillow would cut to 8."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from .strips import swap_red_blue

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, GRAY_ALPHA = 0, 2, 4  # colour types
XMP_KEYWORD = b"XML:com.adobe.xmp"
METRE = 0.0254  # of an inch
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


@dataclass
class PngFile:
    """The still image of a PNG file, and its metadata as it stands there.

    still: the same file with nothing but pixels. dropped: what was too large.
    """

    width: int = 0
    height: int = 0
    depth: int = 8
    color_type: int = GRAY
    still: bytes = b""
    key: bytes | None = None  # tRNS
    animated: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    dropped: list[str] = field(default_factory=list)


def parse_png(data: bytes, limit: int) -> PngFile:
    """All chunks of a file. limit: bytes of a piece of metadata. ValueError: damaged or cut."""
    found, parts = PngFile(), [memoryview(SIGNATURE)]
    for number, (kind, body, whole) in enumerate(_chunks(data)):
        if (kind == b"IHDR") != (number == 0):  # of two, what is checked need not be what is decoded
            raise ValueError("damaged: its header is missing or there twice")
        if kind == b"IHDR":
            found.width, found.height, found.depth, found.color_type = struct.unpack(">IIBB", body[:10])
        elif kind == b"acTL":
            found.animated = int.from_bytes(body[:4], "big") > 1
        elif kind == b"tRNS":
            found.key = bytes(body)
        elif kind not in NEEDED:
            _take_metadata(found, kind, bytes(body), limit)
        if kind in NEEDED:
            parts.append(whole)
    found.still = b"".join(parts)
    return found


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """(type, body, all of it) up to the end; those that pixels depend on are checked."""
    view, position = memoryview(data), len(SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = view[position + 8 : position + 8 + length]
        checksum = view[position + 8 + length : position + 12 + length]
        if len(checksum) < 4 or not kind.isalpha():
            break
        if kind in NEEDED and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            raise ValueError(f"damaged: the checksum of its {kind.decode()} is wrong")
        yield kind, body, view[position : position + 12 + length]
        if kind == b"IEND":
            return
        position += 12 + length
    raise ValueError("the file is truncated")


def _take_metadata(found: PngFile, kind: bytes, body: bytes, limit: int) -> None:
    if kind == b"iCCP":
        found.icc = _inflate(body.partition(b"\0")[2][1:], limit)
        if found.icc is None:
            found.dropped.append("ICC profile")
    elif kind == b"eXIf":
        found.exif = body
    elif kind == b"pHYs" and len(body) == 9 and body[8] == 1:
        x, y = struct.unpack(">II", body[:8])
        found.dpi = (x * METRE, y * METRE)
    elif kind == b"iTXt" and body.startswith(XMP_KEYWORD + b"\0"):
        # keyword 0, compressed or not, method, language 0, translated keyword 0, text
        flags, text = body[len(XMP_KEYWORD) + 1 :][:2], body[len(XMP_KEYWORD) + 3 :]
        text = text.split(b"\0", 2)[-1]
        found.xmp = _inflate(text, limit) if flags[:1] == b"\1" else text
        if found.xmp is None:
            found.dropped.append("XMP")


def _inflate(data: bytes, limit: int) -> bytes | None:
    """Decompressed bytes, or None when there are more than `limit` or they are damaged."""
    try:
        text = zlib.decompressobj().decompress(data, limit + 1)
    except zlib.error:
        return None
    return text if len(text) <= limit else None


def read_deep_png(png: PngFile) -> np.ndarray:
    """uint16 pixels (h, w[, c]), channels gray, gray-alpha, RGB or RGBA, of a 16-bit file."""
    import cv2

    cv2.utils.logging.setLogLevel(0)
    # A transparent colour is applied here; OpenCV's way with it depends on its version.
    plain = png.still
    if png.key is not None:
        plain = b"".join([SIGNATURE, *(whole for kind, _, whole in _chunks(plain) if kind != b"tRNS")])
    pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (png.height, png.width):
        raise ValueError("damaged 16-bit PNG")
    if pixels.ndim == 3:
        # Gray with alpha comes as three equal channels and alpha.
        pixels = pixels[..., [0, 3]] if png.color_type == GRAY_ALPHA else swap_red_blue(pixels)
    if png.key is not None and png.color_type in (GRAY, RGB):
        key = np.frombuffer(png.key[: 6 if png.color_type == RGB else 2], ">u2")
        color = pixels if pixels.ndim == 3 else pixels[..., None]
        alpha = np.where((color == key).all(axis=2, keepdims=True), 0, 65_535).astype(np.uint16)
        pixels = np.concatenate([color, alpha], axis=2)
    return pixels


def read_png_size(file: BinaryIO, limit: int) -> tuple[int, int, bytes | None, bytes | None]:
    """(width, height, EXIF, XMP) of an open file, whose pixels are passed over."""
    found = PngFile()
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if not kind.isalpha():  # the zeros of a file that was never filled go on for long
            raise ValueError("damaged or truncated")
        if kind == b"IHDR" and found.width:
            raise ValueError("damaged: its header is there twice")
        if kind == b"IHDR":
            found.width, found.height = struct.unpack(">II", file.read(length)[:8])
        elif kind in (b"eXIf", b"iTXt") and length <= limit:
            _take_metadata(found, kind, file.read(length), limit)
        else:
            file.seek(length, 1)
        if kind == b"IEND":
            break
        file.seek(4, 1)
    return found.width, found.height, found.exif, found.xmp


def chunk(kind: bytes, body: bytes) -> bytes:
    """A piece of a PNG file."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", checksum)
