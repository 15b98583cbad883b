"""Pixels written into files by rows; what a format cannot hold is brought to what it can, strip by strip."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import BinaryIO

import numpy as np

from strsr_models.errors import ImageError

from .codecs.jpeg import write_jpeg
from .codecs.pillow_writer import write_bmp, write_whole
from .codecs.png_writer import write_png
from .codecs.tiff.writer import write_tiff
from .color.profiles import rgb_profile_of, srgb_converter
from .formats import OUTPUT_FORMATS, PNG_COMPRESSION, QUALITY, OutputFormat, check_fits
from .picture import Picture, to_8bit, to_16bit
from .rows import RowLayout

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeSettings:
    """The settings by which outputs are encoded.

    quality: 1 to 100, of JPEG and AVIF (both always 4:4:4) and WebP. png_compression: 0, none; 1, fast;
    2 to 5, smaller and slower by far (docs/using/encoding.md).
    """

    quality: int = QUALITY
    png_compression: int = PNG_COMPRESSION


def write_image(
    file: BinaryIO, kind: str, layout: RowLayout, bands: Iterable[np.ndarray], settings: EncodeSettings
) -> None:
    """Write a picture into an empty file that can also be read, and can seek. kind: a key of OUTPUT_FORMATS.

    bands: (n, width, channels) of any heights from the top, with as many rows in all as the layout; taken
    one at a time, as they are needed, and cut anew: the file's bytes do not depend on how they were cut.
    What the format cannot hold is brought to what it can: floats to 16 bits, 16 bits to 8, transparency
    onto white, gray with a profile to equal channels with one of RGB, other colours than sRGB's to sRGB. WebP and AVIF gather the whole picture; the others hold some 50 MB at most. Threads may
    write at the same time.
    Raises ImageError when the picture is too large for the format or cannot be encoded, OSError when the
    file cannot be written, and whatever the bands raise; what is in the file is then no picture.
    """
    form = OUTPUT_FORMATS[kind]
    check_fits(kind, layout.height, layout.width)
    if kind == "bmp" and layout.metadata.software is not None:
        log.warning("BMP has no place for --provenance: the file does not say what made it")
    if kind not in ("png", "bmp"):
        layout.metadata.warn_of_lost(form.pillow, iptc=kind in ("jpg", "tif"), comment=kind == "jpg")
    held = _layout_held(form, layout)
    bands = _convert(_check(_mark_errors(bands), layout), held)
    if layout.icc is not None and not form.profile:
        bands = map(srgb_converter(layout.icc, held.channels == 1), bands)
    try:
        if kind == "png":
            write_png(file, held, bands, settings.png_compression)
        elif kind == "tif":
            write_tiff(file, held, bands)
        elif kind == "jpg":
            write_jpeg(file, held, bands, settings.quality)
        elif kind == "bmp":
            write_bmp(file, held, bands)
        else:
            write_whole(file, held, bands, form.pillow, settings.quality)
    except _BandsError as error:
        raise error.reason from error.reason.__cause__
    except (OSError, ValueError, RuntimeError, SystemError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # An error with a number is the file's; encoders' own have none.
            raise
        raise ImageError(f"cannot be encoded as {form.pillow}: {error}") from error


def encode_image(picture: Picture, kind: str, settings: EncodeSettings) -> bytes:
    """Encode a whole picture in memory, by `write_image`."""
    height, width, channels = picture.color.shape
    if picture.alpha is not None:
        channels += 1
    layout = RowLayout(
        height,
        width,
        channels,
        dtype=picture.color.dtype,
        icc=picture.icc,
        color_chunks=picture.color_chunks,
        metadata=picture.metadata,
        white=picture.white,
    )
    buffer = BytesIO()
    write_image(buffer, kind, layout, _bands(picture, layout.strip_rows), settings)
    return buffer.getvalue()


def _bands(picture: Picture, rows: int) -> Iterator[np.ndarray]:
    """Cut a picture into bands of that many rows, alpha as the last channel."""
    for top in range(0, len(picture.color), rows):
        color = picture.color[top : top + rows]
        if picture.alpha is None:
            yield color
        else:
            yield np.concatenate([color, picture.alpha[top : top + rows]], axis=2)


class _BandsError(Exception):
    """An error that the bands raised, and not the encoder."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _mark_errors(bands: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pass bands on; whatever they raise becomes a _BandsError."""
    try:
        yield from bands
    except Exception as error:
        raise _BandsError(error) from error


def _check(bands: Iterable[np.ndarray], layout: RowLayout) -> Iterator[np.ndarray]:
    """Pass bands on; ValueError for one that is not of the layout's shape and type."""
    for band in bands:
        if band.shape[1:] != (layout.width, layout.channels) or band.dtype != layout.dtype:
            size = (layout.height, layout.width, layout.channels)
            raise ValueError(f"a band of {band.dtype} {band.shape} in a picture of {layout.dtype} {size}")
        yield band


def _layout_held(form: OutputFormat, layout: RowLayout) -> RowLayout:
    """Return the layout with only such channels and values as the format can hold."""
    channels = layout.channels
    if not form.alpha and channels in (2, 4):
        channels -= 1
    icc = layout.icc if form.profile else None
    # Only JPEG, PNG and TIFF know gray pixels, and profiles of them.
    if icc is not None and channels < 3 and not form.gray:
        icc, channels = rgb_profile_of(icc), channels + 2
    dtype = layout.dtype
    if not form.deep:
        dtype = np.dtype(np.uint8)
    elif not form.floats and dtype == np.float32:
        dtype = np.dtype(np.uint16)
    return replace(layout, channels=channels, dtype=dtype, icc=icc)


def _convert(bands: Iterable[np.ndarray], layout: RowLayout) -> Iterator[np.ndarray]:
    """Bring bands to the layout's channels and type, a few rows at a time where they have to be changed."""
    white = whites_of(layout)
    for band in bands:
        if band.shape[2:] == (layout.channels,) and band.dtype == layout.dtype:
            yield band if white is None else band * white
            continue
        for top in range(0, len(band), layout.strip_rows):
            pixels = band[top : top + layout.strip_rows]
            if pixels.shape[2] == layout.channels - 2:
                pixels = np.concatenate([pixels[..., :1].repeat(3, axis=2), pixels[..., 1:]], axis=2)
            elif pixels.shape[2] == layout.channels + 1:
                pixels = _put_on_white(pixels[..., :-1], pixels[..., -1:])
            if pixels.dtype != layout.dtype:
                pixels = to_8bit(pixels) if layout.dtype == np.uint8 else to_16bit(pixels)
            yield pixels


def whites_of(layout: RowLayout) -> np.ndarray | None:
    """Return the number that 1 becomes in each channel of a file of floats; None where it stays 1."""
    if layout.dtype != np.float32 or layout.white == (1.0, 1.0):
        return None
    colors, alpha = layout.white
    white = np.full(layout.channels, colors, np.float32)
    if layout.channels in (2, 4):
        white[-1] = alpha
    return white


def _put_on_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lay colours (n, w, c) with their alpha (n, w, 1) onto white."""
    top = 1 if color.dtype == np.float32 else np.iinfo(color.dtype).max
    opaque = alpha.astype(np.float32) / top
    mixed = color * opaque + top * (1 - opaque)
    return mixed if top == 1 else np.rint(mixed).astype(color.dtype)
