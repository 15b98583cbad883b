"""PNG's texts, comments and IPTC: carried along in bounds, put where EXIF has a place, or named as lost."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.images.read import decode_image, read_image, read_size

from ..helpers.metadata_files import (
    DEEP,
    HEIGHT,
    PIXELS,
    WIDTH,
    chunk,
    enlarged,
    jpeg_with,
    png_with,
    tiff_of,
    tiff_with,
)

# --- PNG's texts -------------------------------------------------------------------------------------

TEXTS = [
    (b"tEXt", b"parameters\0a tree, seed 42"),
    (b"iTXt", b"Title\0\0\0de\0Titel\0" + "Über".encode()),
    (b"tEXt", b"Copyright\0\xa9 Jane"),
    (b"zTXt", b"Comment\0\0" + zlib.compress(b"hello")),
    (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b'{"nodes": [1, 2]}')),
    (b"tEXt", b"parameters\0a second one"),
]


def texts_in(data: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 8, []
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            found.append((kind, data[at + 8 : at + 8 + length]))
        at += length + 12
    return found


@pytest.mark.parametrize("pixels", [PIXELS, DEEP], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("place", ["before the pixels", "behind them"])
def test_texts_go_from_png_to_png_as_they_are(pixels: np.ndarray, place: str) -> None:
    data = png_with(pixels, *TEXTS) if place == "before the pixels" else png_with(pixels)
    if place == "behind them":
        data = data[:-12] + b"".join(chunk(*text) for text in TEXTS) + data[-12:]
    assert texts_in(enlarged(data, "png")) == TEXTS


def test_texts_find_the_places_that_exif_has(caplog: pytest.LogCaptureFixture) -> None:
    more = [(b"tEXt", b"Author\0Jane"), (b"iTXt", b"Description\0\0\0\0\0" + "Fluß".encode())]
    data = png_with(PIXELS, *TEXTS[:5], *more)
    for kind in ("jpg", "tif", "webp", "avif"):
        caplog.clear()
        exif = decode_image(enlarged(data, kind), "out").metadata.exif
        assert caplog.messages[0].startswith("x: ")
        assert caplog.messages[0].endswith(" has no place for: text 'workflow', text 'Comment'")
        for text in (b"Jane\0", "Fluß\0".encode(), "© Jane\0".encode(), b"ASCII\0\0\0a tree, seed 42"):
            assert text in (exif or b""), kind
        assert "Über\0".encode("utf-16-le") in (exif or b"")


def test_texts_are_bounded_in_size_and_number(caplog: pytest.LogCaptureFixture) -> None:
    bombs = [(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(2**23)))] * 3
    many = [(b"tEXt", b"t%d\0x" % n) for n in range(1200)]
    large = [(b"zTXt", b"large%d\0\0" % n + zlib.compress(b"x" * 3 * 2**19)) for n in range(4)]
    kept = texts_in(enlarged(png_with(PIXELS, *bombs, *large, *many), "png"))
    assert len(kept) == 1000
    assert [text for text in kept if text[1].startswith(b"large")] == large[:2]
    assert len(caplog.messages) <= 5
    assert "x: its text 'bomb' is damaged or larger" in caplog.text
    assert "texts beyond 1000" in caplog.text


def test_texts_of_the_old_file_do_not_come_along() -> None:
    old = [b"exif:PixelXDimension\x0024", b"png:IHDR.width,height\x0024, 20", b"exif:Orientation\x006"]
    data = png_with(PIXELS, *((b"tEXt", text) for text in old), (b"tEXt", b"exif:FNumber\x0028/10"))
    assert texts_in(enlarged(data, "png")) == [(b"tEXt", b"exif:FNumber\x0028/10")]


@pytest.mark.parametrize("name", [b"exif", b"APP1"])
def test_exif_in_hexadecimal_letters_is_read(name: bytes, tmp_path: Path) -> None:
    exif = b"Exif\0\0" + tiff_of(">", [(271, 2, b"Tester\0"), (274, 3, [6])])
    body = b"\n%s\n%8d\n" % (name.lower(), len(exif)) + exif.hex().encode() + b"\n"
    path = tmp_path / "x.png"
    path.write_bytes(png_with(PIXELS, (b"zTXt", b"Raw profile type " + name + b"\0\0" + zlib.compress(body))))
    picture = read_image(path)
    assert picture.color.shape[:2] == read_size(path) == (WIDTH, HEIGHT)
    data = enlarged(path.read_bytes(), "png")
    assert b"Tester\0" in data
    assert not texts_in(data)


# --- comments, IPTC ----------------------------------------------------------------------------------

IPTC = b"\x1c\x02\x78\0\x09a caption\x1c\x02\x19\0\x07keyword"
PHOTOSHOP = (
    b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\2ab" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC))
)
PHOTOSHOP += IPTC + b"\0" * (len(IPTC) % 2)


@pytest.mark.parametrize("source", ["jpg", "tif", "png"])
@pytest.mark.parametrize("target", ["jpg", "tif", "png"])
def test_iptc_goes_where_it_has_a_place(source: str, target: str) -> None:
    data = jpeg_with(PIXELS, (0xED, PHOTOSHOP))
    if source != "jpg":
        data = enlarged(data, source)
    out = enlarged(data, target)
    if target == "png":
        (text,) = texts_in(out)
        assert text[1].startswith(b"Raw profile type iptc\0")
        assert IPTC.hex().encode() in zlib.decompress(text[1].split(b"\0\0", 1)[1]).replace(b"\n", b"")
    else:
        assert IPTC in out


@pytest.mark.parametrize("kind", [1, 4, 7], ids=["bytes", "numbers", "undefined"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_iptc_of_tiff_is_bytes_whatever_its_type(kind: int, order: str) -> None:
    padded = IPTC + b"\0" * (-len(IPTC) % 4)
    for tag, value in (
        (33723, padded),
        (33723, PHOTOSHOP + b"\0" * (-len(PHOTOSHOP) % 4)),
        (34377, PHOTOSHOP[14:]),
    ):
        if tag == 33723 or kind != 4:
            assert IPTC in enlarged(tiff_with(PIXELS, order, [(tag, kind, value)]), "jpg")


def test_iptc_without_a_place_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert IPTC not in enlarged(jpeg_with(PIXELS, (0xED, PHOTOSHOP)), "webp")
    assert caplog.messages == ["x: WEBP has no place for: IPTC"]


def test_comments_come_along() -> None:
    data = jpeg_with(PIXELS, (0xFE, "für Jane".encode()))
    assert b"\xff\xfe\0\x0b" + "für Jane".encode() in enlarged(data, "jpg")
    assert texts_in(enlarged(data, "png")) == [(b"tEXt", b"Comment\0" + "für Jane".encode("latin-1"))]
    assert b"UNICODE\0" + "für Jane".encode("utf-16-le") in enlarged(data, "webp")
    buffer = BytesIO()
    Image.fromarray(PIXELS).quantize(16).save(buffer, "GIF", comment=b"a drawing")
    assert texts_in(enlarged(buffer.getvalue(), "png")) == [(b"tEXt", b"Comment\0a drawing")]


def test_strip_takes_texts_comments_and_iptc_too(
    strsr: Callable[..., Result], tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png_with(PIXELS, *TEXTS))
    (tmp_path / "b.jpg").write_bytes(jpeg_with(PIXELS, (0xFE, b"seed 42"), (0xED, PHOTOSHOP)))
    for name in ("a.png", "b.jpg"):
        args = (tmp_path / name, tmp_path / f"out-{name}", "--weights", tiny_weights, "--strip")
        result = strsr("upscale", *args)
        assert result.exit_code == 0, result.output
        data = (tmp_path / f"out-{name}").read_bytes()
        assert not any(word in data for word in (b"seed 42", b"Jane", b"caption", b"workflow"))
