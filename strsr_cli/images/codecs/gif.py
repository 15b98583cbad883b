"""GIF read by its blocks: where its frames are, and each as a still file of its own. Decodes nothing."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

KEEP, CLEAR, PREVIOUS = 0, 1, 2  # what becomes of a frame before the next one comes
_DISPOSALS = {2: CLEAR, 3: PREVIOUS}  # by a file's numbers, of which all others keep


@dataclass(frozen=True)
class GifFrame:
    """One image block. start, end: where its compressed pixels lie. whole: whether all are there."""

    left: int
    top: int
    width: int
    height: int
    flags: int
    palette: bytes  # RGB; empty: none, which is gray
    transparent: int | None
    disposal: int
    start: int
    end: int
    whole: bool

    def still(self, data: bytes) -> bytes:
        """Return a GIF of this frame alone. data: the whole file."""
        size = struct.pack("<HH", self.width, self.height)
        bits = max(len(self.palette) // 3, 2).bit_length() - 2
        parts = [b"GIF89a", size, bytes([0x80 | bits if self.palette else 0, 0, 0]), self.palette]
        if self.transparent is not None:
            parts.append(b"!\xf9\4\1\0\0" + bytes([self.transparent, 0]))
        parts += [b",\0\0\0\0", size, bytes([self.flags & 0x40]), data[self.start : self.end], b";"]
        return b"".join(parts)


@dataclass
class Gif:
    """The frames of a file. width, height: of the screen, and of the first frame where that is larger.

    ended: whether the file has its end mark.
    """

    width: int
    height: int
    frames: list[GifFrame] = field(default_factory=list)
    ended: bool = False

    @property
    def gray(self) -> bool:
        """Whether no palette has a colour."""
        palettes = {frame.palette for frame in self.frames}
        return all(palette[::3] == palette[1::3] == palette[2::3] for palette in palettes)


def read_gif(file: BinaryIO, most: int) -> Gif:
    """Read all frames of an open file, `most` at most; bytes between blocks are passed over, as usual."""
    head = file.read(13)
    if len(head) == 13:
        width, height = struct.unpack_from("<HH", head, 6)
        gif = Gif(width, height)
        common = _palette(file, head[10])
    else:
        gif = Gif(0, 0)
        common = b""
    control = b""
    while len(gif.frames) < most and (mark := file.read(1)):
        if mark == b";":
            gif.ended = True
            break
        if mark == b"!":
            label = file.read(1)
            block = _block(file)
            if label == b"\xf9" and len(block) >= 4:
                control = block
            if block:
                _pass_over_blocks(file)
        elif mark == b",":
            gif.frames.append(_frame(file, common, control))
            control = b""
    if gif.frames:
        first = gif.frames[0]
        gif.width = max(gif.width, first.left + first.width)
        gif.height = max(gif.height, first.top + first.height)
    return gif


def _frame(file: BinaryIO, common: bytes, control: bytes) -> GifFrame:
    """Read the image block at the file's place. common: the palette of frames without their own."""
    descriptor = file.read(9)
    has_descriptor = len(descriptor) == 9
    left, top, width, height, flags = struct.unpack("<HHHHB", descriptor.ljust(9, b"\0"))
    own = _palette(file, flags)
    start = file.tell()
    whole = bool(file.read(1)) and _pass_over_blocks(file) and has_descriptor
    disposal = _DISPOSALS.get(control[0] >> 2 & 7, KEEP) if control else KEEP
    transparent = control[3] if control and control[0] & 1 else None
    return GifFrame(
        left,
        top,
        width,
        height,
        flags=flags,
        palette=own or common,
        transparent=transparent,
        disposal=disposal,
        start=start,
        end=file.tell(),
        whole=whole,
    )


def _palette(file: BinaryIO, flags: int) -> bytes:
    """Read the palette that the flags announce; empty where they announce none."""
    return file.read(3 << (flags & 7) + 1) if flags & 0x80 else b""


def _block(file: BinaryIO) -> bytes:
    """Read one block of data."""
    length = file.read(1)
    return file.read(length[0]) if length else b""


def _pass_over_blocks(file: BinaryIO) -> bool:
    """Pass over blocks of data; gives whether they come to an end."""
    while length := file.read(1):
        if length == b"\0":
            return True
        if len(file.read(length[0])) < length[0]:
            break
    return False
