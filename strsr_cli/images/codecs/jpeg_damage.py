"""Damage in the scan of a JPEG, which libjpeg warns of and Pillow keeps to itself.

A damaged scan has too few or too many bytes for its blocks. So it is decoded twice more, at an eighth of the
size and without an end mark: once with a few bytes more, which must be enough, and once with a few bytes
less, which must not. Between restart markers each piece is looked at by itself. Progressive files have
many scans, of which the last may be missing; what is in them is not looked at.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from ..metadata.segments import START_OF_SCAN
from .jpeg import END_OF_IMAGE, MARKER, markers

RESTART = re.compile(rb"\xff([\xd0-\xd7])")
BASELINE = (0xC0, 0xC1)  # frames in one scan, with Huffman's codes
PROGRESSIVE = 0xC2
TABLES = (0xC4, 0xDB)  # of Huffman's codes, of quantisation
RESTART_INTERVAL = 0xDD
SLACK = 8  # bytes that libjpeg reads ahead
CUT = 3  # bytes that no sound scan can do without
MOST_PIECES = 2_000  # that are looked at


@dataclass(frozen=True)
class _Scan:
    """A file of one scan. tables, frame: its segments. header: of the scan. interval: MCUs between restarts."""

    tables: bytes
    frame: bytes
    header: bytes
    data: bytes
    end: int  # the marker behind it
    interval: int

    @property
    def cell(self) -> tuple[int, int]:
        """The (height, width) in px of an MCU, the unit in which blocks of all channels are stored."""
        factors = self.frame[11::3]
        if len(factors) == 1:
            return 8, 8
        return 8 * max(factor & 15 for factor in factors), 8 * max(factor >> 4 for factor in factors)

    @property
    def count(self) -> int:
        """The number of MCUs."""
        height, width = struct.unpack(">HH", self.frame[5:9])
        down, across = self.cell
        return int(-(-height // down) * -(-width // across))

    def fits(self, data: bytes, size: tuple[int, int] | None = None) -> bool:
        """Whether so many bytes are enough for all blocks, or for those of a picture of (height, width)."""
        frame = self.frame if size is None else self.frame[:5] + struct.pack(">HH", *size) + self.frame[9:]
        file = BytesIO(b"".join([b"\xff\xd8", self.tables, frame, self.header, data]))
        try:
            with Image.open(file, formats=("JPEG",)) as image:
                image.draft("L", (1, 1))
                image.load()
        except (OSError, ValueError, SyntaxError):
            return False
        return True


def is_damaged(data: bytes) -> bool:
    """Whether the scan of a JPEG file, which Pillow decodes, is damaged, or the last of its scans are missing."""
    if _lacks_scans(data):
        return True
    scan = _scan_of(data)
    if scan is None:
        return False
    if scan.end != END_OF_IMAGE:
        return True
    marks = [match[1][0] & 7 for match in RESTART.finditer(scan.data)]
    pieces = RESTART.split(scan.data)[::2]
    if len(pieces) != (-(-scan.count // scan.interval) if scan.interval else 1):
        return True
    if marks != [number & 7 for number in range(len(marks))]:
        return True
    return any(_ends_amiss(scan, number, piece) for number, piece in enumerate(pieces[:MOST_PIECES]))


def _ends_amiss(scan: _Scan, number: int, piece: bytes) -> bool:
    """Whether a piece of a scan has too few or too many bytes."""
    size = None
    if scan.interval:
        down, across = scan.cell
        size = down, across * min(scan.interval, scan.count - number * scan.interval)
        if size[1] > 65_500:
            return False
    # A marker may stand behind any number of such bytes.
    piece = piece.rstrip(b"\xff")
    return not scan.fits(piece + bytes(SLACK), size) or scan.fits(piece[:-CUT], size)


def _scan_of(data: bytes) -> _Scan | None:
    """Find the only scan of a baseline file; None for other files."""
    tables, frame, interval = b"", b"", 0
    for kind, start, end in markers(data):
        segment = data[start:end]
        if kind in TABLES:
            tables += segment
        elif kind in BASELINE:
            frame = segment
        elif kind == RESTART_INTERVAL:
            interval = int.from_bytes(segment[4:6], "big")
        elif kind == START_OF_SCAN:
            break
    else:
        return None
    if len(frame) < 13 or not any(frame[5:7]) or segment[4:5] != frame[9:10]:
        return None
    after = MARKER.search(data, end)
    if after is None:
        return None
    return _Scan(tables, frame, segment, data[end : after.start()], after[1][0], interval)


def _lacks_scans(data: bytes) -> bool:
    """Whether a progressive file ends before all bits of all its coefficients have come."""
    missing: dict[int, list[int]] = {}
    for kind, start, end in markers(data):
        body = data[start + 2 : end]
        if kind == PROGRESSIVE:
            missing = {channel: [1] * 64 for channel in body[8::3]}
        elif kind == START_OF_SCAN and missing and len(body) >= 6:
            first, last, bits = body[-3:]
            for channel in body[3:-3:2]:
                if channel in missing and last < 64:
                    missing[channel][first : last + 1] = [bits & 15] * (last + 1 - first)
    return any(any(bits) for bits in missing.values())
