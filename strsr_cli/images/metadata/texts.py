"""Texts beside pixels: PNG's text chunks, older profiles in hexadecimal letters, IPTC within Photoshop's blocks."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

MOST_TEXTS = 1000  # of a file; those beyond are dropped
PHOTOSHOP = b"Photoshop 3.0\0"  # how JPEG's segment of Photoshop's blocks begins
IPTC_BLOCK = 0x0404
XMP_LETTERS = b"http://ns.adobe.com/xap/1.0/\0"  # how a segment of XMP begins
RAW_PROFILE = "Raw profile type "
# Keywords of PNG's texts -> the place that EXIF has for them.
TEXT_PLACES = {"Description": 270, "Software": 305, "Author": 315, "Copyright": 33432}
# Keywords that ImageMagick gives to what it has read of the old file.
OF_THE_FILE = re.compile(
    r"png:|tiff:Orientation|jpeg:|(?:exif|tiff):(?:PixelXDimension|PixelYDimension|ExifImageWidth|ExifImageLength|"
    r"ImageWidth|ImageLength|Orientation|thumbnail:|MakerNote|ExifOffset|GPSInfo|Compression|JPEGInterchange)"
)


@dataclass(frozen=True)
class Text:
    """A text of a PNG file. kind: its chunk's type. body: the chunk's, as it is. content: what it says."""

    kind: bytes
    body: bytes
    keyword: str
    content: bytes

    @property
    def text(self) -> str:
        """The content as letters."""
        return self.content.decode("utf-8" if self.kind == b"iTXt" else "latin-1", "replace")


def read_text(kind: bytes, body: bytes, limit: int) -> Text | None:
    """Read a chunk of the types tEXt, zTXt and iTXt; None for damage, or more than `limit` bytes of text."""
    keyword, zero, rest = body.partition(b"\0")
    if not zero or not keyword:
        return None
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        # Compressed or not, method, language, 0, translated keyword, 0, text.
        compressed = rest[:1] == b"\1"
        pieces = rest[2:].split(b"\0", 2)
        if len(pieces) < 3:
            return None
        rest = pieces[2]
    elif compressed:
        rest = rest[1:]
    content = inflate(rest, limit) if compressed else rest
    if content is None or len(content) > limit:
        return None
    return Text(kind, body, keyword.decode("latin-1"), content)


def inflate(data: bytes, limit: int) -> bytes | None:
    """Return decompressed bytes, or None when there are more than `limit` or they are damaged."""
    try:
        text = zlib.decompressobj().decompress(data, limit + 1)
    except zlib.error:
        return None
    return text if len(text) <= limit else None


def make_text(keyword: str, text: str) -> Text:
    """Make a text of a PNG file, of the plain type where its letters allow it."""
    name = keyword.encode("latin-1", "replace")
    try:
        content = text.encode("latin-1")
    except UnicodeEncodeError:
        content = text.encode()
        return Text(b"iTXt", name + b"\0\0\0\0\0" + content, keyword, content)
    return Text(b"tEXt", name + b"\0" + content, keyword, content)


def is_of_the_file(keyword: str) -> bool:
    """Whether a text of that keyword states what was true of the old file alone."""
    return bool(OF_THE_FILE.match(keyword))


def profile_of(text: Text) -> tuple[str, bytes] | None:
    """Return the type of a profile in hexadecimal letters, and its bytes; None for other texts, and damage.

    What is called "APP1" is named by its content.
    """
    if not text.keyword.startswith(RAW_PROFILE):
        return None
    # An empty line, the type, the number of bytes, then lines of letters.
    lines = text.text.split("\n", 3)
    try:
        data = bytes.fromhex(lines[3])
    except (ValueError, IndexError):
        return None
    kind = text.keyword.removeprefix(RAW_PROFILE).lower()
    if kind in ("app1", "xmp") and data.startswith(XMP_LETTERS):
        return "xmp", data.removeprefix(XMP_LETTERS)
    if kind in ("app1", "exif"):
        return "exif", data.removeprefix(b"Exif\0\0")
    if kind in ("iptc", "8bim"):
        return "iptc", iptc_of(data) or b""
    return kind, data


def make_profile(kind: str, data: bytes) -> Text:
    """Make a text of a PNG file that holds a profile in hexadecimal letters."""
    letters = data.hex()
    lines = [letters[at : at + 72] for at in range(0, len(letters), 72)]
    content = f"\n{kind}\n{len(data):8d}\n{chr(10).join(lines)}\n".encode()
    keyword = RAW_PROFILE + kind
    return Text(b"zTXt", keyword.encode() + b"\0\0" + zlib.compress(content), keyword, content)


def iptc_of(data: bytes) -> bytes | None:
    """Return the IPTC within Photoshop's blocks, or that stands by itself; None where there is none."""
    data = data.removeprefix(PHOTOSHOP)
    if data[:1] == b"\x1c":
        return data
    at = 0
    while data[at : at + 4] == b"8BIM" and at + 12 <= len(data):
        (kind,) = struct.unpack_from(">H", data, at + 4)
        # A name with its length, of an even number of bytes in all.
        at += 6 + (data[at + 6] + 2) // 2 * 2
        (length,) = struct.unpack(">I", data[at : at + 4].ljust(4, b"\0"))
        body = data[at + 4 : at + 4 + length]
        if kind == IPTC_BLOCK:
            return body if len(body) == length and body[:1] == b"\x1c" else None
        at += 4 + length + length % 2
    return None


def iptc_block(iptc: bytes) -> bytes:
    """Pack IPTC as one of Photoshop's blocks."""
    return struct.pack(">4sHHI", b"8BIM", IPTC_BLOCK, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
