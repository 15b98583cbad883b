"""What a JPEG file holds beside its pixels: comments, IPTC, and the other images and videos of phones."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from .texts import PHOTOSHOP, iptc_of
from .xmp import EXTENSION, GAIN_MAP, VIDEO

COMMENT, START_OF_SCAN = 0xFE, 0xDA
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
MPF = b"MPF\0"
HEAD = 2**18  # bytes of another image that are looked at, to tell what it is
# Types of images in a camera's file: previews are no loss.
PREVIEWS = range(0x10000, 0x20000)
KINDS = {0x20001: "other images of a panorama", 0x20002: "second view (stereo)", 0x20003: "other views"}
# What phones write behind their pictures: a video of its own, or one that is marked.
VIDEO_MARK = re.compile(rb"\0\0\0[\x08-\x80]ftyp(?:mp4|iso|qt  |avc1|M4V|3gp)|MotionPhoto_Data")
GAIN_MARKS = (b"hdrgm:", b"HDRGainMap", b"hdrgainmap", ISO_GAIN_MAP)


def segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Give (marker, body, place of the body) of all segments before the pixels."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xFF:
            at += 1
            continue
        if kind == START_OF_SCAN:
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield kind, data[at + 4 : at + 2 + length], at + 4
        at += 2 + max(length, 2)


def read_segments(data: bytes) -> tuple[bytes | None, bytes | None, set[str]]:
    """Return a file's comment, its IPTC, and what else it holds that no output will."""
    comment: bytes | None = None
    photoshop = b""
    behind: set[str] = set()
    others: list[tuple[int, int, int]] = []
    scan = 0
    for kind, body, place in segments(data):
        scan = place + len(body)
        if kind == COMMENT and body:
            comment = body if comment is None else comment + b"\n" + body
        elif kind == 0xED and body.startswith(PHOTOSHOP):
            # Blocks that are longer than a segment go on in the next.
            photoshop += body.removeprefix(PHOTOSHOP)
        elif kind == 0xE1 and body.startswith(EXTENDED_XMP):
            behind.add(EXTENSION)
        elif kind == 0xE2 and body.startswith(ISO_GAIN_MAP):
            # The picture's own segment of that name holds a version alone, where a gain map follows.
            behind.add(GAIN_MAP)
        elif kind == 0xE2 and body.startswith(MPF):
            others += _other_images(body, place)
    for image_kind, at, length in others:
        behind |= _what_image(image_kind, data[at : at + min(length, HEAD)])
    if _has_video(data, scan):
        behind.add(VIDEO)
    return comment, iptc_of(photoshop), behind


def _other_images(body: bytes, place: int) -> list[tuple[int, int, int]]:
    """Return (kind, place, length) of the images but the first that a camera's index names."""
    start = len(MPF)
    order = "<" if body[start : start + 2] == b"II" else ">"
    try:
        at = start + struct.unpack_from(order + "I", body, start + 4)[0]
        (count,) = struct.unpack_from(order + "H", body, at)
        entries = [struct.unpack_from(order + "HHII", body, at + 2 + 12 * n) for n in range(min(count, 50))]
        table = next((entry for entry in entries if entry[0] == 0xB002), None)
        if table is None:
            return []
        images = []
        for n in range(1, min(table[2] // 16, 100)):
            kind, length, offset = struct.unpack_from(order + "III", body, start + table[3] + 16 * n)
            images.append((kind & 0xFFFFFF, place + start + offset, length))
        return images
    except struct.error:
        # A damaged index: nobody finds what it points to.
        return []


def _what_image(kind: int, head: bytes) -> set[str]:
    """Say what another image is, by its kind and its beginning; nothing of previews."""
    if kind in PREVIEWS:
        return set()
    if kind in KINDS:
        return {KINDS[kind]}
    if any(mark in head for mark in GAIN_MARKS):
        return {GAIN_MAP}
    if b"depth" in head.lower():
        return {"depth map"}
    return {"second image"} if head.startswith(b"\xff\xd8") else set()


def _has_video(data: bytes, scan: int) -> bool:
    """Whether a video stands behind the picture's end. scan: where its pixels begin."""
    end = data.find(b"\xff\xd9", scan)
    return end >= 0 and VIDEO_MARK.search(data, end) is not None
