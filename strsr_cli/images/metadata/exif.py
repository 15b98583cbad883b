"""EXIF: what of it stays true of an enlarged picture, its orientation and its resolution."""

from __future__ import annotations

import math

from .directories import INTEROPERABILITY, PHOTO, PLACE, Directory, Exif, long_tag, rational_tag, short_tag
from .xmp import xmp_orientation

DESCRIPTION, ORIENTATION, SOFTWARE, ARTIST, COPYRIGHT = 270, 274, 305, 315, 33432
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
RESOLUTION = (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT)
INCH, CENTIMETRE = 2, 3  # values of RESOLUTION_UNIT
USER_COMMENT, TITLE = 37510, 40091
PIXEL_WIDTH, PIXEL_HEIGHT = 40962, 40963
XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, ICC_TAG = 700, 33723, 34377, 34675

# Tags of the first directory that say how pixels lie in the file: kinds of page, sizes, bits, compression,
# colours, thresholds, cells, order of bits, strips, channels, values, places on a page, free bytes, gray
# curves, page number, transfer curve, predictor, half tones, tiles, faxes, directories below, inks, ranges,
# samples, clips, tables, JPEG as TIFF 6 had it, luma, and the blocks that are read by themselves.
LAYOUT = {
    *range(254, 260),
    *range(262, 267),
    ORIENTATION,
    *(273, 277, 278, 279, 280, 281, 284, 286, 287, *range(288, 294), 297, 301, 317),
    *range(320, 331),
    *range(332, 348),
    *range(400, 436),
    *range(512, 533),
    559,
    *(XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, ICC_TAG),
    # Layers of Photoshop, and pointers of Windows into maker notes.
    *(37724, 50255, 59933),
}
# Tags of the first directory of a TIFF file from this one on are of the programs that write them, and may say
# anything of the file; those that describe the picture: image's name, rating, exposure as TIFF/EP has it,
# copyright, date and settings, Windows' own title, comment, author, keywords and subject, geography.
FIRST_PRIVATE = 32_768
KEPT_PRIVATE = {
    *(32781, 18246, 18249, 33432, 33434, 33437, 34850, 34852, 34855, 34864, 36867, 36868),
    *range(37377, 37387),
    *range(40091, 40096),
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),
}
# Tags of the photo's directory that are wrong in another size (sensor pitch, places in px), that point to
# places in the old file (maker notes), or that are set anew.
DROPPED_FROM_PHOTO = (PIXEL_WIDTH, PIXEL_HEIGHT, 37396, 37500, 41486, 41487, 41488, 41492, 59933)
# The sizes of another file, of which interoperability speaks.
DROPPED_FROM_INTEROPERABILITY = (4097, 4098)


def clean_exif(exif: Exif, tiff: bool) -> Exif:
    """Return the part of EXIF that stays true of an enlarged picture. tiff: whether it is a TIFF file's own."""
    first = Directory(dict(exif.first.tags), dict(exif.first.below))
    for tag in [*first.tags, *first.below]:
        private = tiff and tag >= FIRST_PRIVATE and tag not in KEPT_PRIVATE
        if tag in LAYOUT or (private and not (tag in first.below and tag in (PHOTO, PLACE))):
            first.tags.pop(tag, None)
            first.below.pop(tag, None)
    if resolution_of(exif) is None and exif.number(RESOLUTION_UNIT) != 1:
        for tag in RESOLUTION:
            first.tags.pop(tag, None)
    _clean_below(first, PHOTO, DROPPED_FROM_PHOTO)
    if PHOTO in first.below:
        _clean_below(first.below[PHOTO], INTEROPERABILITY, DROPPED_FROM_INTEROPERABILITY)
    return Exif(exif.order, first)


def _clean_below(directory: Directory, pointer: int, dropped: tuple[int, ...]) -> None:
    """Take tags out of a directory below another; what is empty then goes whole."""
    below = directory.below.get(pointer)
    if below is None:
        return
    tags = {tag: value for tag, value in below.tags.items() if tag not in dropped}
    kept = Directory(tags, {tag: value for tag, value in below.below.items() if tag not in dropped})
    directory.below[pointer] = kept
    if not kept:
        del directory.below[pointer]


def orientation_of(exif: Exif | None, xmp: bytes | None) -> int:
    """Return the orientation, 1 to 8, that EXIF states, else XMP; 1 where neither does.

    All formats, depths and the plan ask here. An orientation that does not exist counts as none.
    """
    value = None if exif is None else exif.number(ORIENTATION)
    if value in range(1, 9):
        return int(value or 1)
    return xmp_orientation(xmp) or 1


def resolution_of(exif: Exif) -> tuple[float, float] | None:
    """Return dots per inch, x and y; None where they are missing, or their unit is none."""
    x, y = exif.number(X_RESOLUTION), exif.number(Y_RESOLUTION)
    # Inches, where nothing is said.
    unit = exif.number(RESOLUTION_UNIT)
    factor = {INCH: 1.0, CENTIMETRE: 2.54}.get(INCH if unit is None else int(unit))
    if x is None or y is None or factor is None:
        return None
    return clean_dpi((x * factor, y * factor))


def clean_dpi(dpi: object) -> tuple[float, float] | None:
    """Return x and y as numbers, or None unless both are from 1 to 100,000."""
    try:
        x, y = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ArithmeticError):
        return None
    if all(math.isfinite(value) and 1 <= value <= 100_000 for value in (x, y)):
        return x, y
    return None


def set_resolution(exif: Exif, dpi: tuple[float, float], centimetres: bool) -> None:
    """State a resolution where the EXIF states none. centimetres: whether in dots per that, not per inch."""
    tags = exif.first.tags
    if X_RESOLUTION in tags and Y_RESOLUTION in tags:
        return
    factor = 2.54 if centimetres else 1
    tags[X_RESOLUTION], tags[Y_RESOLUTION] = (rational_tag(value / factor, exif.order) for value in dpi)
    tags[RESOLUTION_UNIT] = short_tag(CENTIMETRE if centimetres else INCH, exif.order)


def set_size(exif: Exif, height: int, width: int) -> None:
    """State the size in px where there is a photo's directory, as EXIF has it."""
    photo = exif.first.below.get(PHOTO)
    if photo is None:
        return
    for tag, value in ((PIXEL_WIDTH, width), (PIXEL_HEIGHT, height)):
        photo.tags[tag] = short_tag(value, exif.order) if value < 65_536 else long_tag(value, exif.order)
