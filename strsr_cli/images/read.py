"""Image files read into pixels, with their alpha, profile, metadata and bit depth."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from strsr_models.errors import ImageError, first_line

from .animation import MAX_FRAMES, Animation, count_frames, open_animation, page_file
from .codecs import png as png_files
from .codecs.avif import Aperture, is_monochrome, read_color_chunks
from .codecs.jpeg import check_jpeg
from .codecs.jpeg_damage import is_damaged
from .codecs.jxl import jxl_size
from .codecs.pillow_reader import QuietPillow, blocks_of, load_pixels, pixels_of, view_of, warn_of_view
from .codecs.pillow_reader import log as pillow_log
from .codecs.tiff import kinds, pages
from .codecs.tiff import pixels as tiff_pixels
from .color.numbers import Chunks, stated_colors
from .color.numbers import log as numbers_log
from .color.profiles import fit_profile
from .color.profiles import log as profiles_log
from .formats import HEAD, MAX_PIXELS, READABLE, check_pixels, load_reader, sniff
from .metadata.blocks import LIMIT, collect, within_limit
from .metadata.blocks import log as metadata_log
from .metadata.carried import Metadata
from .metadata.exif import ICC_TAG, ORIENTATION
from .metadata.segments import read_segments
from .picture import Picture, apply_orientation, split_alpha

log = logging.getLogger(__name__)
BOXED = ("AVIF", "HEIF")  # files of boxes, which may state colours by number


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read and decode a whole file; ImageError says why that cannot be done."""
    try:
        _check_length(path, max_pixels)
        with open(path, "rb") as file:
            return _decode(file, str(path), max_pixels)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode a whole image file held in memory; `name` stands in messages."""
    return _decode(BytesIO(data), name, max_pixels)


def frames_of(path: Path) -> int:
    """Count the frames or pages of a file; 1 for a still. ImageError says why they cannot be counted."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            kind = _known_kind(head, str(path))
            with _decoding(str(path)):
                return count_frames(file, kind, head)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


def read_frame(path: Path, number: int, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read one frame of an animation as a viewer shows it, or one page of a TIFF; numbers begin with 1.

    Its metadata are the file's, or the page's own. ImageError says why it cannot be read.
    """
    name = f"{path} (frame {number})"
    try:
        with open(path, "rb") as file:
            kind = _known_kind(file.read(HEAD), name)
            with _decoding(name):
                if kind == "TIFF":
                    return _decode_tiff(page_file(file, path, number), name, max_pixels, alone=True)
                animation = open_animation(path, kind, max_pixels)
                with animation.lock:
                    if animation.facts is None:
                        animation.facts = _facts_of(animation, str(path))
                orientation, icc, chunks, metadata = animation.facts
                pixels = animation.frame(number)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    return make_picture(
        pixels,
        orientation=orientation,
        icc=icc,
        kind=kind,
        metadata=metadata,
        name=name,
        chunks=chunks,
    )


def _facts_of(animation: Animation, name: str) -> tuple[int, object, Chunks, Metadata]:
    """Return the orientation, profile, colours by number and metadata of an animation as a whole."""
    if animation.kind == "PNG":
        png = png_files.parse_png(animation.data, LIMIT, whole=False)
        warn_of_view(name, Aperture(shape=png.shape))
        blocks = png_files.png_blocks(png)
        return blocks.orientation, png.icc, png.color_chunks, collect(blocks, name)
    if animation.lacks_end_mark:
        log.warning("%s: has no end mark, so that there may have been more frames", name)
    with Image.open(BytesIO(animation.data), formats=(animation.kind,)) as image:
        warn_of_view(name, view_of(image, BytesIO(animation.data)))
        blocks = blocks_of(image)
        icc = image.info.get("icc_profile")
        chunks = () if icc or animation.kind not in BOXED else read_color_chunks(BytesIO(animation.data))
        return blocks.orientation, icc, chunks, collect(blocks, name)


def _decode(file: BinaryIO, name: str, max_pixels: int) -> Picture:
    """Decode an open file by what its first bytes say that it is."""
    kind = _known_kind(file.read(HEAD), name)
    file.seek(0)
    with _decoding(name):
        if kind == "PNG":
            return _decode_png(file, name, max_pixels)
        if kind == "TIFF":
            return _decode_tiff(file, name, max_pixels)
        return _decode_other(file, kind, name, max_pixels)


def read_size(path: Path, max_pixels: int = MAX_PIXELS, frame: int | None = None) -> tuple[int, int]:
    """Return (height, width) of an upright image, from its header; ImageError says why there is none.

    frame: its number, where the image is one of several in the file.
    """
    if frame is None:
        return _read_size(path, max_pixels, None)
    try:
        state = path.stat()
        with open(path, "rb") as file:
            page = frame if sniff(file.read(HEAD)) == "TIFF" else None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if page is not None:
        return _read_size(path, max_pixels, page)
    return _size_of_all(path, max_pixels, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _size_of_all(path: Path, max_pixels: int, size: int, mtime_ns: int) -> tuple[int, int]:
    """Return (height, width) of all frames of an animation in that state, which is opened once for all."""
    return _read_size(path, max_pixels, None)


def _read_size(path: Path, max_pixels: int, page: int | None) -> tuple[int, int]:
    """Return (height, width) of a file, or of one page of a TIFF, upright."""
    name = str(path) if page is None else f"{path} (frame {page})"
    try:
        with open(path, "rb") as file:
            kind = _known_kind(file.read(HEAD), name)
            _check_length(path, max_pixels)
            with _decoding(name):
                if kind == "PNG":
                    png = png_files.read_png_size(file, LIMIT)
                    width, height = png.width, png.height
                    orientation = png_files.png_blocks(png).orientation
                elif kind == "TIFF":
                    shown = page_file(file, path, page) if page else pages.first_page_file(file)
                    directory = pages.read_tiff_page(shown)
                    height, width = directory.size
                    orientation = directory.blocks.orientation
                else:
                    _check_jxl(file, kind, max_pixels, name)
                    with Image.open(file, formats=(kind,)) as image:
                        width, height = (view_of(image, file).crop or (0, 0, *image.size))[2:]
                        orientation = blocks_of(image).orientation
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    check_pixels(height, width, max_pixels, name)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


_SILENT = contextvars.ContextVar("silent", default=False)


@contextlib.contextmanager
def without_remarks(silent: bool) -> Iterator[None]:
    """Read images without warnings, in this thread alone. silent: whether they have been said before."""
    before = _SILENT.set(silent)
    try:
        yield
    finally:
        _SILENT.reset(before)


# The loggers of all that reads: a picture that is read twice is warned of once.
for _logger in (log, metadata_log, pillow_log, numbers_log, profiles_log):
    _logger.addFilter(lambda record: not _SILENT.get())


def _check_length(path: Path, max_pixels: int) -> None:
    """Raise ImageError for a file with more bytes than so many pixels can ask for: 16 each, and some."""
    size = path.stat().st_size
    most = 16 * max_pixels + 2**28
    if size > most:
        raise ImageError(f"{path}: {size} bytes are more than --max-pixels {max_pixels} allows ({most})")


def _known_kind(head: bytes, name: str) -> str:
    """Name the format that a file's first bytes are of; ImageError when it is none that can be read."""
    if not head:
        raise ImageError(f"{name}: the file is empty")
    kind = sniff(head)
    if kind is None:
        raise ImageError(f"{name}: not a {READABLE} image")
    load_reader(kind, name)
    return kind


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError; Pillow's limit gives way to --max-pixels."""
    try:
        with _PILLOW:
            yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Decoders of damaged files raise anything, struct.error and KeyError too.
        reason = first_line(error)
        if reason.startswith("cannot identify image file"):
            reason = "damaged or truncated"
        raise ImageError(f"{name}: cannot be decoded: {reason}") from error


_PILLOW = QuietPillow()


def _decode_png(file: BinaryIO, name: str, max_pixels: int) -> Picture:
    """Decode a PNG file: its still image, and the metadata that are sound."""
    png = png_files.parse_png(file.read(), LIMIT)
    check_pixels(png.height, png.width, max_pixels, name)
    if png.animated:
        _warn_of_frames(name, "several")
    for what in png.dropped:
        log.warning("%s: its %s is damaged or larger than %d bytes: dropped", name, what, LIMIT)
    if png.depth == 16:
        pixels = png_files.read_deep_png(png)
    else:
        pixels, _ = load_pixels(BytesIO(png.still), "PNG", name)
    warn_of_view(name, Aperture(shape=png.shape))
    blocks = png_files.png_blocks(png)
    return make_picture(
        pixels,
        orientation=blocks.orientation,
        icc=png.icc,
        kind="PNG",
        metadata=collect(blocks, name),
        name=name,
        chunks=png.color_chunks,
    )


def _decode_tiff(file: BinaryIO, name: str, max_pixels: int, alone: bool = False) -> Picture:
    """Decode the first page of a TIFF. alone: whether other pages of the file are no matter."""
    file = file if alone else pages.first_page_file(file)
    page = pages.read_tiff_page(file)
    check_pixels(*page.size, max_pixels, name)
    kinds.check_kind(page)
    if not alone and (count := len(pages.page_offsets(file, MAX_FRAMES))) > 1:
        _warn_of_frames(name, count)
    if unused := kinds.unused_samples(page):
        log.warning("%s: has samples beside colours and alpha (%d): dropped", name, unused)
    icc = page.tags.get(ICC_TAG)
    white = (1.0, 1.0)
    if page.deep:
        deep = tiff_pixels.read_deep_tiff(page, file)
        pixels, white = deep.pixels, deep.white
        if white[0] != 1:
            log.warning("%s: its floats go far beyond 1: %g is taken as white", name, white[0])
    else:
        pixels, mode = tiff_pixels.read_shallow_tiff(page, file, name)
        icc = None if mode == "CMYK" else icc
    warn_of_view(name, Aperture(shape=pages.shape_of(page)))
    # Both readers of TIFF have turned the pixels by the tag, and know nothing of XMP.
    turned = page.number(ORIENTATION, 0) in range(1, 9)
    return make_picture(
        pixels,
        orientation=1 if turned else page.blocks.orientation,
        icc=icc,
        kind="TIFF",
        metadata=collect(page.blocks, name),
        name=name,
        white=white,
    )


def _decode_other(file: BinaryIO, kind: str, name: str, max_pixels: int) -> Picture:
    """Decode a file of any format that Pillow alone reads."""
    data = file.read() if kind == "JPEG" else b""
    whole_profile = kind != "JPEG" or check_jpeg(data)
    file.seek(0)
    _check_jxl(file, kind, max_pixels, name)
    with Image.open(file, formats=(kind,)) as image:
        check_pixels(image.height, image.width, max_pixels, name)
        frames = getattr(image, "n_frames", 1)
        # MPO is a camera's JPEG, whose other frames are previews.
        if frames > 1 and image.format != "MPO":
            _warn_of_frames(name, frames)
        image.load()
        if not whole_profile:
            log.warning("%s: parts of its colour profile are missing: it was dropped", name)
            image.info.pop("icc_profile", None)
        blocks = blocks_of(image)
        if data:
            blocks.comment, blocks.iptc, blocks.behind = read_segments(data)
        icc = None if image.mode == "CMYK" else image.info.get("icc_profile")
        chunks = read_color_chunks(file) if kind in BOXED and not icc else ()
        view = view_of(image, file)
        warn_of_view(name, view)
        pixels = view.cut(pixels_of(image, name, gray=kind == "AVIF" and is_monochrome(file)))
    # Pillow's copy of the pixels goes before they are turned, which takes another.
    del image
    if kind == "JPEG" and is_damaged(data):
        log.warning("%s: its pixels are damaged: from some place on they may be wrong", name)
    return make_picture(
        pixels,
        orientation=blocks.orientation,
        icc=icc,
        kind=kind,
        metadata=collect(blocks, name),
        name=name,
        chunks=chunks,
    )


def _check_jxl(file: BinaryIO, kind: str, max_pixels: int, name: str) -> None:
    """Check the size of a JPEG XL by its header: opening it with Pillow decodes it. Other formats pass."""
    if kind == "JXL":
        check_pixels(*jxl_size(file), max_pixels, name)
        file.seek(0)


def _warn_of_frames(name: str, count: int | str) -> None:
    """Warn of a file with more frames or pages than the one that is read."""
    log.warning("%s: has %s frames, only the first is used", name, count)


def make_picture(
    pixels: np.ndarray,
    orientation: int,
    icc: object,
    kind: str,
    metadata: Metadata,
    name: str,
    white: tuple[float, float] = (1.0, 1.0),
    chunks: Chunks = (),
) -> Picture:
    """Make a Picture of stored pixels (h, w[, c]), turned upright; too large a profile is dropped.

    chunks: the colours by number, of PNG's kinds.
    """
    color, alpha = split_alpha(apply_orientation(pixels, orientation))
    profile = within_limit(icc, "ICC profile", name)
    stated = stated_colors(profile, chunks, gray=color.shape[2] == 1, name=name)
    color, profile = fit_profile(color, stated.icc, name, gray_inside=kind in BOXED)
    return Picture(
        color,
        alpha,
        icc=profile,
        format=kind,
        metadata=replace(metadata, size=color.shape[:2]),
        white=white,
        color_chunks=stated.chunks,
    )


def is_whole_image(path: Path) -> bool:
    """Whether a file can be decoded to its end."""
    try:
        read_image(path, max_pixels=sys.maxsize)
    except ImageError:
        return False
    except MemoryError:
        # The file was an image as far as it was read.
        return True
    return True
