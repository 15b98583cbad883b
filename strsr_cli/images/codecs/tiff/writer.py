"""TIFF written by strips, with EXIF and GPS directories."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from isal import isal_zlib
from PIL import Image
from PIL.ExifTags import IFD
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ...metadata import KEPT_TAGS, ORIENTATION, Metadata, correct_types, parse_exif
from ...rows import RowLayout, restrip
from .pages import XMP_TAG, load_tifffile

log = logging.getLogger(__name__)

# tifffile leaves the tags of sub-directories out; these take their places while it writes.
PLACEHOLDERS = {IFD.Exif: IFD.Exif + 1, IFD.GPSInfo: IFD.GPSInfo + 1}


def write_tiff(file: BinaryIO, layout: RowLayout, bands: Iterable[np.ndarray]) -> None:
    """Write uint8, uint16 or float32 by strips, deflated; integers as differences to left neighbours."""
    tifffile = load_tifffile()
    exif = parse_exif(layout.metadata.exif_of(layout.height, layout.width))
    order = exif.endian or "<"
    # Pillow writes no directories for files so large.
    big = layout.nbytes > 2**32 - 2**25
    directories = {} if big else {tag: dict(exif.get_ifd(tag)) for tag in PLACEHOLDERS}
    if big and layout.metadata.exif is not None:
        log.warning("a TIFF of more than 4 GB: camera settings and place in EXIF are dropped")
    placeholders = [(PLACEHOLDERS[tag], 4, 1, 0, True) for tag, values in directories.items() if values]
    strips = _deflate(restrip(bands, layout, layout.strip_rows), order)
    with tifffile.TiffWriter(file, byteorder=order, bigtiff=big) as writer:
        writer.write(
            strips,
            shape=(layout.height, layout.width, layout.channels)[: 2 if layout.channels == 1 else 3],
            dtype=layout.dtype,
            rowsperstrip=layout.strip_rows,
            photometric="minisblack" if layout.channels < 3 else "rgb",
            planarconfig="contig" if layout.channels > 1 else None,
            extrasamples=["unassalpha"] if layout.channels in (2, 4) else None,
            compression="zlib",
            predictor=None if layout.dtype == np.float32 else 2,
            iccprofile=layout.icc,
            resolution=layout.metadata.dpi,
            resolutionunit=None if layout.metadata.dpi is None else 2,
            software=False,
            metadata=None,
            extratags=placeholders + _first_tags(exif, layout.metadata),
        )
    # No strip is left; but whether the bands end here shows only when they are asked for more.
    for _ in strips:
        pass
    _append_directories(file, directories, order)


def _first_tags(exif: Image.Exif, metadata: Metadata) -> list[tuple[int, int, int, Any, bool]]:
    """Return the tags of the first directory, as tifffile takes them."""
    tags: list[tuple[int, int, int, Any, bool]] = []
    if ORIENTATION in exif:
        tags.append((ORIENTATION, 3, 1, 1, True))
    for tag in KEPT_TAGS:
        value = exif.get(tag)
        if isinstance(value, str):
            tags.append((tag, 2, 0, value.encode("latin-1", "replace"), True))
        elif isinstance(value, bytes):
            tags.append((tag, 1, len(value), value, True))
        elif isinstance(value, int):
            tags.append((tag, 3, 1, value, True))
    if metadata.xmp is not None:
        tags.append((XMP_TAG, 1, len(metadata.xmp), metadata.xmp, True))
    return tags


def _deflate(strips: Iterable[np.ndarray], order: str) -> Iterator[bytes]:
    """Deflate strips of pixels as they lie in the file, by ISA-L: tifffile's zlib takes 20 times as long."""
    for strip in strips:
        dtype = strip.dtype.newbyteorder("<" if order == "<" else ">")
        if strip.dtype == np.float32:
            values = strip
        else:
            # Differences to the left neighbours are the standard's predictor 2.
            values = np.empty_like(strip)
            values[:, 0] = strip[:, 0]
            np.subtract(strip[:, 1:], strip[:, :-1], out=values[:, 1:])
        yield isal_zlib.compress(values.astype(dtype, copy=False), 2)


def _append_directories(file: BinaryIO, directories: dict[Any, dict[int, Any]], order: str) -> None:
    """Write the EXIF and GPS directories behind a file's end, and point to them."""
    tifffile = load_tifffile()
    file.seek(0)
    with tifffile.TiffFile(file) as reader:
        tags = reader.pages.first.tags
        places = {tag: tags[own].offset for tag, own in PLACEHOLDERS.items() if own in tags}
    for tag, place in places.items():
        end = file.seek(0, 2)
        end += file.write(b"\0" * (end % 2))
        directory = ImageFileDirectory_v2(b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0", group=tag)
        for key, value in directories[tag].items():
            directory[key] = value
        body = bytearray(directory.tobytes(end))
        correct_types(body, 0, order, tag)
        file.write(body)
        file.seek(place)
        file.write(struct.pack(order + "HHII", tag, 4, 1, end))
