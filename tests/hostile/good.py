"""Files that are sound: every format and variant of it that is read."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import PIL
import tifffile
from PIL import Image

from ..helpers.image_files import bmp_with_alpha
from ..helpers.tiff_files import float_differences, lzw, packed, tiff_by_hand
from .cases import (
    HEIGHT,
    WIDTH,
    Case,
    Either,
    Made,
    Refused,
    alpha,
    black_and_white,
    case,
    chunk,
    color,
    deep,
    gray,
    opencv,
    pillow,
    png,
    tiff,
    with_alpha,
)

FRAMES = "frames, only the first"
# Pillow before 13 takes a TIFF of YCbCr without compression for a truncated one.
READS_YCBCR = int(PIL.__version__.split(".")[0]) >= 13
LOSSY = 24  # dB: of palettes, subsampled colours, two levels


def good_files() -> list[Case]:
    makers = (
        png_files,
        jpeg_files,
        webp_files,
        tiff_files,
        deep_tiff_files,
        odd_tiff_files,
        bmp_files,
        other_files,
    )
    return [made for maker in makers for made in maker()]


def png_files() -> Iterator[Case]:
    one, two = black_and_white() // 255, gray() // 64
    four = gray() // 16
    yield case("png/gray-1-bit.png", png(one, 1, 0), Made(one * 255, 18))
    yield case("png/gray-2-bit.png", png(two, 2, 0), Made(two * 85, 20))
    yield case("png/gray-4-bit.png", png(four, 4, 0), Made(four * 17, LOSSY))
    yield case("png/gray-8-bit.png", png(gray(), 8, 0), Made(gray()))
    yield case("png/gray-16-bit.png", png(deep(gray()), 16, 0), Made(deep(gray())))
    yield case("png/rgb-8-bit.png", png(color(), 8, 2), Made(color()))
    yield case("png/rgb-16-bit.png", png(deep(color()), 16, 2), Made(deep(color())))
    for depth in (1, 2, 4, 8):
        colors = np.stack(
            [np.linspace(20, 230, 2**depth), np.linspace(200, 40, 2**depth), np.full(2**depth, 90)], 1
        )
        colors = colors.astype(np.uint8)
        index = gray() >> (8 - depth)
        yield case(
            f"png/palette-{depth}-bit.png",
            png(index, depth, 3, chunk(b"PLTE", colors.tobytes())),
            Made(colors[index[..., 0]], 18),
        )
    grays = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    palette = chunk(b"PLTE", grays.tobytes())
    yield case("png/palette-of-grays.png", png(gray(), 8, 3, palette), Made(gray()))
    reds = np.stack([np.arange(256), np.full(256, 80), np.full(256, 40)], axis=1).astype(np.uint8)
    shown = np.concatenate([reds[gray()[..., 0]], 255 - gray()], axis=2)
    fading = chunk(b"tRNS", bytes(range(255, -1, -1)))
    yield case(
        "png/palette-transparent.png", png(gray(), 8, 3, chunk(b"PLTE", reds.tobytes()), fading), Made(shown)
    )
    yield from _keyed_png_files()
    for name, pixels, kind in (("gray-alpha", with_alpha(gray()), 4), ("rgb-alpha", with_alpha(color()), 6)):
        yield case(f"png/{name}-8-bit.png", png(pixels, 8, kind), Made(pixels))
        yield case(f"png/{name}-16-bit.png", png(deep(pixels), 16, kind), Made(deep(pixels)))
        yield case(f"png/{name}-interlaced.png", png(pixels, 8, kind, interlace=True), Made(pixels))
    yield case("png/rgb-interlaced.png", png(color(), 8, 2, interlace=True), Made(color()))
    yield case(
        "png/rgb-16-bit-interlaced.png", png(deep(color()), 16, 2, interlace=True), Made(deep(color()))
    )
    yield case("png/gray-1-bit-interlaced.png", png(one, 1, 0, interlace=True), Made(one * 255, 18))
    yield case("png/interlaced-1x1.png", png(color(1, 1), 8, 2, interlace=True), Made(color(1, 1)))
    yield case("png/animated.png", pillow(color(), "PNG", **_more_frames()), Made(color(), says=FRAMES))


def _keyed_png_files() -> Iterator[Case]:
    """One colour stands for transparency."""
    for depth, cast in ((8, np.asarray), (16, deep)):
        flat = np.full((HEIGHT, WIDTH, 3), (200, 30, 90), np.uint8)
        flat[:, : WIDTH // 2] = (10, 20, 30)
        opaque = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
        opaque[:, : WIDTH // 2] = 0
        for name, kind, pixels in (("gray", 0, flat[..., :1]), ("rgb", 2, flat)):
            stored, clear = cast(pixels), cast(opaque)
            key = b"".join(struct.pack(">H", int(value)) for value in stored[0, 0])
            truth = np.concatenate([stored, clear], axis=2)
            yield case(
                f"png/{name}-{depth}-bit-key.png",
                png(stored, depth, kind, chunk(b"tRNS", key)),
                Made(truth, LOSSY),
            )


def jpeg_files() -> Iterator[Case]:
    best: dict[str, Any] = {"quality": 97}
    yield case("jpeg/4-4-4.jpg", pillow(color(), "JPEG", subsampling=0, **best), Made(color()))
    yield case("jpeg/4-2-2.jpg", pillow(color(), "JPEG", subsampling=1, **best), Made(color(), LOSSY))
    yield case("jpeg/4-2-0.jpg", pillow(color(), "JPEG", subsampling=2, **best), Made(color(), LOSSY))
    yield case(
        "jpeg/odd-17x9.jpg", pillow(color(9, 17), "JPEG", subsampling=2, **best), Made(color(9, 17), 20)
    )
    yield case("jpeg/gray.jpg", pillow(gray(), "JPEG", **best), Made(gray()))
    yield case(
        "jpeg/progressive.jpg", pillow(color(), "JPEG", progressive=True, **best), Made(color(), LOSSY)
    )
    yield case("jpeg/progressive-gray.jpg", pillow(gray(), "JPEG", progressive=True, **best), Made(gray()))
    restarts = pillow(color(), "JPEG", restart_marker_blocks=1, subsampling=0, **best)
    yield case("jpeg/restart-markers.jpg", restarts, Made(color()))
    yield case("jpeg/stored-as-rgb.jpg", pillow(color(), "JPEG", keep_rgb=True, **best), Made(color()))
    yield case(
        "jpeg/comment.jpg", pillow(color(), "JPEG", comment=b"\x1b[31m\0" * 99, **best), Made(color(), LOSSY)
    )
    inks = np.concatenate([255 - color(), np.full((HEIGHT, WIDTH, 1), 20, np.uint8)], axis=2)
    truth = (color().astype(float) * (235 / 255)).astype(np.uint8)
    adobe = pillow(_inks(inks), "JPEG", subsampling=0, **best)
    yield case("jpeg/cmyk-adobe.jpg", adobe, Made(truth, LOSSY))
    yield case("jpeg/cmyk-without-adobe-marker.jpg", _without_adobe(adobe), Made(truth, LOSSY))
    ycc = np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))
    ycck = pillow(_inks(np.concatenate([255 - ycc, inks[..., 3:]], axis=2)), "JPEG", **best)
    at = ycck.index(b"Adobe") + 11
    yield case("jpeg/ycck.jpg", ycck[:at] + b"\2" + ycck[at + 1 :], Made(truth, 20))
    several = pillow(
        color(), "MPO", save_all=True, append_images=[Image.fromarray(gray(5, 6)[..., 0])], **best
    )
    yield case("jpeg/camera-with-preview.jpg", several, Made(color(), LOSSY))


def _inks(values: np.ndarray) -> Image.Image:
    """Values (h, w, 4) as an image of four inks."""
    return Image.frombytes("CMYK", values.shape[1::-1], values.tobytes())


def _without_adobe(data: bytes) -> bytes:
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def webp_files() -> Iterator[Case]:
    yield case("webp/lossy.webp", pillow(color(), "WEBP", quality=95), Made(color(), LOSSY))
    yield case("webp/lossless.webp", pillow(color(), "WEBP", lossless=True), Made(color(), LOSSY))
    clear = with_alpha(color())
    yield case("webp/lossy-alpha.webp", pillow(clear, "WEBP", quality=95), Made(clear, LOSSY))
    yield case(
        "webp/lossless-alpha.webp", pillow(clear, "WEBP", lossless=True, exact=True), Made(clear, LOSSY)
    )
    moving = pillow(color(), "WEBP", lossless=True, **_more_frames())
    yield case("webp/animated.webp", moving, Made(color(), LOSSY, FRAMES))


def tiff_files() -> Iterator[Case]:
    """Of up to 8 bits."""
    for name, options in (
        ("plain", {}),
        ("lzw", {"compression": "tiff_lzw"}),
        ("deflate", {"compression": "tiff_adobe_deflate"}),
        ("packbits", {"compression": "packbits"}),
        ("jpeg", {"compression": "jpeg", "quality": 97}),
    ):
        yield case(f"tiff/rgb-{name}.tif", pillow(color(), "TIFF", **options), Made(color(), LOSSY))
    yield case("tiff/tiles.tif", tiff(color(), tile=(16, 16)), Made(color()))
    yield case("tiff/planes.tif", tiff(color().transpose(2, 0, 1), planarconfig="separate"), Made(color()))
    yield case("tiff/big-tiff.tif", tiff(color(), bigtiff=True), Made(color()))
    yield case("tiff/big-endian.tif", tiff(color(), byteorder=">"), Made(color()))
    yield case("tiff/strips-of-a-row.tif", tiff(color(), rowsperstrip=1), Made(color()))
    yield case("tiff/predictor.tif", tiff(color(), compression="zlib", predictor=2), Made(color()))
    several = pillow(color(), "TIFF", save_all=True, append_images=[Image.fromarray(gray(5, 6)[..., 0])])
    yield case("tiff/three-pages.tif", several, Made(color(), says=FRAMES))
    yield case("tiff/gray.tif", tiff(gray(), "minisblack"), Made(gray()))
    yield case("tiff/white-is-zero.tif", tiff(255 - gray(), "miniswhite"), Made(gray()))
    bits = Image.fromarray(black_and_white()[..., 0]).convert("1")
    yield case("tiff/one-bit.tif", pillow(bits, "TIFF"), Made(black_and_white(), 18))
    yield case(
        "tiff/one-bit-fax.tif", pillow(bits, "TIFF", compression="group4"), Made(black_and_white(), 18)
    )
    few = Image.fromarray(color()).quantize(64)
    yield case("tiff/palette.tif", pillow(few, "TIFF"), Made(color(), 20))
    unassociated: dict[str, Any] = {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
    yield case("tiff/rgb-alpha.tif", tiff(with_alpha(color()), **unassociated), Made(with_alpha(color())))
    two = tiff(with_alpha(gray()), "minisblack", **unassociated)
    yield case("tiff/gray-alpha.tif", two, Made(with_alpha(gray())))
    mixed = np.concatenate([color() * (alpha() / 255), alpha()], axis=2).astype(np.uint8)
    associated = tiff(mixed, extrasamples=["assocalpha"])
    yield case("tiff/associated-alpha.tif", associated, Made(with_alpha(color()), LOSSY))
    lab = color()
    lab[..., 1:] = (80, 67)  # red, as light as the picture's red channel
    yield case("tiff/lab.tif", tiff(lab, "cielab"), Either((HEIGHT, WIDTH)))
    light_and_colors = Image.fromarray(color()).convert("YCbCr")
    yield case(
        "tiff/ycbcr.tif",
        pillow(light_and_colors, "TIFF"),
        Made(color(), LOSSY) if READS_YCBCR else Either((HEIGHT, WIDTH)),
    )
    cmyk = np.concatenate([255 - color(), np.zeros((HEIGHT, WIDTH, 1), np.uint8)], axis=2)
    yield case("tiff/cmyk.tif", pillow(_inks(cmyk), "TIFF"), Made(color(), LOSSY))


def deep_tiff_files() -> Iterator[Case]:
    """Of more than 8 bits."""
    many, floats = deep(color()), (color() / 255).astype(np.float32)
    mono = deep(gray())
    yield case("tiff/gray-16-bit.tif", tiff(mono, "minisblack"), Made(mono))
    yield case("tiff/white-is-zero-16-bit.tif", tiff(65_535 - mono, "miniswhite"), Made(mono))
    yield case("tiff/rgb-16-bit.tif", tiff(many, compression="zlib"), Made(many))
    lzw = opencv(many, ".tif", 259, 5)
    yield case("tiff/rgb-16-bit-lzw.tif", lzw, Made(many))
    yield case("tiff/rgb-16-bit-big-endian.tif", tiff(many, byteorder=">"), Made(many))
    yield case("tiff/rgb-16-bit-big-tiff.tif", tiff(many, bigtiff=True), Made(many))
    yield case("tiff/rgb-16-bit-tiles.tif", tiff(many, tile=(16, 16)), Made(many))
    planes = tiff(many.transpose(2, 0, 1), planarconfig="separate", compression="zlib")
    yield case("tiff/rgb-16-bit-planes.tif", planes, Made(many))
    own = deep(with_alpha(color()))
    yield case("tiff/rgb-alpha-16-bit.tif", tiff(own, extrasamples=["unassalpha"]), Made(own))
    mixed = np.concatenate([many * (alpha() / 255), own[..., 3:]], axis=2).astype(np.uint16)
    yield case("tiff/associated-alpha-16-bit.tif", tiff(mixed, extrasamples=["assocalpha"]), Made(own, LOSSY))
    pair = deep(with_alpha(gray()))
    two = tiff(pair, "minisblack", extrasamples=["unassalpha"], planarconfig="contig")
    yield case("tiff/gray-alpha-16-bit.tif", two, Made(pair))
    for bits in (16, 32, 64):
        yield case(f"tiff/float-{bits}-bit.tif", tiff(floats.astype(f"f{bits // 8}")), Made(floats))
    yield case("tiff/float-gray.tif", tiff(floats[..., :1], "minisblack"), Made(floats[..., :1]))
    wide = floats * 3 - 1
    yield case("tiff/float-outside-0-to-1.tif", tiff(wide), Made(wide, 14))
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("below-infinite", -np.inf), ("3e38", 3e38)):
        holes = floats.copy()
        holes[3, 4, 1] = value
        yield case(f"tiff/float-{name}.tif", tiff(holes), Refused("not finite"))
    large = (color() / 255) * 1e30
    large[3, 4] = 1e300
    yield case("tiff/float-64-bit-1e300.tif", tiff(large), Refused("not finite"))
    signed = tiff(color().astype(np.int16))
    yield case("tiff/signed-integers.tif", signed, Refused("16-bit signed integers"))
    five = tiff(np.concatenate([own, own[..., 3:]], axis=2), extrasamples=["unspecified"] * 2)
    yield case("tiff/five-samples-16-bit.tif", five, Made(many, says="beside colours and alpha"))
    extra = tiff(own, extrasamples=["unspecified"])
    yield case("tiff/fourth-sample-of-no-meaning.tif", extra, Made(many))
    yield case("tiff/32-bit-integers.tif", tiff(many.astype(np.uint32) * 65_537), Refused("32-bit"))
    inks = np.zeros((HEIGHT, WIDTH, 4), np.uint16)
    yield case("tiff/cmyk-16-bit.tif", tiff(inks, "separated"), Refused("inks (CMYK)"))
    thumbnail = tiff(gray(5, 6), "minisblack", subfiletype=tifffile.FILETYPE.REDUCEDIMAGE)
    yield case("tiff/camera-raw.tif", thumbnail, Refused("raw"))


def odd_tiff_files() -> Iterator[Case]:
    """Of kinds that few programs write."""
    many, mono = deep(color()), deep(with_alpha(gray()))
    size = (HEIGHT, WIDTH)
    before = BytesIO()
    with tifffile.TiffWriter(before) as writer:
        writer.write(color(5, 6), photometric="rgb", subfiletype=1, metadata=None)
        writer.write(color(), photometric="rgb", metadata=None)
    yield case("tiff/thumbnail-before-the-picture.tif", before.getvalue(), Made(color()))
    lzw_gray = tiff_by_hand([lzw(mono.tobytes())], size, 16, 2, 1, 5, (338, 3, [2]))
    yield case("tiff/gray-alpha-16-bit-lzw.tif", lzw_gray, Made(mono))
    strips = [lzw(np.ascontiguousarray(many[..., n]).tobytes()) for n in range(3)]
    planes = tiff_by_hand(strips, size, 16, 3, 2, 5, (278, 3, [HEIGHT]), (284, 3, [2]))
    yield case("tiff/rgb-16-bit-planes-lzw.tif", planes, Made(many))
    half = (color() / 255).astype("<f2")
    body = [lzw(float_differences(half))]
    halves = tiff_by_hand(body, size, 16, 3, 2, 5, (317, 3, [3]), (339, 3, [3, 3, 3]))
    yield case("tiff/float-16-bit-lzw-predictor.tif", halves, Made(half.astype(np.float32)))
    sixteenths = color() >> 4
    four = tiff_by_hand([packed(sixteenths, 4)], size, 4, 3, 2)
    yield case("tiff/rgb-4-bit.tif", four, Made(sixteenths * 17, 20))
    twelve = tiff_by_hand([packed(many >> 4, 12)], size, 12, 3, 2)
    yield case("tiff/rgb-12-bit.tif", twelve, Made(many))
    for top in (255, 65_535):
        counts = (color() / 255 * top).astype(np.float32)
        yield case(f"tiff/float-to-{top}.tif", tiff(counts), Made(counts, says="is taken as white"))
    signed = tiff((color().astype(int) - 128).astype(np.int8))
    yield case("tiff/signed-8-bit.tif", signed, Refused("8-bit signed integers are not read"))
    ink = np.concatenate([255 - color(), with_alpha(gray())], axis=2)
    inks = tiff(ink, "separated", extrasamples=["unassalpha"])
    yield case("tiff/cmyk-alpha.tif", inks, Refused("inks (CMYK) and 1 more"))
    yield case("tiff/complex.tif", tiff(half.astype(np.complex64)), Refused("complex floats are not read"))


def bmp_files() -> Iterator[Case]:
    yield case("bmp/rgb.bmp", pillow(color(), "BMP"), Made(color()))
    yield case("bmp/gray.bmp", pillow(gray(), "BMP"), Made(gray()))
    bits = Image.fromarray(black_and_white()[..., 0]).convert("1")
    yield case("bmp/one-bit.bmp", pillow(bits, "BMP"), Made(black_and_white(), 18))
    yield case("bmp/palette.bmp", pillow(Image.fromarray(color()).quantize(64), "BMP"), Made(color(), 20))
    blue_first = color()[..., ::-1]
    rows = blue_first.tobytes()
    yield case("bmp/top-down.bmp", bmp(WIDTH, -HEIGHT, 24, rows), Made(color()))
    unused = np.concatenate([blue_first, np.zeros((HEIGHT, WIDTH, 1), np.uint8)], axis=2)
    yield case("bmp/32-bit.bmp", bmp(WIDTH, HEIGHT, 32, unused[::-1].tobytes()), Made(color()))
    red, green, blue = (color()[..., n].astype(np.uint16) >> 3 for n in range(3))
    short = (red << 10 | green << 5 | blue)[::-1].astype("<u2").tobytes()
    hidden = np.dstack([color(), np.zeros((HEIGHT, WIDTH, 1), np.uint8)])
    for header in (56, 108, 124):
        yield case(f"bmp/alpha-of-nothing-{header}.bmp", bmp_with_alpha(hidden, header), Made(color()))
    yield case("bmp/16-bit.bmp", bmp(WIDTH, HEIGHT, 16, short), Made(color(), LOSSY))
    grays = b"".join(bytes((n, n, n, 0)) for n in range(256))
    runs = b"".join(bytes((1, value)) for row in gray()[::-1, :, 0] for value in row) + b"\0\1"
    lines = [b"".join(bytes((1, value)) for value in row) + b"\0\0" for row in gray()[::-1, :, 0]]
    packed = b"".join(lines) + b"\0\1"
    assert len(runs) < len(packed)
    yield case("bmp/run-lengths.bmp", bmp(WIDTH, HEIGHT, 8, packed, 1, grays), Made(gray()))
    core = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    old = b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + core + blue_first[::-1].tobytes()
    yield case("bmp/os2.bmp", old, Made(color()))


def bmp(width: int, height: int, bits: int, body: bytes, compression: int = 0, palette: bytes = b"") -> bytes:
    """A BMP by hand."""
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0
    )
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


def other_files() -> Iterator[Case]:
    yield case("avif/rgb.avif", pillow(color(), "AVIF", quality=95), Made(color(), LOSSY))
    yield case("avif/gray.avif", pillow(gray(), "AVIF", quality=95, subsampling="4:0:0"), Made(gray(), LOSSY))
    clear = with_alpha(color())
    yield case("avif/alpha.avif", pillow(clear, "AVIF", quality=95), Made(clear, LOSSY))
    yield case(
        "avif/animated.avif", pillow(color(), "AVIF", quality=95, **_more_frames()), Made(color(), 20, FRAMES)
    )
    few = Image.fromarray(color()).quantize(64)
    shades = np.asarray(few.convert("RGB"))
    yield case("gif/plain.gif", pillow(few, "GIF", interlace=False), Made(shades, 20))
    yield case("gif/interlaced.gif", pillow(few, "GIF", interlace=True), Made(shades, 20))
    hole = np.asarray(few) == np.asarray(few)[HEIGHT // 2, WIDTH // 3]
    truth = np.dstack([shades, np.where(hole, 0, 255).astype(np.uint8)])
    key = int(np.asarray(few)[HEIGHT // 2, WIDTH // 3])
    yield case("gif/transparent.gif", pillow(few, "GIF", transparency=key), Made(truth, 12))
    yield case("gif/animated.gif", pillow(few, "GIF", **_more_frames()), Made(shades, 20, FRAMES))
    grays = Image.fromarray(gray()[..., 0])
    yield case("gif/gray.gif", pillow(grays, "GIF"), Made(gray(), LOSSY))
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    yield case("other/photo.heic", heic, Refused("cannot be decoded"))
    jxl = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(64)
    missing = importlib.util.find_spec("pillow_jxl") is None
    yield case("other/photo.jxl", jxl, Refused("strsr[jxl]" if missing else "cannot be decoded"))


def _more_frames() -> dict[str, Any]:
    return {
        "save_all": True,
        "append_images": [Image.fromarray(color()[::-1]), Image.fromarray(color()[:, ::-1])],
    }
