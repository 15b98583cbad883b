"""What kinds of pixels TIFF pages have, in words, and which of them are read."""

from __future__ import annotations

from .pages import BLACK_IS_ZERO, COMPLEX, FLOAT, PALETTE, RGB, SIGNED, WHITE_IS_ZERO, TiffPage

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
    5: "inks (CMYK)",
    6: "YCbCr",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "a camera's sensor",
    32844: "LogL",
    32845: "LogLuv",
    34892: "a camera's sensor",
}
ADVICE = "save it as gray or RGB of 8 or 16 bits, or of 32-bit floats"


def describe(page: TiffPage) -> str:
    """Name the pixels of a page: depth, type of number, space, further samples."""
    bits, samples = page.bits, page.number(277, 1)
    kind = {SIGNED: "signed integers", FLOAT: "floats", 5: "complex integers", COMPLEX: "complex floats"}
    number = kind.get(page.number(339, 1), "integers")
    depth = f"{bits[0]}-bit" if len(set(bits)) == 1 else "/".join(map(str, bits)) + "-bit"
    space = SPACES.get(page.number(262, BLACK_IS_ZERO), f"an unknown kind ({page.number(262, -1)})")
    usual = {"gray": 1, "a palette": 1, "a mask": 1, "inks (CMYK)": 4}.get(space, 3)
    more = samples - usual
    extra = "" if more == 0 else f" and {more} more" if more > 0 else f", {samples} samples"
    return f"{space}{extra} in {depth} {number}"


def refusal(page: TiffPage) -> ValueError:
    """Make the error for a page whose pixels are sound, as far as its tags tell, but not read."""
    packed = page.number(259, 1)
    inside = f", compressed as {NAMES.get(packed, packed)}," if packed not in (1, *OF_BYTES) else ""
    return ValueError(f"pixels of {describe(page)}{inside} are not read; {ADVICE}")


def check_kind(page: TiffPage) -> None:
    """Raise ValueError, which says what they are, for pixels that would be read as others, or not at all."""
    numbers, bits, kind = page.number(339, 1), page.bits, page.number(262, BLACK_IS_ZERO)
    inks = kind == 5 and (page.number(332, 1) != 1 or page.number(277, 1) != 4)
    if len(set(bits)) > 1 or numbers in (SIGNED, 5, COMPLEX) or inks:
        raise refusal(page)
    if kind not in SPACES or kind in (8, 9, 10, 32803, 32844, 32845, 34892):
        raise refusal(page)
    if page.deep:
        _check_deep(page)


def _check_deep(page: TiffPage) -> None:
    """Raise ValueError for pixels that `read_deep_tiff` does not read."""
    kind, bits, samples = page.number(262, BLACK_IS_ZERO), page.bits[0], page.number(277, 1)
    if kind not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE):
        raise ValueError(f"{refusal(page)} (neither gray nor RGB)")
    if samples > (4 if kind == RGB else 2) or samples < (3 if kind == RGB else 1):
        raise ValueError(f"{refusal(page)} (neither gray nor RGB with one alpha)")
    floats = page.number(339, 1) == FLOAT
    if bits not in (16, 32, 64) if floats else bits > 16:
        raise refusal(page)
    if floats and kind == PALETTE:
        raise refusal(page)
