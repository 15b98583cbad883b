"""Animations written byte by byte: frames that are parts, with all ways of disposal and blending."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

from strsr_cli.images.codecs.png import SIGNATURE, chunk


class Part(NamedTuple):
    """A frame as it is stored. pixels: indices (h, w) of GIF; (h, w, c) uint8 or uint16 of APNG."""

    pixels: np.ndarray
    left: int = 0
    top: int = 0
    disposal: int = 0  # GIF: 1 keep, 2 background, 3 previous; APNG: 0 keep, 1 background, 2 previous
    transparent: int | None = None  # GIF
    over: bool = False  # APNG
    palette: list[tuple[int, int, int]] | None = None  # GIF


def gif(
    width: int, height: int, palette: list[tuple[int, int, int]], parts: list[Part], end: bool = True
) -> bytes:
    """Uncompressed, so to speak: codes of 8 bits, and a clear code before they would grow."""
    out = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80 | 6, 0, 0) + _table(palette)
    for part in parts:
        flags = (part.disposal << 2) | (part.transparent is not None)
        out += b"!\xf9\4" + bytes([flags, 5, 0, part.transparent or 0, 0])
        h, w = part.pixels.shape
        out += b"," + struct.pack("<HHHHB", part.left, part.top, w, h, 0x86 if part.palette else 0)
        out += _table(part.palette) if part.palette else b""
        out += b"\7" + _blocks(part.pixels.astype(np.uint8).tobytes())
    return out + (b";" if end else b"")


def _table(palette: list[tuple[int, int, int]]) -> bytes:
    return b"".join(map(bytes, palette)).ljust(3 * 128, b"\0")


def _blocks(values: bytes) -> bytes:
    codes = b"".join(b"\x80" + values[at : at + 100] for at in range(0, len(values), 100)) + b"\x81"
    return (
        b"".join(
            bytes([len(codes[at : at + 255])]) + codes[at : at + 255] for at in range(0, len(codes), 255)
        )
        + b"\0"
    )


def apng(
    width: int, height: int, color_type: int, parts: list[Part], default: np.ndarray | None = None
) -> bytes:
    """default: an image that is no frame, for programs that know no animations."""
    depth = 8 * parts[0].pixels.itemsize
    out = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    out += chunk(b"acTL", struct.pack(">II", len(parts), 0))
    out += b"" if default is None else chunk(b"IDAT", _rows(default))
    number = 0
    for part in parts:
        h, w = part.pixels.shape[:2]
        place = struct.pack(">IIIII", number, w, h, part.left, part.top)
        out += chunk(b"fcTL", place + struct.pack(">HHBB", 1, 10, part.disposal, part.over))
        number += 1
        if default is None and part is parts[0]:
            out += chunk(b"IDAT", _rows(part.pixels))
        else:
            out += chunk(b"fdAT", struct.pack(">I", number) + _rows(part.pixels))
            number += 1
    return out + chunk(b"IEND", b"")


def _rows(pixels: np.ndarray) -> bytes:
    big = pixels.astype(pixels.dtype.newbyteorder(">"))
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in big))
