"""Animations: how many frames a file has, and each of them as a viewer shows it at its moment.

What is stored of a frame of GIF and APNG is a part of the image, put upon what is there; WebP and AVIF are
put together by their own libraries.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

from strsr_models.errors import ImageError

from .codecs.gif import CLEAR, PREVIOUS, Gif, read_gif
from .codecs.png import Apng, parse_png, read_apng, read_deep_png
from .codecs.tiff import PageFile, page_offsets
from .formats import check_pixels

MAX_FRAMES = 10_000
MOST_KEPT = 2**27  # bytes of frames that were passed on the way to others
MOST_OPEN = 4  # animations that stay open: threads that read ahead are at two of them at times
LEAST_FRAME, MERCY = 50, 4096  # bytes of the smallest frame of an APNG; that may be missing from a small file


def count_frames(file: BinaryIO, kind: str, head: bytes) -> int:
    """Frames or pages of an open file of that format; 1 for all that is still. Decodes no pixels.

    Raises ImageError (without a name) for more than MAX_FRAMES.
    """
    file.seek(0)
    count = 1
    if kind == "GIF":
        count = len(read_gif(file, MAX_FRAMES + 1).frames)
    elif kind == "PNG":
        count = read_apng(file, 0).count
        if count * LEAST_FRAME > file.seek(0, 2) + MERCY:
            raise ImageError(f"its header says {count} frames, more than its bytes can hold: damaged")
    elif kind == "TIFF":
        count = len(page_offsets(file, MAX_FRAMES + 1))
    # What can be animated says so in its first bytes; others need not be read to their ends.
    elif (kind == "WEBP" and head[12:16] == b"VP8X" and head[20] & 2) or (
        kind == "AVIF" and b"avis" in head[8 : head[3]]
    ):
        with Image.open(file, formats=(kind,)) as image:
            count = getattr(image, "n_frames", 1)
    if count > MAX_FRAMES:
        raise ImageError(f"has more than {MAX_FRAMES:,} frames")
    return max(count, 1)


class Animation:
    """An open animation, at one of its frames; those that come in order are decoded once each.

    told: what others have found out about the file as a whole. May be used from any thread.
    """

    def __init__(self, data: bytes, kind: str, max_pixels: int) -> None:
        self.data, self.kind, self.max_pixels = data, kind, max_pixels
        self.told: Any = None
        self.lock = threading.RLock()
        self._rewind()
        # The frame after which nothing can be known, and why.
        self._broken: tuple[int, str] | None = None

    @property
    def cut(self) -> bool:
        """Whether it ends without saying so, after a whole frame."""
        if self.kind != "GIF":
            return False
        gif = read_gif(BytesIO(self.data), MAX_FRAMES + 1)
        return not gif.ended and gif.frames[-1].whole

    def _rewind(self) -> None:
        self._steps = _steps(self.data, self.kind, self.max_pixels)
        self._next = 1
        self._passed: OrderedDict[int, np.ndarray] = OrderedDict()

    def frame(self, number: int) -> np.ndarray:
        """(h, w, 1 to 4) pixels of the frame of that number, from 1. Raises what decoders raise."""
        with self.lock:
            if number in self._passed:
                return self._passed.pop(number)
            if self._broken is not None and number >= self._broken[0]:
                raise ValueError(_because(*self._broken) if number > self._broken[0] else self._broken[1])
            if number < self._next:
                self._rewind()
            while self._next < number:
                self._keep(self._next, self._step(number))
            return self._step(number)

    def _step(self, number: int) -> np.ndarray:
        """The next frame, on the way to that number."""
        try:
            pixels = next(self._steps)
        except StopIteration:
            raise ValueError("the file has no such frame") from None
        except MemoryError:
            self._rewind()
            raise
        except Exception as error:
            # Decoders of damaged files raise anything.
            reason = str(error) or type(error).__name__
            at = self._next
            self._broken = at, reason
            self._rewind()
            raise ValueError(_because(at, reason) if number > at else reason) from error
        self._next += 1
        return pixels

    def _keep(self, number: int, pixels: np.ndarray) -> None:
        """Threads that read ahead may ask for two frames the other way round."""
        self._passed[number] = pixels
        while len(self._passed) * pixels.nbytes > MOST_KEPT:
            self._passed.popitem(last=False)


def _because(number: int, reason: str) -> str:
    return f"it builds on frame {number}, which cannot be: {reason}"


_open: OrderedDict[tuple[object, ...], Animation] = OrderedDict()
_lock = threading.Lock()


def opened(path: Path, kind: str, max_pixels: int) -> Animation:
    """The animation in a file; the same as before if it is one of the last and has not changed. Raises OSError."""
    state = path.stat()
    key = (path, state.st_size, state.st_mtime_ns, max_pixels)
    with _lock:
        if key not in _open:
            _open[key] = Animation(path.read_bytes(), kind, max_pixels)
        _open.move_to_end(key)
        while len(_open) > MOST_OPEN:
            _open.popitem(last=False)
        return _open[key]


def page_file(file: BinaryIO, path: Path, number: int) -> BinaryIO:
    """An open TIFF as if its page of that number, from 1, were its first. path: of the file."""
    state = path.stat()
    offsets = _page_offsets(path, state.st_size, state.st_mtime_ns)
    if number > len(offsets):
        raise ValueError("the file has no such page")
    return cast(BinaryIO, PageFile(file, offsets[number - 1]))


@lru_cache(maxsize=8)
def _page_offsets(path: Path, size: int, mtime_ns: int) -> list[int]:
    """Of a file in that state; not to be looked for at each of its pages."""
    with open(path, "rb") as file:
        return page_offsets(file, MAX_FRAMES)


def _steps(data: bytes, kind: str, max_pixels: int) -> Iterator[np.ndarray]:
    if kind == "GIF":
        return _gif_steps(data, read_gif(BytesIO(data), MAX_FRAMES), max_pixels)
    if kind == "PNG":
        return _png_steps(data, read_apng(BytesIO(data), MAX_FRAMES), max_pixels)
    return _pillow_steps(data, kind, max_pixels)


def _pillow_steps(data: bytes, kind: str, max_pixels: int) -> Iterator[np.ndarray]:
    with Image.open(BytesIO(data), formats=(kind,)) as image:
        check_pixels(image.height, image.width, max_pixels, "the image")
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            pixels = np.asarray(image)
            yield pixels[..., None] if pixels.ndim == 2 else pixels


def _gif_steps(data: bytes, gif: Gif, max_pixels: int) -> Iterator[np.ndarray]:
    check_pixels(gif.height, gif.width, max_pixels, "the image")
    canvas, gray = Canvas(gif.height, gif.width, np.uint8), gif.gray
    for frame in gif.frames:
        if not frame.whole:
            raise ValueError("the file is truncated")
        if not frame.width or not frame.height:
            pixels = np.zeros((0, 0, 4), np.uint8)
        else:
            check_pixels(frame.height, frame.width, max_pixels, "a frame")
            pixels = _rgba(frame.still(data), "GIF")
        canvas.put(pixels, frame.left, frame.top, True, frame.disposal)
        yield canvas.seen(gray, has_alpha=False)


def _png_steps(data: bytes, apng: Apng, max_pixels: int) -> Iterator[np.ndarray]:
    width, height = (int.from_bytes(apng.header[at : at + 4], "big") for at in (0, 4))
    check_pixels(height, width, max_pixels, "the image")
    canvas = Canvas(height, width, np.uint16 if apng.deep else np.uint8)
    for number in range(apng.count):
        still = apng.still(data, number)
        frame = apng.frames[number]
        pixels = _deep_rgba(still) if apng.deep else _rgba(still, "PNG")
        # The standard: a first frame cannot give way to anything.
        disposal = CLEAR if number == 0 and frame.disposal == PREVIOUS else frame.disposal
        canvas.put(pixels, *frame.box[:2], frame.over, disposal)
        yield canvas.seen(apng.gray, apng.has_alpha)


def _rgba(data: bytes, kind: str) -> np.ndarray:
    with Image.open(BytesIO(data), formats=(kind,)) as image:
        image.load()
        return np.asarray(image.convert("RGBA"))


def _deep_rgba(data: bytes) -> np.ndarray:
    pixels = read_deep_png(parse_png(data, 0))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    color, alpha = (pixels[..., :-1], pixels[..., -1:]) if pixels.shape[2] in (2, 4) else (pixels, None)
    made = np.full((*pixels.shape[:2], 4), 65_535, np.uint16)
    made[..., :3] = color
    if alpha is not None:
        made[..., 3:] = alpha
    return made


class Canvas:
    """What a viewer shows: RGBA, transparent at first."""

    def __init__(self, height: int, width: int, dtype: Any) -> None:
        self.pixels = np.zeros((height, width, 4), dtype)
        self.top = np.iinfo(dtype).max
        # What is to be done before the next frame comes: a place, and its pixels.
        self._then: Any = None

    def put(self, patch: np.ndarray, left: int, top: int, over: bool, disposal: int) -> None:
        """Show one frame, after the last one has been disposed of. What lies outside is cut off."""
        if self._then is not None:
            place, before = self._then
            self.pixels[place] = before
        height, width = self.pixels.shape[:2]
        patch = patch[: max(height - top, 0), : max(width - left, 0)]
        place = (slice(top, top + patch.shape[0]), slice(left, left + patch.shape[1]))
        there = self.pixels[place]
        self._then = None
        if disposal in (CLEAR, PREVIOUS):
            self._then = place, there.copy() if disposal == PREVIOUS else 0
        self.pixels[place] = self._over(patch, there) if over else patch

    def _over(self, patch: np.ndarray, there: np.ndarray) -> np.ndarray:
        alpha = patch[..., 3:]
        made = np.where(alpha > 0, patch, there)
        partly = ((alpha > 0) & (alpha < self.top) & (there[..., 3:] > 0))[..., 0]
        if partly.any():
            upper, lower = (each[partly].astype(np.float64) / self.top for each in (patch, there))
            share, rest = upper[:, 3:], lower[:, 3:] * (1 - upper[:, 3:])
            color = (upper[:, :3] * share + lower[:, :3] * rest) / (share + rest)
            made[partly] = np.rint(np.concatenate([color, share + rest], axis=1) * self.top)
        return made

    def seen(self, gray: bool, has_alpha: bool) -> np.ndarray:
        """A copy of what is shown, (h, w, 1 to 4). has_alpha: whether alpha stays even where all is opaque."""
        alpha = has_alpha or not (self.pixels[..., 3] == self.top).all()
        channels = ([0] if gray else [0, 1, 2]) + ([3] if alpha else [])
        return self.pixels[..., channels]
