"""Pixels of a TIFF page that Pillow cuts to 8 bits or does not read: 16 bits, floats, odd depths, planes.

libtiff, inside of Pillow, undoes the compression alone: it is shown the strips as rows of gray bytes. What
these bytes mean, predictors included, is done here by numpy, a few strips at a time.
"""

from __future__ import annotations

import importlib.util
import struct
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from strsr_models.errors import first_line
from strsr_models.packages import install_command

from ...color.floats import BAND, scale_to_white
from ...picture import apply_orientation
from ..pillow_reader import load_pixels
from .kinds import NAMES, OF_BYTES, check_kind, describe, refusal
from .pages import (
    ASSOCIATED,
    BLACK_IS_ZERO,
    FLOAT,
    PALETTE,
    UNASSOCIATED,
    WHITE_IS_ZERO,
    TiffPage,
    load_tifffile,
    numbers_of,
)

GROUP = 2**25  # bytes of pixels whose compression is undone at a time


@dataclass(frozen=True)
class DeepPixels:
    """Pixels (h, w, c) of uint8, uint16 or float32, upright, alpha not multiplied in.

    white: the numbers of the file that became 1, of colours and of alpha; both 1 for integers.
    """

    pixels: np.ndarray
    white: tuple[float, float] = (1.0, 1.0)


def read_shallow_tiff(page: TiffPage, file: BinaryIO, name: str) -> tuple[np.ndarray, str]:
    """Decode the first page of an open file by Pillow; see `load_pixels`. ValueError as in `read_deep_tiff`."""
    file.seek(0)
    try:
        return load_pixels(file, "TIFF", name)
    except UnidentifiedImageError as error:
        # Pillow knows no such combination of tags, or these are damaged.
        page.places(1, file.seek(0, 2))
        raise refusal(page) from error
    except OSError as error:
        if not first_line(error).startswith("decoder error"):
            raise
        packed = page.number(259, 1)
        raise ValueError(
            f"damaged or truncated, or a kind of {NAMES.get(packed, f'compression {packed}')} that is not read"
        ) from error


def read_deep_tiff(page: TiffPage, file: BinaryIO) -> DeepPixels:
    """Decode the first page of an open file. ValueError says what is wrong with it, or not read."""
    check_kind(page)
    decode = _decode if page.number(259, 1) in (1, *OF_BYTES) else _decode_by_tifffile
    pixels = decode(page, file)
    kind, alpha = page.number(262, BLACK_IS_ZERO), _alpha(page)
    if kind == PALETTE:
        pixels = _colors(page, pixels)
    has_alpha = alpha is not None
    white = scale_to_white(pixels, has_alpha) if pixels.dtype == np.float32 else (1.0, 1.0)
    top = 1 if pixels.dtype == np.float32 else np.iinfo(pixels.dtype).max
    if kind == WHITE_IS_ZERO:
        pixels[..., :1] = top - pixels[..., :1]
    if alpha == ASSOCIATED:
        _divide(pixels, top)
    return DeepPixels(apply_orientation(pixels, page.number(274, 1)), white)


def _alpha(page: TiffPage) -> int | None:
    """Return what a page's alpha is, ASSOCIATED or UNASSOCIATED; None where it has none."""
    known = [extra for extra in numbers_of(page.tags.get(338, ())) if extra in (ASSOCIATED, UNASSOCIATED)]
    return known[0] if known and page.number(277, 1) > page.base else None


def _channels(page: TiffPage) -> list[int]:
    """Return the samples of a page that are read: its colours, and the first that is alpha."""
    extras = numbers_of(page.tags.get(338, ()))
    alpha = _alpha(page)
    return [*range(page.base), *([] if alpha is None else [page.base + extras.index(alpha)])]


def _colors(page: TiffPage, pixels: np.ndarray) -> np.ndarray:
    """Look indices (h, w, 1) of 16 bits up in the page's palette."""
    values = np.array(page.tags.get(320, ()), np.uint16)
    if len(values) != 3 << page.bits[0]:
        raise ValueError("damaged: its palette is missing or of another size")
    return np.asarray(values.reshape(3, -1).T[pixels[..., 0]])


def _divide(pixels: np.ndarray, top: int) -> None:
    """Divide colours (h, w, c) by the alpha that they are multiplied by, in place."""
    smallest = 1e-6 if top == 1 else 1
    for start in range(0, len(pixels), BAND):
        band = pixels[start : start + BAND]
        color, alpha = band[..., :-1], band[..., -1:]
        divided = color.astype(np.float64) * top / np.maximum(alpha, smallest)
        if top != 1:
            divided = np.rint(divided).clip(0, top)
        color[...] = np.where(alpha > 0, divided, 0)


# --- bytes to numbers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunks:
    """How the pixels of a page are cut: `across` chunks of (height, width) px in a row, `planes` times."""

    height: int
    width: int
    across: int
    planes: int
    samples: int  # of a chunk
    places: list[tuple[int, int]]  # of the chunks in the file, and their lengths

    @property
    def down(self) -> int:
        """The number of rows of chunks in a plane."""
        return len(self.places) // (self.planes * self.across)


def _chunks(page: TiffPage, size: int) -> _Chunks:
    """Find the chunks of a page in a file of that many bytes."""
    (height, width), samples = page.size, page.number(277, 1)
    planes = samples if page.number(284, 1) == 2 else 1
    if 324 in page.tags:
        chunk_height, chunk_width = page.number(323, 0), page.number(322, 0)
    else:
        chunk_height, chunk_width = min(page.number(278, height), height), width
    if min(chunk_height, chunk_width) < 1 or chunk_height * chunk_width > 4 * height * width + 2**22:
        raise ValueError("damaged: its strips or tiles have no sound size")
    across = -(-width // chunk_width)
    places = page.places(planes * across * -(-height // chunk_height), size)
    chunks = _Chunks(chunk_height, chunk_width, across, planes, samples // planes, places)
    whole = chunk_height == height and page.number(259, 1) == 1 and 324 not in page.tags
    return _cut(page, chunks) if whole else chunks


def _cut(page: TiffPage, chunks: _Chunks) -> _Chunks:
    """Cut strips that are whole planes, as they lie in the file, into smaller ones."""
    row = _row_bytes(page, chunks)
    rows = max(1, min(GROUP // row, chunks.height))
    places = [
        (at + top * row, min(rows, chunks.height - top) * row)
        for at, length in chunks.places
        for top in range(0, chunks.height, rows)
        if length >= chunks.height * row
    ]
    if not places or len(places) % chunks.planes:
        raise ValueError("damaged or truncated: a strip is too short")
    return replace(chunks, height=rows, places=places)


def _decode(page: TiffPage, file: BinaryIO) -> np.ndarray:
    """Undo the compression of a page, and read what is left as numbers: (h, w, samples)."""
    chunks, (height, width) = _chunks(page, file.seek(0, 2)), page.size
    channels = _channels(page)
    pixels = np.empty((height, width, len(channels)), _dtype(page))
    together = max(1, GROUP // (_row_bytes(page, chunks) * chunks.across * chunks.height))
    for place, plane in enumerate(channels if chunks.planes > 1 else [0]):
        into, taken = (slice(place, place + 1), [0]) if chunks.planes > 1 else (slice(None), channels)
        for first in range(0, chunks.down, together):
            last = min(first + together, chunks.down)
            start, end = (plane * chunks.down + row for row in (first, last))
            parts = [
                _read(file, *place) for place in chunks.places[start * chunks.across : end * chunks.across]
            ]
            top, rows = first * chunks.height, (last - first) * chunks.height
            # The last strip ends with the picture, the last tile does not.
            if 324 not in page.tags:
                rows = min(rows, height - top)
            numbers = _numbers(page, _flat(page, chunks, parts, rows), chunks)
            pixels[top : top + rows, :, into] = numbers[: height - top, :width, taken]
    return pixels


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    """Read so many bytes from a place of a file."""
    file.seek(at)
    return file.read(length)


def _row_bytes(page: TiffPage, chunks: _Chunks) -> int:
    """Return the bytes of a row of one chunk."""
    return -(-chunks.width * chunks.samples * page.bits[0] // 8)


def _flat(page: TiffPage, chunks: _Chunks, parts: list[bytes], rows: int) -> np.ndarray:
    """Return the bytes of some rows of chunks, uncompressed: (rows, chunks across, bytes of a row of one)."""
    width = _row_bytes(page, chunks)
    tags = {
        256: chunks.across * width,
        257: rows,
        258: 8,
        259: page.number(259, 1),
        262: BLACK_IS_ZERO,
        277: 1,
    }
    tags[266] = page.number(266, 1)
    if 324 in page.tags:
        tags |= {322: width, 323: chunks.height}
    else:
        tags[278] = chunks.height
    try:
        with Image.open(BytesIO(_file_of(tags, parts)), formats=("TIFF",)) as image:
            image.load()
            return np.asarray(image).reshape(rows, chunks.across, width)
    except OSError as error:
        raise ValueError("damaged or truncated") from error


def _file_of(tags: dict[int, int], parts: list[bytes]) -> bytes:
    """Build a little TIFF of numbers and strips, or tiles."""
    offsets, lengths = (324, 325) if 322 in tags else (273, 279)
    values: dict[int, tuple[int, ...]] = {tag: (value,) for tag, value in tags.items()}
    values[lengths] = tuple(len(part) for part in parts)
    directory_end = 8 + 6 + 12 * (len(values) + 1)
    begin = directory_end + (8 * len(parts) if len(parts) > 1 else 0)
    values[offsets] = tuple(accumulate(values[lengths][:-1], initial=begin))
    entries, beyond = b"", b""
    for tag, numbers in sorted(values.items()):
        body = struct.pack(f"<{len(numbers)}I", *numbers)
        entries += struct.pack("<HHI", tag, 4, len(numbers))
        entries += body if len(numbers) == 1 else struct.pack("<I", directory_end + len(beyond))
        beyond += b"" if len(numbers) == 1 else body
    head = b"II*\0" + struct.pack("<IH", 8, len(values))
    return b"".join([head, entries, b"\0\0\0\0", beyond, *parts])


def _dtype(page: TiffPage) -> Any:
    """Return the type that a page's numbers are read as."""
    if page.number(339, 1) == FLOAT:
        return np.float32
    return np.uint8 if page.bits[0] <= 8 else np.uint16


def _numbers(page: TiffPage, raw: np.ndarray, chunks: _Chunks) -> np.ndarray:
    """Read bytes (rows, chunks across, n) as numbers (rows, width, samples), predictors undone."""
    bits, floats, predictor = page.bits[0], page.number(339, 1) == FLOAT, page.number(317, 1)
    shape = (len(raw), chunks.across, chunks.width, chunks.samples)
    if predictor == 3 and floats:
        values = _undo_float_predictor(raw, bits // 8, chunks.samples)
    elif bits in (8, 16, 32, 64):
        order = "<" if page.tags.prefix == b"II" else ">"
        values = raw.view(f"{order}u{bits // 8}").astype(f"u{bits // 8}")
        if predictor == 2:
            values = np.cumsum(values.reshape(shape), axis=2, dtype=values.dtype)
        values = values.view(f"f{bits // 8}") if floats else values
    elif predictor == 1:
        values = _unpack(raw, bits, chunks.width * chunks.samples)
    else:
        raise refusal(page)
    with np.errstate(over="ignore"):
        # Doubles that floats cannot hold become infinite, which is told later.
        values = values.astype(_dtype(page), copy=False)
    return values.reshape(len(raw), chunks.across * chunks.width, chunks.samples)


def _undo_float_predictor(raw: np.ndarray, size: int, samples: int) -> np.ndarray:
    """Undo Adobe's predictor 3: differences of bytes, whose most significant ones come first in a row."""
    rows, across, width = raw.shape
    differences = raw.reshape(rows, across, width // samples, samples)
    planes = np.cumsum(differences, axis=2, dtype=np.uint8).reshape(rows, across, size, -1)
    return np.ascontiguousarray(planes.swapaxes(2, 3)).view(f">f{size}")[..., 0]


def _unpack(raw: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unpack `count` numbers of so many bits in each row, and stretch them to 8 or 16 bits."""
    ones = np.unpackbits(raw, axis=2)[..., : count * bits].reshape(*raw.shape[:2], count, bits)
    values = ones.astype(np.uint32) @ (1 << np.arange(bits, dtype=np.uint32)[::-1])
    top = 255 if bits <= 8 else 65_535
    most = (1 << bits) - 1
    return (values * top + most // 2) // most


def _decode_by_tifffile(page: TiffPage, file: BinaryIO) -> np.ndarray:
    """Decode compressions that libtiff leaves alone, where the package imagecodecs is there."""
    if importlib.util.find_spec("imagecodecs") is None:
        packed = page.number(259, 1)
        name = NAMES.get(packed, f"number {packed}")
        raise ValueError(
            f"{describe(page)}, compressed as {name}; to read it: {install_command('strsr[tiff]')}"
        )
    file.seek(0)
    with load_tifffile().TiffFile(BytesIO(file.read())) as tiff:
        first = tiff.pages.first
        pixels = first.asarray()
    if first.planarconfig == 2 and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape != (*page.size, page.number(277, 1)):
        raise ValueError("damaged: its pixels are fewer than its tags say")
    return np.ascontiguousarray(pixels[..., _channels(page)], _dtype(page))
