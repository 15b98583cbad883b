"""AVIF files with properties that no encoder at hand writes."""

from __future__ import annotations

import struct


def avif_with(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A still AVIF, as Pillow writes it, whose picture has one property more."""
    essential = 0x80 if kind == b"clap" else 0
    box = struct.pack(">I4s", len(body) + 8, kind) + body
    ipco, ipma = data.index(b"ipco"), data.index(b"ipma")
    known = _count(data[ipco + 4 : ipco - 4 + _size(data, ipco)])
    # After version, flags, the number of items and the item's own number: how many properties it has.
    count = ipma + 4 + 4 + 4 + 2
    entry = (
        bytes([data[count] + 1])
        + data[count + 1 : count + 1 + data[count]]
        + bytes([(known + 1) | essential])
    )
    end = count + 1 + data[count]
    longer = bytearray(data[:ipma] + data[ipma:count] + entry + data[end:])
    _grow(longer, ipma, 1)
    place = ipco - 4 + _size(data, ipco)
    longer[place:place] = box
    _grow(longer, ipco, len(box))
    _grow(longer, longer.index(b"iprp"), len(box) + 1)
    _grow(longer, longer.index(b"meta"), len(box) + 1)
    # The only place of pixels: behind the number of items, its number, its references and its extents.
    iloc = longer.index(b"iloc") + 4 + 4 + 2 + 2 + 2 + 2 + 2
    (offset,) = struct.unpack_from(">I", longer, iloc)
    struct.pack_into(">I", longer, iloc, offset + len(box) + 1)
    return bytes(longer)


def _size(data: bytes | bytearray, at: int) -> int:
    """The size of the box whose type stands at a place."""
    return int(struct.unpack_from(">I", data, at - 4)[0])


def _grow(data: bytearray, at: int, count: int) -> None:
    struct.pack_into(">I", data, at - 4, _size(data, at) + count)


def _count(boxes: bytes) -> int:
    at = count = 0
    while at < len(boxes):
        at += int.from_bytes(boxes[at : at + 4], "big")
        count += 1
    return count
