"""What a file holds beside its pixels, as it stands there; and the part of it that goes along with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .carried import Metadata
from .descriptions import layout_program
from .directories import Exif, pack_exif, read_exif
from .exif import (
    CENTIMETRE,
    DESCRIPTION,
    RESOLUTION_UNIT,
    clean_dpi,
    clean_exif,
    orientation_of,
    resolution_of,
)
from .geography import drop_geography, has_geography
from .texts import RAW_PROFILE, Text, is_of_the_file, profile_of
from .xmp import clean_xmp

# One logger for the room: a picture that is read twice is warned of once.
log = logging.getLogger(__package__)

LIMIT = 4 * 2**20  # bytes of a profile, of EXIF, of XMP; more than that is damage or malice rather than use
# Tags of XMP, of which it takes seconds to read so many; brushes and masks of photo editors have thousands.
MOST_MARKS = 200_000


@dataclass
class Blocks:
    """What a file holds beside pixels and profile.

    dpi: the container's, x and y; centimetres: whether it says so per centimetre. comment: JPEG's or GIF's.
    texts: PNG's. iptc: without Photoshop's block. behind: what stays in the file, such as a gain map.
    damaged: what cannot be read. upright: whether a reader gives pixels that it has turned. tiff: whether the
    EXIF is a TIFF file's own directories.
    """

    exif: Exif | None = None
    xmp: bytes | None = None
    dpi: Any = None
    centimetres: bool = False
    comment: bytes | None = None
    texts: list[Text] = field(default_factory=list)
    iptc: bytes | None = None
    behind: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)
    upright: bool = False
    tiff: bool = False

    @property
    def orientation(self) -> int:
        """The orientation, 1 to 8, by which stored pixels are to be turned: one answer for readers and plan."""
        return 1 if self.upright else orientation_of(self.exif, self.xmp)

    def take_exif(self, data: bytes | None) -> None:
        """Read EXIF's bytes; damage is noted."""
        if not data:
            return
        try:
            self.exif = read_exif(data, LIMIT)
        except ValueError:
            self.damaged.append("EXIF")
            return
        if self.exif.damaged and not self.exif.first:
            self.exif = None
            self.damaged.append("EXIF")

    def take_xmp(self, packet: object) -> None:
        """Take XMP as Pillow or a codec gives it, of any type."""
        if isinstance(packet, str):
            packet = packet.encode("utf-8", "replace")
        if not isinstance(packet, bytes | tuple) or not packet:
            return
        packet = bytes(packet)
        if packet.count(b"<") > MOST_MARKS:
            self.damaged.append("XMP")
        else:
            self.xmp = packet

    def take_texts(self, texts: Iterable[Text]) -> None:
        """Take texts, and unpack those that are profiles; blocks of their own win over them."""
        for text in texts:
            if not text.keyword.startswith(RAW_PROFILE):
                if not is_of_the_file(text.keyword):
                    self.texts.append(text)
                continue
            profile = profile_of(text)
            if profile is None:
                self.damaged.append(f"text {text.keyword!r}")
                continue
            kind, data = profile
            if kind == "exif" and self.exif is None:
                self.take_exif(data)
            elif kind == "xmp" and self.xmp is None:
                self.take_xmp(data)
            elif kind == "iptc" and self.iptc is None:
                self.iptc = data or None


def collect(blocks: Blocks, name: str) -> Metadata:
    """Collect the part of a file's metadata that is carried on; warnings say what is lost.

    name: the file's, for the warnings.
    """
    orientation = blocks.orientation
    for what in blocks.damaged:
        log.warning("%s: its %s is damaged and was dropped", name, what)
    exif = None if blocks.exif is None else _collect_exif(blocks.exif, blocks.tiff, orientation, name)
    packet = within_limit(blocks.xmp, "XMP", name)
    behind = set(blocks.behind)
    if packet is not None:
        packet, lost = clean_xmp(packet, orientation)
        behind |= lost
    if behind:
        log.warning("%s: not carried into outputs: its %s", name, ", ".join(sorted(behind)))
    dpi, centimetres = clean_dpi(blocks.dpi), blocks.centimetres
    if dpi is None and blocks.exif is not None:
        dpi, centimetres = resolution_of(blocks.exif), blocks.exif.number(RESOLUTION_UNIT) == CENTIMETRE
    return Metadata(
        exif=exif,
        xmp=packet,
        dpi=dpi,
        centimetres=centimetres,
        comment=blocks.comment,
        texts=tuple(blocks.texts),
        iptc=within_limit(blocks.iptc, "IPTC", name),
        turned=orientation >= 5,
        name=name,
    )


def _collect_exif(exif: Exif, tiff: bool, orientation: int, name: str) -> bytes | None:
    """Return the EXIF that is carried on; None where nothing is left."""
    if exif.damaged:
        log.warning("%s: %d of its EXIF values are damaged and were dropped", name, exif.damaged)
    kept = clean_exif(exif, tiff)
    program = layout_program(kept.text(DESCRIPTION) or b"")
    if program is not None:
        log.warning("%s: its description by %s states the old pixels' layout: dropped", name, program)
        del kept.first.tags[DESCRIPTION]
    if orientation != 1 and has_geography(kept):
        log.warning("%s: its place on earth (GeoTIFF) is dropped, as its pixels are turned", name)
        drop_geography(kept)
    return within_limit(pack_exif(kept) if kept.first else None, "EXIF", name)


def within_limit(data: Any, what: str, name: str) -> bytes | None:
    """Return the bytes, or None, with a warning when they are more than LIMIT."""
    if not data:
        return None
    content = bytes(data)
    if len(content) > LIMIT:
        log.warning("%s: its %s of %d bytes was dropped (limit: %d)", name, what, len(content), LIMIT)
        return None
    return content
