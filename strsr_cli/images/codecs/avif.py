"""What an AVIF or HEIC file says of its picture that Pillow passes over: the crop, the shape of pixels, colours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np

LARGEST_META = 2**24  # bytes of a box that is read into memory
MOST_BOXES = 4096
UNSPECIFIED = 2  # among primaries and transfers of ITU-T H.273
FULL_BOX = 4  # bytes of version and flags, with which some boxes begin
MONOCHROME = 0x10  # the bit of av1C's third byte


@dataclass(frozen=True)
class Aperture:
    """The properties of a file's main image. crop: (left, top, width, height) in px, stored orientation; or None.

    shape: width to height of a pixel. odd: whether there is a crop that does not lie in the image by whole px.
    """

    crop: tuple[int, int, int, int] | None = None
    shape: tuple[int, int] = (1, 1)
    odd: bool = False

    def cut(self, pixels: np.ndarray) -> np.ndarray:
        """Cut stored pixels (h, w[, c]) to the crop."""
        if self.crop is None:
            return pixels
        left, top, width, height = self.crop
        return pixels[top : top + height, left : left + width]


def read_aperture(file: BinaryIO, width: int, height: int) -> Aperture:
    """Read the crop (clap) and the pixels' shape (pasp) of an open file of so many px; damage passes for none."""
    try:
        properties = dict(_properties(_meta(file)))
    except (struct.error, IndexError):
        return Aperture()
    shape = (1, 1)
    if len(spacing := properties.get(b"pasp", b"")) == 8:
        across, down = struct.unpack(">II", spacing)
        shape = (across, down) if across and down else shape
    if b"clap" not in properties:
        return Aperture(shape=shape)
    crop = _crop(properties[b"clap"], width, height)
    return Aperture(crop, shape, odd=crop is None)


def read_color_chunks(file: BinaryIO) -> tuple[tuple[bytes, bytes], ...]:
    """Read the colours that an open file's main image states by number (nclx), as PNG's chunk (type, body) of them.

    Nothing where there are none, or the boxes are damaged: whether a file is sound is for its decoder to say.
    """
    try:
        bodies = [body for kind, body in _properties(_meta(file)) if kind == b"colr" and body[:4] == b"nclx"]
        primaries, transfer = struct.unpack_from(">HH", bodies[0], 4)
    except (struct.error, IndexError):
        return ()
    if primaries == UNSPECIFIED and transfer == UNSPECIFIED:
        return ()
    primaries = 1 if primaries == UNSPECIFIED else min(primaries, 255)
    transfer = 13 if transfer == UNSPECIFIED else min(transfer, 255)
    # The pixels have been made RGB of the full range.
    return ((b"cICP", bytes([primaries, transfer, 0, 1])),)


def is_monochrome(file: BinaryIO) -> bool:
    """Whether an open AVIF's main image has no colour planes; damage passes for no.

    Pillow before 13 shows it as RGB, and with alpha every Pillow does.
    """
    try:
        bodies = [body for kind, body in _properties(_meta(file)) if kind == b"av1C"]
        return bool(bodies[0][2] & MONOCHROME)
    except (struct.error, IndexError):
        return False


def _crop(body: bytes, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return (left, top, width, height) of ISO 14496-12's clap; None unless it lies in the image by whole px."""
    numbers = struct.unpack(">8i", body[:32]) if len(body) >= 32 else (0,) * 8
    if 0 in numbers[1::2]:
        return None
    across, down, right, below = (
        Fraction(top, bottom) for top, bottom in zip(numbers[::2], numbers[1::2], strict=True)
    )
    # The offsets are those of the crop's centre from the image's.
    left, top = Fraction(width) / 2 + right - across / 2, Fraction(height) / 2 + below - down / 2
    whole = all(value.denominator == 1 for value in (left, top, across, down))
    inside = left >= 0 and top >= 0 and left + across <= width and top + down <= height
    if not whole or not inside or across < 1 or down < 1:
        return None
    return int(left), int(top), int(across), int(down)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give (type, body) of the boxes in some bytes."""
    at = 0
    for _ in range(MOST_BOXES):
        if at + 8 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        size = size or len(data) - at
        if size < 8:
            return
        yield kind, data[at + 8 : at + size]
        at += size


def _meta(file: BinaryIO) -> bytes:
    """Return the body of an open file's first `meta` box; nothing where there is none."""
    at = 0
    for _ in range(MOST_BOXES):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return b""
        size, kind = struct.unpack(">I4s", head)
        if kind == b"meta":
            return file.read(min(size - 8, LARGEST_META))[FULL_BOX:] if size > 8 else b""
        if size < 8:
            return b""
        at += size
    return b""


def _properties(meta: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give (type, body) of the properties of the main image."""
    parts = dict(_boxes(meta))
    inner = dict(_boxes(parts.get(b"iprp", b"")))
    known = list(_boxes(inner.get(b"ipco", b"")))
    primary = parts.get(b"pitm", b"")
    wide = primary[:1] != b"\0"
    main = int.from_bytes(primary[FULL_BOX : FULL_BOX + (4 if wide else 2)], "big")
    for index in _associations(inner.get(b"ipma", b"")).get(main, []):
        if 0 < index <= len(known):
            yield known[index - 1]


def _associations(body: bytes) -> dict[int, list[int]]:
    """Return the numbers of each item's properties, counted from 1, by an `ipma` box."""
    if not body:
        return {}
    version, large = body[0], bool(body[3] & 1)
    (entries,) = struct.unpack_from(">I", body, FULL_BOX)
    at, numbers = FULL_BOX + 4, {}
    for _ in range(min(entries, MOST_BOXES)):
        item = int.from_bytes(body[at : at + (2 if version < 1 else 4)], "big")
        at += 2 if version < 1 else 4
        count = body[at]
        at += 1
        step = 2 if large else 1
        cuts = [body[place : place + step] for place in range(at, at + count * step, step)]
        # The highest bit says that a reader must understand the property.
        numbers[item] = [int.from_bytes(cut, "big") & ((1 << (8 * step - 1)) - 1) for cut in cuts]
        at += count * step
    return numbers
