"""TIFF: pages, their tags, pixels of 16 bits and floats, all of which Pillow reads in part."""

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
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ..picture import apply_orientation, swap_red_blue

log = logging.getLogger(__name__)


WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # of tag 262
ASSOCIATED, UNASSOCIATED = 1, 2  # of tag 338: colours multiplied by alpha, or not
ICC_TAG, XMP_TAG = 34675, 700
LARGEST = 1e30  # of floats: sums of a few must be finite too


# What pixels are decoded by: size, bits, compression, colours, turn, channels, strips, planes, predictor, tiles,
# alpha, floats. Where they are: offsets and lengths of strips, of tiles.
PIXEL_TAGS = (256, 257, 258, 259, 262, 266, 274, 277, 278, 284, 317, 322, 323, 338, 339)
PIXEL_PLACES = (273, 279), (324, 325)


@dataclass(frozen=True)
class TiffPage:
    """The first page, as its tags have it. exif: all of its tags, or None in a BigTIFF."""

    tags: ImageFileDirectory_v2
    exif: Image.Exif | None

    def number(self, tag: int, default: int) -> int:
        """A tag's first value."""
        value = self.tags.get(tag, default)
        return int(value[0] if isinstance(value, tuple) else value)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), not turned upright."""
        return self.number(257, 0), self.number(256, 0)

    @property
    def deep(self) -> bool:
        """Whether Pillow would cut its pixels to 8 bits, or not read them."""
        return self.number(258, 1) > 8


def read_tiff_page(file: BinaryIO) -> TiffPage:
    """Tags of the first page. ValueError for camera raw files, whose first page is a thumbnail."""
    file.seek(0)
    head = file.read(16)
    big = 43 in head[2:4]
    tags = ImageFileDirectory_v2(head if big else head[:8])
    file.seek(tags.next)
    tags.load(file)
    page = TiffPage(tags, None if big else Image.Exif())
    if page.number(254, 0) & 1 or head[8:10] == b"CR":
        raise ValueError("a camera's raw file; develop it first")
    if page.exif is not None:
        file.seek(0)
        page.exif.load_from_fp(file)
    return page


def read_deep_tiff(page: TiffPage, data: bytes) -> np.ndarray:
    """(h, w[, c]) uint16 or float32 pixels of the first page, upright, alpha not multiplied in."""
    kind, samples = page.number(262, BLACK_IS_ZERO), page.number(277, 1)
    if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or samples > 4:
        raise ValueError(f"{page.number(258, 1)}-bit pixels that are neither gray nor RGB; save it as RGB")
    half = page.number(258, 1) == 16 and page.number(339, 1) == 3
    # OpenCV reads neither these floats, nor two channels, nor planes.
    strange = half or samples == 2 or (page.number(284, 1) == 2 and samples > 1)
    pixels = _by_tifffile(page, data) if strange else _by_opencv(data, page)
    if pixels.dtype in (np.float16, np.float64):
        pixels = pixels.astype(np.float32)
    if pixels.dtype not in (np.uint16, np.float32):
        raise ValueError(f"pixels of type {pixels.dtype}; save it with 8 or 16 bits, or as 32-bit floats")
    if pixels.dtype == np.float32 and not -LARGEST < pixels.min() <= pixels.max() < LARGEST:
        raise ValueError(f"some of its pixels are not finite numbers, or beyond {LARGEST:.0e}")
    if kind == WHITE_IS_ZERO:
        pixels = (1 if pixels.dtype == np.float32 else 65_535) - pixels
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = _with_true_alpha(pixels, page.number(338, 0))
    return pixels


def _by_opencv(data: bytes, page: TiffPage) -> np.ndarray:
    """By libtiff, which bounds what a strip may grow to. Turns pixels upright by itself."""
    import cv2

    cv2.utils.logging.setLogLevel(0)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or sorted(pixels.shape[:2]) != sorted(page.size):
        raise ValueError("damaged or truncated, or compressed in a way that is not known here")
    return swap_red_blue(pixels) if pixels.ndim == 3 else pixels


def _by_tifffile(page: TiffPage, data: bytes) -> np.ndarray:
    tifffile = tifffile_quietly()

    height, width = page.size
    with tifffile.TiffFile(BytesIO(data)) as file:
        first = file.pages.first
        largest = min(height * width * 4 * 8, math.prod(first.chunks) * first.dtype.itemsize)
        for offset, count in zip(first.dataoffsets, first.databytecounts, strict=True):
            # tifffile inflates without a bound.
            if first.compression in (8, 32946):
                if len(zlib.decompressobj().decompress(data[offset : offset + count], largest + 1)) > largest:
                    raise ValueError("damaged: a strip is larger than the image")
        pixels = first.asarray()
    if first.planarconfig == 2 and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.shape[:2] != (height, width):
        raise ValueError("damaged: its pixels are fewer than its tags say")
    return apply_orientation(pixels, page.number(274, 1))


def _with_true_alpha(pixels: np.ndarray, extra: int) -> np.ndarray:
    """Colours not multiplied by alpha; without the last channel where that is none."""
    if extra == UNASSOCIATED:
        return pixels
    color, alpha = pixels[..., :-1], pixels[..., -1:]
    if extra != ASSOCIATED:
        return color.squeeze(2) if color.shape[2] == 1 else color
    top = 1 if pixels.dtype == np.float32 else 65_535
    true = color.astype(np.float64) * top / np.maximum(alpha, 1e-6 if top == 1 else 1)
    true = true if top == 1 else np.rint(true).clip(0, top)
    return np.concatenate([np.where(alpha > 0, true, 0).astype(pixels.dtype), alpha], axis=2)


def tifffile_quietly() -> Any:
    """The package, which is heavy; what it has to say of damaged files is said by us."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile


def page_offsets(file: BinaryIO, most: int) -> list[int]:
    """Where the pages of an open file have their tags, `most` at most; thumbnails and masks are no pages.

    Directories below pages are not looked at. One that cannot be read ends the list, and is in it.
    """
    file.seek(0)
    head = file.read(16).ljust(16, b"\0")
    order, big = ">" if head[:2] == b"MM" else "<", 43 in head[2:4]
    entries, entry, next_one = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
    (at,) = struct.unpack_from(next_one, head, 8 if big else 4)
    found, seen = list[int](), set[int]()
    while at and at not in seen and len(found) < most:
        seen.add(at)
        file.seek(at)
        try:
            (count,) = struct.unpack(entries, file.read(struct.calcsize(entries)))
            tags = file.read(min(count, 65_535) * entry)
            (following,) = struct.unpack(next_one, file.read(struct.calcsize(next_one)))
        except struct.error:
            found.append(at)
            break
        if not found or not _is_extra(tags, entry, order):
            found.append(at)
        at = following
    return found


def _is_extra(tags: bytes, entry: int, order: str) -> bool:
    """Whether a directory's entries say that it is a smaller version of another image, or a mask."""
    for at in range(0, len(tags) - entry + 1, entry):
        tag, kind = struct.unpack_from(order + "HH", tags, at)
        if tag in (254, 255):
            (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tags, at + entry // 2 + 2)
            return bool(value & 5) if tag == 254 else value == 2
    return False


class PageFile(io.RawIOBase):
    """An open TIFF whose header says that another page is the first one."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        file.seek(0)
        head = file.read(16)
        order, big = ">" if head[:2] == b"MM" else "<", 43 in head[2:4]
        offset = struct.pack(order + ("Q" if big else "I"), at)
        self._file = file
        self._head = head[: 8 if big else 4] + offset
        self._at = 0

    def readinto(self, buffer: Any) -> int:
        """See io.RawIOBase."""
        view, start = memoryview(buffer).cast("B"), self._at
        self._file.seek(start)
        data = self._file.read(len(view))
        head = self._head[start : start + len(data)]
        view[: len(data)] = head + data[len(head) :]
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """See io.RawIOBase."""
        base = (0, self._at)[whence] if whence < 2 else self._file.seek(0, 2)
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """See io.RawIOBase."""
        return self._at

    def readable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def seekable(self) -> bool:
        """See io.RawIOBase."""
        return True

    def readall(self) -> bytes:
        """See io.RawIOBase; which would do so by little pieces."""
        buffer = bytearray(max(self._file.seek(0, 2) - self._at, 0))
        return bytes(buffer[: self.readinto(buffer)])

    def fileno(self) -> int:
        """Of the file: libtiff, which reads from it, is told where a page begins."""
        return self._file.fileno()


def page_alone(page: TiffPage, file: BinaryIO) -> bytes:
    """A small TIFF with the pixels of one page and the tags that they need; the file may hold many more.

    Raises ValueError for damaged ones.
    """
    offsets, lengths = PIXEL_PLACES[0] if 324 not in page.tags else PIXEL_PLACES[1]
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
    values = {tag: page.tags[tag] for tag in PIXEL_TAGS if tag in page.tags}
    values |= {lengths: [len(part) for part in parts], offsets: [0] * len(parts)}
    begin = 8 + 6 + 12 * len(values) + sum(4 * len(_numbers(value)) for value in values.values())
    values[offsets] = list(accumulate(map(len, parts[:-1]), initial=begin))
    entries, beyond, at = b"", b"", 8 + 6 + 12 * len(values)
    for tag, value in sorted(values.items()):
        kind = 4 if tag in (256, 257, 278, offsets, lengths) else 3
        body = struct.pack(f"{order}{len(_numbers(value))}{'HI'[kind - 3]}", *_numbers(value))
        entries += struct.pack(order + "HHI", tag, kind, len(_numbers(value)))
        entries += body.ljust(4, b"\0") if len(body) <= 4 else struct.pack(order + "I", at + len(beyond))
        beyond += body if len(body) > 4 else b""
    head = page.tags.prefix + struct.pack(order + "HIH", 42, 8, len(values))
    return b"".join([(head + entries + b"\0\0\0\0" + beyond).ljust(begin, b"\0"), *parts])


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
