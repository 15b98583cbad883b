"""JPEG: scans counted before a file is decoded; strips encoded one by one and joined at restart markers."""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from ..metadata.segments import COMMENT, START_OF_SCAN, segments
from ..metadata.texts import PHOTOSHOP, iptc_block
from ..rows import RowLayout, restrip
from .opencv import load_opencv
from .pillow_writer import pillow_metadata, save_with_pillow

log = logging.getLogger(__name__)

MOST_SCANS = 100  # progressive files have about ten
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd8])")  # markers but for those that stand within pixels
JPEG_STRIP = 2**23  # bytes of pixels that libjpeg is given at a time
RESTART_ROWS = 64  # eight rows of JPEG's blocks, after which its restart markers count from 0 again
RST7, EOI = b"\xff\xd7", b"\xff\xd9"
PROFILE, PROFILE_LETTERS = 0xE2, b"ICC_PROFILE\0"
APPLICATION = range(0xE0, 0xF0)  # segments that do not concern the pixels
START_OF_FRAME, END_OF_IMAGE = 0xC0, 0xD9
LONGEST_SEGMENT = 65_533
# The place of JFIF's unit in a file that begins with it, and the unit of dots per centimetre.
JFIF_UNIT, PER_CENTIMETRE = 13, 2


def check_jpeg(data: bytes) -> bool:
    """Tell whether the colour profile of a JPEG file, if it has one, is whole; ValueError for too many scans."""
    check_scans(data)
    return has_whole_profile(data)


def check_scans(data: bytes) -> None:
    """Raise ValueError for a JPEG file of more than MOST_SCANS scans."""
    scans = 0
    for kind, _, _ in markers(data):
        scans += kind == START_OF_SCAN
        if scans > MOST_SCANS:
            raise ValueError(f"damaged: more than {MOST_SCANS} scans")


def markers(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment of a JPEG file, those between scans included, up to its end mark."""
    at = 2
    while match := MARKER.search(data, at):
        kind, at = match[1][0], match.end()
        if kind != END_OF_IMAGE:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        yield kind, match.start(), at
        if kind == END_OF_IMAGE:
            return


def has_whole_profile(data: bytes) -> bool:
    """Whether all the segments of a JPEG file's colour profile are there, each once; True where there are none."""
    numbers: list[int] = []
    counts: set[int] = set()
    for kind, segment, _ in segments(data):
        if kind == PROFILE and segment.startswith(PROFILE_LETTERS) and len(segment) >= 14:
            numbers.append(segment[12])
            counts.add(segment[13])
    return not numbers or (counts == {len(numbers)} and sorted(numbers) == [*range(1, len(numbers) + 1)])


def write_jpeg(file: BinaryIO, layout: RowLayout, bands: Iterable[np.ndarray], quality: int) -> None:
    """Encode strips one by one, and join them at restart markers: the coefficients are those of the whole.

    OpenCV encodes, as it lets other threads work meanwhile; Pillow, with the same bytes, writes metadata.
    """
    rows = RESTART_ROWS * max(1, JPEG_STRIP // (RESTART_ROWS * layout.row_bytes))
    joined = layout.height > rows
    file.write(_head(layout))
    for n, strip in enumerate(restrip(bands, layout, min(rows, layout.height))):
        tables, scan = _split(_encode(strip, quality, joined), layout.height)
        file.write(tables if n == 0 else RST7)
        file.write(scan)
    file.write(EOI)


def _encode(strip: np.ndarray, quality: int, restarts: bool) -> bytes:
    """Encode pixels (h, w, 1 or 3) with full chroma and the standard's Huffman tables.

    restarts: whether a restart marker follows each row of blocks.
    """
    cv2 = load_opencv()
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    if restarts:
        options += [cv2.IMWRITE_JPEG_RST_INTERVAL, -(-strip.shape[1] // 8)]
    pixels = strip if strip.shape[2] == 1 else cv2.cvtColor(strip, cv2.COLOR_RGB2BGR)
    try:
        success, data = cv2.imencode(".jpg", pixels, options)
    except cv2.error as error:
        raise ValueError(f"OpenCV: {error.err}") from error
    if not success:
        raise ValueError("OpenCV gives no reason")
    return bytes(data)


def _head(layout: RowLayout) -> bytes:
    """Return the beginning of a JPEG file, up to its tables: JFIF, EXIF, XMP, profile, IPTC and comment."""
    pixels = np.zeros((8, 8, layout.channels), np.uint8)
    data = save_with_pillow(pixels, "JPEG", **pillow_metadata(layout, "JPEG"))
    at = 2
    while data[at + 1] in APPLICATION:
        at = _next_segment(data, at)
    meta = layout.metadata
    head = bytearray(data[:at])
    if meta.dpi is not None and meta.centimetres:
        # Pillow says it per inch.
        x, y = (min(round(value / 2.54), 65_535) for value in meta.dpi)
        struct.pack_into(">BHH", head, JFIF_UNIT, PER_CENTIMETRE, x, y)
    if meta.iptc is not None:
        head += _segment(0xED, PHOTOSHOP + iptc_block(meta.iptc), f"{meta.name}: its IPTC")
    if meta.comment is not None:
        head += _segment(COMMENT, meta.comment, f"{meta.name}: its comment")
    return bytes(head)


def _segment(kind: int, body: bytes, what: str) -> bytes:
    """Build a segment; one that is too long is dropped with a warning that begins with `what`."""
    if len(body) > LONGEST_SEGMENT:
        log.warning("%s of %d bytes is more than JPEG can hold: dropped", what, len(body))
        return b""
    return struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body


def _split(data: bytes, height: int) -> tuple[bytes, memoryview]:
    """Split a JPEG file into its tables, changed to say `height` rows, and its entropy-coded data."""
    at = start = 2
    size = 0
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
    """Return where the segment after the one at `at` begins."""
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
