"""ICC profiles as bytes: their headers and tags read, and small ones of primaries and curves written.

LittleCMS, by Pillow, does what can be left to it; it writes no other profile than sRGB's.
"""

from __future__ import annotations

import struct

import numpy as np

HEADER = 128  # bytes before a profile's table of tags
SPACE, CLASS, CONNECTION = slice(16, 20), slice(12, 16), slice(20, 24)
# Displays, scanners and cameras, printers, working spaces: the classes that describe pixels.
DEVICES = (b"mntr", b"scnr", b"prtr", b"spac")
CLASS_NAMES = {
    b"link": "a device link",
    b"abst": "an abstract one",
    b"nmcl": "of named colours",
}
D50 = np.array([0.9642, 1.0, 0.8249])  # XYZ of the white that ICC profiles connect by
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
Point = tuple[float, float]
SRGB_PRIMARIES: tuple[Point, Point, Point] = (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
D65: Point = (0.3127, 0.3290)
RGB_CURVES, GRAY_CURVE = (b"rTRC", b"gTRC", b"bTRC"), b"kTRC"
COLUMNS = b"rXYZ", b"gXYZ", b"bXYZ"


def flaw_of(icc: bytes) -> str | None:
    """Say why a profile cannot be one of pixels, by its header; None where nothing speaks against it."""
    if len(icc) < HEADER + 4 or icc[36:40] != b"acsp":
        return "it is damaged"
    if icc[CLASS] not in DEVICES:
        return f"it is {CLASS_NAMES.get(icc[CLASS], 'of an unknown class')}, no profile of pixels"
    return None


def space_name(icc: bytes) -> str:
    """Return the colour space that a profile is for, such as "RGB", "GRAY" or "CMYK"."""
    return icc[SPACE].decode("latin-1").strip()


def tags_of(icc: bytes) -> dict[bytes, bytes]:
    """Return a profile's tags, of those that lie within it."""
    (count,) = struct.unpack_from(">I", icc, HEADER)
    tags = {}
    for at in range(HEADER + 4, min(HEADER + 4 + 12 * count, len(icc) - 11), 12):
        name, place, length = struct.unpack_from(">4sII", icc, at)
        if place + length <= len(icc):
            tags[name] = icc[place : place + length]
    return tags


def has_plain_curves(icc: bytes) -> bool:
    """Whether a profile's curves lead to light (XYZ) themselves, and not by way of a table."""
    return icc[CONNECTION] == b"XYZ " and not any(name.startswith(b"A2B") for name in tags_of(icc))


def _fixed(*values: float) -> bytes:
    """Pack numbers as s15Fixed16."""
    return b"".join(struct.pack(">i", round(float(value) * 65_536)) for value in values)


# --- curves ------------------------------------------------------------------------------------------


def power_curve(gamma: float) -> bytes:
    """Return the element of a curve that raises numbers to a power."""
    return b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed(gamma)


def broken_curve(gamma: float, a: float, b: float, c: float, d: float) -> bytes:
    """Return the element of the curve (a x + b)^gamma, which is c x below d."""
    return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + _fixed(gamma, a, b, c, d)


def sampled_curve(values: np.ndarray) -> bytes:
    """Return the element of a curve through values in [0, 1] at even distances."""
    numbers = bytes(np.rint(values.clip(0, 1) * 65_535).astype(">u2"))
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + numbers


SRGB_CURVE = broken_curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


# --- profiles ----------------------------------------------------------------------------------------


def write_gray_profile(curve: bytes, title: str, cicp: bytes | None = None) -> bytes:
    """Write a profile of gray pixels with that curve. cicp: the numbers of H.273 that it stands for."""
    return _write(b"GRAY", {GRAY_CURVE: curve}, title, cicp)


def write_rgb_profile(
    curve: bytes,
    title: str,
    primaries: tuple[Point, Point, Point] = SRGB_PRIMARIES,
    white: Point = D65,
    cicp: bytes | None = None,
) -> bytes:
    """Write a profile of RGB pixels whose channels share a curve. primaries, white: (x, y) each.

    Raises ValueError for primaries that span no colours.
    """
    matrix = matrix_to_d50(primaries, white)
    tags = dict(zip(COLUMNS, (_xyz(column) for column in matrix.T), strict=True))
    return _write(b"RGB ", {**tags, **dict.fromkeys(RGB_CURVES, curve)}, title, cicp)


def matrix_to_d50(primaries: tuple[Point, Point, Point], white: Point) -> np.ndarray:
    """Return (3, 3), from linear RGB to XYZ under D50, the white adapted by Bradford's matrix.

    Raises ValueError for primaries that span no colours.
    """
    try:
        columns = np.stack([_to_xyz(point) for point in primaries], axis=1)
        matrix = columns * np.linalg.solve(columns, _to_xyz(white))
        cones = BRADFORD @ _to_xyz(white)
        adapted = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / cones) @ BRADFORD @ matrix
    except (ZeroDivisionError, np.linalg.LinAlgError) as error:
        raise ValueError("its primaries span no colours") from error
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 4 or abs(np.linalg.det(adapted)) < 1e-4:
        raise ValueError("its primaries span no colours")
    return np.asarray(adapted)


def _to_xyz(point: Point) -> np.ndarray:
    """Return XYZ of a chromaticity, with Y of 1."""
    x, y = point
    return np.array([x / y, 1, (1 - x - y) / y])


def _write(space: bytes, own: dict[bytes, bytes], title: str, cicp: bytes | None) -> bytes:
    """Write a display's profile of version 4; every tag begins at a multiple of four bytes."""
    tags = {b"desc": _text(title), b"cprt": _text("No copyright"), b"wtpt": _xyz(D50), **own}
    if cicp is not None:
        tags[b"cicp"] = b"cicp\0\0\0\0" + cicp
    places: dict[bytes, int] = {}
    table = struct.pack(">I", len(tags))
    body = b""
    start = HEADER + 4 + 12 * len(tags)
    for name, element in tags.items():
        # Curves of several channels are stored once.
        place = places.setdefault(element, start + len(body))
        if place == start + len(body):
            body += element + b"\0" * (-len(element) % 4)
        table += struct.pack(">4sII", name, place, len(element))
    version = 0x04300000 if cicp is None else 0x04400000
    head = struct.pack(">I4xI4s4s4s", start + len(body), version, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp")
    head = head.ljust(64, b"\0") + struct.pack(">I", 1) + _fixed(*D50)
    return head.ljust(HEADER, b"\0") + table + body


def _xyz(values: np.ndarray) -> bytes:
    """Return the element of a colour in XYZ."""
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _text(text: str) -> bytes:
    """Return the element of an English text."""
    content = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(content), 28) + content
