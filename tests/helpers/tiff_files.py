"""TIFF files by hand: any kind of pixels, whatever writers think of it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

Entry = tuple[int, int, Sequence[int]]


def tiff_by_hand(
    strips: Sequence[bytes],
    size: tuple[int, int],
    bits: int | Sequence[int],
    samples: int = 1,
    photometric: int = 1,
    compression: int = 1,
    *more: Entry,
) -> bytes:
    """A little-endian TIFF of one page. size: (height, width). more: (tag, 3 or 4, numbers), in place of others."""
    height, width = size
    rows = -(-height // len(strips))
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * samples if isinstance(bits, int) else bits),
        259: (3, [compression]),
        262: (3, [photometric]),
        277: (3, [samples]),
        278: (4, [rows]),
        279: (4, [len(strip) for strip in strips]),
    }
    entries |= {tag: (kind, numbers) for tag, kind, numbers in more}
    entries = {tag: entry for tag, entry in entries.items() if len(entry[1])}
    entries[273] = (4, [0] * len(strips))
    start = 8 + len(_directory(entries))
    entries[273] = (4, [start + sum(map(len, strips[:number])) for number in range(len(strips))])
    return b"II*\0\x08\0\0\0" + _directory(entries) + b"".join(strips)


def _directory(entries: dict[int, tuple[int, Sequence[int]]]) -> bytes:
    """A directory that lies at byte 8."""
    table, beyond, at = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for tag, (kind, numbers) in sorted(entries.items()):
        body = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        table += struct.pack("<HHI", tag, kind, len(numbers))
        table += body.ljust(4, b"\0") if len(body) <= 4 else struct.pack("<I", at + len(beyond))
        beyond += body if len(body) > 4 else b""
    return struct.pack("<H", len(entries)) + table + bytes(4) + beyond


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows (h, ...) of integers as so many bits each, most significant first; rows begin at bytes."""
    flat = values.reshape(len(values), -1).astype(np.uint32)
    ones = (flat[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)
    return np.packbits(ones.reshape(len(values), -1), axis=1).tobytes()


def lzw(data: bytes) -> bytes:
    """TIFF's LZW by literals alone: a clear code before each 250 of them keeps all codes at 9 bits."""
    codes: list[int] = []
    for at in range(0, len(data), 250):
        codes += [256, *data[at : at + 250]]
    bits = (np.array([*codes, 257])[:, None] >> np.arange(9)[::-1] & 1).astype(np.uint8)
    return np.packbits(bits.ravel()).tobytes()


def float_differences(pixels: np.ndarray) -> bytes:
    """Floats (h, w, c) as Adobe's predictor 3 leaves them, by the words of its technical note, row by row."""
    size, samples = pixels.dtype.itemsize, pixels.shape[2]
    rows = []
    for row in pixels.astype(pixels.dtype.newbyteorder(">")):
        most_significant_first = np.frombuffer(row.tobytes(), np.uint8).reshape(-1, size).T.ravel()
        before = np.concatenate([np.zeros(samples, np.uint8), most_significant_first[:-samples]])
        rows.append((most_significant_first - before).tobytes())
    return b"".join(rows)


def integer_differences(pixels: np.ndarray) -> bytes:
    """Integers (h, w, c) as predictor 2 leaves them, little-endian."""
    before = np.concatenate([np.zeros_like(pixels[:, :1]), pixels[:, :-1]], axis=1)
    return (pixels - before).astype(pixels.dtype.newbyteorder("<")).tobytes()
