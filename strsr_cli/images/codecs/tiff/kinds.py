"""What kinds of pixels TIFF pages have, in words, and which of them are read."""

from __future__ import annotations

from .pages import BLACK_IS_ZERO, COMPLEX, FLOAT, INKS, PALETTE, RGB, SIGNED, WHITE_IS_ZERO, YCBCR, TiffPage

# Compressions that work on bytes, whatever these mean: LZW, deflate (twice), PackBits, LZMA, Zstandard.
OF_BYTES = (5, 8, 32946, 32773, 34925, 50000)
NAMES = {
    2: "fax (CCITT)",
    3: "fax (CCITT)",
    4: "fax (CCITT)",
    6: "JPEG of the old kind",
    7: "JPEG",
    22610: "JPEG XR",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34676: "LogLuv",
    34677: "LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
SPACES = {
    WHITE_IS_ZERO: "gray",
    BLACK_IS_ZERO: "gray",
    RGB: "RGB",
    PALETTE: "a palette",
    4: "a mask",
    INKS: "inks (CMYK)",
    YCBCR: "YCbCr",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "a camera's sensor",
    32844: "LogL",
    32845: "LogLuv",
    34892: "a camera's sensor",
}
READ = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR)
FAX = (2, 3, 4)  # of tag 259
MOST_SAMPLES = 16
ADVICE = "save it as gray or RGB of 8 or 16 bits, or of 32-bit floats"


def describe(page: TiffPage) -> str:
    """Name the pixels of a page: depth, type of number, space, further samples."""
    bits, samples = page.bits, page.number(277, 1)
    kind = {SIGNED: "signed integers", FLOAT: "floats", 5: "complex integers", COMPLEX: "complex floats"}
    number = kind.get(page.number(339, 1), "integers")
    depth = f"{bits[0]}-bit" if len(set(bits)) == 1 else "/".join(map(str, bits)) + "-bit"
    space = SPACES.get(page.number(262, BLACK_IS_ZERO), f"an unknown kind ({page.number(262, -1)})")
    more = samples - page.base
    extra = f" and {more} more" if more > 0 else f" of {samples} samples" if more < 0 else ""
    return f"{space}{extra} in {depth} {number}"


def refusal(page: TiffPage) -> ValueError:
    """Make the error for a page whose pixels are sound, as far as its tags tell, but not read."""
    packed = page.number(259, 1)
    inside = f", compressed as {NAMES.get(packed, packed)}," if packed not in (1, *OF_BYTES) else ""
    return ValueError(f"pixels of {describe(page)}{inside} are not read; {ADVICE}")


def check_kind(page: TiffPage) -> None:
    """Raise ValueError, which says what they are, for pixels that would be read as others, or not at all."""
    numbers, bits, kind, samples = (
        page.number(339, 1),
        page.bits,
        page.number(262, BLACK_IS_ZERO),
        page.number(277, 1),
    )
    packed = page.number(259, 1)
    unread = len(set(bits)) > 1 or numbers in (SIGNED, 5, COMPLEX) or kind not in READ
    unread = unread or samples < page.base or samples > MOST_SAMPLES
    # Inks of other names, further inks, alpha beside them.
    unread = unread or (kind == INKS and (page.number(332, 1) != 1 or samples != 4))
    unread = unread or (packed in FAX and bits[0] != 1)
    if unread or (_deep_unread(page) if page.deep else numbers == FLOAT) or _halved(page):
        raise refusal(page)


def _deep_unread(page: TiffPage) -> bool:
    """Whether `read_deep_tiff` does not read pixels of that kind."""
    kind, bits, floats = page.number(262, BLACK_IS_ZERO), page.bits[0], page.number(339, 1) == FLOAT
    if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE) or page.number(259, 1) in FAX:
        return True
    if floats:
        return bits not in (16, 32, 64) or kind == PALETTE
    return bits > 16 or (bits % 2 != 0 and bits != 1)


def _halved(page: TiffPage) -> bool:
    """Whether uncompressed YCbCr has fewer colours than pixels, which Pillow takes for another order."""
    if page.number(262, BLACK_IS_ZERO) != YCBCR or page.number(259, 1) != 1:
        return False
    lengths = page.tags.get(279, ())
    return sum(lengths) < 3 * page.size[0] * page.size[1] if isinstance(lengths, tuple) else False


def unused_samples(page: TiffPage) -> int:
    """Count the samples beside colours and alpha, which are dropped; one alone, as in RGBX, is none of them."""
    return max(0, page.number(277, 1) - page.base - 1)
