"""Image files made by code: profiles, EXIF, and one small valid file of every format."""

from __future__ import annotations

import struct
import zlib
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


def matrix_profile(primaries: Any, gamma: float, blue_gamma: float | None = None) -> bytes:
    """An ICC profile, version 2.4, of an RGB display with the given primaries and one gamma, or blue's own."""
    matrix = matrix_to_xyz(primaries)
    gammas = (gamma, gamma, gamma if blue_gamma is None else blue_gamma)
    tags = {
        b"wtpt": _xyz_tag(xyz(D50)),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"desc": _desc_tag(b"made by code"),
    }
    for name, column, power in zip(b"rgb", matrix.T, gammas, strict=True):
        tags[bytes([name]) + b"XYZ"] = _xyz_tag(column)
        tags[bytes([name]) + b"TRC"] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(power * 256)) + b"\0\0"
    return _profile(b"RGB ", tags)


def gray_profile(gamma: float) -> bytes:
    """The same for gray."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": _xyz_tag(xyz(D50)), b"cprt": b"text\0\0\0\0none\0\0\0\0", b"desc": _desc_tag(b"gray")}
    return _profile(b"GRAY", {**tags, b"kTRC": curve})


def ink_profile(inks: tuple[int, int, int]) -> bytes:
    """A CMYK profile by whose table all ink is of one colour, in CIELAB's 8 bits; no ink is white."""
    return ink_profile_of(bytes((255, 128, 128)) + bytes(inks) * 15)


def ink_profile_of(nodes: bytes) -> bytes:
    """A CMYK profile by CIELAB, in 8 bits, of no ink, all black, all yellow, black and yellow, and so on."""
    straight = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + straight * 4 + nodes + straight * 3
    tags = {b"wtpt": _xyz_tag(xyz(D50)), b"cprt": b"text\0\0\0\0none\0\0\0\0", b"desc": _desc_tag(b"inks")}
    profile = _profile(b"CMYK", {**tags, b"A2B0": table, b"A2B1": table})
    return profile[:12] + b"prtrCMYKLab " + profile[24:]


def scanner_profile() -> bytes:
    """An RGB profile whose table leads to CIELAB alone: grays are gray, from L* 20 to white."""
    straight = bytes(range(256))
    corners = [(20, 0, 0), (32, 79, -108), (88, -86, 83), (91, -48, -14)]
    corners += [(53, 80, 67), (60, 98, -61), (97, -22, 94), (100, 0, 0)]
    nodes = b"".join(bytes((round(2.55 * light), a + 128, b + 128)) for light, a, b in corners)
    matrix = struct.pack(">9i", *(65536 * (row == column) for row in range(3) for column in range(3)))
    table = b"mft1\0\0\0\0" + bytes((3, 3, 2, 0)) + matrix + straight * 3 + nodes + straight * 3
    tags = {b"wtpt": _xyz_tag(xyz(D50)), b"cprt": b"text\0\0\0\0none\0\0\0\0", b"desc": _desc_tag(b"scan")}
    profile = _profile(b"RGB ", {**tags, b"A2B0": table, b"A2B1": table})
    return profile[:12] + b"scnrRGB Lab " + profile[24:]


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with more chunks (type, body) right after its header."""
    made = b""
    for kind, body in chunks:
        made += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + made + png[33:]


def chunks_of(png: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG, type to body; of several of a type the last."""
    at, chunks = 8, {}
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        chunks[kind] = png[at + 8 : at + 8 + length]
        at += 12 + length
    return chunks


def bmp_with_alpha(pixels: np.ndarray, header: int) -> bytes:
    """A BMP of pixels (h, w, 4), RGBA, by bit fields. header: 56 (V3), 108 (V4) or 124 (V5) bytes."""
    height, width = pixels.shape[:2]
    body = np.ascontiguousarray(pixels[::-1, :, [2, 1, 0, 3]]).tobytes()
    head = struct.pack("<IiiHHIIiiII", header, width, height, 1, 32, 3, len(body), 2835, 2835, 0, 0)
    head = (head + struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)).ljust(header, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + header + len(body), 0, 0, 14 + header) + head + body


def press_profile() -> bytes:
    """A CMYK profile of a pale press: CIELAB of the sixteen full overprints, and linear between them."""
    filters = np.array([(0.25, 0.62, 0.85), (0.82, 0.28, 0.5), (0.95, 0.88, 0.3), (0.22, 0.22, 0.22)])
    nodes = b""
    for printed in np.ndindex(2, 2, 2, 2):
        light = np.prod(np.where(np.array(printed)[:, None] == 1, filters, 1), axis=0) ** 2.2
        x, y, z = matrix_to_xyz(SRGB_PRIMARIES) @ light / xyz(D50)
        root_x, root_y, root_z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
        lab = 2.55 * (116 * root_y - 16), 500 * (root_x - root_y) + 128, 200 * (root_y - root_z) + 128
        nodes += bytes(round(value) for value in lab)
    return ink_profile_of(nodes)


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
