"""PNG read by its chunks: metadata in bounds, the 16-bit pixels that Pillow would cut to 8, and the frames of APNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from ..picture import swap_red_blue

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, GRAY_ALPHA = 0, 2, 4  # colour types
XMP_KEYWORD = b"XML:com.adobe.xmp"
METRE = 0.0254  # of an inch
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


@dataclass
class PngFile:
    """The still image of a PNG file, and its metadata as it stands there.

    still: the same file with nothing but pixels. dropped: what was too large.
    """

    width: int = 0
    height: int = 0
    depth: int = 8
    color_type: int = GRAY
    still: bytes = b""
    key: bytes | None = None  # tRNS
    animated: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    dropped: list[str] = field(default_factory=list)


def parse_png(data: bytes, limit: int, whole: bool = True) -> PngFile:
    """All chunks of a file. limit: bytes of a piece of metadata. ValueError: damaged or cut.

    whole: whether it must be; otherwise what comes before the damage is told.
    """
    found, parts = PngFile(), [memoryview(SIGNATURE)]
    try:
        _take_chunks(data, limit, found, parts)
    except ValueError:
        if whole:
            raise
    found.still = b"".join(parts)
    return found


def _take_chunks(data: bytes, limit: int, found: PngFile, parts: list[memoryview]) -> None:
    for number, (kind, body, whole) in enumerate(_chunks(data)):
        # Of two, what is checked need not be what is decoded.
        if (kind == b"IHDR") != (number == 0):
            raise ValueError("damaged: its header is missing or there twice")
        if kind == b"IHDR":
            found.width, found.height, found.depth, found.color_type = struct.unpack(">IIBB", body[:10])
        elif kind == b"acTL":
            found.animated = int.from_bytes(body[:4], "big") > 1
        elif kind == b"tRNS":
            found.key = bytes(body)
        elif kind not in NEEDED:
            _take_metadata(found, kind, bytes(body), limit)
        if kind in NEEDED:
            parts.append(whole)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """(type, body, all of it) up to the end; those that pixels depend on are checked."""
    view, position = memoryview(data), len(SIGNATURE)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = view[position + 8 : position + 8 + length]
        checksum = view[position + 8 + length : position + 12 + length]
        if len(checksum) < 4 or not kind.isalpha():
            break
        if kind in NEEDED and zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            raise ValueError(f"damaged: the checksum of its {kind.decode()} is wrong")
        yield kind, body, view[position : position + 12 + length]
        if kind == b"IEND":
            return
        position += 12 + length
    raise ValueError("the file is truncated")


def _take_metadata(found: PngFile, kind: bytes, body: bytes, limit: int) -> None:
    if kind == b"iCCP":
        found.icc = _inflate(body.partition(b"\0")[2][1:], limit)
        if found.icc is None:
            found.dropped.append("ICC profile")
    elif kind == b"eXIf":
        found.exif = body
    elif kind == b"pHYs" and len(body) == 9 and body[8] == 1:
        x, y = struct.unpack(">II", body[:8])
        found.dpi = (x * METRE, y * METRE)
    elif kind == b"iTXt" and body.startswith(XMP_KEYWORD + b"\0"):
        # keyword 0, compressed or not, method, language 0, translated keyword 0, text
        flags, text = body[len(XMP_KEYWORD) + 1 :][:2], body[len(XMP_KEYWORD) + 3 :]
        text = text.split(b"\0", 2)[-1]
        found.xmp = _inflate(text, limit) if flags[:1] == b"\1" else text
        if found.xmp is None:
            found.dropped.append("XMP")


def _inflate(data: bytes, limit: int) -> bytes | None:
    """Decompressed bytes, or None when there are more than `limit` or they are damaged."""
    try:
        text = zlib.decompressobj().decompress(data, limit + 1)
    except zlib.error:
        return None
    return text if len(text) <= limit else None


def read_deep_png(png: PngFile) -> np.ndarray:
    """uint16 pixels (h, w[, c]), channels gray, gray-alpha, RGB or RGBA, of a 16-bit file."""
    import cv2

    cv2.utils.logging.setLogLevel(0)
    # A transparent colour is applied here; OpenCV's way with it depends on its version.
    plain = png.still
    if png.key is not None:
        plain = b"".join([SIGNATURE, *(whole for kind, _, whole in _chunks(plain) if kind != b"tRNS")])
    pixels = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[:2] != (png.height, png.width):
        raise ValueError("damaged 16-bit PNG")
    if pixels.ndim == 3:
        # Gray with alpha comes as three equal channels and alpha.
        pixels = pixels[..., [0, 3]] if png.color_type == GRAY_ALPHA else swap_red_blue(pixels)
    if png.key is not None and png.color_type in (GRAY, RGB):
        key = np.frombuffer(png.key[: 6 if png.color_type == RGB else 2], ">u2")
        color = pixels if pixels.ndim == 3 else pixels[..., None]
        alpha = np.where((color == key).all(axis=2, keepdims=True), 0, 65_535).astype(np.uint16)
        pixels = np.concatenate([color, alpha], axis=2)
    return pixels


def read_png_size(file: BinaryIO, limit: int) -> tuple[int, int, bytes | None, bytes | None]:
    """(width, height, EXIF, XMP) of an open file, whose pixels are passed over."""
    found = PngFile()
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        # The zeros of a file that was never filled go on for long.
        if not kind.isalpha():
            raise ValueError("damaged or truncated")
        if kind == b"IHDR" and found.width:
            raise ValueError("damaged: its header is there twice")
        if kind == b"IHDR":
            found.width, found.height = struct.unpack(">II", file.read(length)[:8])
        elif kind in (b"eXIf", b"iTXt") and length <= limit:
            _take_metadata(found, kind, file.read(length), limit)
        else:
            file.seek(length, 1)
        if kind == b"IEND":
            break
        file.seek(4, 1)
    return found.width, found.height, found.exif, found.xmp


def chunk(kind: bytes, body: bytes) -> bytes:
    """A piece of a PNG file."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", checksum)


# --- animations ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ApngFrame:
    """A frame as it is stored. control: the body of its fcTL; parts: places and lengths of chunks with its pixels."""

    control: bytes
    parts: list[tuple[int, int]]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, width, height)."""
        width, height, left, top = struct.unpack_from(">4I", self.control, 4)
        return left, top, width, height

    @property
    def disposal(self) -> int:
        """0: stays, 1: is cleared, 2: gives way to what was there before."""
        return self.control[24]

    @property
    def over(self) -> bool:
        """Whether it is blended with what is there, and not put in its place."""
        return self.control[25] == 1


@dataclass
class Apng:
    """Frames of an animation; what an image outside of it shows is none of them. count: as its header claims.

    head: the chunks that all frames share, but for the size in the first, IHDR.
    """

    header: bytes = b""
    head: list[bytes] = field(default_factory=list)
    count: int = 0
    frames: list[ApngFrame] = field(default_factory=list)

    @property
    def deep(self) -> bool:
        """Whether it has 16 bits."""
        return self.header[8] == 16

    @property
    def gray(self) -> bool:
        """Whether it has no colours."""
        return self.header[9] in (GRAY, GRAY_ALPHA)

    @property
    def has_alpha(self) -> bool:
        """Whether its pixels can be transparent."""
        return self.header[9] in (GRAY_ALPHA, 6) or any(each[4:8] == b"tRNS" for each in self.head)

    def still(self, data: bytes, number: int) -> bytes:
        """A PNG of one frame, as it is stored. data: the whole file. ValueError: damaged or cut."""
        if number >= len(self.frames):
            raise ValueError("the file is truncated")
        frame = self.frames[number]
        left, top, width, height = frame.box
        size = struct.unpack_from(">II", self.header)
        if not (0 < width <= size[0] - left and 0 < height <= size[1] - top):
            raise ValueError("damaged: the frame lies outside of the image")
        pixels = []
        for at, length in frame.parts:
            kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
            if len(data) < at + 12 + length:
                raise ValueError("the file is truncated")
            if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(
                data[at + 8 + length : at + 12 + length], "big"
            ):
                raise ValueError(f"damaged: the checksum of its {kind.decode()} is wrong")
            pixels.append(chunk(b"IDAT", body[4:] if kind == b"fdAT" else body))
        header = chunk(b"IHDR", struct.pack(">II", width, height) + self.header[8:])
        return b"".join([SIGNATURE, header, *self.head, *pixels, chunk(b"IEND", b"")])


def read_apng(file: BinaryIO, most: int) -> Apng:
    """Where the frames of an open file are, `most` at most; count is 0 in one that is not animated."""
    found, control, parts = Apng(), b"", list[tuple[int, int]]()
    at = file.seek(len(SIGNATURE))
    while len(found.frames) <= most and len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"IHDR":
            found.header = file.read(13)
        elif kind == b"acTL":
            found.count = int.from_bytes(file.read(4), "big")
        elif kind in (b"PLTE", b"tRNS") and length <= 768:
            found.head.append(chunk(kind, file.read(length)))
        elif kind == b"fcTL":
            control, parts = file.read(26), []
        elif kind in (b"IDAT", b"fdAT") and len(control) == 26:
            if not parts:
                found.frames.append(ApngFrame(control, parts))
            parts.append((at, length))
        if kind == b"IEND" or (kind == b"IDAT" and not found.count) or len(found.header) < 13:
            break
        at = file.seek(at + 12 + length)
    return found
