"""PNG written by rows: filtered by numpy, deflated by ISA-L, or by zlib where more time is given."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from isal import isal_zlib

from ..rows import RowLayout, restrip
from .png import METRE, SIGNATURE, XMP_KEYWORD, chunk

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by channels
SUB, UP, AVERAGE, PAETH = 1, 2, 3, 4  # filter types


def write_png(file: BinaryIO, layout: RowLayout, bands: Iterable[np.ndarray], compression: int) -> None:
    """uint8 or uint16. compression: 0 to 5, as EncodeSettings has it."""
    depth = 8 * layout.dtype.itemsize
    kind = COLOR_TYPES[layout.channels]
    file.write(SIGNATURE)
    file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", layout.width, layout.height, depth, kind, 0, 0, 0)))
    file.writelines(_metadata(layout))
    bodies = _deflated(restrip(bands, layout, layout.strip_rows), layout, compression)
    file.writelines(chunk(b"IDAT", body) for body in bodies)
    file.write(chunk(b"IEND", b""))


def _metadata(layout: RowLayout) -> Iterator[bytes]:
    meta = layout.metadata
    if layout.icc is not None:
        yield chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(layout.icc))
    if meta.dpi is not None:
        x, y = (round(value / METRE) for value in meta.dpi)
        yield chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if meta.software is not None:
        yield chunk(b"tEXt", b"Software\0" + meta.software.encode("latin-1", "replace"))
    if meta.xmp is not None:
        yield chunk(b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + meta.xmp.decode("utf-8", "replace").encode())
    if (exif := meta.exif_of(layout.height, layout.width)) is not None:
        yield chunk(b"eXIf", exif)


def _deflated(strips: Iterable[np.ndarray], layout: RowLayout, compression: int) -> Iterator[bytes]:
    """Bodies of IDAT, of about a strip's bytes at most."""
    packer, filtered = _packer(compression)
    step = layout.channels * layout.dtype.itemsize
    above = np.zeros((1, layout.row_bytes), np.uint8)
    for strip in strips:
        rows = strip.astype(strip.dtype.newbyteorder(">"), copy=False).view(np.uint8).reshape(len(strip), -1)
        rows = np.concatenate([above, rows])
        above = rows[-1:]
        if body := packer.compress(filtered(rows, step)):
            yield body
    yield packer.flush()


def _packer(compression: int) -> tuple[Any, Callable[[np.ndarray, int], np.ndarray]]:
    """A compressor of zlib's manner, and the filter that goes with it."""
    if compression == 0:
        return zlib.compressobj(0), _up
    if compression == 1:
        return isal_zlib.compressobj(2), _quick
    # Of what filters leave of photos little but runs repeats.
    if compression == 2:
        return zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE), _best
    level = {3: 5, 4: 6, 5: 9}[compression]
    return zlib.compressobj(level, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED), _best


# --- filters: rows (n + 1, bytes), the first of which is done, -> (n, 1 + bytes); step: bytes of a pixel ----


def _sub(rows: np.ndarray, step: int) -> np.ndarray:
    made = _typed(rows, SUB)
    made[:, 1 : 1 + step] = rows[1:, :step]
    np.subtract(rows[1:, step:], rows[1:, :-step], out=made[:, 1 + step :])
    return made


def _up(rows: np.ndarray, step: int) -> np.ndarray:
    made = _typed(rows, UP)
    np.subtract(rows[1:], rows[:-1], out=made[:, 1:])
    return made


def _average(rows: np.ndarray, step: int) -> np.ndarray:
    made = _typed(rows, AVERAGE)
    made[:, 1 : 1 + step] = rows[1:, :step] - (rows[:-1, :step] >> 1)
    left, above = rows[1:, :-step], rows[:-1, step:]
    mean = left ^ above  # (left + above) // 2 without a ninth bit
    mean >>= 1
    mean += left & above
    np.subtract(rows[1:, step:], mean, out=made[:, 1 + step :])
    return made


def _paeth(rows: np.ndarray, step: int) -> np.ndarray:
    """The one of left, above and above left that left + above - above left is closest to."""
    made = _typed(rows, PAETH)
    made[:, 1 : 1 + step] = rows[1:, :step] - rows[:-1, :step]
    left, above, corner = rows[1:, :-step], rows[:-1, step:], rows[:-1, :-step]
    wide = corner.astype(np.int16)
    to_left, to_above = above - wide, left - wide
    to_corner = np.abs(to_left + to_above)
    to_left, to_above = np.abs(to_left), np.abs(to_above)
    best = np.where(to_above <= to_corner, above, corner)
    best = np.where((to_left <= to_above) & (to_left <= to_corner), left, best)
    np.subtract(rows[1:, step:], best, out=made[:, 1 + step :])
    return made


def _quick(rows: np.ndarray, step: int) -> np.ndarray:
    """One filter for all: the average, best for photos, or up, for what was drawn; by an eighth of the rows."""
    tried = [_average(rows, step), _up(rows, step)]
    return tried[int(np.argmin([_sums(made[::8]).sum() for made in tried]))]


def _best(rows: np.ndarray, step: int) -> np.ndarray:
    """Of each row the filter that leaves the smallest sum of differences: the PNG standard's rule of thumb."""
    tried = [made(rows, step) for made in (_paeth, _average, _up, _sub)]
    chosen = np.argmin([_sums(made) for made in tried], axis=0)
    for other in (1, 2, 3):
        np.copyto(tried[0], tried[other], where=(chosen == other)[:, None])
    return tried[0]


def _sums(made: np.ndarray) -> np.ndarray:
    """Of each row's differences, as numbers from -128 to 127."""
    return np.asarray(np.abs(made.view(np.int8)).view(np.uint8).sum(axis=1, dtype=np.int64))


def _typed(rows: np.ndarray, kind: int) -> np.ndarray:
    made = np.empty((len(rows) - 1, rows.shape[1] + 1), np.uint8)
    made[:, 0] = kind
    return made
