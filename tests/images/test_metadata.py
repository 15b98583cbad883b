"""What comes along beside pixels, read back by other means than those that wrote it."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.ExifTags import IFD, Base
from typer.testing import Result

from strsr_cli.images.metadata.blocks import LIMIT
from strsr_cli.images.metadata.carried import Metadata
from strsr_cli.images.picture import Picture
from strsr_cli.images.read import decode_image, read_image, read_size, without_remarks
from strsr_cli.images.write import EncodeSettings, encode_image

from ..helpers.image_files import ADOBE_RGB, DISPLAY_P3, XMP, camera_exif, matrix_profile
from ..helpers.metadata_files import jpeg_with, png_with, tiff_of

KINDS = ["png", "jpg", "webp", "tif", "avif"]
PILLOW = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "avif": "AVIF"}
PROFILES = {"Display P3": matrix_profile(*DISPLAY_P3), "AdobeRGB": matrix_profile(*ADOBE_RGB)}
PIXELS = (np.mgrid[:12, :10].sum(0)[..., None] * np.array([3, 5, 7])).astype(np.uint8)


def with_metadata(kind: str, orientation: int = 1, icc: bytes | None = None) -> bytes:
    """A file as other programs write it: Pillow's own way, nothing of ours."""
    exif, buffer = camera_exif(orientation), BytesIO()
    options: dict = {"exif": exif, "icc_profile": icc, "dpi": (300, 300), "xmp": XMP}
    if kind == "tif":
        exif[700], exif[Base.ResolutionUnit] = XMP, 2
        exif[IFD.Exif], exif[IFD.GPSInfo] = dict(exif.get_ifd(IFD.Exif)), dict(exif.get_ifd(IFD.GPSInfo))
        exif[Base.XResolution] = exif[Base.YResolution] = 300.0
    if kind == "png":
        from PIL.PngImagePlugin import PngInfo

        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    Image.fromarray(PIXELS).save(buffer, PILLOW[kind], **options)
    return buffer.getvalue()


def blocks(data: bytes, kind: str) -> dict[str, bytes]:
    """EXIF, XMP and ICC of a file's raw bytes, by its container's rules alone."""
    if kind == "tif":
        with tifffile.TiffFile(BytesIO(data)) as file:
            tags = file.pages.first.tags
            values = {"exif": data, "xmp": tags.valueof(700), "icc": tags.valueof(34675)}
        return {name: bytes(value) for name, value in values.items() if value is not None}
    pieces = {}
    if kind == "png":
        at = 8
        while at < len(data):
            length, name = struct.unpack_from(">I4s", data, at)
            body = data[at + 8 : at + 8 + length]
            if name == b"eXIf":
                pieces["exif"] = body
            elif name == b"iCCP":
                pieces["icc"] = zlib.decompress(body.split(b"\0", 1)[1][1:])
            elif name == b"iTXt":
                pieces["xmp"] = body.split(b"\0", 5)[-1]
            elif name == b"pHYs":
                pieces["dpi"] = body
            at += length + 12
    elif kind == "jpg":
        at = 2
        while data[at + 1] != 0xDA:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            body = data[at + 4 : at + 2 + length]
            for name, mark in (("exif", b"Exif\0\0"), ("icc", b"ICC_PROFILE\0\1\1")):
                if body.startswith(mark):
                    pieces[name] = body[len(mark) :]
            if body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                pieces["xmp"] = body.split(b"\0", 1)[1]
            if body.startswith(b"JFIF"):
                pieces["dpi"] = body[7:12]
            at += 2 + length
    elif kind == "webp":
        at = 12
        while at < len(data):
            name, length = struct.unpack_from("<4sI", data, at)
            key = {b"EXIF": "exif", b"XMP ": "xmp", b"ICCP": "icc"}.get(name)
            if key:
                pieces[key] = data[at + 8 : at + 8 + length]
            at += 8 + length + length % 2
    return {k: v.removeprefix(b"Exif\0\0") for k, v in pieces.items()}


def exif_tags(data: bytes) -> dict[str, object]:
    """By tifffile, which knows nothing of Pillow; sub-directories are its dicts."""
    with tifffile.TiffFile(BytesIO(data)) as file:
        return {tag.name: tag.value for tag in file.pages.first.tags}


def round_trip(data: bytes, kind: str) -> bytes:
    picture = decode_image(data, "x")
    large = Picture(
        picture.color.repeat(2, 0).repeat(2, 1), None, picture.icc, picture.format, picture.metadata
    )
    return encode_image(large, kind, EncodeSettings())


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("profile", PROFILES)
def test_metadata_arrives_in_every_format(source: str, target: str, profile: str) -> None:
    data = round_trip(with_metadata(source, 6, PROFILES[profile]), target)
    pieces = blocks(data, target)
    assert pieces["icc"] == PROFILES[profile]
    assert b"grandmother's album" in pieces["xmp"]
    assert b"ImageWidth" not in pieces["xmp"]
    tags = exif_tags(pieces["exif"])
    photo, places = tags["ExifTag"], tags["GPSTag"]
    assert photo["DateTimeOriginal"] == "1999:12:31 23:59:58"  # type: ignore[index]
    assert places["GPSLatitude"] == (52, 1, 30, 1, 25, 2)  # type: ignore[index]
    assert places["GPSLongitudeRef"] == "E"  # type: ignore[index]
    assert (tags["Make"], tags["Orientation"]) == ("Tester", 1)
    assert tags["Artist"] == "José"
    assert (photo["PixelXDimension"], photo["PixelYDimension"]) == (24, 20)  # type: ignore[index]
    assert b"secret offsets" not in data
    if source not in ("webp", "avif"):  # which have no resolution of their own, and this EXIF has none
        assert tags["XResolution"][0] / tags["XResolution"][1] == pytest.approx(300, abs=0.1)  # type: ignore[index]
        if target in ("png", "jpg"):
            assert (
                pieces["dpi"]
                == {"png": struct.pack(">IIB", 11811, 11811, 1), "jpg": b"\1\1\x2c\1\x2c"}[target]
            )


@pytest.mark.parametrize("source", KINDS)
def test_avif_holds_metadata_too(source: str) -> None:
    """By OpenCV, as the containers' boxes are a format of their own."""
    data = round_trip(with_metadata(source, 1, PROFILES["Display P3"]), "avif")
    _, kinds, bodies = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags=cv2.IMREAD_COLOR)
    held = {int(kind): bytes(body) for kind, body in zip(kinds, bodies, strict=True)}
    assert b"grandmother's album" in data
    tags = exif_tags(held[cv2.IMAGE_METADATA_EXIF])
    assert tags["ExifTag"]["DateTimeOriginal"] == "1999:12:31 23:59:58"  # type: ignore[index]
    assert decode_image(data, "x").icc == PROFILES["Display P3"]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_values_keep_their_types_and_byte_order(kind: str, order: str) -> None:
    """A comment in UTF-16 is in the file's own order, of a type that says nothing; steps have a sign."""
    comment = b"UNICODE\0" + "Grüße".encode("utf-16-le" if order == "<" else "utf-16-be")
    photo = [(Base.UserComment, 7, comment), (Base.ExposureBiasValue, 10, [(-1, 2)]), (60_000, 12, [0.1])]
    exif = tiff_of(order, [(Base.Make, 2, b"Tester\0")], photo=photo)
    data = blocks(round_trip(png_with(PIXELS, (b"eXIf", exif)), kind), kind)["exif"]
    assert data[:2] == (b"II" if order == "<" else b"MM")
    assert struct.pack(f"{order}HHI", Base.UserComment, 7, len(comment)) in data
    assert struct.pack(f"{order}HHI", Base.ExposureBiasValue, 10, 1) in data
    assert struct.pack(f"{order}HHI", 60_000, 12, 1) in data
    assert struct.pack(f"{order}ii", -1, 2) in data
    assert struct.pack(f"{order}d", 0.1) in data
    assert comment in data


@pytest.mark.parametrize("kind", KINDS)
def test_resolution_survives_where_there_is_no_exif(kind: str) -> None:
    data = encode_image(
        Picture(PIXELS, None, None, "PNG", Metadata(dpi=(240.0, 120.0))), kind, EncodeSettings()
    )
    assert decode_image(data, "x").metadata.dpi == pytest.approx((240, 120), abs=0.1)


@pytest.mark.parametrize(
    ("deep", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.float32)], ids=str
)
def test_deep_files_hold_metadata_too(deep: str, dtype: type) -> None:
    picture = decode_image(with_metadata("jpg", 3, PROFILES["AdobeRGB"]), "x")
    color = (picture.color / 255 * (1 if dtype is np.float32 else 65_535)).astype(dtype)
    pieces = blocks(
        encode_image(Picture(color, None, picture.icc, "PNG", picture.metadata), deep, EncodeSettings()), deep
    )
    assert pieces["icc"] == PROFILES["AdobeRGB"]
    assert b"grandmother's album" in pieces["xmp"]
    assert exif_tags(pieces["exif"])["GPSTag"]["GPSLatitudeRef"] == "N"  # type: ignore[index]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(with_metadata(kind, orientation))
    picture = read_image(path)
    # By OpenCV's own reading of the tag, from a PNG of the same pixels and the same tag.
    expected = cv2.imdecode(np.frombuffer(with_metadata("png", orientation), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert read_size(path) == picture.color.shape[:2] == expected.shape[:2]
    assert np.abs(picture.color.astype(int) - expected).mean() < 6
    again = decode_image(encode_image(picture, kind, EncodeSettings()), "x")
    assert np.abs(again.color.astype(int) - expected).mean() < 6


def test_the_orientation_that_only_xmp_tells_is_applied(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(
        "XML:com.adobe.xmp", XMP.decode().replace("tiff:ImageWidth", "tiff:Orientation").replace('"9"', '"6"')
    )
    Image.fromarray(PIXELS).save(tmp_path / "x.png", pnginfo=info)
    picture = read_image(tmp_path / "x.png")
    assert picture.color.shape == (10, 12, 3)
    assert picture.metadata.xmp is not None
    assert b"Orientation" not in picture.metadata.xmp


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_strip_leaves_only_the_profile(
    kind: str, strsr: Callable[..., Result], tiny_weights: Path, tmp_path: Path
) -> None:
    source = tmp_path / f"in.{kind}"
    source.write_bytes(with_metadata(kind, 1, PROFILES["AdobeRGB"]))
    result = strsr("upscale", source, tmp_path / "out", "--scale", "1", "--weights", tiny_weights, "--strip")
    assert result.exit_code == 0, result.output
    data = (tmp_path / "out" / f"in.{kind}").read_bytes()
    assert blocks(data, kind)["icc"] == PROFILES["AdobeRGB"]
    for secret in (b"Tester", b"1999", b"album", b"GPS"):
        assert secret not in data


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_provenance_says_what_made_it(
    kind: str, strsr: Callable[..., Result], tiny_weights: Path, tmp_path: Path
) -> None:
    import hashlib

    source = tmp_path / f"in.{kind}"
    source.write_bytes(with_metadata(kind))
    args = ("upscale", source, tmp_path / "out", "--scale", "1.5", "--weights", tiny_weights)
    assert strsr(*args, "--strip", "--provenance").exit_code == 0
    data = (tmp_path / "out" / f"in.{kind}").read_bytes()
    digest = hashlib.sha256((tiny_weights / "model.safetensors").read_bytes()).hexdigest()
    software = exif_tags(blocks(data, kind)["exif"])["Software"]
    assert (
        software
        == f"strsr {__import__('strsr_cli').__version__}; model lite; weights sha256:{digest}; scale 1.5"
    )


def test_metadata_too_large_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    huge = Picture(PIXELS, None, b"x" * (LIMIT + 1), "PNG")
    data = encode_image(huge, "png", EncodeSettings())  # 4 kB of file for 4 MB of profile
    assert decode_image(data, "x.png").icc is None
    assert "x.png: its ICC profile is damaged or larger" in caplog.text


def test_damaged_exif_costs_the_exif_alone(caplog: pytest.LogCaptureFixture) -> None:
    exif = camera_exif().tobytes()
    data = with_metadata("png")
    whole = blocks(data, "png")["exif"]
    broken = data.replace(whole, whole[:30] + b"\xff" * (len(whole) - 30))
    assert whole in data
    assert exif
    np.testing.assert_array_equal(decode_image(broken, "x").color, PIXELS)


def test_a_damaged_value_costs_itself_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exif = tiff_of("<", [(271, 2, b"Tester\0"), (272, 2, b"a camera\0"), (315, 2, b"Jane Doe\0")])
    at = exif.index(struct.pack("<HH", 272, 2))
    for damage in (
        struct.pack("<HHII", 272, 2, 9, 2**31),  # beyond the end
        struct.pack("<HHII", 272, 2, 2**32 - 1, 8),
        struct.pack("<HHII", 272, 99, 9, 8),  # of an unknown type
    ):
        path = tmp_path / "x.png"
        path.write_bytes(png_with(PIXELS, (b"eXIf", exif[:at] + damage + exif[at + 12 :])))
        caplog.clear()
        with without_remarks(False):
            picture = read_image(path)
        assert caplog.messages == [f"{path}: 1 of its EXIF values are damaged and were dropped"]
        assert [record.name for record in caplog.records] == ["strsr_cli.images.metadata"]
        tags = exif_tags(picture.metadata.exif_of(24, 20) or b"")
        assert (tags["Make"], tags["Artist"]) == ("Tester", "Jane Doe")
        assert "Model" not in tags
        caplog.clear()
        with without_remarks(True):
            read_image(path)
        assert not caplog.records


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize(
    "exif",
    [b"nothing of the kind", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 99],
    ids=["noise", "directory-outside", "body-of-ones"],
)
def test_garbage_as_exif_is_warned_of(
    kind: str, exif: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = {
        "png": lambda: png_with(PIXELS, (b"eXIf", exif)),
        "jpg": lambda: jpeg_with(PIXELS, (0xE1, b"Exif\0\0" + exif)),
        "webp": lambda: saved("WEBP", exif=exif),
    }[kind]()
    picture = decode_image(data, "x")
    assert picture.metadata.exif is None
    assert caplog.messages == ["x: its EXIF is damaged and was dropped"]


def saved(form: str, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, form, **options)
    return buffer.getvalue()


def test_exif_that_jpeg_cannot_hold_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    exif = camera_exif()
    exif.get_ifd(IFD.Exif)[Base.UserComment] = b"ASCII\0\0\0" + b"x" * 70_000
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", exif=exif)
    picture = decode_image(buffer.getvalue(), "x")
    assert "exif" not in blocks(encode_image(picture, "jpg", EncodeSettings()), "jpg")
    assert "more than JPEG can hold" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (libimage-exiftool-perl)")
@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_metadata_is_what_exiftool_reads(source: str, target: str, tmp_path: Path) -> None:
    import json

    path = tmp_path / f"out.{target}"
    path.write_bytes(round_trip(with_metadata(source, 6, PROFILES["Display P3"]), target))
    command = ["exiftool", "-json", "-n", "-validate", "-warning", "-a", str(path)]
    report = json.loads(subprocess.run([*command, "-all"], capture_output=True, check=True).stdout)[0]
    assert report["DateTimeOriginal"] == "1999:12:31 23:59:58"
    assert report["GPSLatitude"] == pytest.approx(52.503472, abs=1e-5)
    assert report.get("Orientation", 1) == 1  # AVIF says it by a box, when there is something to say
    assert report["Source"] == "grandmother's album"
    assert report["ProfileDescription"] == "made by code"
    assert (report["ImageWidth"], report["ImageHeight"]) == (24, 20)
    assert report["Artist"] == "José"
    assert "MakerNote" not in report
    if source not in ("webp", "avif"):
        assert report["XResolution"] == pytest.approx(300, abs=1)
