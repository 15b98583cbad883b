"""XMP as text with places: which elements and values stand where, so that single ones can be changed.

Nothing but what is changed moves: a parser that writes anew would lose comments, padding and order, and
refuse packets that are not quite well-formed, which other programs read. Time grows with the length alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

# Spaces whose names are asked for -> the prefix by which they are called here, whatever the packet says.
PREFIXES = {
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/xmp/note/": "xmpNote",
    "http://ns.google.com/photos/1.0/panorama/": "GPano",
    "http://ns.google.com/photos/1.0/camera/": "GCamera",
    "http://ns.google.com/photos/1.0/container/": "Container",
    "http://ns.google.com/photos/1.0/container/item/": "Item",
    "http://ns.google.com/photos/1.0/depthmap/": "GDepth",
    "http://ns.google.com/photos/1.0/focus/": "GFocus",
    "http://ns.google.com/photos/1.0/image/": "GImage",
    "http://ns.google.com/photos/1.0/audio/": "GAudio",
    "http://ns.adobe.com/hdr-gain-map/1.0/": "hdrgm",
    "http://ns.apple.com/HDRGainMap/1.0/": "HDRGainMap",
    "http://ns.apple.com/pixeldatainfo/1.0/": "apdi",
    "http://ns.apple.com/depthData/1.0/": "depthData",
    "http://www.metadataworkinggroup.com/schemas/regions/": "mwg-rs",
    "http://ns.adobe.com/xmp/sType/Area#": "stArea",
    "http://ns.adobe.com/xap/1.0/sType/Area#": "stArea",
    "http://ns.adobe.com/xap/1.0/sType/Dimensions#": "stDim",
    "http://ns.microsoft.com/photo/1.2/": "MP",
    "http://ns.microsoft.com/photo/1.2/t/RegionInfo#": "MPRI",
    "http://ns.microsoft.com/photo/1.2/t/Region#": "MPReg",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
}
# Google's spaces of depth, all of which begin so.
DEVICE = "http://ns.google.com/photos/dd/1.0/"
APPLIED = "mwg-rs:AppliedToDimensions"
NAME = r"""[^\s<>/="']+"""
TAG = re.compile(rf"""<(/?)({NAME})((?:\s+{NAME}\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*(/?)>""")
ATTRIBUTE = re.compile(rf"""\s+({NAME})\s*=\s*(?:"([^"<]*)"|'([^'<]*)')""")
# What is not looked into, and how it ends.
OPAQUE = {"<!--": "-->", "<![CDATA[": "]]>", "<?": "?>", "<!": ">"}
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Value:
    """A value. span: its place. whole: the place of the attribute or element that it is of."""

    text: str
    span: Span
    whole: Span


@dataclass(slots=True)
class Element:
    """An element. values: its attributes, and those of its children that hold text alone, by name.

    applied: whether it says, or is within what says, which size regions are of.
    """

    name: str
    above: Element | None
    start: int
    inner: int = 0
    end: int | None = None
    values: dict[str, Value] = field(default_factory=dict)
    parent_of_elements: bool = False
    applied: bool = False

    @property
    def span(self) -> Span | None:
        """The place of the element; None for one that is never closed."""
        return None if self.end is None else (self.start, self.end)


def decode_packet(packet: bytes) -> str:
    """Return a packet as text, of which `encode_packet` makes the same bytes; UTF-16 becomes UTF-8."""
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if packet.startswith(mark):
            return packet.decode(encoding, "replace")
    for mark, encoding in ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be")):
        if packet.startswith(mark):
            return packet.decode(encoding, "replace")
    return packet.decode("utf-8", "surrogateescape")


def encode_packet(text: str) -> bytes:
    """Return the bytes of a packet."""
    return text.encode("utf-8", "surrogateescape")


def parse_elements(text: str) -> list[Element]:
    """Find all elements of a packet, in the order in which they begin."""
    elements: list[Element] = []
    open_elements: list[Element] = []
    prefixes: dict[str, str] = {}
    for match in _tags(text):
        closing, raw, _, empty = match.groups()
        if closing:
            _close(open_elements, _canonical(raw, prefixes), text, match)
            continue
        found = list(ATTRIBUTE.finditer(text, match.start(3), match.end(3)))
        for attribute in found:
            if attribute[1].startswith("xmlns:"):
                prefixes[attribute[1][6:]] = _prefix(attribute[2] or attribute[3] or "", attribute[1][6:])
        above = open_elements[-1] if open_elements else None
        element = Element(_canonical(raw, prefixes), above, match.start(), match.end())
        element.applied = element.name == APPLIED or (above is not None and above.applied)
        for attribute in found:
            group = 2 if attribute[2] is not None else 3
            name = _canonical(attribute[1], prefixes)
            element.values.setdefault(name, Value(attribute[group], attribute.span(group), attribute.span()))
        if above is not None:
            above.parent_of_elements = True
        elements.append(element)
        if empty:
            element.end = match.end()
        else:
            open_elements.append(element)
    return elements


def _tags(text: str) -> Iterator[re.Match[str]]:
    """Give all tags, without those in comments and the like."""
    at = text.find("<")
    while at >= 0:
        match = TAG.match(text, at)
        if match is not None:
            yield match
            at = text.find("<", match.end())
            continue
        mark = next((mark for mark in OPAQUE if text.startswith(mark, at)), None)
        if mark is not None:
            at = text.find(OPAQUE[mark], at)
            if at < 0:
                return
        at = text.find("<", at + 1)


def _prefix(space: str, prefix: str) -> str:
    """Return the prefix by which a space is called here; of unknown ones, their own."""
    return "Device" if space.startswith(DEVICE) else PREFIXES.get(space, prefix)


def _canonical(name: str, prefixes: dict[str, str]) -> str:
    """Return a name with the prefix that its space has here."""
    prefix, colon, rest = name.partition(":")
    return f"{prefixes.get(prefix, prefix)}:{rest}" if colon else name


def _close(open_elements: list[Element], name: str, text: str, match: re.Match[str]) -> None:
    """End the element of that name that was opened last; those within that were never closed stay so."""
    depth = len(open_elements)
    for number in range(depth - 1, max(depth - 50, -1), -1):
        if open_elements[number].name == name:
            break
    else:
        return
    element = open_elements[number]
    del open_elements[number:]
    element.end = match.end()
    if not element.parent_of_elements and element.above is not None:
        inner = (element.inner, match.start())
        value = Value(text[slice(*inner)], inner, (element.start, element.end))
        element.above.values.setdefault(element.name, value)


def change(text: str, edits: Iterable[tuple[Span, str]]) -> str:
    """Put other texts into places; a place within another that comes earlier is passed over."""
    parts = []
    at = 0
    for (start, end), new in sorted(edits, key=lambda edit: (edit[0][0], -edit[0][1])):
        if start >= at:
            parts += [text[at:start], new]
            at = end
    return "".join([*parts, text[at:]])
