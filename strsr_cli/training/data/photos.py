"""A folder of good photos: listed by headers, decoded as far as there is memory."""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from strsr_models.errors import ImageError, StrsrError, UsageError

from ...images.find import find_images
from ...images.formats import PILLOW_FORMATS
from ...images.read import read_image

log = logging.getLogger(__name__)

CACHE_GB = 4.0  # of decoded photos, shared by the workers
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

    def __init__(self, files: list[PhotoFile], smallest: int, cache_gb: float) -> None:
        self.files, self.smallest = files, smallest
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
        # torch wants an array that may be written to: a copy.
        pixels = np.array(read_image(path).rgb8())
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


def load_photos(folders: list[Path], smallest: int, cache_gb: float = CACHE_GB, tell: bool = True) -> Photos:
    """List all photos below the folders of at least `smallest` px on the short side.

    Those whose header cannot be read and those too small are skipped, and logged if `tell`. cache_gb:
    10^9 bytes, as far as which photos are decoded here, in order, and kept. Raises UsageError when
    nothing is left.
    """
    files: list[PhotoFile] = []
    skipped: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "no such folder"
            raise UsageError(f"--data {folder}: {problem}")
        for path in find_images(folder):
            try:
                width, height = stored_size(path)
                size = path.stat().st_size
            except (ImageError, OSError) as error:
                skipped.append(str(error))
                continue
            if min(height, width) < smallest:
                skipped.append(f"{path}: {width}x{height} px is smaller than {smallest}")
                continue
            files.append(PhotoFile(path, path.relative_to(folder).as_posix(), width * height, size))
    if tell:
        _log_skipped(skipped)
    if not files:
        where = ", ".join(map(str, folders))
        raise UsageError(f"--data {where}: no photo of at least {smallest} px on its short side")
    return Photos(files, smallest, cache_gb)


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
        raise ImageError(f"{path}: not a PNG, JPEG, WebP, TIFF or BMP image, or empty") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error


def data_hash(photos: Photos) -> str:
    """SHA-256 over the sorted names and sizes in bytes of the photos, in hex: it says which data, wherever that lies."""
    lines = sorted(f"{file.name}\t{file.bytes}\n" for file in photos.files)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
