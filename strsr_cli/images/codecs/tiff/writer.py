"""TIFF written by strips, with EXIF and GPS directories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from isal import isal_zlib

from ...metadata.carried import NO_LIMIT
from ...metadata.directories import BYTE, UNDEFINED, Exif, Tag, extend_file, read_exif
from ...metadata.exif import CENTIMETRE, INCH, IPTC_TAG, XMP_TAG
from ...rows import RowLayout, restrip
from .pages import load_tifffile


def write_tiff(file: BinaryIO, layout: RowLayout, bands: Iterable[np.ndarray]) -> None:
    """Write uint8, uint16 or float32 by strips, deflated; integers as differences to left neighbours."""
    tifffile = load_tifffile()
    meta = layout.metadata
    packed = meta.exif_of(layout.height, layout.width, texts=True)
    exif = Exif() if packed is None else read_exif(packed, NO_LIMIT)
    factor = 2.54 if meta.centimetres else 1
    strips = _deflate(restrip(bands, layout, layout.strip_rows), exif.order)
    big = layout.nbytes > 2**32 - 2**25
    with tifffile.TiffWriter(file, byteorder=exif.order, bigtiff=big) as writer:
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
            resolution=None if meta.dpi is None else tuple(value / factor for value in meta.dpi),
            resolutionunit=None if meta.dpi is None else CENTIMETRE if meta.centimetres else INCH,
            software=False,
            metadata=None,
        )
    # No strip is left; but whether the bands end here shows only when they are asked for more.
    for _ in strips:
        pass
    xmp = meta.xmp_of(layout.height, layout.width)
    if xmp is not None:
        exif.first.tags[XMP_TAG] = Tag(BYTE, xmp)
    if meta.iptc is not None:
        exif.first.tags[IPTC_TAG] = Tag(UNDEFINED, meta.iptc)
    if exif.first:
        extend_file(file, exif.first)


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
