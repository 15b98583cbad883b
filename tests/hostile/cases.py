"""What a hostile file is, what must become of it, and the pictures that are in those that hold one."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 20, 24


@dataclass(frozen=True)
class Made:
    """A picture must come out. truth: (h, w, 1 to 4) of the input's type, upright.

    least: dB between the truth and the output, reduced to its size. says: a word of the warning, if any.
    """

    truth: np.ndarray
    least: float = 28
    says: str = ""


@dataclass(frozen=True)
class Refused:
    """One line must say why there is no picture, and this word is in it."""

    word: str


@dataclass(frozen=True)
class PassedOver:
    """No picture by its name or its content: not a word about it, and not counted as found."""


@dataclass(frozen=True)
class Either:
    """Damage that decoders see or do not see: a picture of the right size, or one line with this word."""

    size: tuple[int, int]
    word: str = "cannot be decoded"


Expected = Made | Refused | PassedOver | Either


@dataclass(frozen=True)
class Case:
    """One file. name: its path below the folder. data: its bytes; None where `names` makes it otherwise."""

    name: bytes
    data: bytes | None
    expected: Expected

    @property
    def group(self) -> str:
        return self.name.split(b"/")[0].decode()


def case(name: str, data: bytes | None, expected: Expected) -> Case:
    return Case(name.encode(), data, expected)


# --- pictures --------------------------------------------------------------------------------------


def color(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(h, w, 3) uint8 whose mirrored and turned versions all differ: slopes and a disc."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    image = np.stack([40 + 180 * u, 40 + 180 * v, 200 - 60 * u - 60 * v], axis=-1)
    image[(v - 0.4) ** 2 + (u - 0.3) ** 2 < 0.06] = (230, 200, 60)
    return image.astype(np.uint8)


def gray(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(h, w, 1) uint8."""
    return color(height, width)[..., :1]


def black_and_white() -> np.ndarray:
    """(h, w, 1) uint8 of 0 and 255: a dark half with a light block in it."""
    image = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    image[:, WIDTH // 2 :] = 255
    image[4:12, 3:9] = 255
    return image


def alpha() -> np.ndarray:
    """(h, w, 1) uint8: opaque above, clear below."""
    return np.repeat(np.linspace(255, 0, HEIGHT).astype(np.uint8)[:, None, None], WIDTH, axis=1)


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, alpha()], axis=2)


def deep(pixels: np.ndarray) -> np.ndarray:
    """uint8 to uint16."""
    return pixels.astype(np.uint16) * 257


# --- files -----------------------------------------------------------------------------------------


def pillow(pixels: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    """A file as Pillow writes it."""
    if isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    buffer = BytesIO()
    pixels.save(buffer, form, **options)
    return buffer.getvalue()


def opencv(pixels: np.ndarray, suffix: str, *options: int) -> bytes:
    """A file as OpenCV writes it; channels gray, RGB or RGBA."""
    channels = pixels.shape[2]
    ordered = pixels[..., [2, 1, 0, 3][:channels]] if channels > 2 else pixels
    return bytes(cv2.imencode(suffix, ordered, list(options))[1])


def tiff(pixels: np.ndarray, photometric: str = "rgb", **options: Any) -> bytes:
    """A file as tifffile writes it."""
    writer = {name: options.pop(name) for name in ("byteorder", "bigtiff") if name in options}
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer, **writer) as file:
        squeezed = pixels.squeeze(2) if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        file.write(squeezed, photometric=photometric, metadata=None, **options)
    return buffer.getvalue()


@cache
def zlib_bomb(size: int = 2**26) -> bytes:
    """So many zeros, deflated to a thousandth."""
    return zlib.compress(bytes(size), 6)


SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int = 8, kind: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlace))


def png(values: np.ndarray, depth: int, kind: int, *chunks: bytes, interlace: bool = False) -> bytes:
    """A PNG by hand. values: (h, w, c) as stored, below 2**depth. chunks: those between IHDR and IDAT."""
    height, width = values.shape[:2]
    passes = [values]
    if interlace:  # Adam7
        starts = (
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        )
        passes = [values[top::down, left::right] for top, left, down, right in starts]
    packed = zlib.compress(b"".join(_rows(part, depth) for part in passes))
    cut = len(packed) // 2  # IDAT in two pieces, as encoders that stream write it
    parts = [SIGNATURE, header(width, height, depth, kind, int(interlace)), *chunks]
    return b"".join([*parts, chunk(b"IDAT", packed[:cut]), chunk(b"IDAT", packed[cut:]), chunk(b"IEND", b"")])


def _rows(values: np.ndarray, depth: int) -> bytes:
    """Rows behind filter bytes of 0; nothing of an empty pass."""
    if values.size == 0:
        return b""
    flat = values.reshape(len(values), -1)
    if depth == 16:
        packed = flat.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(flat.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(len(values), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)
