"""PNG written by rows: filtered by numpy, deflated by ISA-L, or by zlib where more time is given."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from isal import isal_zlib

from ..metadata.texts import iptc_block, make_profile
from ..rows import RowLayout, restrip
from .png import METRE, SIGNATURE, XMP_KEYWORD, chunk

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # number of channels -> PNG's colour type
SUB, UP, AVERAGE, PAETH = 1, 2, 3, 4  # filter types


def write_png(file: BinaryIO, layout: RowLayout, bands: Iterable[np.ndarray], compression: int) -> None:
    """Write a PNG of uint8 or uint16. compression: 0 to 5, as EncodeSettings has it."""
    depth = 8 * layout.dtype.itemsize
    kind = COLOR_TYPES[layout.channels]
    file.write(SIGNATURE)
    file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", layout.width, layout.height, depth, kind, 0, 0, 0)))
    file.writelines(_metadata(layout))
    bodies = _deflate(restrip(bands, layout, layout.strip_rows), layout, compression)
    file.writelines(chunk(b"IDAT", body) for body in bodies)
    file.write(chunk(b"IEND", b""))


def _metadata(layout: RowLayout) -> Iterator[bytes]:
    """Build the chunks of colours by number, profile, resolution, texts, IPTC, XMP and EXIF."""
    meta = layout.metadata
    for kind, body in layout.color_chunks:
        yield chunk(kind, body)
    if layout.icc is not None:
        yield chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(layout.icc))
    if meta.dpi is not None:
        x, y = (round(value / METRE) for value in meta.dpi)
        yield chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    for text in meta.png_texts():
        yield chunk(text.kind, text.body)
    if meta.iptc is not None:
        profile = make_profile("iptc", iptc_block(meta.iptc))
        yield chunk(profile.kind, profile.body)
    xmp = meta.xmp_of(layout.height, layout.width)
    if xmp is not None:
        yield chunk(b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + xmp.decode("utf-8", "replace").encode())
    exif = meta.exif_of(layout.height, layout.width)
    if exif is not None:
        yield chunk(b"eXIf", exif)


def _deflate(strips: Iterable[np.ndarray], layout: RowLayout, compression: int) -> Iterator[bytes]:
    """Deflate strips into bodies of IDAT, each of about a strip's bytes at most."""
    packer, apply_filter = _packer(compression)
    step = layout.channels * layout.dtype.itemsize
    above = np.zeros((1, layout.row_bytes), np.uint8)
    for strip in strips:
        rows = strip.astype(strip.dtype.newbyteorder(">"), copy=False).view(np.uint8).reshape(len(strip), -1)
        rows = np.concatenate([above, rows])
        above = rows[-1:]
        if body := packer.compress(apply_filter(rows, step)):
            yield body
    yield packer.flush()


def _packer(compression: int) -> tuple[Any, Callable[[np.ndarray, int], np.ndarray]]:
    """Return a compressor with zlib's methods, and the filter that goes with it."""
    if compression == 0:
        return zlib.compressobj(0), _up
    if compression == 1:
        return isal_zlib.compressobj(2), _quick
    # Little but runs repeats in what filters leave of photos.
    if compression == 2:
        return zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE), _best
    level = {3: 5, 4: 6, 5: 9}[compression]
    return zlib.compressobj(level, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED), _best


# --- filters -----------------------------------------------------------------------------------------
# Each takes rows (n + 1, bytes), the first of which is written already, and gives (n, 1 + bytes): the type
# of the filter, then differences. step: bytes of a pixel.


def _sub(rows: np.ndarray, step: int) -> np.ndarray:
    """Take from each byte the one to its left."""
    filtered = _empty_rows(rows, SUB)
    filtered[:, 1 : 1 + step] = rows[1:, :step]
    np.subtract(rows[1:, step:], rows[1:, :-step], out=filtered[:, 1 + step :])
    return filtered


def _up(rows: np.ndarray, step: int) -> np.ndarray:
    """Take from each byte the one above."""
    filtered = _empty_rows(rows, UP)
    np.subtract(rows[1:], rows[:-1], out=filtered[:, 1:])
    return filtered


def _average(rows: np.ndarray, step: int) -> np.ndarray:
    """Take from each byte the mean of those to its left and above."""
    filtered = _empty_rows(rows, AVERAGE)
    filtered[:, 1 : 1 + step] = rows[1:, :step] - (rows[:-1, :step] >> 1)
    left, above = rows[1:, :-step], rows[:-1, step:]
    # The mean is (left + above) // 2, computed without a ninth bit.
    mean = left ^ above
    mean >>= 1
    mean += left & above
    np.subtract(rows[1:, step:], mean, out=filtered[:, 1 + step :])
    return filtered


def _paeth(rows: np.ndarray, step: int) -> np.ndarray:
    """Take from each byte that of its neighbours left, above and above left which predicts it best.

    The best is the one closest to left + above - above left.
    """
    filtered = _empty_rows(rows, PAETH)
    filtered[:, 1 : 1 + step] = rows[1:, :step] - rows[:-1, :step]
    left, above, corner = rows[1:, :-step], rows[:-1, step:], rows[:-1, :-step]
    wide = corner.astype(np.int16)
    to_left, to_above = above - wide, left - wide
    to_corner = np.abs(to_left + to_above)
    to_left, to_above = np.abs(to_left), np.abs(to_above)
    best = np.where(to_above <= to_corner, above, corner)
    best = np.where((to_left <= to_above) & (to_left <= to_corner), left, best)
    np.subtract(rows[1:, step:], best, out=filtered[:, 1 + step :])
    return filtered


def _quick(rows: np.ndarray, step: int) -> np.ndarray:
    """Apply to all rows the average, best for photos, or up, best for drawings; an eighth of them decide."""
    candidates = [_average(rows, step), _up(rows, step)]
    costs = [_sums(candidate[::8]).sum() for candidate in candidates]
    return candidates[int(np.argmin(costs))]


def _best(rows: np.ndarray, step: int) -> np.ndarray:
    """Apply to each row the filter with the smallest sum of differences: the PNG standard's rule of thumb."""
    candidates = [apply_filter(rows, step) for apply_filter in (_paeth, _average, _up, _sub)]
    chosen = np.argmin([_sums(candidate) for candidate in candidates], axis=0)
    best = candidates[0]
    for number in (1, 2, 3):
        np.copyto(best, candidates[number], where=(chosen == number)[:, None])
    return best


def _sums(filtered: np.ndarray) -> np.ndarray:
    """Sum each row's differences without their signs, as numbers from -128 to 127."""
    return np.asarray(np.abs(filtered.view(np.int8)).view(np.uint8).sum(axis=1, dtype=np.int64))


def _empty_rows(rows: np.ndarray, kind: int) -> np.ndarray:
    """Make room for filtered rows, with the type of their filter in front."""
    filtered = np.empty((len(rows) - 1, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = kind
    return filtered
