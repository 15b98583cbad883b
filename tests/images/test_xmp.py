"""XMP: orientation, and what speaks of the old file: turned, scaled, or taken out with what it points to."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from strsr_cli.images.read import decode_image, read_image, read_size

from ..helpers.metadata_files import (
    DEEP,
    HEIGHT,
    PIXELS,
    TIFF_SPACE,
    WIDTH,
    XMP_SEGMENT,
    enlarged,
    jpeg_with,
    png_with,
    tiff_of,
    tiff_with,
    with_xmp,
    xmp_of,
    xmp_packet,
)

# --- orientation -------------------------------------------------------------------------------------

FORMS = {
    "attribute": xmp_packet('tiff:Orientation="6"', tiff=TIFF_SPACE),
    "single quotes": xmp_packet("tiff:Orientation = '6'", tiff=TIFF_SPACE),
    "element": xmp_packet("", "<tiff:Orientation>6</tiff:Orientation>", tiff=TIFF_SPACE),
    "another prefix": xmp_packet('t:Orientation="6"', t=TIFF_SPACE),
    "utf-16": xmp_packet('tiff:Orientation="6"', tiff=TIFF_SPACE).decode().encode("utf-16"),
}
KINDS = (
    "png",
    "deep.png",
    "jpg",
    "webp",
    "avif",
    "tif",
    "deep.tif",
    "float.tif",
    "big.tif",
    "planes.deep.tif",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_orientation_of_xmp_alone_turns_all_and_the_plan(kind: str, form: str, tmp_path: Path) -> None:
    if form == "utf-16" and kind == "png":
        pytest.skip("iTXt is of UTF-8")
    path = tmp_path / "x"
    path.write_bytes(with_xmp(FORMS[form], kind))
    picture = read_image(path)
    assert picture.color.shape[:2] == read_size(path) == (WIDTH, HEIGHT)
    shown = picture.color / {"uint8": 255, "uint16": 65_535, "float32": 1}[picture.color.dtype.name]
    # Six: what is stored is turned clockwise.
    assert np.abs(shown - np.rot90(PIXELS, -1) / 255).max() < 0.05
    assert picture.metadata.xmp is not None
    assert b"Orientation=" not in picture.metadata.xmp


@pytest.mark.parametrize("kind", [1, 2, 7], ids=["bytes", "text", "undefined"])
def test_xmp_of_tiff_is_bytes_whatever_its_type(kind: int) -> None:
    data = tiff_with(PIXELS, ">", [(700, kind, FORMS["attribute"])])
    assert decode_image(data, "x").color.shape[:2] == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", ["tif", "deep.tif", "jpg", "png"])
def test_orientation_of_the_tag_wins_over_xmp(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    packet, tag = FORMS["attribute"], (274, 3, [1])
    exif = tiff_of("<", [tag])
    if kind.endswith("tif"):
        pixels = DEEP if kind == "deep.tif" else PIXELS
        path.write_bytes(tiff_with(pixels, "<", [tag, (700, 1, packet)]))
    elif kind == "jpg":
        path.write_bytes(jpeg_with(PIXELS, (0xE1, b"Exif\0\0" + exif), (0xE1, XMP_SEGMENT + packet)))
    else:
        chunks = [(b"eXIf", exif), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)]
        path.write_bytes(png_with(PIXELS, *chunks))
    assert read_image(path).color.shape[:2] == read_size(path) == (HEIGHT, WIDTH)


def test_orientation_that_does_not_exist_leaves_it_to_xmp(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for pixels in (PIXELS, DEEP):
        path.write_bytes(tiff_with(pixels, ">", [(274, 3, [0]), (700, 1, FORMS["element"])]))
        assert read_image(path).color.shape[:2] == read_size(path) == (WIDTH, HEIGHT)


def test_plan_and_outputs_agree_on_turned_pictures(
    strsr: Callable[..., Result], tiny_weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for kind in ("deep.tif", "tif", "png", "jpg"):
        (folder / f"a.{kind}").write_bytes(with_xmp(FORMS["element"], kind))
    out = tmp_path / "out"
    result = strsr("upscale", folder, out, "--scale", "2", "--weights", tiny_weights, "--json")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    planned = [(event["to_width"], event["to_height"]) for event in events if event["event"] == "planned"]
    done = [(event["width"], event["height"]) for event in events if event["event"] == "done"]
    assert planned == done == [(2 * HEIGHT, 2 * WIDTH)] * 4


# --- XMP that speaks of the old file -----------------------------------------------------------------

GPANO = "http://ns.google.com/photos/1.0/panorama/"
SIDES = {
    "FullPanoWidthPixels": (48, 96),
    "FullPanoHeightPixels": (24, 48),
    "CroppedAreaImageWidthPixels": (24, 48),
    "CroppedAreaImageHeightPixels": (20, 40),
    "CroppedAreaLeftPixels": (12, 24),
    "CroppedAreaTopPixels": (2, 4),
}


def old_and_new(form: str) -> tuple[bytes, list[str]]:
    if form == "attributes":
        old = " ".join(f'p:{name}="{value}"' for name, (value, _) in SIDES.items())
        return xmp_packet(f'p:ProjectionType="equirectangular" {old}', p=GPANO), [
            f'p:{name}="{value}"' for name, (_, value) in SIDES.items()
        ]
    old = "".join(f"<GPano:{name}>{value}</GPano:{name}>" for name, (value, _) in SIDES.items())
    return xmp_packet("", old, GPano=GPANO), [
        f"<GPano:{name}>{value}</GPano:{name}>" for name, (_, value) in SIDES.items()
    ]


@pytest.mark.parametrize("form", ["attributes", "elements"])
def test_panorama_sizes_are_scaled(form: str) -> None:
    packet, values = old_and_new(form)
    xmp = xmp_of(enlarged(with_xmp(packet, "jpg"), "jpg"))
    assert all(value in xmp for value in values), xmp


REGIONS = {"mwg_rs": "http://www.metadataworkinggroup.com/schemas/regions/"}
REGIONS |= {
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
}
REGIONS |= {
    "MP": "http://ns.microsoft.com/photo/1.2/",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
}


def faces(form: str, unit: str = "normalized", numbers: str = "0.25 0.4 0.1 0.2") -> str:
    x, y, w, h = numbers.split()
    sizes = 'stDim:w="24" stDim:h="20" stDim:unit="pixel"'
    if form == "attributes":
        area = (
            f'<mwg-rs:Area stArea:x="{x}" stArea:y="{y}" stArea:w="{w}" stArea:h="{h}" stArea:unit="{unit}"/>'
        )
    else:
        inner = "".join(f"<stArea:{n}>{v}</stArea:{n}>" for n, v in zip("xywh", (x, y, w, h), strict=True))
        area = f'<mwg-rs:Area rdf:parseType="Resource">{inner}<stArea:unit>{unit}</stArea:unit></mwg-rs:Area>'
    return (
        f'<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions {sizes}/><mwg-rs:RegionList><rdf:Bag>'
        f'<rdf:li rdf:parseType="Resource">{area}<mwg-rs:Name>Zoë</mwg-rs:Name></rdf:li></rdf:Bag>'
        "</mwg-rs:RegionList></mwg-rs:Regions><MPReg:Rectangle>0.2, 0.3, 0.1, 0.2</MPReg:Rectangle>"
    )


# By hand, from the middle (0.25, 0.4) of a face of 0.1 x 0.2; then the corner (0.2, 0.3) of the other.
TURNED = {
    1: ("0.25 0.4 0.1 0.2", "0.2, 0.3, 0.1, 0.2", "48 40"),
    2: ("0.75 0.4 0.1 0.2", "0.7, 0.3, 0.1, 0.2", "48 40"),
    3: ("0.75 0.6 0.1 0.2", "0.7, 0.5, 0.1, 0.2", "48 40"),
    4: ("0.25 0.6 0.1 0.2", "0.2, 0.5, 0.1, 0.2", "48 40"),
    5: ("0.4 0.25 0.2 0.1", "0.3, 0.2, 0.2, 0.1", "40 48"),
    6: ("0.6 0.25 0.2 0.1", "0.5, 0.2, 0.2, 0.1", "40 48"),
    7: ("0.6 0.75 0.2 0.1", "0.5, 0.7, 0.2, 0.1", "40 48"),
    8: ("0.4 0.75 0.2 0.1", "0.3, 0.7, 0.2, 0.1", "40 48"),
}


@pytest.mark.parametrize("form", ["attributes", "elements"])
@pytest.mark.parametrize("orientation", TURNED)
def test_faces_are_turned_with_the_pixels(form: str, orientation: int) -> None:
    packet = xmp_packet(f'tiff:Orientation="{orientation}"', faces(form), tiff=TIFF_SPACE, **REGIONS)
    xmp = xmp_of(enlarged(with_xmp(packet, "jpg"), "jpg"))
    area, rectangle, sides = TURNED[orientation]
    expected = faces(form, "normalized", area).replace("0.2, 0.3, 0.1, 0.2", rectangle)
    width, height = sides.split()
    assert expected.replace('stDim:w="24" stDim:h="20"', f'stDim:w="{width}" stDim:h="{height}"') in xmp


def test_faces_in_pixels_are_scaled() -> None:
    packet = xmp_packet("", faces("attributes", "pixel", "6 8 2.5 4"), **REGIONS)
    xmp = xmp_of(enlarged(with_xmp(packet, "jpg"), "jpg"))
    assert 'stArea:x="12" stArea:y="16" stArea:w="5" stArea:h="8"' in xmp


CAMERA = "http://ns.google.com/photos/1.0/camera/"
LEFT = {
    "gain map": xmp_packet('hdrgm:Version="1.0"', hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"),
    "depth map": xmp_packet(
        'GDepth:Format="RangeInverse"', GDepth="http://ns.google.com/photos/1.0/depthmap/"
    ),
    "extended XMP": xmp_packet(f'n:HasExtendedXMP="{"0" * 32}"', n="http://ns.adobe.com/xmp/note/"),
    "video": xmp_packet('GCamera:MicroVideo="1" GCamera:MicroVideoOffset="99"', GCamera=CAMERA),
    "video ": xmp_packet(
        'GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"',
        '<C:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><C:Item I:Mime="video/mp4" '
        'I:Semantic="MotionPhoto" I:Length="99"/></rdf:li></rdf:Seq></C:Directory>',
        GCamera=CAMERA,
        C="http://ns.google.com/photos/1.0/container/",
        I="http://ns.google.com/photos/1.0/container/item/",
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_pointers_go_with_what_they_point_to(what: str, caplog: pytest.LogCaptureFixture) -> None:
    packet = LEFT[what].replace(
        b'rdf:about=""', b'rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="mine"'
    )
    xmp = xmp_of(enlarged(with_xmp(packet, "jpg"), "jpg"))
    assert caplog.messages == [f"x: not carried into outputs: its {what.strip()}"]
    assert 'dc:source="mine"' in xmp
    for gone in (
        "Version=",
        "Format=",
        "HasExtendedXMP=",
        "MicroVideo",
        "MotionPhoto",
        "Semantic",
        "Directory",
    ):
        assert gone not in xmp


def test_a_motion_photo_without_motion_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    enlarged(with_xmp(xmp_packet('GCamera:MicroVideo="0"', GCamera=CAMERA), "jpg"), "jpg")
    assert not caplog.messages


def camera_index(kind: int, length: int, offset: int) -> bytes:
    """A camera's index (MPF) of a picture and another image; the offset counts from the fourth letter on."""
    images = struct.pack("<IIIHH", 0x030000, 0, 0, 0, 0) + struct.pack("<IIIHH", kind, length, offset, 0, 0)
    entries = struct.pack("<HHI4s", 0xB000, 7, 4, b"0100") + struct.pack("<HHII", 0xB001, 4, 1, 2)
    entries += struct.pack("<HHII", 0xB002, 7, 32, 8 + 2 + 36 + 4)
    return b"MPF\0II*\0\x08\0\0\0\3\0" + entries + b"\0\0\0\0" + images


def phone_picture(kind: int, other: bytes) -> bytes:
    whole = jpeg_with(PIXELS, (0xE2, camera_index(kind, len(other), 0)))
    start = whole.index(b"MPF\0") + 4
    return jpeg_with(PIXELS, (0xE2, camera_index(kind, len(other), len(whole) - start))) + other


GAIN = jpeg_with(PIXELS, (0xE1, XMP_SEGMENT + LEFT["gain map"]))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (phone_picture(0, GAIN), "gain map"),
        (phone_picture(0x20002, jpeg_with(PIXELS)), "second view (stereo)"),
        (phone_picture(0, jpeg_with(PIXELS)), "second image"),
        (phone_picture(0x10001, jpeg_with(PIXELS)), None),
        (jpeg_with(PIXELS) + b"\0\0\0\x18ftypmp42" + bytes(99), "video"),
        (jpeg_with(PIXELS) + b"MotionPhoto_Data" + bytes(99), "video"),
        (jpeg_with(PIXELS) + bytes(99), None),
    ],
    ids=["gain map", "stereo", "unknown", "preview", "video", "samsung", "zeros"],
)
def test_what_stands_behind_a_picture_is_named(
    data: bytes, what: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    decode_image(data, "a.jpg")
    assert caplog.messages == ([] if what is None else [f"a.jpg: not carried into outputs: its {what}"])


def test_colour_mode_and_sizes_leave_xmp() -> None:
    packet = xmp_packet(
        'photoshop:ColorMode="4" tiff:ImageWidth="24" exif:PixelXDimension="24" dc:format="image/tiff" tiff:Make="T"',
        "<tiff:BitsPerSample><rdf:Seq><rdf:li>8</rdf:li></rdf:Seq></tiff:BitsPerSample>",
        photoshop="http://ns.adobe.com/photoshop/1.0/",
        tiff=TIFF_SPACE,
        exif="http://ns.adobe.com/exif/1.0/",
        dc="http://purl.org/dc/elements/1.1/",
    )
    xmp = xmp_of(enlarged(with_xmp(packet, "jpg"), "jpg"))
    assert 'tiff:Make="T"></rdf:Description>' in xmp
    for gone in ("ColorMode", "ImageWidth", "PixelXDimension", "image/tiff", "BitsPerSample"):
        assert gone not in xmp
