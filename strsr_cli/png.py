"""PNG by its chunks: metadata in bounds, and the 16-bit pixels that Pillow would cut to 8."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

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
    found, parts = PngFile(), [SIGNATURE]
    for number, (kind, body) in enumerate(_chunks(data)):
        if (kind == b"IHDR") != (number == 0):  # of two, what is checked need not be what is decoded
            raise ValueError("damaged: its header is missing or there twice")
        if kind == b"IHDR":
            found.width, found.height, found.depth, found.color_type = struct.unpack(">IIBB", body[:10])
        elif kind == b"acTL":
            found.animated = int.from_bytes(body[:4], "big") > 1
        elif kind == b"tRNS":
            found.key = body
        elif kind not in NEEDED:
            _take_metadata(found, kind, body, limit)
        if kind in NEEDED:
            parts.append(_chunk(kind, body))
    found.still = b"".join(parts)
    return found


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, body) up to the end; those that pixels depend on are checked."""
    position = len(SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if len(checksum) < 4 or not kind.isalpha():
            break
        if kind in NEEDED and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            raise ValueError(f"damaged: the checksum of its {kind.decode()} is wrong")
        yield kind, body
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
    plain = b"".join([SIGNATURE, *(_chunk(k, b) for k, b in _chunks(png.still) if k != b"tRNS")])
    pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (png.height, png.width):
        raise ValueError("damaged 16-bit PNG")
    if pixels.ndim == 3:
        # Gray with alpha comes as three equal channels and alpha.
        pixels = pixels[..., [0, 3] if png.color_type == GRAY_ALPHA else [2, 1, 0, 3][: pixels.shape[2]]]
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


def encode_deep_png(
    pixels: np.ndarray,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None,
    software: str | None,
) -> bytes:
    """(h, w, 1 to 4) uint16 as PNG. By hand: Pillow writes no 16-bit colour, OpenCV no gray with alpha."""
    height, width, channels = pixels.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [SIGNATURE, _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))]
    if icc is not None:
        parts.append(_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(icc)))
    if dpi is not None:
        x, y = (round(value / METRE) for value in dpi)
        parts.append(_chunk(b"pHYs", struct.pack(">IIB", x, y, 1)))
    if software is not None:
        parts.append(_chunk(b"tEXt", b"Software\0" + software.encode("latin-1", "replace")))
    if xmp is not None:
        parts.append(_chunk(b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + xmp))
    if exif is not None:
        parts.append(_chunk(b"eXIf", exif))
    parts += [_chunk(b"IDAT", body) for body in _deflate_rows(pixels)]
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _deflate_rows(pixels: np.ndarray, band: int = 256) -> Iterator[bytes]:
    """Rows, each the difference to the row above (filter 2, Up), deflated; `band` rows at a time."""
    height, width, channels = pixels.shape
    packer = zlib.compressobj(6)
    above = np.zeros((1, width * channels * 2), np.uint8)
    for top in range(0, height, band):
        rows = pixels[top : top + band].astype(">u2").reshape(-1, width * channels).view(np.uint8)
        filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
        filtered[:, 0] = 2
        filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
        above = rows[-1:]
        if body := packer.compress(filtered.tobytes()):
            yield body
    yield packer.flush()


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", checksum)
