"""EXIF, XMP and resolution of pictures: read within bounds, and changed to be true of what is written."""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.ExifTags import IFD

log = logging.getLogger(__name__)

# What Pillow and tifffile raise when a directory of tags is damaged.
DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    SyntaxError,
    struct.error,
)
LIMIT = 4 * 2**20  # bytes of a profile, of EXIF, of XMP; more than that is damage or malice rather than use
ORIENTATION, SOFTWARE = 274, 305
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
INCH, CENTIMETRE = 2, 3  # values of RESOLUTION_UNIT
PIXEL_WIDTH, PIXEL_HEIGHT = 40962, 40963

# Tags of the first directory that describe the picture, and not how its pixels lie in that file: description,
# camera, software, date, artist, host, copyright, rating, and Windows' own title, comment, author, keywords
# and subject.
KEPT_TAGS = (270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, 40091, 40092, 40093, 40094, 40095)
# Tags of the photo's directory that are wrong in another size (sensor pitch, places in px), that point to
# places in the file (maker notes, interoperability), or that are set anew.
DROPPED_TAGS = {PIXEL_WIDTH, PIXEL_HEIGHT, 37396, 37500, 40965, 41486, 41487, 41488, 41492}
# Types of EXIF's values.
BYTE, RATIONAL, UNDEFINED, SIGNED_RATIONAL = 1, 5, 7, 10
# Tags whose values are undefined bytes or signed fractions, though Pillow takes them for other types.
GPS_TEXTS = (27, 28)
SIGNED_TAGS = (37377, 37379, 37380)
# What XMP repeats of the file: sizes, orientation, thumbnails.
XMP_OF_FILE = "tiff:Orientation|tiff:ImageWidth|tiff:ImageLength|exif:PixelXDimension|exif:PixelYDimension"
XMP_ATTRIBUTES = re.compile(rf"""\s(?:{XMP_OF_FILE})=(?:"[^"]*"|'[^']*')""".encode())
XMP_ELEMENT = re.compile(rf"<({XMP_OF_FILE}|xmp:Thumbnails)(?:\s[^<>]*)?>".encode())
XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:=["']|>)\s*([1-8])""")


@dataclass(frozen=True)
class Metadata:
    """The metadata that go along with pixels, beside their profile.

    exif: a little TIFF file, upright, without sizes, thumbnail and maker notes. xmp: a packet.
    dpi: x and y. software: what made the file, in place of the EXIF's word on that.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    software: str | None = None

    def exif_of(self, height: int, width: int, orientation: bool = True) -> bytes | None:
        """Return EXIF for a file of that many px, with resolution and software; None where it would be empty.

        orientation: whether it says that the file is upright.
        """
        if self.exif is None and self.software is None:
            return None
        exif = parse_exif(self.exif)
        if orientation:
            exif[ORIENTATION] = 1
        if self.software is not None:
            exif[SOFTWARE] = self.software
        if self.dpi is not None:
            exif[X_RESOLUTION], exif[Y_RESOLUTION] = self.dpi
            exif[RESOLUTION_UNIT] = INCH
        if photo := exif.get_ifd(IFD.Exif):
            photo[PIXEL_WIDTH] = width
            photo[PIXEL_HEIGHT] = height
        return pack_exif(exif)


def parse_exif(data: bytes | None) -> Image.Exif:
    """Read EXIF as a mapping, in its own byte order; raises what Pillow raises for damaged EXIF."""
    exif = Image.Exif()
    if data is not None:
        exif.load(data)
    exif.endian = exif.endian or "<"
    return exif


def pack_exif(exif: Image.Exif) -> bytes:
    """Pack EXIF into a little TIFF file. Pillow reads letters as Latin-1, but would write "?" for them."""
    for tag, value in exif.items():
        if isinstance(value, str):
            exif[tag] = value.encode("latin-1", "replace")
    data = bytearray(exif.tobytes().removeprefix(b"Exif\0\0"))
    correct_types(data, 8, exif.endian or "<")
    return bytes(data)


def correct_types(data: bytearray, at: int, order: str, group: int = 0) -> None:
    """Set the types of a directory's entries, and of those below, that Pillow guesses wrong by their values.

    at: where in data the directory is. order: "<" or ">". group: IFD.Exif, IFD.GPSInfo, or 0 for the first.
    """
    (count,) = struct.unpack_from(order + "H", data, at)
    for place in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, _, value = struct.unpack_from(order + "HHII", data, place)
        if group == 0 and tag in (IFD.Exif, IFD.GPSInfo):
            correct_types(data, value, order, tag)
        elif kind == BYTE and (group == IFD.Exif or (group == IFD.GPSInfo and tag in GPS_TEXTS)):
            struct.pack_into(order + "H", data, place + 2, UNDEFINED)
        elif kind == RATIONAL and group == IFD.Exif and tag in SIGNED_TAGS:
            struct.pack_into(order + "H", data, place + 2, SIGNED_RATIONAL)


def orientation_of(exif: Image.Exif | None, xmp: bytes | None) -> int:
    """Return the orientation, 1 to 8, that EXIF states, else XMP; 1 where neither does."""
    value: Any = None if exif is None else exif.get(ORIENTATION)
    if value is None and xmp is not None:
        match = XMP_ORIENTATION.search(xmp)
        if match:
            value = int(match[1])
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def collect(exif: Image.Exif | None, xmp: Any, dpi: Any, name: str) -> Metadata:
    """Collect the part of a file's metadata that is carried on; warnings say what is dropped.

    xmp, dpi: as Pillow or a codec gives them, of any type. name: the file's, for the warnings.
    """
    kept = None
    try:
        kept = None if exif is None else clean_exif(exif)
    except DAMAGE as error:
        log.warning("%s: its EXIF is damaged and was dropped (%s)", name, type(error).__name__)
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    packet = within_limit(xmp, "XMP", name) if isinstance(xmp, bytes | tuple) else None
    resolution = clean_dpi(dpi)
    if resolution is None and exif is not None:
        resolution = clean_dpi(dpi_of(exif))
    return Metadata(
        exif=within_limit(kept, "EXIF", name),
        xmp=None if packet is None else clean_xmp(packet),
        dpi=resolution,
    )


def within_limit(data: Any, what: str, name: str) -> bytes | None:
    """Return the bytes, or None, with a warning when they are more than LIMIT."""
    if not data:
        return None
    content = bytes(data)
    if len(content) > LIMIT:
        log.warning("%s: its %s of %d bytes was dropped (limit: %d)", name, what, len(content), LIMIT)
        return None
    return content


def clean_exif(exif: Image.Exif) -> bytes | None:
    """Pack the part of EXIF that stays true of an enlarged picture; None when nothing is left."""
    kept = parse_exif(None)
    # Comments in UTF-16 are in the same byte order, and stay as they are.
    kept.endian = exif.endian or "<"
    for tag in KEPT_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    photo = {tag: value for tag, value in exif.get_ifd(IFD.Exif).items() if tag not in DROPPED_TAGS}
    if photo:
        kept.get_ifd(IFD.Exif).update(photo)
    if places := dict(exif.get_ifd(IFD.GPSInfo)):
        kept.get_ifd(IFD.GPSInfo).update(places)
    return pack_exif(kept) if len(kept) or photo or places else None


def clean_xmp(xmp: bytes) -> bytes:
    """Return XMP without what it says of orientation, size and thumbnails."""
    xmp = XMP_ATTRIBUTES.sub(b"", xmp)
    kept = []
    unclosed = set()
    at = 0
    while match := XMP_ELEMENT.search(xmp, at):
        # A pattern of whole elements would search to the packet's end anew for each that is never closed.
        name = match[1]
        end = -1 if name in unclosed else xmp.find(b"</" + name + b">", match.end())
        if end < 0:
            unclosed.add(name)
            kept.append(xmp[at : match.end()])
            at = match.end()
        else:
            kept.append(xmp[at : match.start()])
            at = end + len(name) + 3
    return b"".join([*kept, xmp[at:]])


def dpi_of(tags: Mapping[int, Any]) -> tuple[Any, Any] | None:
    """Return dots per inch, x and y, by EXIF's or TIFF's tags; None where they or their unit are missing."""
    x, y = tags.get(X_RESOLUTION), tags.get(Y_RESOLUTION)
    factor = {INCH: 1, CENTIMETRE: 2.54}.get(tags.get(RESOLUTION_UNIT, INCH))
    if x is None or y is None or factor is None:
        return None
    return x * factor, y * factor


def clean_dpi(dpi: Any) -> tuple[float, float] | None:
    """Return x and y as numbers, or None unless both are from 1 to 100,000."""
    try:
        x, y = (float(value) for value in dpi)
    except (TypeError, ValueError, ArithmeticError):
        return None
    if all(math.isfinite(value) and 1 <= value <= 100_000 for value in (x, y)):
        return x, y
    return None
