"""Files with metadata, made byte by byte: nothing of what is tested takes part, and nothing is guessed."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from strsr_cli.images.picture import Picture
from strsr_cli.images.read import decode_image
from strsr_cli.images.write import EncodeSettings, encode_image

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I"}
POINTERS = {"photo": 34665, "gps": 34853, "interop": 40965}
HEIGHT, WIDTH = 20, 24
PIXELS = (np.mgrid[:HEIGHT, :WIDTH].sum(0)[..., None] * np.array([3, 2, 4])).astype(np.uint8)
DEEP = PIXELS.astype(np.uint16) * 257
FLOATS = (PIXELS / 255).astype(np.float32)
TIFF_SPACE = "http://ns.adobe.com/tiff/1.0/"
XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
Entry = tuple[int, int, Any]  # tag, type, bytes or numbers or fractions


def packed(kind: int, value: Any, order: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if kind in (5, 10):
        return b"".join(struct.pack(order + ("II" if kind == 5 else "ii"), *pair) for pair in value)
    return struct.pack(f"{order}{len(value)}{LETTERS[kind]}", *value)


def directory(entries: list[Entry], at: int, order: str) -> bytes:
    """A TIFF directory that will lie at that place, its values behind it."""
    table, beyond = struct.pack(order + "H", len(entries)), b""
    start = at + 2 + 12 * len(entries) + 4
    for tag, kind, value in sorted(entries, key=lambda entry: entry[0]):
        body = packed(kind, value, order)
        table += struct.pack(order + "HHI", tag, kind, len(body) // SIZES[kind])
        if len(body) <= 4:
            table += body.ljust(4, b"\0")
        else:
            table += struct.pack(order + "I", start + len(beyond))
            beyond += body + b"\0" * (len(body) % 2)
    return table + b"\0\0\0\0" + beyond


def tiff_of(order: str, first: list[Entry], pixels: bytes = b"", **below: list[Entry]) -> bytes:
    """A little TIFF file of directories: EXIF, or with pixels and their tags a picture. below: photo, gps, interop."""
    places = dict.fromkeys(below, 0)
    data = b""
    # Twice: the places are known once all has been put together.
    for _ in range(2):
        head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
        entries = list(first)
        if pixels:
            entries.append((273, 4, [places.get("pixels", 0)]))
        entries += [(POINTERS[name], 4, [places[name]]) for name in ("photo", "gps") if name in below]
        data = head + directory(entries, 8, order)
        for name in ("photo", "gps", "interop"):
            if name in below:
                places[name] = len(data)
                inner = list(below[name])
                if name == "photo" and "interop" in below:
                    inner.append((POINTERS["interop"], 4, [places["interop"]]))
                data += directory(inner, len(data), order)
        places["pixels"] = len(data)
    return data + pixels


def generated_exif(order: str, seed: int, private: bool = True) -> dict[str, list[Entry]]:
    """Directories with values of all types and counts, letters of several encodings, and odd but sound values.

    private: whether the first directory has tags that no standard knows.
    """
    rng = random.Random(seed)
    utf16 = "utf-16-le" if order == "<" else "utf-16-be"
    first: list[Entry] = [
        (270, 2, "Über dem Fluß\0".encode()),
        (271, 2, b"Tester\0"),
        (272, 2, b"Model\0"),
        (305, 2, b"its own program 1.0\0"),
        (306, 2, b"1999:12:31 23:59:58\0"),
        (315, 2, "José Núñez\0".encode()),
        (33432, 2, "© Jane\0Editor: Núñez\0".encode()),
        (18246, 3, [4]),
        (40091, 1, "Größe\0".encode("utf-16-le")),
    ]
    photo: list[Entry] = [
        (33434, 5, [(1, 250)]),
        (34855, 3, [400]),
        (36864, 7, b"0232"),
        (36867, 2, b"1999:12:31 23:59:58\0"),
        (36881, 2, b"+01:00\0"),
        (37377, 10, [(-7, 3)]),
        (37380, 10, [(-1, 3)]),
        (37386, 5, [(50, 1)]),
        (37510, 7, b"UNICODE\0" + "Grüße".encode(utf16)),
        (40961, 3, [1]),
        (41728, 7, b"\3"),
        (42032, 2, "José Núñez\0".encode()),
        (42033, 2, b"0123\0"),
        (42034, 5, [(24, 1), (70, 1), (28, 10), (4, 1)]),
        (42036, 2, "Objektiv für 50mm\0".encode("latin-1")),
    ]
    gps: list[Entry] = [
        (0, 1, b"\2\3\0\0"),
        (1, 2, b"N\0"),
        (2, 5, [(52, 1), (30, 1), (25, 2)]),
        (3, 2, b"E\0"),
        (4, 5, [(13, 1), (24, 1), (36, 1)]),
        (5, 1, b"\1"),
        (6, 5, [(rng.randrange(9000), 7)]),
        (27, 7, b"ASCII\0\0\0by hand"),
        (28, 7, b"UNICODE\0" + "Köln".encode(utf16)),
    ]
    interop: list[Entry] = [(1, 2, b"R98\0"), (2, 7, b"0100")]
    # From 60,000 on there are tags of nobody's: every type, within the entry's four bytes and beyond.
    for n, (kind, count) in enumerate((kind, count) for kind in range(1, 13) for count in (1, 2, 5, 40)):
        value = _random_value(kind, count, rng, order)
        photo.append((60_000 + n, kind, value))
        if private:
            first.append((60_200 + n, kind, value))
    return {"first": first, "photo": photo, "gps": gps, "interop": interop}


def _random_value(kind: int, count: int, rng: random.Random, order: str) -> bytes:
    if kind == 2:
        return bytes(rng.choices(b"abcdefghij", k=count - 1)) + b"\0"
    if kind in (11, 12):
        return struct.pack(f"{order}{count}{LETTERS[kind]}", *(rng.uniform(-9, 9) for _ in range(count)))
    if kind in (5, 10):
        pairs = [(rng.randrange(1, 999), rng.randrange(1, 999)) for _ in range(count)]
        return packed(kind, pairs, order)
    return rng.randbytes(count * SIZES[kind])


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(pixels: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of uint8 or uint16 (h, w, 3) with more chunks before its pixels."""
    data = bytes(cv2.imencode(".png", pixels[..., ::-1])[1])
    return data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:]


def jpeg_with(pixels: np.ndarray, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG of uint8 (h, w, 3) with more segments right after its start."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=97, subsampling=0)
    extra = b"".join(struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in segments)
    return buffer.getvalue()[:2] + extra + buffer.getvalue()[2:]


def tiff_with(pixels: np.ndarray, order: str, first: list[Entry], **below: list[Entry]) -> bytes:
    """An uncompressed TIFF of uint8, uint16 or float32 (h, w, 3)."""
    raw = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    height, width, _ = pixels.shape
    bits, floats = 8 * pixels.dtype.itemsize, pixels.dtype.kind == "f"
    layout: list[Entry] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * 3),
        (259, 3, [1]),
        (262, 3, [2]),
        (277, 3, [3]),
        (278, 4, [height]),
        (279, 4, [len(raw)]),
        (284, 3, [1]),
        (339, 3, [3 if floats else 1] * 3),
    ]
    return tiff_of(order, layout + first, raw, **below)


def xmp_packet(attributes: str, inner: str = "", **spaces: str) -> bytes:
    """XMP of one description. spaces: prefix=URI; "_" in a prefix stands for "-"."""
    names = " ".join(f'xmlns:{prefix.replace("_", "-")}="{uri}"' for prefix, uri in spaces.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {names} {attributes}>{inner}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


def enlarged(data: bytes, kind: str) -> bytes:
    picture = decode_image(data, "x")
    color = picture.color.repeat(2, 0).repeat(2, 1)
    large = Picture(color, None, picture.icc, picture.format, picture.metadata)
    return encode_image(large, kind, EncodeSettings())


def with_xmp(packet: bytes, kind: str) -> bytes:
    buffer = BytesIO()
    if kind.endswith("png"):
        pixels = DEEP if kind == "deep.png" else PIXELS
        return png_with(pixels, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
    if kind.endswith("tif"):
        pixels = {"deep.tif": DEEP, "float.tif": FLOATS}.get(kind, PIXELS)
        ways: dict = {"planes.deep.tif": {"planarconfig": "separate"}, "big.tif": {"bigtiff": True}}.get(
            kind, {}
        )
        if kind == "planes.deep.tif":
            pixels = DEEP.transpose(2, 0, 1)
        tags = [(700, 1, 0, packet, True)]
        tifffile.imwrite(buffer, pixels, photometric="rgb", metadata=None, extratags=tags, **ways)
    elif kind == "jpg":
        return jpeg_with(PIXELS, (0xE1, XMP_SEGMENT + packet))
    else:
        Image.fromarray(PIXELS).save(buffer, kind.upper(), xmp=packet, quality=95)
    return buffer.getvalue()


def xmp_of(data: bytes) -> str:
    """The packet in a JPEG file, by its segment."""
    at = data.index(XMP_SEGMENT)
    (length,) = struct.unpack_from(">H", data, at - 2)
    return data[at + len(XMP_SEGMENT) : at - 2 + length].decode()
