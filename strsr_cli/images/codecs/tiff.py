"""TIFF read by its pages: their tags, and pixels of 16 bits and floats, which Pillow reads only in part."""

from __future__ import annotations

import io
import logging
import math
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..metadata.blocks import LIMIT, Blocks
from ..metadata.directories import read_directories
from ..metadata.exif import IPTC_TAG, LAYOUT, ORIENTATION, PHOTOSHOP_TAG, XMP_TAG
from ..metadata.texts import iptc_of
from ..picture import apply_orientation, swap_red_blue

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # of tag 262
ASSOCIATED, UNASSOCIATED = 1, 2  # of tag 338: colours multiplied by alpha, or not
LARGEST = 1e30  # of floats: sums of a few must be finite too

# Tags by which pixels are decoded: size, bits, compression, colours, turn, channels, strips, planes,
# predictor, tiles, alpha, floats.
PIXEL_TAGS = (256, 257, 258, 259, 262, 266, 274, 277, 278, 284, 317, 322, 323, 338, 339)
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
    def deep(self) -> bool:
        """Whether Pillow would cut the page's pixels to 8 bits, or not read them."""
        return self.number(258, 1) > 8


def read_tiff_page(file: BinaryIO) -> TiffPage:
    """Read the tags of the first page. ValueError for camera raw files, whose first page is a thumbnail."""
    file.seek(0)
    head = file.read(16)
    big = 43 in head[2:4]
    tags = ImageFileDirectory_v2(head if big else head[:8])
    file.seek(tags.next)
    tags.load(file)
    page = TiffPage(tags, Blocks(tiff=True))
    if page.number(254, 0) & 1 or head[8:10] == b"CR":
        raise ValueError("a camera's raw file; develop it first")
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


def read_deep_tiff(page: TiffPage, data: bytes) -> np.ndarray:
    """Decode the first page to pixels (h, w[, c]) of uint16 or float32, upright, alpha not multiplied in."""
    kind = page.number(262, BLACK_IS_ZERO)
    samples = page.number(277, 1)
    if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or samples > 4:
        raise ValueError(f"{page.number(258, 1)}-bit pixels that are neither gray nor RGB; save it as RGB")
    half = page.number(258, 1) == 16 and page.number(339, 1) == 3
    planar = page.number(284, 1) == 2 and samples > 1
    # OpenCV reads neither 16-bit floats, nor two channels, nor planes.
    if half or samples == 2 or planar:
        pixels = _decode_by_tifffile(page, data)
    else:
        pixels = _decode_by_opencv(page, data)
    if pixels.dtype in (np.float16, np.float64):
        pixels = pixels.astype(np.float32)
    if pixels.dtype not in (np.uint16, np.float32):
        raise ValueError(f"pixels of type {pixels.dtype}; save it with 8 or 16 bits, or as 32-bit floats")
    if pixels.dtype == np.float32 and not -LARGEST < pixels.min() <= pixels.max() < LARGEST:
        raise ValueError(f"some of its pixels are not finite numbers, or beyond {LARGEST:.0e}")
    if kind == WHITE_IS_ZERO:
        pixels = (1 if pixels.dtype == np.float32 else 65_535) - pixels
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = _separate_alpha(pixels, page.number(338, 0))
    return pixels


def _decode_by_opencv(page: TiffPage, data: bytes) -> np.ndarray:
    """Decode by OpenCV's libtiff, which bounds what a strip may grow to, and turns pixels upright itself."""
    import cv2

    cv2.utils.logging.setLogLevel(0)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or sorted(pixels.shape[:2]) != sorted(page.size):
        raise ValueError("damaged or truncated, or compressed in a way that is not known here")
    return swap_red_blue(pixels) if pixels.ndim == 3 else pixels


def _decode_by_tifffile(page: TiffPage, data: bytes) -> np.ndarray:
    """Decode by tifffile, with the bounds that it lacks."""
    tifffile = load_tifffile()
    height, width = page.size
    with tifffile.TiffFile(BytesIO(data)) as file:
        first = file.pages.first
        largest = min(height * width * 4 * 8, math.prod(first.chunks) * first.dtype.itemsize)
        for offset, count in zip(first.dataoffsets, first.databytecounts, strict=True):
            # tifffile inflates strips without a bound.
            if first.compression in (8, 32946):
                strip = zlib.decompressobj().decompress(data[offset : offset + count], largest + 1)
                if len(strip) > largest:
                    raise ValueError("damaged: a strip is larger than the image")
        pixels = first.asarray()
    if first.planarconfig == 2 and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.shape[:2] != (height, width):
        raise ValueError("damaged: its pixels are fewer than its tags say")
    return apply_orientation(pixels, page.number(274, 1))


def _separate_alpha(pixels: np.ndarray, extra: int) -> np.ndarray:
    """Divide colours by the alpha that they are multiplied by; drop the last channel where it is no alpha.

    extra: the value of tag 338.
    """
    if extra == UNASSOCIATED:
        return pixels
    color, alpha = pixels[..., :-1], pixels[..., -1:]
    if extra != ASSOCIATED:
        return color.squeeze(2) if color.shape[2] == 1 else color
    top = 1 if pixels.dtype == np.float32 else 65_535
    smallest = 1e-6 if top == 1 else 1
    divided = color.astype(np.float64) * top / np.maximum(alpha, smallest)
    if top != 1:
        divided = np.rint(divided).clip(0, top)
    return np.concatenate([np.where(alpha > 0, divided, 0).astype(pixels.dtype), alpha], axis=2)


def load_tifffile() -> Any:
    """Import tifffile, which is heavy, and silence it: damaged files are reported by us."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile


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
        if not offsets or not _is_extra(entries, entry_size, order):
            offsets.append(at)
        at = following
    return offsets


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


def extract_page(page: TiffPage, file: BinaryIO) -> bytes:
    """Build a small TIFF of one page's pixels and the tags that they need; the file may hold many more.

    Raises ValueError for damaged files.
    """
    offsets, lengths = PIXEL_PLACES[1] if 324 in page.tags else PIXEL_PLACES[0]
    places = list(zip(page.tags.get(offsets, ()), page.tags.get(lengths, ()), strict=True))
    if not places or sum(length for _, length in places) > file.seek(0, 2):
        raise ValueError("damaged or truncated")
    parts = []
    for at, length in places:
        file.seek(at)
        parts.append(file.read(length))
        if len(parts[-1]) < length:
            raise ValueError("the file is truncated")
    order = "<" if page.tags.prefix == b"II" else ">"
    values = {tag: _numbers(page.tags[tag]) for tag in PIXEL_TAGS if tag in page.tags}
    values[lengths] = tuple(len(part) for part in parts)
    # The offsets' number counts now; they are known once all that stands before the pixels has its place.
    values[offsets] = (0,) * len(parts)
    directory_end = 8 + 6 + 12 * len(values)
    begin = directory_end + sum(4 * len(numbers) for numbers in values.values())
    values[offsets] = tuple(accumulate(map(len, parts[:-1]), initial=begin))
    long_tags = (256, 257, 278, offsets, lengths)
    entries = b""
    beyond = b""
    for tag, numbers in sorted(values.items()):
        kind, letter = (4, "I") if tag in long_tags else (3, "H")
        body = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        entries += struct.pack(order + "HHI", tag, kind, len(numbers))
        if len(body) <= 4:
            entries += body.ljust(4, b"\0")
        else:
            entries += struct.pack(order + "I", directory_end + len(beyond))
            beyond += body
    head = page.tags.prefix + struct.pack(order + "HIH", 42, 8, len(values))
    return b"".join([(head + entries + b"\0\0\0\0" + beyond).ljust(begin, b"\0"), *parts])


def _numbers(value: Any) -> tuple[int, ...]:
    """Return the values of a tag, however many it has."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)
