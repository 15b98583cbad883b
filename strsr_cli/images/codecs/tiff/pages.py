"""TIFF read by its pages: where they are, and their tags."""

from __future__ import annotations

import io
import logging
import struct
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, cast

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ...metadata.blocks import LIMIT, Blocks
from ...metadata.directories import read_directories
from ...metadata.exif import IPTC_TAG, LAYOUT, ORIENTATION, PHOTOSHOP_TAG, XMP_TAG
from ...metadata.texts import iptc_of

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR = 0, 1, 2, 3, 5, 6  # of tag 262
SIGNED, FLOAT, VOID, COMPLEX = 2, 3, 4, 6  # of tag 339
JPEGS = (6, 7)  # of tag 259
REDUCED = 1  # of tag 254: a thumbnail
ASSOCIATED, UNASSOCIATED = 1, 2  # of tag 338: colours multiplied by alpha, or not

# Tags that say where pixels are: offsets and lengths of strips, of tiles.
PIXEL_PLACES = (273, 279), (324, 325)


@dataclass(frozen=True)
class TiffPage:
    """The first page, as its tags describe it. blocks: what is beside the pixels."""

    tags: ImageFileDirectory_v2
    blocks: Blocks

    def number(self, tag: int, default: int) -> int:
        """Return a tag's first value."""
        value = self.tags.get(tag, default)
        return int(value[0] if isinstance(value, tuple) else value)

    @property
    def size(self) -> tuple[int, int]:
        """The page's (height, width), not turned upright."""
        return self.number(257, 0), self.number(256, 0)

    @property
    def bits(self) -> tuple[int, ...]:
        """The bits of each of a pixel's samples; of all of them where the page has only one number."""
        return numbers_of(self.tags.get(258, 1))

    @property
    def base(self) -> int:
        """The number of samples that make a colour; what follows them is alpha, or of no matter."""
        return {RGB: 3, YCBCR: 3, INKS: 4, 8: 3, 9: 3, 10: 3, 32845: 3}.get(
            self.number(262, BLACK_IS_ZERO), 1
        )

    @property
    def deep(self) -> bool:
        """Whether Pillow would cut the page's pixels to 8 bits, read them wrong, or not at all."""
        bits, kind, samples = self.bits[0], self.number(262, BLACK_IS_ZERO), self.number(277, 1)
        if bits not in (1, 2, 4, 8) or (bits < 8 and kind == RGB):
            return True
        if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or bits < 8 or self.number(259, 1) in JPEGS:
            return False
        # Pillow before 13 does not know gray beside a sample that is not said to be alpha.
        odd_gray = samples == 2 and (self.number(284, 1) == 2 or self.number(338, 0) == 0)
        return samples > self.base + 1 or odd_gray or self.number(339, 1) == VOID

    def places(self, count: int, size: int) -> list[tuple[int, int]]:
        """Return offsets and lengths of the first `count` strips or tiles in a file of `size` bytes.

        A length that is missing goes up to the next strip. Raises ValueError where strips are missing.
        """
        offsets, lengths = PIXEL_PLACES[1] if 324 in self.tags else PIXEL_PLACES[0]
        starts = [int(at) for at in numbers_of(self.tags.get(offsets, ()))]
        counts = [int(length) for length in numbers_of(self.tags.get(lengths, ()))]
        if len(starts) < count or count < 1:
            raise ValueError(f"damaged or truncated: it has {len(starts)} of {count} strips or tiles")
        if len(counts) < count:
            ends = [*sorted(starts), size]
            counts = [ends[bisect_right(ends, at, hi=len(starts))] - at for at in starts]
        places = list(zip(starts[:count], counts[:count], strict=True))
        if any(at < 0 or length < 0 or at + length > size for at, length in places):
            raise ValueError("the file is truncated")
        return places


def read_tiff_page(file: BinaryIO) -> TiffPage:
    """Read the tags of the first page. ValueError for camera raw files, whose pages are thumbnails."""
    file.seek(0)
    head = file.read(16)
    big = 43 in head[2:4]
    tags = ImageFileDirectory_v2(head if big else head[:8])
    file.seek(tags.next)
    tags.load(file)
    page = TiffPage(tags, Blocks(tiff=True))
    if head[8:10] == b"CR" or (page.number(254, 0) & REDUCED and 330 in tags):
        raise ValueError("a camera's raw file; develop it first")
    if page.number(254, 0) & REDUCED:
        raise ValueError("all it has is a thumbnail, as in a camera's raw file; develop it first")
    _take_blocks(page.blocks, file)
    return page


def _take_blocks(blocks: Blocks, file: BinaryIO) -> None:
    """Take EXIF, XMP and IPTC of the first page, whose types differ among programs, though they are bytes."""
    asked = {ORIENTATION, XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG}
    blocks.exif = read_directories(file, 4 * LIMIT, passed_over=LAYOUT - asked)
    held = {tag: blocks.exif.first.tags.get(tag) for tag in asked}
    if (packet := held[XMP_TAG]) is not None:
        blocks.take_xmp(packet.value)
    # Some programs put Photoshop's blocks into IPTC's place.
    for tag in (held[IPTC_TAG], held[PHOTOSHOP_TAG]):
        blocks.iptc = blocks.iptc or iptc_of(b"" if tag is None else tag.value)


def load_tifffile() -> Any:
    """Import tifffile, which is heavy, and silence it: damaged files are reported by us."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile


def shape_of(page: TiffPage) -> tuple[int, int]:
    """Return width to height of a pixel, where a page's resolution has no unit; with one, it is carried along."""
    if page.number(296, 2) != 1:
        return 1, 1
    try:
        ratio = Fraction(page.tags[283]) / Fraction(page.tags[282])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return 1, 1
    ratio = ratio.limit_denominator(10_000)
    return (ratio.numerator, ratio.denominator) if ratio > 0 else (1, 1)


def page_offsets(file: BinaryIO, most: int) -> list[int]:
    """Find where the pages of an open file have their tags, `most` at most; thumbnails and masks are none.

    Directories below pages are not looked at. One that cannot be read ends the list, and is in it.
    """
    file.seek(0)
    head = file.read(16).ljust(16, b"\0")
    order, big = _order_of(head)
    count_format = order + ("Q" if big else "H")
    offset_format = order + ("Q" if big else "I")
    entry_size = 20 if big else 12
    (at,) = struct.unpack_from(offset_format, head, 8 if big else 4)
    offsets: list[int] = []
    first: int | None = None
    visited: set[int] = set()
    while at and at not in visited and len(offsets) < most:
        visited.add(at)
        file.seek(at)
        try:
            (count,) = struct.unpack(count_format, file.read(struct.calcsize(count_format)))
            entries = file.read(min(count, 65_535) * entry_size)
            (following,) = struct.unpack(offset_format, file.read(struct.calcsize(offset_format)))
        except struct.error:
            offsets.append(at)
            break
        if not _is_extra(entries, entry_size, order):
            offsets.append(at)
        elif first is None:
            first = at
        at = following
    return offsets or ([] if first is None else [first])


def first_page_file(file: BinaryIO) -> BinaryIO:
    """Show an open TIFF that begins with a thumbnail or a mask as if its first page were the first."""
    offsets = page_offsets(file, 1)
    file.seek(0)
    head = file.read(16).ljust(16, b"\0")
    order, big = _order_of(head)
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    return file if not offsets or offsets[0] == at else cast(BinaryIO, PageFile(file, offsets[0]))


def _order_of(head: bytes) -> tuple[str, bool]:
    """Return a file's byte order, "<" or ">", and whether it is a BigTIFF, by its first bytes."""
    return ">" if head[:2] == b"MM" else "<", 43 in head[2:4]


def _is_extra(entries: bytes, entry_size: int, order: str) -> bool:
    """Whether a directory's entries say that it is a smaller version of another image, or a mask."""
    for at in range(0, len(entries) - entry_size + 1, entry_size):
        tag, kind = struct.unpack_from(order + "HH", entries, at)
        if tag in (254, 255):
            value_format = order + ("H" if kind == 3 else "I")
            (value,) = struct.unpack_from(value_format, entries, at + entry_size // 2 + 2)
            return bool(value & 5) if tag == 254 else value == 2
    return False


class PageFile(io.RawIOBase):
    """An open TIFF whose header says that another page is the first."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        file.seek(0)
        head = file.read(16)
        order, big = _order_of(head)
        offset = struct.pack(order + ("Q" if big else "I"), at)
        self._file = file
        self._head = head[: 8 if big else 4] + offset
        self._at = 0

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer, as io.RawIOBase does."""
        view = memoryview(buffer).cast("B")
        start = self._at
        self._file.seek(start)
        data = self._file.read(len(view))
        head = self._head[start : start + len(data)]
        view[: len(data)] = head + data[len(head) :]
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Change the place in the file, as io.RawIOBase does."""
        if whence == 0:
            base = 0
        elif whence == 1:
            base = self._at
        else:
            base = self._file.seek(0, 2)
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return the place in the file."""
        return self._at

    def readable(self) -> bool:
        """Whether the file can be read: always."""
        return True

    def seekable(self) -> bool:
        """Whether the place in the file can be changed: always."""
        return True

    def readall(self) -> bytes:
        """Read all that is left, at once and not in small pieces as io.RawIOBase does."""
        buffer = bytearray(max(self._file.seek(0, 2) - self._at, 0))
        return bytes(buffer[: self.readinto(buffer)])

    def fileno(self) -> int:
        """Return the open file's descriptor: libtiff, which reads from it, is given the place of the page."""
        return self._file.fileno()


def numbers_of(value: Any) -> tuple[int, ...]:
    """Return the values of a tag, however many it has."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)
