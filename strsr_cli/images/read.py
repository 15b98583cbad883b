"""Files -> pixels: read images with their alpha, profile, metadata and bit depth."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from strsr_models.errors import ImageError

from .animation import MAX_FRAMES, Animation, count_frames, opened, page_file
from .codecs import png as png_files
from .codecs import tiff as tiff_files
from .codecs.jpeg import check_scans
from .codecs.jxl import jxl_size
from .formats import HEAD, MAX_PIXELS, READABLE, check_pixels, load_reader, sniff
from .metadata import DAMAGE, LIMIT, Metadata, bounded, collect, dpi_of, orientation_of, parse_exif
from .picture import Picture, apply_orientation, split_alpha

log = logging.getLogger(__name__)


BAND = 256  # rows that are converted at a time


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read and decode a whole file; ImageError says why it cannot be."""
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
    """How many frames or pages a file has; 1 for a still. ImageError says why that cannot be told."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            kind = _known_kind(head, str(path))
            with _decoding(str(path)):
                return count_frames(file, kind, head)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error


def read_frame(path: Path, number: int, max_pixels: int = MAX_PIXELS) -> Picture:
    """One frame of an animation as a viewer shows it, or one page of a TIFF; numbers begin with 1.

    Metadata are the file's, or the page's own. ImageError says why it cannot be.
    """
    name = f"{path} (frame {number})"
    try:
        with open(path, "rb") as file:
            kind = _known_kind(file.read(HEAD), name)
            with _decoding(name):
                if kind == "TIFF":
                    return _decode_tiff(page_file(file, path, number), name, max_pixels, alone=True)
                animation = opened(path, kind, max_pixels)
                with animation.lock:
                    if animation.told is None:
                        animation.told = _facts(animation, str(path))
                orientation, icc, metadata = animation.told
                pixels = animation.frame(number)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    return _picture(pixels, orientation, icc, kind, metadata, name)


def _facts(animation: Animation, name: str) -> tuple[int, object, Metadata]:
    """Orientation, profile and metadata of an animation as a whole."""
    if animation.kind == "PNG":
        png = png_files.parse_png(animation.data, LIMIT, whole=False)
        exif = _exif(png.exif)
        return orientation_of(exif, png.xmp), png.icc, collect(exif, png.xmp, png.dpi, name)
    if animation.cut:
        log.warning("%s: has no end mark, so that there may have been more frames", name)
    with Image.open(BytesIO(animation.data), formats=(animation.kind,)) as image:
        metadata = collect(_exif_of(image), image.info.get("xmp"), image.info.get("dpi"), name)
        return _orientation(image, animation.kind), image.info.get("icc_profile"), metadata


def _decode(file: BinaryIO, name: str, max_pixels: int) -> Picture:
    kind = _known_kind(file.read(HEAD), name)
    file.seek(0)
    with _decoding(name):
        if kind == "PNG":
            return _decode_png(file, name, max_pixels)
        if kind == "TIFF":
            return _decode_tiff(file, name, max_pixels)
        return _decode_other(file, kind, name, max_pixels)


def read_size(path: Path, max_pixels: int = MAX_PIXELS, frame: int | None = None) -> tuple[int, int]:
    """(height, width) of an upright image, from its header; ImageError says why there is none.

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
    """That of all frames of an animation in that state, which is not to be opened for each of them."""
    return _read_size(path, max_pixels, None)


def _read_size(path: Path, max_pixels: int, page: int | None) -> tuple[int, int]:
    name = str(path) if page is None else f"{path} (frame {page})"
    try:
        with open(path, "rb") as file:
            kind = _known_kind(file.read(HEAD), name)
            _check_length(path, max_pixels)
            with _decoding(name):
                if kind == "PNG":
                    width, height, raw, xmp = png_files.read_png_size(file, LIMIT)
                    orientation = orientation_of(_exif(raw), xmp)
                elif kind == "TIFF":
                    tags = tiff_files.read_tiff_page(page_file(file, path, page) if page else file)
                    (height, width), orientation = tags.size, tags.number(274, 1)
                else:
                    # Which is decoded when it is opened.
                    if kind == "JXL":
                        check_pixels(*jxl_size(file), max_pixels, name)
                        file.seek(0)
                    with Image.open(file, formats=(kind,)) as image:
                        width, height = image.size
                        orientation = _orientation(image, kind)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    check_pixels(height, width, max_pixels, name)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


_SILENT = contextvars.ContextVar("silent", default=False)


@contextlib.contextmanager
def without_remarks(silent: bool) -> Iterator[None]:
    """Whether what reading an image would warn of has been said before; of this thread alone."""
    before = _SILENT.set(silent)
    try:
        yield
    finally:
        _SILENT.reset(before)


for _logger in (log, logging.getLogger("strsr_cli.metadata")):
    _logger.addFilter(lambda record: not _SILENT.get())


def _check_length(path: Path, max_pixels: int) -> None:
    """Raise ImageError for a file with more bytes than so many pixels can ask for: 16 each, and some."""
    size, most = path.stat().st_size, 16 * max_pixels + 2**28
    if size > most:
        raise ImageError(f"{path}: {size} bytes are more than --max-pixels {max_pixels} allows ({most})")


def _known_kind(head: bytes, name: str) -> str:
    if not head:
        raise ImageError(f"{name}: the file is empty")
    kind = sniff(head)
    if kind is None:
        raise ImageError(f"{name}: not a {READABLE} image")
    load_reader(kind, name)
    return kind


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes an ImageError; Pillow's limit gives way to --max-pixels."""
    try:
        with _PILLOW:
            yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        # Decoders of damaged files raise anything, struct.error and KeyError too.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if reason.startswith("cannot identify image file"):
            reason = "damaged or truncated"
        raise ImageError(f"{name}: cannot be decoded: {reason}") from error


class _QuietPillow:
    """Pillow without its limit and its warnings, while any thread is inside: both are the process's own."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit
                self._warnings.__exit__(None, None, None)


_PILLOW = _QuietPillow()


def _decode_png(file: BinaryIO, name: str, max_pixels: int) -> Picture:
    png = png_files.parse_png(file.read(), LIMIT)
    check_pixels(png.height, png.width, max_pixels, name)
    if png.animated:
        _warn_of_frames(name, "several")
    for what in png.dropped:
        log.warning("%s: its %s is damaged or larger than %d bytes: dropped", name, what, LIMIT)
    if png.depth == 16:
        pixels = png_files.read_deep_png(png)
    else:
        pixels, _ = _loaded(BytesIO(png.still), "PNG")
    exif = _exif(png.exif)
    if exif is None and png.exif:
        log.warning("%s: its EXIF is damaged and was dropped", name)
    metadata = collect(exif, png.xmp, png.dpi, name)
    return _picture(pixels, orientation_of(exif, png.xmp), png.icc, "PNG", metadata, name)


def _decode_tiff(file: BinaryIO, name: str, max_pixels: int, alone: bool = False) -> Picture:
    """alone: whether other pages of the file are no matter."""
    page = tiff_files.read_tiff_page(file)
    check_pixels(*page.size, max_pixels, name)
    if not alone and (pages := len(tiff_files.page_offsets(file, MAX_FRAMES))) > 1:
        _warn_of_frames(name, pages)
    icc = page.tags.get(tiff_files.ICC_TAG)
    file.seek(0)
    if page.deep:
        data = tiff_files.page_alone(page, file) if alone else file.read()
        pixels = tiff_files.read_deep_tiff(page, data)
    else:
        # Upright.
        pixels, mode = _loaded(file, "TIFF")
        icc = None if mode == "CMYK" else icc
    metadata = collect(page.exif, page.tags.get(tiff_files.XMP_TAG), dpi_of(page.tags), name)
    return _picture(pixels, 1, icc, "TIFF", metadata, name)


def _loaded(file: BinaryIO, kind: str) -> tuple[np.ndarray, str]:
    """Pixels by Pillow, and the mode that they had; its own copy of them is gone then."""
    with Image.open(file, formats=(kind,)) as image:
        image.load()
        return _pixels(image), image.mode


def _decode_other(file: BinaryIO, kind: str, name: str, max_pixels: int) -> Picture:
    if kind == "JPEG":
        check_scans(file.read())
        file.seek(0)
    # Which is decoded when it is opened.
    if kind == "JXL":
        check_pixels(*jxl_size(file), max_pixels, name)
        file.seek(0)
    with Image.open(file, formats=(kind,)) as image:
        check_pixels(image.height, image.width, max_pixels, name)
        frames = getattr(image, "n_frames", 1)
        # A camera's, whose other frames are previews.
        if frames > 1 and image.format != "MPO":
            _warn_of_frames(name, frames)
        image.load()
        exif, orientation = _exif_of(image), _orientation(image, kind)
        if exif is None:
            log.warning("%s: its EXIF is damaged and was dropped", name)
        metadata = collect(exif, image.info.get("xmp"), image.info.get("dpi"), name)
        icc = None if image.mode == "CMYK" else image.info.get("icc_profile")
        pixels = _pixels(image)
    # Before they are turned, which takes a copy.
    del image
    return _picture(pixels, orientation, icc, kind, metadata, name)


def _warn_of_frames(name: str, count: int | str) -> None:
    log.warning("%s: has %s frames, only the first is used", name, count)


def _picture(
    pixels: np.ndarray, orientation: int, icc: object, kind: str, metadata: Metadata, name: str
) -> Picture:
    color, alpha = split_alpha(apply_orientation(pixels, orientation))
    return Picture(color, alpha, bounded(icc, "ICC profile", name), kind, metadata)


def _exif(data: bytes | None) -> Image.Exif | None:
    """EXIF of a PNG, None where it is missing or damaged beyond its first directory."""
    try:
        return None if data is None else parse_exif(data)
    except DAMAGE:
        return None


def _exif_of(image: Image.Image) -> Image.Exif | None:
    try:
        exif = image.getexif()
        if not exif and (data := image.info.get("exif")):
            # Pillow may have met the damage before, which it tells of but once.
            parse_exif(data)
        return exif
    except DAMAGE:
        return None


def _orientation(image: Image.Image, kind: str) -> int:
    """What is left to turn: the readers of HEIC and JPEG XL turn images themselves."""
    if kind == "HEIF" or (kind == "JXL" and not getattr(image, "jpeg", False)):
        return 1
    # Pillow looks into XMP itself.
    return orientation_of(_exif_of(image), None)


def _pixels(image: Image.Image) -> np.ndarray:
    """(h, w[, c]) with channels gray, gray-alpha, RGB or RGBA, of a loaded image."""
    if image.mode in ("F", "I;16"):
        return np.asarray(image)
    if image.mode == "I":
        raise ValueError("pixels of 32-bit integers; save it with 8 or 16 bits, or as 32-bit floats")
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    has_alpha = image.has_transparency_data
    gray = image.mode in ("1", "L", "LA", "La")
    pixels = _converted(image, ("LA" if gray else "RGBA") if has_alpha else "L" if gray else "RGB")
    if image.mode in ("P", "PA") and all(
        (rows[..., :3] == rows[..., :1]).all() for rows in np.array_split(pixels, len(pixels) // BAND + 1)
    ):
        # A palette of grays.
        return pixels[..., [0, 3]] if has_alpha else pixels[..., 0]
    return pixels


def _converted(image: Image.Image, mode: str) -> np.ndarray:
    """Pixels in another mode, some rows at a time: Pillow and numpy would each make a copy of the whole."""
    shape = (image.height, image.width, len(mode))[: 2 if mode == "L" else 3]
    pixels = np.empty(shape, np.uint8)
    for top in range(0, image.height, BAND):
        bottom = min(top + BAND, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)).convert(mode))
    return pixels


def _from_cmyk(image: Image.Image) -> Image.Image:
    """sRGB by the inks' profile; without one, by Pillow's plain arithmetic."""
    from PIL import ImageCms

    if icc := image.info.get("icc_profile"):
        try:
            srgb = ImageCms.createProfile("sRGB")
            inks = ImageCms.ImageCmsProfile(BytesIO(icc))
            faithful = ImageCms.Intent.RELATIVE_COLORIMETRIC
            if found := ImageCms.profileToProfile(image, inks, srgb, faithful, outputMode="RGB"):
                return found
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            log.debug("profile of inks not used: %s", error)
    return image.convert("RGB")


def is_whole_image(path: Path) -> bool:
    """Whether a file can be decoded to its end."""
    try:
        read_image(path, max_pixels=sys.maxsize)
    except ImageError:
        return False
    except MemoryError:
        # Its beginning was an image.
        return True
    return True
