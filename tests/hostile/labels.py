"""Sound pixels with odd labels: orientation, profiles, EXIF, XMP; odd sizes; names that say another format."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from ..helpers.avif_files import avif_with
from ..helpers.image_files import ADOBE_RGB, DISPLAY_P3, XMP, gray_profile, ink_profile, matrix_profile
from .cases import (
    HEIGHT,
    SIGNATURE,
    WIDTH,
    Case,
    Made,
    PassedOver,
    Refused,
    black_and_white,
    case,
    chunk,
    color,
    gray,
    opencv,
    pillow,
    png,
    tiff,
    zlib_bomb,
)

NOISE = np.random.default_rng(5).bytes(5 * 2**20)
LOSSY = 24
PHONE_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
    b'xmlns:c="http://ns.google.com/photos/1.0/camera/"><a hdrgm:Version="1.0" c:MotionPhoto="1"/></x:xmpmeta>'
)
# What is said of EXIF that is damaged as a whole, or in some of its values.
DAMAGED_EXIF = {
    "noise": "EXIF is damaged",
    "cut": "EXIF is damaged",
    "4-billion-values": "EXIF is damaged",
    "points-outside": "EXIF is damaged",
    "65535-entries": "EXIF is damaged",
    "unknown-types": "EXIF is damaged",
    "points-to-itself": "EXIF is damaged",
}


def labelled_files() -> list[Case]:
    makers = (oriented_files, profile_files, numbered_files, exif_files, xmp_files, sized_files, view_files)
    makers += (suffix_files,)
    return [made for maker in makers for made in maker()]


def oriented_files() -> Iterator[Case]:
    for value in range(1, 9):
        stored = Image.fromarray(stored_for(value))
        data = pillow(stored, "JPEG", quality=97, subsampling=0, exif=exif(value))
        yield case(f"orientation/{value}.jpg", data, Made(color()))
    six = stored_for(6)
    yield case("orientation/6.png", pillow(six, "PNG", exif=exif(6)), Made(color()))
    yield case("orientation/6.webp", pillow(six, "WEBP", lossless=True, exif=exif(6)), Made(color(), LOSSY))
    yield case("orientation/6.tif", pillow(six, "TIFF", tiffinfo={274: 6}), Made(color()))
    sixteen = tiff(six.astype(np.uint16) * 257, extratags=[(274, 3, 1, 6, True)])
    yield case("orientation/6-16-bit.tif", sixteen, Made(color().astype(np.uint16) * 257))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    only_xmp = png(six, 8, 2, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    yield case("orientation/6-by-xmp-alone.png", only_xmp, Made(color()))
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    for name, pixels in (("8", six), ("16", six.astype(np.uint16) * 257)):
        data = tiff(pixels, extratags=[(700, 1, len(packet), packet, True)])
        upright = color() if name == "8" else color().astype(np.uint16) * 257
        yield case(f"orientation/6-by-xmp-alone-{name}-bit.tif", data, Made(upright))
    for value in (0, 9, 65_535):
        data = pillow(color(), "JPEG", quality=97, subsampling=0, exif=exif(value))
        yield case(f"orientation/{value}-does-not-exist.jpg", data, Made(color()))


def stored_for(orientation: int) -> np.ndarray:
    """Pixels that are `color()` once a reader has turned them."""
    pixels = color()
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[Base.Orientation] = orientation
    return tags.tobytes()


def profile_files() -> Iterator[Case]:
    adobe, p3 = matrix_profile(*ADOBE_RGB), matrix_profile(*DISPLAY_P3)
    plain = {"quality": 97, "subsampling": 0}
    yield case("profile/adobe-rgb.jpg", pillow(color(), "JPEG", icc_profile=adobe, **plain), Made(color()))
    yield case("profile/display-p3.png", pillow(color(), "PNG", icc_profile=p3), Made(color()))
    yield case("profile/gray.png", pillow(gray(), "PNG", icc_profile=gray_profile(1.8)), Made(gray()))
    unused = "colour profile cannot be used"
    for name, data in (
        ("cut", adobe[:200]),
        ("noise", NOISE[:3000]),
        ("one-byte", b"x"),
        ("of-gray", gray_profile(1.8)),
        ("of-inks", ink_profile((100, 120, 60))),
        ("device-link", adobe[:12] + b"link" + adobe[16:]),
        ("tags-outside", adobe[:132] + b"rXYZ\xff\xff\xff\xff\xff\xff\xff\xff" + adobe[144:]),
        ("says-4-gb", b"\xff\xff\xff\xff" + adobe[4:]),
    ):
        says = "" if name in ("says-4-gb", "tags-outside") else unused  # LittleCMS may go without
        yield case(f"profile/{name}.png", pillow(color(), "PNG", icc_profile=data), Made(color(), says=says))
    other = pillow(gray(), "PNG", icc_profile=adobe)
    yield case("profile/of-rgb-in-gray.png", other, Made(gray()))
    grays = pillow(Image.fromarray(gray()[..., 0]).convert("P"), "PNG", icc_profile=adobe)
    yield case("profile/of-rgb-in-palette-of-grays.png", grays, Made(gray()))
    lone = b"ICC_PROFILE\0\1\2" + adobe
    segment = b"\xff\xe2" + struct.pack(">H", len(lone) + 2) + lone
    plain_jpeg = pillow(color(), "JPEG", **plain)
    cut = plain_jpeg[:2] + segment + plain_jpeg[2:]
    yield case("profile/lacks-a-segment.jpg", cut, Made(color(), says="parts of its colour profile"))
    inks = Image.fromarray(color()).convert("CMYK")
    of_inks = pillow(inks, "TIFF", icc_profile=NOISE[:3000])
    yield case("profile/of-inks-noise.tif", of_inks, Made(color(), LOSSY, says=unused))
    big = pillow(color(), "PNG", icc_profile=NOISE)
    yield case("profile/5-mb.png", big, Made(color(), says="ICC profile"))
    bomb = png(color(), 8, 2, chunk(b"iCCP", b"x\0\0" + zlib_bomb()))
    yield case("profile/64-mb-in-60-kb.png", bomb, Made(color(), says="ICC profile"))
    no_zlib = png(color(), 8, 2, chunk(b"iCCP", b"no zero, no method"))
    yield case("profile/no-content.png", no_zlib, Made(color(), says="ICC profile"))


def numbered_files() -> Iterator[Case]:
    """Colours by PNG's chunks: used where they can be, else told of."""
    by_number = "its colours by number"
    for name, kind, body, says in (
        ("p3", b"cICP", bytes((12, 13, 0, 1)), ""),
        ("pq", b"cICP", bytes((9, 16, 0, 1)), "HDR (PQ)"),
        ("hlg", b"cICP", bytes((9, 18, 0, 1)), "HDR (HLG)"),
        ("unknown", b"cICP", bytes((77, 13, 0, 1)), by_number),
        ("of-ycbcr", b"cICP", bytes((9, 16, 9, 0)), by_number),
        ("one-byte", b"cICP", b"\1", by_number),
        ("gamma-1", b"gAMA", struct.pack(">I", 100_000), ""),
        ("gamma-0", b"gAMA", bytes(4), by_number),
        ("primaries-0", b"cHRM", bytes(32), by_number),
        ("short", b"cHRM", bytes(5), by_number),
    ):
        data = png(color(), 8, 2, chunk(kind, body))
        yield case(f"numbers/{name}.png", data, Made(color(), says=says))


def exif_files() -> Iterator[Case]:
    whole = exif(1)[6:]
    # An entry: tag, type, count, value or place.
    itself = _directory((0x8769, 4, 1, 8), (0x8825, 4, 1, 8), after=8)
    for name, data in (
        ("noise", NOISE[:300]),
        ("cut", whole[:12]),
        ("empty", b""),
        ("points-to-itself", itself),
        ("4-billion-values", _directory((270, 2, 2**32 - 1, 8))),
        ("points-outside", _directory((0x8769, 4, 1, 2**31), (270, 2, 99, 2**31))),
        ("divided-by-zero", _directory((282, 5, 1, 26)) + struct.pack("<II", 1, 0)),
        ("65535-entries", b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(400)),
        ("unknown-types", _directory((274, 99, 1, 6), (270, 0, 1, 1))),
    ):
        truth = Made(color(), says=DAMAGED_EXIF.get(name, ""))
        yield case(f"exif/{name}.png", png(color(), 8, 2, chunk(b"eXIf", data)), truth)
        if data:
            as_jpeg = pillow(color(), "JPEG", quality=97, subsampling=0)
            segment = b"\xff\xe1" + struct.pack(">H", len(data) + 8) + b"Exif\0\0" + data
            yield case(f"exif/{name}.jpg", as_jpeg[:2] + segment + as_jpeg[2:], truth)
    text = _directory((270, 2, len(NOISE), 26)) + NOISE
    yield case("exif/5-mb.png", png(color(), 8, 2, chunk(b"eXIf", text)), Made(color(), says="EXIF"))


def _directory(*entries: tuple[int, int, int, int], after: int = 0) -> bytes:
    """EXIF of one directory; a value's place, where the first of one entry begins, is 26."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", after)


def xmp_files() -> Iterator[Case]:
    key = b"XML:com.adobe.xmp\0"
    for name, body, says in (
        ("sound", b"\0\0\0\0" + XMP, ""),
        ("5-mb", b"\0\0\0\0" + b"<" * (5 * 2**20), "XMP"),
        ("64-mb-in-60-kb", b"\1\0\0\0" + zlib_bomb(), "XMP"),
        ("not-zlib", b"\1\0\0\0" + b"nothing of the kind", "XMP"),
        ("not-utf-8", b"\0\0\0\0" + b"\xff\xfe\x80" * 99, ""),
        ("no-text", b"", ""),
        ("entities", b"\0\0\0\0" + b'<!DOCTYPE a [<!ENTITY b "' + b"b" * 9999 + b'">]><a>&b;&b;</a>', ""),
        ("4-mb-of-elements-without-end", b"\0\0\0\0" + b"<xmp:Thumbnails>" * 250_000, ""),
        ("pointers-of-phones", b"\0\0\0\0" + PHONE_XMP, "gain map, video"),
        ("4-mb-of-tags-without-end", b"\0\0\0\0" + b"<tiff:Orientation " * 230_000, ""),
    ):
        data = png(color(), 8, 2, chunk(b"iTXt", key + body))
        yield case(f"xmp/{name}.png", data, Made(color(), says=says))
    bomb = png(color(), 8, 2, *[chunk(b"zTXt", b"a\0\0" + zlib_bomb(2**24))] * 4)
    yield case("xmp/four-text-bombs.png", bomb, Made(color(), says="text 'a' is damaged or larger"))
    many = png(color(), 8, 2, *[chunk(b"tEXt", b"t%d\0x" % n) for n in range(3000)])
    yield case("xmp/3000-texts.png", many, Made(color(), says="texts beyond 1000"))


def sized_files() -> Iterator[Case]:
    dot = color(1, 1)
    for form in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"):
        suffix = {"JPEG": "jpg", "TIFF": "tif"}.get(form, form.lower())
        yield case(f"size/1x1.{suffix}", pillow(dot, form), Made(dot, 20))
    yield case("size/1x1.gif", pillow(dot, "GIF"), Made(dot, 20))
    for width, height in ((1, 64), (64, 1), (2, 3), (3, 2), (1, 6000), (6000, 1), (2000, 3)):
        pixels = color(height, width)
        yield case(f"size/{width}x{height}.png", pillow(pixels, "PNG"), Made(pixels, 20))
    long = color(1, 40_000)
    yield case("size/40000x1.jpg", pillow(long, "JPEG"), Refused("more than JPEG can hold"))
    yield case("size/9000x1.webp", pillow(long[:, :9000], "WEBP"), Refused("more than WEBP can hold"))
    yield case("size/20000x1.avif", opencv(long[:, :20_000], ".avif"), Refused("more than AVIF can hold"))
    one = black_and_white()[:1, :1] // 255
    yield case("size/1x1-one-bit.png", png(one, 1, 0), Made(one * 255))


def view_files() -> Iterator[Case]:
    """Pixels that are not square, and crops."""
    not_square = "its pixels are not square (1 wide to 2 high)"
    stretched = png(color(), 8, 2, chunk(b"pHYs", struct.pack(">IIB", 2, 1, 0)))
    yield case("view/2-to-1.png", stretched, Made(color(), says=not_square))
    jfif = pillow(color(), "JPEG", quality=97, subsampling=0)
    at = jfif.index(b"JFIF\0") + 7
    jfif = jfif[:at] + struct.pack(">BHH", 0, 2, 1) + jfif[at + 5 :]
    yield case("view/2-to-1.jpg", jfif, Made(color(), says=not_square))
    avif = pillow(color(), "AVIF", quality=97)
    crop = struct.pack(">8i", 16, 1, 10, 1, -3, 1, 2, 1)
    cropped = avif_with(avif, b"clap", crop)
    yield case("view/cropped.avif", cropped, Made(color()[7:17, 1:17], LOSSY))
    shaped = avif_with(avif, b"pasp", struct.pack(">II", 1, 2))
    yield case("view/2-to-1.avif", shaped, Made(color(), LOSSY, not_square))
    phone = SIGNATURE + chunk(b"CgBI", b"\x50\0\x20\2") + png(color(), 8, 2)[len(SIGNATURE) :]
    yield case("view/for-iphones.png", phone, Refused("CgBI"))


def suffix_files() -> Iterator[Case]:
    """Names of other formats than the content's; and contents that are no pictures, by names of pictures."""
    as_png, as_jpeg = pillow(color(), "PNG"), pillow(color(), "JPEG", quality=97, subsampling=0)
    as_gif = pillow(Image.fromarray(color()).quantize(64), "GIF")
    for name, data in (
        ("a-jpeg.png", as_jpeg),
        ("a-png.jpg", as_png),
        ("a-gif.jpg", as_gif),
        ("a-png.webp", as_png),
        ("a-tiff.bmp", tiff(color())),
        ("a-jpeg.tif", as_jpeg),
        ("no-suffix", as_png),
        ("no-suffix.", as_png),
        ("UPPER.PNG", as_png),
        ("Mixed.JpEg", as_jpeg),
        ("double.jpg.png", as_png),
        ("unknown.dat", as_jpeg),
        ("old-word.jpe", as_jpeg),
    ):
        yield case(f"suffix/{name}", data, Made(color(), 20))
    for name, data in (
        ("icon.jpg", pillow(Image.fromarray(color()).resize((16, 16)), "ICO")),
        ("document.jpg", pillow(color(), "PDF")),
        ("text.jpg", b"Dear all,\nplease find attached\n"),
        ("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>"),
        ("drawing.jpg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
        ("archive.png", b"PK\3\4" + bytes(60)),
        ("pickle.png", b"\x80\4cos\nsystem\n(S'touch pwned'\ntR."),
        ("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
        ("portable.png", pillow(color(), "PPM")),
        ("film.avif", b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + bytes(40)),
        ("BM-text.bmp", b"BMW is a maker of cars" * 9),
    ):
        yield case(f"suffix/{name}", data, Refused("not a PNG, JPEG"))
    for name, data in (
        ("README", b"read me"),
        ("notes.txt", b"BM notes"),
        ("sums.md5", b"0" * 32),
        ("none", b""),
    ):
        yield case(f"suffix/{name}", data, PassedOver())
    assert color().shape[:2] == (HEIGHT, WIDTH)
