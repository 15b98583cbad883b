"""A folder of good photos: listed by headers, decoded as far as there is memory."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from strsr_models.errors import ImageError, StrsrError, UsageError

from ...images.color.restorer import space_of, srgb8
from ...images.formats import HEAD, PILLOW_FORMATS, sniff
from ...images.read import read_image, without_remarks
from .listing import list_photos

log = logging.getLogger(__name__)

CACHE_GB = 4.0  # of decoded photos, shared by the workers
STORED = "stored"  # of photo_colors: what counts for pairs that do not say
NAMED = 10  # skipped files that are named before the rest are only counted


@dataclass(frozen=True)
class PhotoFile:
    """The facts of a photo that are known without decoding it."""

    path: Path
    name: str  # below its folder, with `/`
    pixels: int
    bytes: int  # of the file


class Photos:
    """Photos on a disk, listed by their headers, some of them decoded already.

    files: all that can be trained on, folder by folder, sorted. The decoded ones are made here and
    never change, so that processes forked later share their memory.
    """

    def __init__(
        self, files: list[PhotoFile], smallest: int, cache_gb: float, colors: str = "srgb", old_hash: str = ""
    ) -> None:
        """colors: "srgb" or "stored", see the setting photo_colors. old_hash: see `load_photos`."""
        self.files, self.smallest, self.colors, self.old_hash = files, smallest, colors, old_hash
        # Photos whose remarks have been said, in whichever process.
        self._told = shared_flags(len(files))
        self.decoded: dict[int, np.ndarray] = {}
        chosen, room = [], cache_gb * 1e9
        for index, file in enumerate(files):
            if 3 * file.pixels <= room:
                chosen.append(index)
                room -= 3 * file.pixels
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for index, pixels in zip(chosen, pool.map(self._try, chosen), strict=True):
                if pixels is not None:
                    self.decoded[index] = pixels

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the pixels out: a process that is not forked reads for itself rather than copy gigabytes."""
        return {**self.__dict__, "decoded": {}}

    def read(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """A photo as uint8 (h, w, 3), and messages about those that it stands in for.

        A file that cannot be read any more is replaced by the next that can, the same one whoever
        asks. Raises StrsrError when there is none.
        """
        lost: list[str] = []
        for offset in range(len(self)):
            candidate = (index + offset) % len(self)
            if candidate in self.decoded:
                return self.decoded[candidate], tuple(lost)
            try:
                return self._decode(candidate), tuple(lost)
            except ImageError as error:
                lost.append(str(error))
        raise StrsrError(f"none of the {len(self)} photos can be read any more: {lost[0]}")

    def _decode(self, index: int) -> np.ndarray:
        """The pixels (h, w, 3) uint8 of a photo. Raises ImageError."""
        path = self.files[index].path
        with without_remarks(bool(self._told[index])):
            picture = read_image(path)
        self._told[index] = 1
        # torch wants an array that may be written to: a copy.
        pixels = np.array(srgb8(picture) if self.colors == "srgb" else picture.rgb8())
        if min(pixels.shape[:2]) < self.smallest:
            raise ImageError(f"{path}: has become smaller than {self.smallest} px")
        return pixels

    def _try(self, index: int) -> np.ndarray | None:
        """The pixels of a photo, or None where it cannot be read."""
        try:
            return self._decode(index)
        except ImageError:
            # `read` says so when the photo's turn comes.
            return None


def shared_flags(count: int) -> torch.Tensor:
    """So many zeros (n,) uint8 that worker processes share, where the system can do that."""
    flags = torch.zeros(count, dtype=torch.uint8)
    with contextlib.suppress(OSError, RuntimeError):
        flags.share_memory_()  # type: ignore[no-untyped-call]
    return flags


def load_photos(
    folders: list[Path], smallest: int, cache_gb: float = CACHE_GB, tell: bool = True, colors: str = "srgb"
) -> Photos:
    """List all photos below the folders of at least `smallest` px on the short side.

    Those whose header cannot be read, those too small, what strsr has made and second names of a photo are skipped, and
    logged if `tell`. cache_gb: 10^9 bytes, as far as which photos are decoded here, in order, and kept. colors: see
    the setting photo_colors. Raises UsageError when nothing is left.

    The photos' `old_hash` is the data's as earlier versions took it, which left out neither outputs nor second names.
    """
    listing = list_photos(folders)
    skipped: list[str] = []
    files = _read_headers(listing.photos, smallest, skipped)
    if tell:
        _log_skipped([*listing.remarks, *skipped])
    if not files:
        where = ", ".join(map(str, folders))
        raise UsageError(f"--data {where}: no photo of at least {smallest} px on its short side")
    old_hash = ""
    if listing.left_out:
        old_hash = hash_of([*files, *_read_headers(listing.left_out, smallest, [])])
    return Photos(files, smallest, cache_gb, colors, old_hash)


def _read_headers(named: list[tuple[Path, str]], smallest: int, skipped: list[str]) -> list[PhotoFile]:
    """The facts of those files that can be photos; why the others cannot is added to `skipped`."""
    files: list[PhotoFile] = []
    for path, name in named:
        try:
            width, height = stored_size(path)
            size = path.stat().st_size
        except (ImageError, OSError) as error:
            skipped.append(str(error))
            continue
        if min(height, width) < smallest:
            skipped.append(f"{path}: {width}x{height} px is smaller than {smallest}")
            continue
        files.append(PhotoFile(path, name, width * height, size))
    return files


def _log_skipped(reasons: list[str]) -> None:
    """Log why files were skipped: the first few by name, the rest as a count."""
    for reason in reasons[:NAMED]:
        log.warning("skipped: %s", reason)
    if len(reasons) > NAMED:
        log.warning("skipped: %d more, %d in all", len(reasons) - NAMED, len(reasons))


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) in px from a file's header, not turned upright; ImageError says why there is none.

    images.read_size asks for the EXIF orientation too, for which Pillow decodes all of a PNG: that
    takes an hour for a large data set.
    """
    try:
        with Image.open(path, formats=PILLOW_FORMATS) as image:
            return image.size
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_unknown_kind(path)}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error


def _unknown_kind(path: Path) -> str:
    """Why Pillow alone does not know an image, in words."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    kind = sniff(head)
    if kind is None:
        return "not a PNG, JPEG, WebP, TIFF or BMP image, or empty"
    if kind not in PILLOW_FORMATS:
        return f"{kind}, which training does not read; save it as PNG or JPEG"
    with contextlib.suppress(ImageError), without_remarks(True):
        picture = read_image(path)
        numbers = {np.dtype(np.float32): "floats", np.dtype(np.uint16): "16 bits"}
        pixels = numbers.get(picture.color.dtype, "this kind of pixels")
        return f"a {kind} of {pixels}, which training does not read; save it as PNG, or as {kind} of 8 bits"
    return f"a damaged {kind}"


def have_own_colors(photos: Photos) -> bool:
    """Whether any photo has a profile by which its colours are others than its numbers are in sRGB."""
    known: dict[tuple[object, ...], bool] = {}
    return any(_has_own_colors(file.path, known) for file in photos.files)


def colors_of(photos: Photos) -> dict[str, str]:
    """The fact in pairs.json that photos' profiles counted, where that makes a difference; else nothing."""
    counted = photos.colors != STORED and have_own_colors(photos)
    return {"colors": photos.colors} if counted else {}


def _has_own_colors(path: Path, known: dict[tuple[object, ...], bool]) -> bool:
    """Whether a photo's colours are others than its numbers are in sRGB. known: answers by what headers say."""
    try:
        with Image.open(path, formats=PILLOW_FORMATS) as image, open(path, "rb") as file:
            stated = tuple(image.info.get(name) for name in ("icc_profile", "gamma", "chromaticity", "srgb"))
            # Pillow passes over PNG's newest chunk of colours, and over AVIF's numbers.
            numbers = b"cICP" in file.read(4096) if image.format == "PNG" else image.format == "AVIF"
            header = (image.format, image.mode, *stated, path if numbers else None)
        if not numbers and not any(stated):
            return False
        if header not in known:
            with without_remarks(True):
                known[header] = space_of(read_image(path)) is not None
        return known[header]
    except (ImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def data_hash(photos: Photos) -> str:
    """SHA-256 over the sorted names and sizes in bytes of the photos, in hex: it says which data, wherever that lies."""
    return hash_of(photos.files)


def hash_of(files: list[PhotoFile]) -> str:
    """The hash of `data_hash`, of a list of photos."""
    lines = sorted(f"{file.name}\t{file.bytes}\n" for file in files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
