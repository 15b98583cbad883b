"""PNG read by its chunks: bounded metadata, the 16-bit pixels that Pillow cuts to 8, and APNG's frames."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from ..metadata.blocks import Blocks
from ..metadata.texts import MOST_TEXTS, Text, inflate, read_text
from ..picture import swap_red_blue
from .opencv import load_opencv

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB, GRAY_ALPHA, RGB_ALPHA = 0, 2, 4, 6  # colour types
XMP_KEYWORD = b"XML:com.adobe.xmp"
METRE = 0.0254  # metres in an inch
MOST_DROPPED = 20  # pieces that are named
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
UNDO = "undo it on a Mac: xcrun pngcrush -revert-iphone-optimizations IN OUT"
# Colours by number, with the longest body that each may have.
COLOR_CHUNKS = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
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
    color_chunks: tuple[tuple[bytes, bytes], ...] = ()  # of COLOR_CHUNKS: (type, body)
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: list[Text] = field(default_factory=list)
    text_bytes: int = 0
    shape: tuple[int, int] = (1, 1)  # of a pixel, width to height
    dropped: list[str] = field(default_factory=list)


def parse_png(data: bytes, limit: int, whole: bool = True) -> PngFile:
    """Read all chunks of a file. Raises ValueError for damaged or cut files.

    limit: bytes of a piece of metadata; larger ones are dropped.
    whole: whether the file must be whole; otherwise the chunks before the damage are read.
    """
    png = PngFile()
    parts = [memoryview(SIGNATURE)]
    try:
        _take_chunks(data, limit, png, parts)
    except ValueError:
        if whole:
            raise
    png.still = b"".join(parts)
    return png


def _take_chunks(data: bytes, limit: int, png: PngFile, parts: list[memoryview]) -> None:
    """Set what the chunks of a file say in `png`, and gather those that its pixels need in `parts`."""
    for number, (kind, body, whole) in enumerate(_chunks(data)):
        if kind == b"CgBI":
            raise ValueError("made by Xcode for iPhones alone (CgBI), not a PNG that others read; " + UNDO)
        # With two headers, the one that is checked need not be the one that is decoded.
        if (kind == b"IHDR") != (number == 0):
            raise ValueError("damaged: its header is missing or there twice")
        if kind == b"IHDR":
            png.width, png.height, png.depth, png.color_type = struct.unpack(">IIBB", body[:10])
        elif kind == b"acTL":
            png.animated = int.from_bytes(body[:4], "big") > 1
        elif kind == b"tRNS":
            png.key = bytes(body)
        elif kind not in NEEDED:
            _take_metadata(png, kind, bytes(body), limit)
        if kind in NEEDED:
            parts.append(whole)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Give (type, body, whole chunk) of all chunks up to the end; those that pixels depend on are checked."""
    view = memoryview(data)
    position = len(SIGNATURE)
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


def _take_metadata(png: PngFile, kind: bytes, body: bytes, limit: int) -> None:
    """Set what a chunk of metadata says in `png`."""
    if kind == b"iCCP":
        png.icc = inflate(body.partition(b"\0")[2][1:], limit) or None
        if png.icc is None:
            png.dropped.append("ICC profile")
    elif kind in COLOR_CHUNKS:
        png.color_chunks += ((kind, body[: COLOR_CHUNKS[kind] + 1]),)
    elif kind == b"eXIf":
        png.exif = body
    elif kind == b"pHYs" and len(body) == 9:
        x, y = struct.unpack(">II", body[:8])
        if body[8] == 1:
            png.dpi = (x * METRE, y * METRE)
        elif x and y:
            png.shape = (y, x)
    elif kind in TEXTS:
        _take_text(png, kind, body, limit)


def _take_text(png: PngFile, kind: bytes, body: bytes, limit: int) -> None:
    """Set XMP, or add another text, within bounds of number and size in all."""
    keyword = body.partition(b"\0")[0]
    if keyword == XMP_KEYWORD:
        what, room = "XMP", limit
    elif len(png.texts) < MOST_TEXTS:
        what, room = f"text {keyword.decode('latin-1')[:80]!r}", limit - png.text_bytes
    else:
        what, room = f"texts beyond {MOST_TEXTS}", -1
    text = None if room < 0 else read_text(kind, body, room)
    if text is None:
        # Each is told, but not thousands.
        if what not in png.dropped and len(png.dropped) < MOST_DROPPED:
            png.dropped.append(what)
    elif what == "XMP":
        png.xmp = text.content
    else:
        png.text_bytes += len(text.content)
        png.texts.append(text)


def read_deep_png(png: PngFile) -> np.ndarray:
    """Decode a 16-bit file to uint16 pixels (h, w[, c]), with the channels gray, gray-alpha, RGB or RGBA."""
    cv2 = load_opencv()
    cv2.utils.logging.setLogLevel(0)
    # A transparent colour is applied here; OpenCV's way with it depends on its version.
    plain = png.still
    if png.key is not None:
        plain = b"".join([SIGNATURE, *(whole for kind, _, whole in _chunks(plain) if kind != b"tRNS")])
    pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
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


def read_png_size(file: BinaryIO, limit: int) -> PngFile:
    """Read the size, EXIF and texts of an open file, whose pixels are passed over."""
    png = PngFile()
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        # The zeros of a file that was never filled go on for long.
        if not kind.isalpha():
            raise ValueError("damaged or truncated")
        if kind == b"IHDR" and png.width:
            raise ValueError("damaged: its header is there twice")
        if kind == b"IHDR":
            png.width, png.height = struct.unpack(">II", file.read(length)[:8])
        elif kind in (b"eXIf", *TEXTS) and length <= limit:
            _take_metadata(png, kind, file.read(length), limit)
        else:
            file.seek(length, 1)
        if kind == b"IEND":
            break
        file.seek(4, 1)
    return png


def png_blocks(png: PngFile) -> Blocks:
    """Return what a file holds beside pixels and profile."""
    blocks = Blocks(dpi=png.dpi)
    blocks.take_exif(png.exif)
    blocks.take_xmp(png.xmp)
    blocks.take_texts(png.texts)
    return blocks


def chunk(kind: bytes, body: bytes) -> bytes:
    """Build a chunk, a piece of a PNG file. kind: its type of four letters."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", checksum)


# --- animations ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ApngFrame:
    """A frame as it is stored.

    control: the body of its fcTL. parts: places and lengths of the chunks with its pixels.
    """

    control: bytes
    parts: list[tuple[int, int]]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The frame's place in the image: (left, top, width, height)."""
        width, height, left, top = struct.unpack_from(">4I", self.control, 4)
        return left, top, width, height

    @property
    def disposal(self) -> int:
        """The frame's fate before the next one. 0: stays, 1: is cleared, 2: gives way to what was before."""
        return self.control[24]

    @property
    def over(self) -> bool:
        """Whether the frame is blended with what is there, and not put in its place."""
        return self.control[25] == 1


@dataclass
class Apng:
    """The frames of an animation, without a still image that is no part of it. count: as its header claims.

    header: the body of IHDR. head: the chunks beside it that all frames share.
    """

    header: bytes = b""
    head: list[bytes] = field(default_factory=list)
    count: int = 0
    frames: list[ApngFrame] = field(default_factory=list)

    @property
    def deep(self) -> bool:
        """Whether the file has 16 bits a channel."""
        return self.header[8] == 16

    @property
    def gray(self) -> bool:
        """Whether the file has no colours."""
        return self.header[9] in (GRAY, GRAY_ALPHA)

    @property
    def has_alpha(self) -> bool:
        """Whether the file's pixels can be transparent."""
        if self.header[9] in (GRAY_ALPHA, RGB_ALPHA):
            return True
        return any(shared[4:8] == b"tRNS" for shared in self.head)

    def still(self, data: bytes, number: int) -> bytes:
        """Return a PNG of one frame, as it is stored. data: the whole file. ValueError: damaged or cut."""
        if number >= len(self.frames):
            raise ValueError("the file is truncated")
        frame = self.frames[number]
        left, top, width, height = frame.box
        image_width, image_height = struct.unpack_from(">II", self.header)
        if not (0 < width <= image_width - left and 0 < height <= image_height - top):
            raise ValueError("damaged: the frame lies outside of the image")
        pixels = []
        for at, length in frame.parts:
            end = at + 8 + length
            kind = data[at + 4 : at + 8]
            body = data[at + 8 : end]
            if len(data) < end + 4:
                raise ValueError("the file is truncated")
            checksum = int.from_bytes(data[end : end + 4], "big")
            if zlib.crc32(body, zlib.crc32(kind)) != checksum:
                raise ValueError(f"damaged: the checksum of its {kind.decode()} is wrong")
            pixels.append(chunk(b"IDAT", body[4:] if kind == b"fdAT" else body))
        header = chunk(b"IHDR", struct.pack(">II", width, height) + self.header[8:])
        return b"".join([SIGNATURE, header, *self.head, *pixels, chunk(b"IEND", b"")])


def read_apng(file: BinaryIO, most: int) -> Apng:
    """Find the frames of an open file, `most` at most; count is 0 in one that is not animated."""
    apng = Apng()
    control = b""
    parts: list[tuple[int, int]] = []
    at = file.seek(len(SIGNATURE))
    while len(apng.frames) <= most and len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"IHDR":
            apng.header = file.read(13)
        elif kind == b"acTL":
            apng.count = int.from_bytes(file.read(4), "big")
        elif kind in (b"PLTE", b"tRNS") and length <= 768:
            apng.head.append(chunk(kind, file.read(length)))
        elif kind == b"fcTL":
            control = file.read(26)
            parts = []
        elif kind in (b"IDAT", b"fdAT") and len(control) == 26:
            if not parts:
                apng.frames.append(ApngFrame(control, parts))
            parts.append((at, length))
        if kind == b"IEND" or (kind == b"IDAT" and not apng.count) or len(apng.header) < 13:
            break
        at = file.seek(at + 12 + length)
    return apng
