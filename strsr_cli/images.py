"""Files <-> pixels: find, read and write images with their alpha, ICC profile and bit depth."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from strsr_models.errors import ImageError

log = logging.getLogger(__name__)
# Pillow's word on images half as large as those that it refuses: nothing that a user could act on.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMAT_BY_SUFFIX = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".webp": "webp",
    ".tif": "tif",
    ".tiff": "tif",
    ".bmp": "bmp",
}
READ_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")


@dataclass(frozen=True)
class Picture:
    """Decoded pixels, upright.

    color: (h, w, 3), or (h, w, 1) for gray pictures; uint8 or uint16. alpha: (h, w, 1) of the same
    type, or None. icc: the colour profile's bytes, or None. format: Pillow's name, such as "PNG".
    """

    color: np.ndarray
    alpha: np.ndarray | None
    icc: bytes | None
    format: str

    def rgb8(self) -> np.ndarray:
        """(h, w, 3) uint8, without alpha."""
        color = to_8bit(self.color)
        return np.broadcast_to(color, (*color.shape[:2], 3))


def find_images(folder: Path) -> list[Path]:
    """All files below a folder that are named like images, hidden ones left out, sorted."""
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in FORMAT_BY_SUFFIX:
                yield Path(root, name)


def read_image(path: Path) -> Picture:
    """Read and decode a whole file; ImageError says why it cannot be."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Picture:
    """Decode a whole image file held in memory; `name` stands in messages."""
    if not data:
        raise ImageError(f"{name}: the file is empty")
    try:
        with Image.open(BytesIO(data), formats=READ_FORMATS) as image:
            orientation = _orientation(image)  # Pillow forgets a TIFF's when it loads one
            image.load()
            return _to_picture(image, data, orientation, name)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a PNG, JPEG, WebP, TIFF or BMP image") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: cannot be decoded: {error}") from error


@contextlib.contextmanager
def without_remarks(silent: bool) -> Iterator[None]:
    """Whether what reading an image would warn of has been said before."""
    before, log.disabled = log.disabled, silent or log.disabled
    try:
        yield
    finally:
        log.disabled = before


def _to_picture(image: Image.Image, data: bytes, orientation: int, name: str) -> Picture:
    icc, kind = image.info.get("icc_profile"), image.format or "PNG"
    deep = _read_deep(image, data)
    if deep is not None:
        return Picture(*split_alpha(_orient(deep, orientation)), icc, kind)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        raise ValueError(
            f"pixels of type {image.mode!r} are not supported; save it with 8 or 16 bits per channel"
        )
    frames: int = getattr(image, "n_frames", 1)
    if frames > 1:
        log.warning("%s: has %d frames, only the first is used", name, frames)
    upright = ImageOps.exif_transpose(image)
    has_alpha = upright.has_transparency_data
    gray = upright.mode in ("1", "L", "LA", "La")
    if upright.mode == "CMYK":
        icc = None  # the profile describes inks that are gone after the conversion
    mode = ("LA" if gray else "RGBA") if has_alpha else ("L" if gray else "RGB")
    return Picture(*split_alpha(np.asarray(upright.convert(mode))), icc, kind)


def _read_deep(image: Image.Image, data: bytes) -> np.ndarray | None:
    """uint16 pixels of 16-bit PNG and TIFF files, which Pillow would cut to 8 bits; else None."""
    if image.format == "PNG" and data[24] == 16:
        import cv2

        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ValueError("damaged 16-bit PNG")
        if pixels.ndim == 3:
            # Gray with alpha (colour type 4) comes as three equal channels and alpha.
            order = [0, 3] if data[25] == 4 else [2, 1, 0, 3][: pixels.shape[2]]
            pixels = pixels[..., order]
        return pixels
    if image.format == "TIFF" and 16 in image.tag_v2.get(258, ()):  # type: ignore[attr-defined]
        import tifffile

        pixels = tifffile.imread(BytesIO(data), key=0)
        if pixels.dtype == np.uint16 and pixels.ndim in (2, 3) and pixels.shape[2:] in ((), (3,), (4,)):
            return pixels
    return None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, tag 274, 1 to 8."""
    return int(image.getexif().get(274, 1))


def _orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def split_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(h, w[, c]) with 1 to 4 channels -> colour (h, w, 1 or 3) and alpha (h, w, 1) or None."""
    if pixels.ndim == 2:
        return pixels[..., None], None
    if pixels.shape[2] in (2, 4):
        return pixels[..., :-1], pixels[..., -1:]
    return pixels, None


# --- writing ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputFormat:
    """What a file format can hold. limit: px of the longer side, or None."""

    pillow: str
    suffix: str
    alpha: bool
    deep: bool
    limit: int | None


OUTPUT_FORMATS = {
    "png": OutputFormat("PNG", ".png", alpha=True, deep=True, limit=None),
    "jpg": OutputFormat("JPEG", ".jpg", alpha=False, deep=False, limit=65_535),
    "webp": OutputFormat("WEBP", ".webp", alpha=True, deep=False, limit=16_383),
    "tif": OutputFormat("TIFF", ".tif", alpha=True, deep=True, limit=None),
    "bmp": OutputFormat("BMP", ".bmp", alpha=False, deep=False, limit=None),
}


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) of an upright image, from its header; ImageError says why there is none."""
    try:
        with Image.open(path, formats=READ_FORMATS) as image:
            width, height = image.size
            # Pillow states the size of a TIFF upright already.
            turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        reason = "the file is empty" if empty else "not a PNG, JPEG, WebP, TIFF or BMP image"
        raise ImageError(f"{path}: {reason}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error
    return (width, height) if turned else (height, width)


def encode_image(picture: Picture, kind: str, quality: int) -> bytes:
    """The bytes of an image file of format `kind`, a key of OUTPUT_FORMATS.

    quality: 1 to 100, for JPEG (always 4:4:4) and WebP. What a format cannot hold is brought to
    what it can: 16 bits to 8, transparency onto white. Raises ImageError when the image is too large for it.
    """
    form = OUTPUT_FORMATS[kind]
    height, width = picture.color.shape[:2]
    if form.limit is not None and max(height, width) > form.limit:
        raise ImageError(
            f"{width}x{height} px is more than {form.pillow} can hold ({form.limit}); use --format png"
        )
    if picture.alpha is not None and not form.alpha:
        picture = replace(picture, color=_onto_white(picture.color, picture.alpha), alpha=None)
    if picture.color.dtype == np.uint16 and form.deep:
        if picture.alpha is not None and picture.color.shape[2] == 1:
            # No library here writes 16-bit gray with alpha; as colour it loses nothing.
            picture = replace(picture, color=picture.color.repeat(3, axis=2))
        pixels = _join_alpha(picture.color, picture.alpha)
        return _encode_png16(pixels, picture.icc) if kind == "png" else _encode_tiff16(pixels, picture.icc)
    pixels = _join_alpha(to_8bit(picture.color), None if picture.alpha is None else to_8bit(picture.alpha))
    options: dict[str, dict[str, object]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality, "exact": True},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    buffer = BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels))
    image.save(buffer, form.pillow, icc_profile=picture.icc, **options.get(form.pillow, {}))
    return buffer.getvalue()


def to_8bit(pixels: np.ndarray) -> np.ndarray:
    """uint16 to uint8, rounded; uint8 as it is."""
    if pixels.dtype == np.uint8:
        return pixels
    return ((pixels.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)


def _join_alpha(color: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    return color if alpha is None else np.concatenate([color, alpha], axis=2)


def _onto_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    top = np.iinfo(color.dtype).max
    opaque = alpha.astype(np.float32) / top
    return np.rint(color * opaque + top * (1 - opaque)).astype(color.dtype)


def _encode_png16(pixels: np.ndarray, icc: bytes | None) -> bytes:
    """(h, w, 1, 3 or 4) uint16 as PNG; Pillow writes no 16-bit colour."""
    import cv2

    if pixels.shape[2] >= 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    pixels = np.ascontiguousarray(pixels)
    if icc is None:
        done, data = cv2.imencode(".png", pixels)
    else:
        profile = np.frombuffer(icc, np.uint8)
        done, data = cv2.imencodeWithMetadata(".png", pixels, [cv2.IMAGE_METADATA_ICCP], [profile])
    if not done:
        raise ImageError("cannot be encoded as a 16-bit PNG")
    return bytes(data)


def _encode_tiff16(pixels: np.ndarray, icc: bytes | None) -> bytes:
    """(h, w, 1, 3 or 4) uint16 as TIFF; Pillow writes no 16-bit colour."""
    import tifffile

    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        pixels.squeeze(2) if pixels.shape[2] == 1 else pixels,
        photometric="minisblack" if pixels.shape[2] == 1 else "rgb",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
    )
    return buffer.getvalue()
