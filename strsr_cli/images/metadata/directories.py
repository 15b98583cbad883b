"""TIFF's directories of tags, as bytes: what is read and written again comes back to the bit.

EXIF is a little TIFF file, and a TIFF file holds its EXIF in its own directories. Libraries turn values into
objects and those into bytes again, by which letters, types and odd values are lost; here a value stays as it
is, and only its place in the file changes.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from typing import BinaryIO

# Types of values.
BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED = range(1, 8)
SSHORT, SLONG, SRATIONAL, FLOAT, DOUBLE, IFD = range(8, 14)
LONG8, SLONG8, IFD8, UTF8 = 16, 17, 18, 129
# Bytes of one value, by type; and how struct calls it, where it is a number.
SIZES = {
    BYTE: 1,
    ASCII: 1,
    SHORT: 2,
    LONG: 4,
    RATIONAL: 8,
    SBYTE: 1,
    UNDEFINED: 1,
    SSHORT: 2,
    SLONG: 4,
    SRATIONAL: 8,
    FLOAT: 4,
    DOUBLE: 8,
    IFD: 4,
    LONG8: 8,
    SLONG8: 8,
    IFD8: 8,
    UTF8: 1,
}
LETTERS = {BYTE: "B", SHORT: "H", LONG: "I", RATIONAL: "II", SBYTE: "b", SSHORT: "h", SLONG: "i"}
LETTERS |= {SRATIONAL: "ii", FLOAT: "f", DOUBLE: "d", IFD: "I", LONG8: "Q", SLONG8: "q", IFD8: "Q"}
# Types that only a BigTIFF has.
BIG_TYPES = (LONG8, SLONG8, IFD8)
PHOTO, PLACE, INTEROPERABILITY = 34665, 34853, 40965
POINTERS = (PHOTO, PLACE, INTEROPERABILITY)
MOST_LEVELS = 4  # directories below directories; EXIF has three


@dataclass(frozen=True)
class Tag:
    """A tag's value. kind: its type. value: its bytes, in the file's order."""

    kind: int
    value: bytes

    @property
    def count(self) -> int:
        """The number of values."""
        return len(self.value) // SIZES[self.kind]

    def numbers(self, order: str) -> tuple[float, ...]:
        """Return the values as numbers, fractions divided; none of texts, nor where one is no number.

        order: "<" or ">".
        """
        letters = LETTERS.get(self.kind)
        if letters is None:
            return ()
        numbers = struct.unpack(f"{order}{letters * self.count}", self.value)
        if len(letters) == 1:
            return numbers
        if 0 in numbers[1::2]:
            return ()
        return tuple(top / bottom for top, bottom in zip(numbers[::2], numbers[1::2], strict=True))


@dataclass
class Directory:
    """The tags of a directory, and the directories below it by the tags that point to them."""

    tags: dict[int, Tag] = field(default_factory=dict)
    below: dict[int, Directory] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tags or self.below)


@dataclass
class Exif:
    """The first directory of a file, with all below. order: "<" or ">". damaged: values that cannot be read."""

    order: str = "<"
    first: Directory = field(default_factory=Directory)
    damaged: int = 0

    def number(self, tag: int) -> float | None:
        """Return a number of the first directory; None where there is none."""
        entry = self.first.tags.get(tag)
        numbers = () if entry is None else entry.numbers(self.order)
        return numbers[0] if numbers else None

    def text(self, tag: int) -> bytes | None:
        """Return a text of the first directory without the zeros at its end; None where there is none."""
        entry = self.first.tags.get(tag)
        return None if entry is None else entry.value.rstrip(b"\0")


def read_exif(data: bytes, limit: int) -> Exif:
    """Read EXIF as containers hold it, with or without its six letters. limit: bytes of all values.

    Raises ValueError where it does not begin as a TIFF file does.
    """
    return read_directories(BytesIO(data.removeprefix(b"Exif\0\0")), limit)


def read_directories(file: BinaryIO, limit: int, passed_over: Collection[int] = ()) -> Exif:
    """Read the first directory of an open TIFF file, and those below it; what is damaged is left out.

    limit: bytes of all values; those beyond count as damaged. passed_over: tags whose values are not read.
    Raises ValueError where the file does not begin as a TIFF file does.
    """
    file.seek(0)
    order, big, at = _read_header(file.read(16))
    reader = _Reader(file, order, big, limit, passed_over)
    first = reader.read(at)
    if first is None:
        reader.damaged += 1
    return Exif(order, first or Directory(), reader.damaged)


def _read_header(head: bytes) -> tuple[str, bool, int]:
    """Return byte order, whether it is a BigTIFF, and the first directory's place; ValueError: none of TIFF."""
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise ValueError("no TIFF header")
    (version,) = struct.unpack_from(order + "H", head, 2)
    if version == 43 and len(head) == 16:
        return order, True, struct.unpack_from(order + "Q", head, 8)[0]
    # Cameras write other numbers there, too; the directory shows whether it is one.
    return order, False, struct.unpack_from(order + "I", head, 4)[0]


class _Reader:
    """Reads directories, each once; counts what is damaged."""

    def __init__(
        self, file: BinaryIO, order: str, big: bool, limit: int, passed_over: Collection[int]
    ) -> None:
        self.file = file
        self.order = order
        self.big = big
        self.left = limit
        self.passed_over = passed_over
        self.damaged = 0
        self.size = file.seek(0, 2)
        self.seen: set[int] = set()

    def read(self, at: int, level: int = 1) -> Directory | None:
        """Read the directory at that place, and those below; None where there is none."""
        entries = self._entries(at)
        if entries is None or at in self.seen or level > MOST_LEVELS:
            return None
        self.seen.add(at)
        directory = Directory()
        for entry in entries:
            tag, kind = struct.unpack_from(self.order + "HH", entry)
            if tag in directory.tags or tag in directory.below or (level == 1 and tag in self.passed_over):
                continue
            value = self._value(kind, entry)
            if value is None:
                self.damaged += 1
                continue
            below = self._below(tag, kind, value, level)
            if below is not None:
                directory.below[tag] = below
            elif tag not in POINTERS:
                directory.tags[tag] = Tag(kind, value)
        return directory

    def _entries(self, at: int) -> list[bytes] | None:
        """Return the entries at that place, as far as the file goes; None where there are none."""
        count_format, step = (self.order + "Q", 20) if self.big else (self.order + "H", 12)
        width = struct.calcsize(count_format)
        if not 8 <= at <= self.size - width:
            return None
        self.file.seek(at)
        (count,) = struct.unpack(count_format, self.file.read(width))
        data = self.file.read(min(count, 65_535) * step)
        if len(data) < count * step:
            self.damaged += 1
        return [data[start : start + step] for start in range(0, len(data) - step + 1, step)]

    def _value(self, kind: int, entry: bytes) -> bytes | None:
        """Return an entry's bytes; None where its type is unknown, or where they are not all there."""
        count, place = struct.unpack_from(self.order + ("QQ" if self.big else "II"), entry, 4)
        inline = entry[12 if self.big else 8 :]
        if kind not in SIZES or (kind in BIG_TYPES and not self.big):
            return None
        length = count * SIZES[kind]
        if length <= len(inline):
            return inline[:length]
        if length > self.left or place + length > self.size:
            return None
        self.left -= length
        self.file.seek(place)
        return self.file.read(length)

    def _below(self, tag: int, kind: int, value: bytes, level: int) -> Directory | None:
        """Return the directory that an entry points to; None where it points to none."""
        pointer = tag in POINTERS or kind in (IFD, IFD8)
        if not pointer or Tag(kind, value).count != 1 or kind not in (LONG, IFD, LONG8, IFD8):
            self.damaged += tag in POINTERS
            return None
        place = int(Tag(kind, value).numbers(self.order)[0])
        if tag not in POINTERS and not self._is_directory(place):
            # A number of that type which is no place, then.
            return None
        below = self.read(place, level + 1)
        self.damaged += below is None and tag in POINTERS
        return below

    def _is_directory(self, at: int) -> bool:
        """Whether all entries at that place are such as a directory has."""
        damaged = self.damaged
        entries = self._entries(at)
        whole, self.damaged = self.damaged == damaged, damaged
        if not entries or not whole:
            return False
        return all(struct.unpack_from(self.order + "HH", entry)[1] in SIZES for entry in entries)


def pack_exif(exif: Exif) -> bytes:
    """Pack directories into a little TIFF file."""
    mark = b"II*\0" if exif.order == "<" else b"MM\0*"
    return mark + struct.pack(exif.order + "I", 8) + pack_directory(exif.first, 8, exif.order)


def pack_directory(directory: Directory, at: int, order: str, big: bool = False) -> bytes:
    """Pack a directory that will lie at that place, with its values and all below behind it."""
    length = _table_length(len(directory.tags) + len(directory.below), big)
    table, beyond = _pack_parts(directory, at + length, order, big, {})
    return table + beyond


def _table_length(count: int, big: bool) -> int:
    """Return how many bytes a directory of so many tags takes, without the values that lie elsewhere."""
    return 8 + 20 * count + 8 if big else 2 + 12 * count + 4


def _pack_parts(
    directory: Directory, at: int, order: str, big: bool, others: Mapping[int, bytes]
) -> tuple[bytes, bytes]:
    """Pack a directory's table, and the values and directories that will lie at that place.

    others: whole entries of more tags, whose values lie elsewhere in the file.
    """
    tags = sorted({*directory.tags, *directory.below, *others})
    count, entry, offset, room = ("Q", "HHQ", "Q", 8) if big else ("H", "HHI", "I", 4)
    table = struct.pack(order + count, len(tags))
    beyond = bytearray()
    for tag in tags:
        if tag in others:
            table += others[tag]
            continue
        place = at + len(beyond)
        if tag in directory.below:
            beyond += pack_directory(directory.below[tag], place, order, big)
            # Only EXIF's own pointers are known for such whatever their type.
            kind = IFD8 if big else LONG if tag in POINTERS else IFD
            number, value = 1, struct.pack(order + offset, place)
        else:
            kind, value = directory.tags[tag].kind, directory.tags[tag].value
            number = directory.tags[tag].count
            if len(value) > room:
                beyond += value + b"\0" * (len(value) % 2)
                value = struct.pack(order + offset, place)
        table += struct.pack(order + entry, tag, kind, number) + value.ljust(room, b"\0")
    return table + b"\0" * room, bytes(beyond)


def extend_file(file: BinaryIO, directory: Directory) -> None:
    """Add a directory to the first one of a TIFF file, behind its end; its tags win over those there.

    The first directory then ends the file, so that one that is cut is seen to be. Values must be in the file's
    byte order.
    """
    file.seek(0)
    order, big, at = _read_header(file.read(16))
    count_format, step = (order + "Q", 20) if big else (order + "H", 12)
    file.seek(at)
    (count,) = struct.unpack(count_format, file.read(struct.calcsize(count_format)))
    entries = [file.read(step) for _ in range(count)]
    others = {struct.unpack_from(order + "H", entry)[0]: entry for entry in entries}
    others = {tag: entry for tag, entry in others.items() if tag not in directory.tags}
    end = file.seek(0, 2)
    end += file.write(b"\0" * (end % 2))
    table, beyond = _pack_parts(directory, end, order, big, others)
    file.write(beyond + table)
    file.seek(8 if big else 4)
    file.write(struct.pack(order + ("Q" if big else "I"), end + len(beyond)))


def ascii_tag(text: bytes) -> Tag:
    """Return a text as a tag; EXIF's texts end with a zero, and hold what bytes their programs wrote."""
    return Tag(ASCII, text + b"\0")


def short_tag(value: int, order: str) -> Tag:
    """Return a number up to 65,535 as a tag."""
    return Tag(SHORT, struct.pack(order + "H", value))


def long_tag(value: int, order: str) -> Tag:
    """Return a number up to 2**32 - 1 as a tag."""
    return Tag(LONG, struct.pack(order + "I", value))


def rational_tag(value: float, order: str) -> Tag:
    """Return a number from 0 to some 400,000 as a fraction."""
    fraction = Fraction(value).limit_denominator(10_000)
    return Tag(RATIONAL, struct.pack(order + "II", fraction.numerator, fraction.denominator))
