"""Metadata: what goes along with pixels, made true of the file that is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from .descriptions import is_shape, update_shape
from .directories import (
    BYTE,
    PHOTO,
    UNDEFINED,
    Directory,
    Exif,
    Tag,
    ascii_tag,
    pack_exif,
    read_exif,
    short_tag,
)
from .exif import (
    DESCRIPTION,
    ORIENTATION,
    SOFTWARE,
    TITLE,
    USER_COMMENT,
    set_resolution,
    set_size,
)
from .geography import scale_geography
from .texts import TEXT_PLACES, Text, make_text
from .xmp import scale_xmp

log = logging.getLogger(__package__)

NO_LIMIT = 2**62
# Texts that are written to EXIF's comment, the first that is there; generators of images put their settings
# into the one or the other.
COMMENTS = ("parameters", "Comment")
# Texts of ImageMagick about dates of files, of which no warning speaks.
DATES = "date:"


@dataclass(frozen=True)
class Metadata:
    """The metadata that go along with pixels, beside their profile.

    exif: a little TIFF file, upright, without sizes, thumbnail and maker notes. xmp: a packet. dpi: x and y;
    centimetres: whether files that can say so say it per centimetre. software: what made the file, in place
    of what the others say of that. comment: JPEG's or GIF's. texts: PNG's. iptc: without Photoshop's block.
    size: (height, width) of the upright picture that they are true of, or None; turned: whether its sides
    were the other way round in the file. name: the file's, for warnings.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    software: str | None = None
    centimetres: bool = False
    comment: bytes | None = None
    texts: tuple[Text, ...] = ()
    iptc: bytes | None = None
    size: tuple[int, int] | None = None
    turned: bool = False
    name: str = ""

    def exif_of(self, height: int, width: int, orientation: bool = True, texts: bool = False) -> bytes | None:
        """Return EXIF for a file of that many px, with resolution and software; None where it would be empty.

        orientation: whether it says that the file is upright. texts: whether it takes in PNG's texts and
        comments, as far as it has a place for them.
        """
        exif = Exif() if self.exif is None else read_exif(self.exif, NO_LIMIT)
        if texts:
            self._take_texts(exif)
        if self.exif is None and self.software is None and not exif.first:
            return None
        if orientation:
            exif.first.tags[ORIENTATION] = short_tag(1, exif.order)
        if self.software is not None:
            exif.first.tags[SOFTWARE] = ascii_tag(self.software.encode())
        if self.dpi is not None:
            set_resolution(exif, self.dpi, self.centimetres)
        set_size(exif, height, width)
        if self.size is not None:
            scale_geography(exif, width / self.size[1], height / self.size[0])
            self._update_description(exif, height, width)
        return pack_exif(exif)

    def _update_description(self, exif: Exif, height: int, width: int) -> None:
        """Make a description that holds the shape of pixels true of the new ones."""
        description = exif.text(DESCRIPTION)
        if description is None or self.size is None or not is_shape(description):
            return
        old = (self.size[1], self.size[0]) if self.turned else self.size
        updated = update_shape(description, old, (height, width))
        if updated is None:
            log.warning("%s: its description states the shape of other pixels: dropped", self.name)
            del exif.first.tags[DESCRIPTION]
        else:
            exif.first.tags[DESCRIPTION] = ascii_tag(updated)

    def _take_texts(self, exif: Exif) -> list[str]:
        """Put texts and comments into the places that EXIF has for them, unless something is there.

        Returns what has no place.
        """
        lost = []
        tags = exif.first.tags
        for text in self.texts:
            if text.keyword in TEXT_PLACES:
                tag, value = TEXT_PLACES[text.keyword], ascii_tag(text.text.encode())
            elif text.keyword == "Title":
                tag, value = TITLE, Tag(BYTE, (text.text + "\0").encode("utf-16-le"))
            else:
                if text.keyword not in COMMENTS and not text.keyword.startswith(DATES):
                    lost.append(f"text {text.keyword!r}")
                continue
            # Programs name themselves in both places, a little differently.
            if tags.setdefault(tag, value) != value and tag != SOFTWARE:
                lost.append(f"text {text.keyword!r}")
        comments = self._comments()
        if comments:
            photo = exif.first.below.setdefault(PHOTO, Directory())
            first = _comment_tag(next(iter(comments.values())), exif.order)
            placed = photo.tags.setdefault(USER_COMMENT, first) == first
            lost += list(comments)[placed:]
        return lost

    def _comments(self) -> dict[str, str]:
        """Return the texts that EXIF's comment can be, the first choice first, by what they are called."""
        texts = {text.keyword: text.text for text in self.texts}
        comments = {f"text {keyword!r}": texts[keyword] for keyword in COMMENTS if texts.get(keyword)}
        if self.comment is not None:
            comments["comment"] = decode_comment(self.comment)
        return comments

    def png_texts(self) -> list[Text]:
        """Return the texts of a PNG file: those of the input, and its comment."""
        texts = [text for text in self.texts if self.software is None or text.keyword != "Software"]
        if self.software is not None:
            texts.insert(0, make_text("Software", self.software))
        if self.comment is not None and all(text.keyword != "Comment" for text in texts):
            texts.append(make_text("Comment", decode_comment(self.comment)))
        return texts

    def xmp_of(self, height: int, width: int) -> bytes | None:
        """Return XMP for a file of that many px."""
        if self.xmp is None or self.size is None or self.size == (height, width):
            return self.xmp
        return scale_xmp(self.xmp, self.size, (height, width))

    def warn_of_lost(self, form: str, iptc: bool, comment: bool) -> None:
        """Warn of what has no place in a format that has none for PNG's texts.

        iptc, comment: whether it has a place for these.
        """
        lost = self._take_texts(Exif() if self.exif is None else read_exif(self.exif, NO_LIMIT))
        if comment and "comment" in lost:
            lost.remove("comment")
        if self.iptc is not None and not iptc:
            lost.append("IPTC")
        if lost:
            log.warning("%s: %s has no place for: %s", self.name, form, ", ".join(dict.fromkeys(lost)))


def decode_comment(comment: bytes) -> str:
    """Return a comment's letters; files do not say how they are encoded."""
    comment = comment.rstrip(b"\0")
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


def _comment_tag(text: str, order: str) -> Tag:
    """Return a text as EXIF's comment, which begins with the name of its encoding."""
    if text.isascii():
        return Tag(UNDEFINED, b"ASCII\0\0\0" + text.encode())
    return Tag(UNDEFINED, b"UNICODE\0" + text.encode("utf-16-le" if order == "<" else "utf-16-be"))
