"""Files that are damaged, cut, or made to deceive."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

from .cases import (
    HEIGHT,
    SIGNATURE,
    WIDTH,
    Case,
    Either,
    Made,
    Refused,
    case,
    chunk,
    color,
    gray,
    header,
    pillow,
    png,
    tiff,
    zlib_bomb,
)
from .good import bmp

UNREADABLE = Refused("cannot be decoded")
EITHER = Either((HEIGHT, WIDTH))


def broken_files() -> list[Case]:
    makers = (
        cut_files,
        flipped_files,
        longer_files,
        png_files,
        gif_files,
        tiff_files,
        jpeg_files,
        small_files,
    )
    return [made for maker in makers for made in maker()]


@cache
def sound() -> dict[str, bytes]:
    """One file of each format, by suffix; noisy, so that most of it is pixels."""
    noise = np.random.default_rng(7).integers(0, 60, (HEIGHT, WIDTH, 3))
    noisy = (color() * 0.7 + noise).astype(np.uint8)
    return {
        "png": png(noisy, 8, 2),
        "jpg": pillow(noisy, "JPEG", quality=97),
        "progressive.jpg": pillow(noisy, "JPEG", quality=97, progressive=True),
        "webp": pillow(noisy, "WEBP", quality=95),
        "lossless.webp": pillow(noisy, "WEBP", lossless=True),
        "tif": pillow(noisy, "TIFF", compression="tiff_adobe_deflate"),
        "16-bit.tif": tiff(noisy.astype(np.uint16) * 257, compression="zlib"),
        "16-bit.png": png(noisy.astype(np.uint16) * 257, 16, 2),
        "bmp": pillow(noisy, "BMP"),
        "gif": pillow(Image.fromarray(noisy).quantize(64), "GIF"),
        "avif": pillow(noisy, "AVIF", quality=95),
    }


def cut_files() -> Iterator[Case]:
    for suffix in ("png", "jpg", "webp", "tif", "bmp", "gif", "avif"):
        yield case(f"cut/empty.{suffix}", b"", Refused("the file is empty"))
    for suffix, data in sound().items():
        # What is left of a BMP does not tell that it is one.
        yield case(
            f"cut/at-16-bytes.{suffix}",
            data[:16],
            Refused("not a" if suffix == "bmp" else "cannot be decoded"),
        )
        for percent in (30, 60, 90):
            yield case(f"cut/at-{percent}-percent.{suffix}", data[: len(data) * percent // 100], UNREADABLE)


def flipped_files() -> Iterator[Case]:
    for suffix, data in sound().items():
        for percent in (40, 80):
            at = len(data) * percent // 100
            flipped = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
            expected = Refused("checksum") if "png" in suffix else EITHER
            yield case(f"flipped/at-{percent}-percent.{suffix}", flipped, expected)


def longer_files() -> Iterator[Case]:
    for suffix, data in sound().items():
        size = Either((HEIGHT, WIDTH), "nothing is the matter with it")
        yield case(f"longer/and-garbage.{suffix}", data + b"garbage\0" * 50, size)


def png_files() -> Iterator[Case]:
    start, end = SIGNATURE + header(WIDTH, HEIGHT), chunk(b"IEND", b"")
    rows = b"".join(b"\0" + row.tobytes() for row in color())
    body = chunk(b"IDAT", zlib.compress(rows))
    wrong = body[:-1] + bytes([body[-1] ^ 1])
    note = chunk(b"tEXt", b"a\0b")
    lied = start + chunk(b"IDAT", zlib.compress(rows + bytes(2**25), 6)) + end
    yield case("png-lies/wrong-checksum.png", start + wrong + end, Refused("checksum"))
    yield case("png-lies/wrong-checksum-of-a-note.png", start + note[:-1] + b"x" + body + end, Made(color()))
    yield case("png-lies/more-rows-than-it-says.png", lied, Made(color()))
    empty = start + chunk(b"IDAT", b"") + end
    for name, data in (
        ("signature-alone", SIGNATURE),
        ("no-pixels", start + end),
        ("empty-pixels", empty),
        ("fewer-rows-than-it-says", start + chunk(b"IDAT", zlib.compress(rows[:500])) + end),
        ("no-zlib", start + chunk(b"IDAT", b"x" * 99) + end),
        ("no-header", SIGNATURE + body + end),
        ("header-behind-pixels", SIGNATURE + body + header(WIDTH, HEIGHT) + end),
        ("header-of-5-bytes", SIGNATURE + chunk(b"IHDR", b"\0\0\0\1\0") + body + end),
        ("no-end", start + body),
        ("endless-chunk", start + struct.pack(">I4s", 2**32 - 1, b"IDAT") + body[8:] + end),
        ("two-headers", start + header(WIDTH, HEIGHT) + body + end),
        ("small-header-behind-a-huge-one", SIGNATURE + header(60_000, 60_000) + body + header(4, 4) + end),
        ("small-header-before-a-huge-one", SIGNATURE + header(4, 4) + header(60_000, 60_000) + body + end),
        ("no-palette", SIGNATURE + header(WIDTH, HEIGHT, 8, 3) + body + end),
        ("depth-of-3", SIGNATURE + header(WIDTH, HEIGHT, 3, 0) + body + end),
        ("unknown-colours", SIGNATURE + header(WIDTH, HEIGHT, 8, 5) + body + end),
        ("0x0", SIGNATURE + header(0, 0) + body + end),
        ("24x0", SIGNATURE + header(WIDTH, 0) + body + end),
    ):
        yield case(f"png-lies/{name}.png", data, UNREADABLE)
    index = png(gray(), 8, 3, chunk(b"PLTE", bytes(range(30))))
    yield case("png-lies/colours-outside-the-palette.png", index, EITHER)
    most = 2**31 - 1
    yield case(
        "png-lies/2147483647x2147483647.png",
        SIGNATURE + header(most, most) + body + end,
        Refused("--max-pixels"),
    )
    yield case(
        "png-lies/30000x30000.png", SIGNATURE + header(30_000, 30_000) + body + end, Refused("--max-pixels")
    )
    black = b"".join([SIGNATURE, header(20_000, 20_000, 1, 0), chunk(b"IDAT", zlib_bomb(20_000 * 2501)), end])
    yield case("png-lies/bomb-of-400-megapixels.png", black, Refused("--max-pixels"))
    many = start + chunk(b"aaAa", b"") * 50_000 + body + end
    yield case("png-lies/50000-empty-chunks.png", many, Made(color()))


def gif_files() -> Iterator[Case]:
    whole = pillow(Image.fromarray(color()).quantize(64), "GIF")
    yield case("gif-lies/0x0.gif", whole[:6] + bytes(4) + whole[10:], EITHER)
    yield case("gif-lies/65535x65535.gif", whole[:6] + b"\xff" * 4 + whole[10:], Refused("--max-pixels"))
    yield case("gif-lies/no-frame.gif", whole[:13] + b";", UNREADABLE)
    frame = whole.index(b"\x2c\0\0\0\0")
    huge = whole[: frame + 1] + struct.pack("<HHHH", 0, 0, 65_535, 65_535) + whole[frame + 9 :]
    yield case("gif-lies/frame-larger-than-its-screen.gif", huge, Refused("--max-pixels"))
    beside = whole[: frame + 1] + struct.pack("<HH", 60_000, 60_000) + whole[frame + 5 :]
    yield case("gif-lies/frame-beside-its-screen.gif", beside, Refused("--max-pixels"))
    code = whole[: frame + 10] + b"\x63" + whole[frame + 11 :]
    yield case("gif-lies/codes-of-99-bits.gif", code, UNREADABLE)


def tiff_files() -> Iterator[Case]:
    pixels = color().tobytes()

    def page(*, after: int = 0, data: bytes = pixels, **values: int) -> bytes:
        """One strip of RGB at byte 8. values: in place of those tags', t256=0."""
        count = 8 + len(data)
        tags = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 2, 273: 8, 277: 3, 278: HEIGHT, 279: len(data)}
        tags |= {int(tag[1:]): value for tag, value in values.items()}
        entries = b"".join(
            struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()) if value >= 0
        )
        table = struct.pack("<H", len(entries) // 12) + entries + struct.pack("<I", after)
        return b"II*\0" + struct.pack("<I", count) + data + table

    start = 8 + len(pixels)
    yield case("tiff-lies/next-page-is-the-first.tif", page(after=start), Made(color()))
    yield case("tiff-lies/next-page-is-outside.tif", page(after=2**31), Made(color()))
    yield case("tiff-lies/sub-directory-is-itself.tif", page(t330=start, t34665=start), Made(color()))
    bomb = zlib_bomb()
    for name, data in (
        ("first-page-is-outside", b"II*\0\xff\xff\xff\x7f" + pixels),
        ("first-page-is-its-header", b"II*\0\0\0\0\0" + pixels),
        ("no-tags", b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
        ("65535-tags", b"II*\0\x08\0\0\0\xff\xff" + pixels),
        ("0x0", page(t256=0, t257=0)),
        ("no-width", page(t256=-1)),
        ("no-strips", page(t273=-1, t279=-1)),
        ("strips-outside", page(t273=2**31)),
        ("strips-too-short", page(t279=100, data=pixels[:100])),
        ("999-samples", page(t277=999)),
        ("depth-of-7", page(t258=7)),
        ("unknown-compression", page(t259=12_345)),
        ("strip-is-no-zlib", page(t259=8)),
        ("unknown-colours", page(t262=77)),
    ):
        yield case(f"tiff-lies/{name}.tif", data, UNREADABLE)
    for name, bits in (("8", 8), ("16", 16)):
        lied = page(t259=8, t258=bits, data=bomb)
        yield case(f"tiff-lies/64-mb-in-60-kb-{name}-bit.tif", lied, EITHER)
    planes = page(t259=8, t258=16, t284=2, data=bomb)
    yield case("tiff-lies/64-mb-in-60-kb-planes.tif", planes, UNREADABLE)
    huge = page(t256=100_000, t257=100_000)
    yield case("tiff-lies/100000x100000.tif", huge, Refused("--max-pixels"))
    wide = page(t256=2**32 - 1, t257=1)
    yield case("tiff-lies/4294967295x1.tif", wide, Refused("--max-pixels"))
    counts = bytearray(page())
    counts[start + 2 + 12 * 5 + 4 : start + 2 + 12 * 5 + 8] = b"\xff\xff\xff\xff"  # of strip offsets
    yield case("tiff-lies/4-billion-strips.tif", bytes(counts), UNREADABLE)
    big = b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63)
    yield case("tiff-lies/big-tiff-first-page-is-outside.tif", big, UNREADABLE)


def jpeg_files() -> Iterator[Case]:
    whole = pillow(color(), "JPEG", quality=97, subsampling=0)
    frame = whole.index(b"\xff\xc0")

    def sized(height: int, width: int) -> bytes:
        return whole[: frame + 5] + struct.pack(">HH", height, width) + whole[frame + 9 :]

    def without(marker: bytes) -> bytes:
        data = whole
        while (at := data.find(b"\xff" + marker)) >= 0:
            data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
        return data

    yield case("jpeg-lies/no-end.jpg", whole[:-2], EITHER)
    yield case("jpeg-lies/no-huffman-tables.jpg", without(b"\xc4"), EITHER)
    for name, data in (
        ("start-alone", b"\xff\xd8\xff\xd9"),
        ("no-quantisation-tables", without(b"\xdb")),
        ("no-frame", without(b"\xc0")),
        ("0x0", sized(0, 0)),
        ("24x0", sized(0, WIDTH)),
        ("lossless", whole[: frame + 1] + b"\xc3" + whole[frame + 2 :]),
        ("12-bit", whole[: frame + 4] + b"\x0c" + whole[frame + 5 :]),
        ("99-components", whole[: frame + 9] + b"\x63" + whole[frame + 10 :]),
        ("segment-of-0-bytes", whole[: frame + 2] + b"\0\0" + whole[frame + 4 :]),
    ):
        yield case(f"jpeg-lies/{name}.jpg", data, UNREADABLE)
    steps = pillow(color(), "JPEG", progressive=True)
    scan = steps[steps.rindex(b"\xff\xda") : -2]
    middle = (whole.index(b"\xff\xda") + len(whole)) // 2
    lost = whole[:middle] + whole[middle + 150 :]
    yield case("jpeg-lies/scan-lacks-150-bytes.jpg", lost, Either((HEIGHT, WIDTH)))
    yield case("jpeg-lies/9-scans-more.jpg", steps[:-2] + scan * 9 + b"\xff\xd9", EITHER)
    yield case("jpeg-lies/9000-scans.jpg", steps[:-2] + scan * 9000 + b"\xff\xd9", Refused("scans"))
    yield case("jpeg-lies/65500x65500.jpg", sized(65_500, 65_500), Refused("--max-pixels"))
    yield case("jpeg-lies/taller-than-its-data.jpg", sized(2000, WIDTH), Either((2000, WIDTH)))


def small_files() -> Iterator[Case]:
    """BMP, WebP, AVIF."""
    rows = color()[::-1, :, ::-1].tobytes()
    whole = bmp(WIDTH, HEIGHT, 24, rows)
    for name, data in (
        ("pixels-outside", whole[:10] + b"\xff\xff\xff\x7f" + whole[14:]),
        ("0x0", bmp(0, 0, 24, rows)),
        ("width-below-0", bmp(-WIDTH, HEIGHT, 24, rows)),
        ("depth-of-99", bmp(WIDTH, HEIGHT, 99, rows)),
        ("unknown-compression", bmp(WIDTH, HEIGHT, 24, rows, 77)),
        ("run-beyond-the-end", bmp(WIDTH, HEIGHT, 8, b"\xff\1" * 3, 1, bytes(1024))),
    ):
        yield case(f"bmp-lies/{name}.bmp", data, Refused("") if name == "width-below-0" else UNREADABLE)
    yield case("bmp-lies/60000x60000.bmp", bmp(60_000, 60_000, 24, rows), Refused("--max-pixels"))
    webp = sound()["webp"]
    for name, size in (("0", 0), ("4-gb", 2**32 - 2), ("half", len(webp) // 2)):
        yield case(f"webp-lies/says-{name}.webp", webp[:4] + struct.pack("<I", size) + webp[8:], EITHER)
    yield case("webp-lies/no-chunk.webp", b"RIFF\4\0\0\0WEBP", UNREADABLE)
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff\xff\xff" * 2
    inner = canvas + webp[12:]
    huge = b"RIFF" + struct.pack("<I", 4 + len(inner)) + b"WEBP" + inner
    yield case("webp-lies/canvas-of-16777216x16777216.webp", huge, Refused(""))
    yield case("avif-lies/type-alone.avif", b"\0\0\0\x14ftypavif\0\0\0\0avif", UNREADABLE)
    avif = sound()["avif"]
    yield case("avif-lies/pixels-zeroed.avif", avif[:-100] + bytes(100), EITHER)
    at = avif.index(b"ispe") + 8
    lied = avif[:at] + struct.pack(">II", 60_000, 60_000) + avif[at + 8 :]
    yield case("avif-lies/60000x60000.avif", lied, Refused(""))
