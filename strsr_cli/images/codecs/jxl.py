"""The size that a JPEG XL file says it has: its package would decode it first."""

from __future__ import annotations

import struct
from typing import BinaryIO

CODESTREAM = b"\xff\x0a"
BOXES = 64  # that are searched for pixels
RATIOS = {1: (1, 1), 2: (6, 5), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}  # width to height
SIZE_BITS = (9, 13, 18, 30)


def jxl_size(file: BinaryIO) -> tuple[int, int]:
    """Read (height, width), not turned upright. Raises ValueError for damaged files.

    The size is the SizeHeader of ISO 18181-1, which stands bare or in the boxes of ISO 18181-2.
    """
    file.seek(0)
    head = file.read(16)
    if not head.startswith(CODESTREAM):
        head = _codestream(file)
    if not head.startswith(CODESTREAM) or len(head) < 4:
        raise ValueError("damaged or truncated")
    bits = _Bits(int.from_bytes(head[2:], "little"))
    small = bits.take(1)
    height = _length(bits, small)
    ratio = bits.take(3)
    if ratio == 0:
        return height, _length(bits, small)
    numerator, denominator = RATIOS[ratio]
    return height, height * numerator // denominator


def _codestream(file: BinaryIO) -> bytes:
    """Return the first bytes of the first box with pixels; nothing where there is none."""
    at = 0
    for _ in range(BOXES):
        file.seek(at)
        size, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        start = at + (16 if size == 1 else 8)
        if kind in (b"jxlc", b"jxlp"):
            # Each part's pixels follow its number.
            file.seek(start + (4 if kind == b"jxlp" else 0))
            return file.read(16)
        at += large if size == 1 else size
        # The box goes on to the end of the file, or is none at all.
        if at < start:
            break
    return b""


class _Bits:
    """The bits of an integer, taken from the lowest on."""

    def __init__(self, value: int) -> None:
        self.value = value

    def take(self, count: int) -> int:
        """Take the next `count` bits, as a number."""
        taken = self.value & ((1 << count) - 1)
        self.value >>= count
        return taken


def _length(bits: _Bits, small: int) -> int:
    """Take a height or width in px; small ones are multiples of 8."""
    if small:
        return 8 * (bits.take(5) + 1)
    return bits.take(SIZE_BITS[bits.take(2)]) + 1
