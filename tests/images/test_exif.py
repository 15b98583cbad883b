"""EXIF and the tags of TIFF files: BigTIFF, descriptions of old sizes, resolution, places on earth."""

from __future__ import annotations

import json
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from strsr_cli.images.metadata.directories import extend_file, read_exif
from strsr_cli.images.read import decode_image
from strsr_cli.images.write import EncodeSettings, encode_image

from ..helpers.metadata_files import (
    DEEP,
    FLOATS,
    PIXELS,
    POINTERS,
    SIZES,
    directory,
    enlarged,
    generated_exif,
    jpeg_with,
    packed,
    png_with,
    tiff_of,
    tiff_with,
)

# --- bytes ---------------------------------------------------------------------------------------------


def values_of(data: bytes, at: int, order: str) -> dict[int, tuple[int, bytes]]:
    """The values of a directory: type and bytes, those of four bytes or fewer as they lie in the entry."""
    (count,) = struct.unpack_from(order + "H", data, at)
    values = {}
    for place in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, number, offset = struct.unpack_from(order + "HHII", data, place)
        length = SIZES[kind] * number
        start = place + 8 if length <= 4 else offset
        values[tag] = kind, data[start : start + length]
    return values


@pytest.mark.parametrize("order", ["<", ">"])
def test_values_of_all_types_come_back_to_the_bit(order: str) -> None:
    for seed in range(5):
        parts = generated_exif(order, seed)
        exif = tiff_of(
            order, parts["first"], photo=parts["photo"], gps=parts["gps"], interop=parts["interop"]
        )
        data = decode_image(png_with(PIXELS, (b"eXIf", exif)), "x").metadata.exif_of(40, 48) or b""
        first = values_of(data, 8, order)
        directories = {"first": first}
        for name, above in (("photo", "first"), ("gps", "first"), ("interop", "photo")):
            (place,) = struct.unpack(order + "I", directories[above].pop(POINTERS[name])[1])
            directories[name] = values_of(data, place, order)
        assert first.pop(274) == (3, struct.pack(order + "H", 1))
        assert directories["photo"].pop(40962) == (3, struct.pack(order + "H", 48))
        assert directories["photo"].pop(40963) == (3, struct.pack(order + "H", 40))
        for name, entries in parts.items():
            assert directories[name] == {
                tag: (kind, packed(kind, value, order)) for tag, kind, value in entries
            }


@pytest.mark.parametrize("order", ["<", ">"])
def test_directories_of_the_type_for_them_move_along(order: str) -> None:
    """A pointer of the type IFD, to the photo's directory and in it; a number of that type that is no place stays."""
    inner = directory([(1, 2, b"of a program's own\0")], 200, order)
    photo = directory([(60_000, 13, [200]), (60_001, 13, [2**31]), (42033, 2, b"0123456\0")], 100, order)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    exif = (head + directory([(34665, 13, [100])], 8, order)).ljust(100, b"\0") + photo
    exif = exif.ljust(200, b"\0") + inner
    data = decode_image(png_with(PIXELS, (b"eXIf", exif)), "x").metadata.exif_of(40, 48) or b""
    (place,) = struct.unpack(order + "I", values_of(data, 8, order)[34665][1])
    moved = values_of(data, place, order)
    assert moved[42033] == (2, b"0123456\0")
    assert moved[60_001] == (13, struct.pack(order + "I", 2**31))
    (place,) = struct.unpack(order + "I", moved[60_000][1])
    assert values_of(data, place, order) == {1: (2, b"of a program's own\0")}


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    order=st.sampled_from("<>"),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 6), st.binary(max_size=6)), min_size=1, max_size=4
    ),
)
def test_mutated_exif_is_written_or_dropped(order: str, edits: list[tuple[float, int, bytes]]) -> None:
    parts = generated_exif(order, 1)
    exif = tiff_of(order, parts["first"], photo=parts["photo"], gps=parts["gps"], interop=parts["interop"])
    for place, length, new in edits:
        at = int(place * len(exif))
        exif = exif[:at] + new + exif[at + length :]
    picture = decode_image(png_with(PIXELS, (b"eXIf", exif)), "x")
    for kind in ("png", "jpg", "tif"):
        again = decode_image(encode_image(picture, kind, EncodeSettings()), "again")
        np.testing.assert_allclose(again.color.astype(int), PIXELS, atol=20 if kind == "jpg" else 0)


def test_a_large_tiff_takes_all_directories_too(tmp_path: Path) -> None:
    """BigTIFF, which is written above 4 GB."""
    parts = generated_exif("<", 3, private=False)
    exif = tiff_of("<", parts["first"], photo=parts["photo"], gps=parts["gps"], interop=parts["interop"])
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, PIXELS, bigtiff=True, photometric="rgb", metadata=None)
    with open(path, "r+b") as file:
        extend_file(file, read_exif(exif, 2**20).first)
    np.testing.assert_array_equal(tifffile.imread(path), PIXELS)
    with tifffile.TiffFile(path) as big:
        tags = big.pages.first.tags
        assert tags[315].value == "José Núñez"
        assert tags[34665].value["BodySerialNumber"] == "0123"
        assert tags[34853].value["GPSLatitudeRef"] == "N"


# --- BigTIFF -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [PIXELS, DEEP, FLOATS], ids=["8", "16", "float"])
@pytest.mark.parametrize("order", ["<"])
def test_bigtiff_keeps_what_a_small_tiff_keeps(pixels: np.ndarray, order: str) -> None:
    words = {270: "my words", 271: "Tester", 306: "1999:12:31 23:59:58", 315: "Jane", 33432: "© Jane"}
    buffer = BytesIO()
    tags = [(tag, 2, 0, text.encode(), True) for tag, text in words.items() if tag != 270]
    options: dict = {"photometric": "rgb", "metadata": None, "extratags": tags, "description": words[270]}
    tifffile.imwrite(
        buffer, pixels, bigtiff=True, byteorder=order, resolution=(118, 118), resolutionunit=3, **options
    )
    for kind in ("tif", "jpg"):
        exif = decode_image(enlarged(buffer.getvalue(), kind), "x").metadata.exif or b""
        for text in words.values():
            assert text.encode() + b"\0" in exif
    with tifffile.TiffFile(BytesIO(enlarged(buffer.getvalue(), "tif"))) as file:
        tags_out = file.pages.first.tags
        assert [tags_out[tag].value for tag in words if tag != 33432] == list(words.values())[:-1]
        assert (tags_out[282].value, int(tags_out[296].value)) == ((118, 1), 3)


# --- descriptions, resolution, geography -------------------------------------------------------------


def described(words: str | bytes, order: str = "<", pixels: np.ndarray = PIXELS) -> bytes:
    text = words if isinstance(words, bytes) else words.encode()
    return tiff_with(pixels, order, [(270, 2, text + b"\0"), (271, 2, b"Tester\0")])


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (
            '<?xml version="1.0"?><OME xmlns="x"><Image><Pixels SizeX="24" SizeY="20"/></Image></OME>',
            "OME-TIFF",
        ),
        ("ImageJ=1.53t\nimages=10\nslices=10\n", "ImageJ"),
        ("Aperio Image Library v10\n24x20 [0,0 24x20]", "Aperio"),
    ],
)
def test_layouts_by_programs_are_dropped_with_a_warning(
    words: str, program: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = enlarged(described(words), "tif")
    assert caplog.messages == [f"x: its description by {program} states the old pixels' layout: dropped"]
    with tifffile.TiffFile(BytesIO(data)) as file:
        assert 270 not in file.pages.first.tags
        assert file.pages.first.tags[271].value == "Tester"


@pytest.mark.parametrize("pixels", [PIXELS, DEEP, FLOATS], ids=["8", "16", "float"])
def test_the_shape_of_tifffile_is_brought_up_to_date(pixels: np.ndarray) -> None:
    buffer = BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", metadata={"mine": "words"})
    with tifffile.TiffFile(BytesIO(enlarged(buffer.getvalue(), "tif"))) as file:
        content = json.loads(file.pages.first.tags[270].value)
        assert content["shape"] == [40, 48, 3]
        assert content["mine"] == "words"
        assert file.series[0].shape == (40, 48, 3)


def test_the_shape_of_several_pages_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    data = enlarged(described('{"shape": [7, 20, 24, 3]}'), "tif")
    assert b"shape" not in data
    assert "x: its description states the shape of other pixels: dropped" in caplog.messages


def test_words_that_a_person_wrote_stay(caplog: pytest.LogCaptureFixture) -> None:
    for words in ("24x20 mm, from ImageJ", '{"note": "no shape"}', "<b>OME</b>", "{not json"):
        assert words.encode() + b"\0" in enlarged(described(words), "tif")
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif", "avif", "bmp"])
@pytest.mark.parametrize(
    "source", ["nothing", "EXIF without unit", "EXIF of no unit", "JFIF of no unit", "BMP"]
)
def test_resolution_is_never_invented(source: str, kind: str) -> None:
    exif = [(271, 2, b"Tester\0")]
    if source == "EXIF of no unit":
        exif += [(282, 5, [(2, 1)]), (283, 5, [(1, 1)]), (296, 3, [1])]
    data = jpeg_with(PIXELS, (0xE1, b"Exif\0\0" + tiff_of("<", exif)))
    if source == "BMP":
        buffer = BytesIO()
        Image.fromarray(PIXELS).save(buffer, "BMP", dpi=(0, 0))
        data = buffer.getvalue()
    elif source == "nothing":
        data = png_with(PIXELS)
    out = enlarged(data, kind)
    assert decode_image(out, "x").metadata.dpi is None
    if kind == "jpg":
        assert out[13] == 0


@pytest.mark.parametrize("kind", ["jpg", "tif"])
@pytest.mark.parametrize("source", ["jpg", "tif"])
def test_dots_per_centimetre_stay_per_centimetre(source: str, kind: str) -> None:
    data = bytearray(jpeg_with(PIXELS))
    struct.pack_into(">BHH", data, 13, 2, 118, 59)
    if source == "tif":
        data = bytearray(tiff_with(PIXELS, ">", [(282, 5, [(118, 1)]), (283, 5, [(59, 1)]), (296, 3, [3])]))
    out = enlarged(bytes(data), kind)
    if kind == "jpg":
        assert struct.unpack_from(">BHH", out, 13) == (2, 118, 59)
    else:
        with tifffile.TiffFile(BytesIO(out)) as file:
            tags = file.pages.first.tags
            across, down = (tags[number].value[0] / tags[number].value[1] for number in (282, 283))
            assert (across, down, int(tags[296].value)) == (pytest.approx(118), pytest.approx(59), 3)


def geotiff(*more: tuple[int, int, object], points: bool = False) -> bytes:
    keys = [1, 1, 0, 2, 1024, 0, 1, 1, 1025, 0, 1, 2 if points else 1]
    places = [(33550, 12, [30.0, 20.0, 0.0]), (33922, 12, [2.0, 3.0, 0.0, 500.0, 700.0, 0.0])]
    return tiff_with(PIXELS, "<", [*places, (34735, 3, keys), (34737, 2, b"WGS 84|\0"), *more])


@pytest.mark.parametrize("points", [False, True])
def test_places_on_earth_are_those_of_the_enlarged_pixels(points: bool) -> None:
    with tifffile.TiffFile(BytesIO(enlarged(geotiff(points=points), "tif"))) as file:
        tags = file.pages.first.tags
        assert tags[33550].value == (15.0, 10.0, 0.0)
        at = (4.5, 6.5) if points else (4.0, 6.0)
        assert tags[33922].value == (*at, 0.0, 500.0, 700.0, 0.0)
        assert tags[34737].value == "WGS 84|"


def test_places_on_earth_are_dropped_from_turned_pixels(caplog: pytest.LogCaptureFixture) -> None:
    data = enlarged(geotiff((274, 3, [6])), "tif")
    with tifffile.TiffFile(BytesIO(data)) as file:
        assert not {33550, 33922, 34735} & {tag.code for tag in file.pages.first.tags}
    assert "GeoTIFF" in caplog.text
