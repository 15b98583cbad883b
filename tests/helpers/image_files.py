"""Image files made by code: profiles, EXIF, and one small valid file of every format."""

from __future__ import annotations

import struct
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from strsr_cli.images.metadata.carried import Metadata
from strsr_cli.images.picture import Picture
from strsr_cli.images.write import EncodeSettings, encode_image

ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 563 / 256
DISPLAY_P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), 2.2
SRGB_PRIMARIES = (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
D65, D50 = (0.3127, 0.3290), (0.34567, 0.35850)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'tiff:ImageWidth="9" dc:source="grandmother\'s album"/></rdf:RDF></x:xmpmeta>'
)


def xyz(point: tuple[float, float]) -> np.ndarray:
    x, y = point
    return np.array([x / y, 1, (1 - x - y) / y])


def matrix_to_xyz(primaries: Any) -> np.ndarray:
    """(3, 3): linear RGB with a white of D65 to XYZ as an eye sees it that is used to D50."""
    columns = np.stack([xyz(point) for point in primaries], axis=1)
    to_d65 = columns * np.linalg.solve(columns, xyz(D65))
    adapt = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ xyz(D50) / (BRADFORD @ xyz(D65))) @ BRADFORD
    return adapt @ to_d65


def matrix_profile(primaries: Any, gamma: float) -> bytes:
    """An ICC profile, version 2.4, of an RGB display with the given primaries and one gamma."""
    matrix = matrix_to_xyz(primaries)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {
        b"wtpt": _xyz_tag(xyz(D50)),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"desc": _desc_tag(b"made by code"),
    }
    for name, column in zip(b"rgb", matrix.T, strict=True):
        tags[bytes([name]) + b"XYZ"] = _xyz_tag(column)
        tags[bytes([name]) + b"TRC"] = curve
    return _profile(b"RGB ", tags)


def gray_profile(gamma: float) -> bytes:
    """The same for gray."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": _xyz_tag(xyz(D50)), b"cprt": b"text\0\0\0\0none\0\0\0\0", b"desc": _desc_tag(b"gray")}
    return _profile(b"GRAY", {**tags, b"kTRC": curve})


def ink_profile(inks: tuple[int, int, int]) -> bytes:
    """A CMYK profile by whose table all ink is of one colour, in CIELAB's 8 bits; no ink is white."""
    straight = bytes(range(256))
    nodes = bytes((255, 128, 128)) + bytes(inks) * 15
    matrix = struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + straight * 4 + nodes + straight * 3
    tags = {b"wtpt": _xyz_tag(xyz(D50)), b"cprt": b"text\0\0\0\0none\0\0\0\0", b"desc": _desc_tag(b"inks")}
    profile = _profile(b"CMYK", {**tags, b"A2B0": table})
    return profile[:12] + b"prtrCMYKLab " + profile[24:]


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"\0" * 4, 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp")
    head = head.ljust(68, b"\0") + _fixed(xyz(D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _fixed(values: np.ndarray) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _xyz_tag(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _desc_tag(text: bytes) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + b"\0" * 78


def camera_exif(orientation: int = 1) -> Image.Exif:
    """EXIF as a camera writes it: date, place, maker, a thumbnail's and a maker note's stand-ins, sizes."""
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Artist], exif[Base.Orientation] = "Tester", "José".encode(), orientation
    photo = exif.get_ifd(IFD.Exif)
    photo[Base.DateTimeOriginal], photo[Base.ExifVersion] = "1999:12:31 23:59:58", b"0230"
    photo[Base.ExifImageWidth], photo[Base.ExifImageHeight] = 9, 9
    photo[Base.MakerNote] = b"secret offsets"
    places = exif.get_ifd(IFD.GPSInfo)
    places[GPS.GPSVersionID] = b"\2\3\0\0"
    places[GPS.GPSLatitudeRef], places[GPS.GPSLatitude] = "N", (52.0, 30.0, 12.5)
    places[GPS.GPSLongitudeRef], places[GPS.GPSLongitude] = "E", (13.0, 24.0, 36.0)
    return exif


def small_files() -> dict[str, bytes]:
    """A valid file of every format and kind that is read without more packages; about 12x10 px."""
    rng = np.random.default_rng(3)
    color = rng.integers(0, 256, (10, 12, 3)).astype(np.uint8)
    alpha = rng.integers(0, 256, (10, 12, 1)).astype(np.uint8)
    metadata = Metadata(camera_exif().tobytes()[6:], XMP, (300.0, 300.0), "strsr")
    icc = matrix_profile(*ADOBE_RGB)
    rich = Picture(color, alpha, icc, "PNG", metadata)
    deep = Picture(color.astype(np.uint16) * 257, None, icc, "PNG", metadata)
    made = {
        kind: encode_image(rich, kind, EncodeSettings(90)) for kind in ("png", "jpg", "webp", "tif", "avif")
    }
    made["bmp"] = encode_image(replace(rich, metadata=Metadata()), "bmp", EncodeSettings(90))
    made["deep.png"], made["deep.tif"] = (
        encode_image(deep, kind, EncodeSettings(90)) for kind in ("png", "tif")
    )
    image = Image.fromarray(color)
    for name, saved, options in (
        ("palette.png", image.quantize(16), {"format": "PNG", "transparency": 3}),
        ("one-bit.png", image.convert("1"), {"format": "PNG"}),
        ("gray.jpg", image.convert("L"), {"format": "JPEG"}),
        ("progressive.jpg", image, {"format": "JPEG", "progressive": True}),
        ("cmyk.jpg", image.convert("CMYK"), {"format": "JPEG"}),
        ("still.gif", image.quantize(16), {"format": "GIF"}),
        ("moving.gif", image.quantize(16), {"format": "GIF", **_more_frames(image)}),
        ("moving.webp", image, {"format": "WEBP", **_more_frames(image)}),
        ("moving.png", image, {"format": "PNG", **_more_frames(image)}),
        ("pages.tif", image, {"format": "TIFF", **_more_frames(image)}),
        ("lzw.tif", image, {"format": "TIFF", "compression": "tiff_lzw"}),
        ("cmyk.tif", image.convert("CMYK"), {"format": "TIFF"}),
    ):
        buffer = BytesIO()
        saved.save(buffer, **options)  # type: ignore[arg-type]
        made[name] = buffer.getvalue()
    buffer = BytesIO()
    tifffile.imwrite(buffer, rng.random((10, 12, 3), np.float32), photometric="rgb", metadata=None)
    made["float.tif"] = buffer.getvalue()
    return made


def _more_frames(image: Image.Image) -> dict[str, Any]:
    return {"save_all": True, "append_images": [image.rotate(180)]}
