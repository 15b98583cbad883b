"""Animations: how many frames a file has, and each of them as a viewer shows it at its moment.

GIF and APNG store a part of the image for each frame, to be put upon what is there; the frames of WebP and
AVIF are put together by their own libraries.
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

from .codecs.avif import is_monochrome
from .codecs.gif import CLEAR, PREVIOUS, Gif, read_gif
from .codecs.png import Apng, parse_png, read_apng, read_deep_png
from .codecs.tiff.pages import PageFile, page_offsets
from .formats import check_pixels
from .picture import split_alpha

MAX_FRAMES = 10_000
MOST_KEPT = 2**27  # bytes of frames that were decoded on the way to others
MOST_OPEN = 4  # animations that stay open: threads that read ahead are at two of them at times
LEAST_FRAME = 50  # bytes of the smallest frame of an APNG
MERCY = 4096  # bytes that may be missing from a small file


def count_frames(file: BinaryIO, kind: str, head: bytes) -> int:
    """Count the frames or pages of an open file of the format `kind`; 1 for a still. Decodes no pixels.

    head: the file's first HEAD bytes. Raises ImageError (without a name) for more than MAX_FRAMES.
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
    elif _says_animated(kind, head):
        with Image.open(file, formats=(kind,)) as image:
            count = getattr(image, "n_frames", 1)
    if count > MAX_FRAMES:
        raise ImageError(f"has more than {MAX_FRAMES:,} frames")
    return max(count, 1)


def _says_animated(kind: str, head: bytes) -> bool:
    """Whether a WebP or AVIF file says so in its first bytes; others need not be read to their ends."""
    if kind == "WEBP":
        return head[12:16] == b"VP8X" and bool(head[20] & 2)
    return kind == "AVIF" and b"avis" in head[8 : head[3]]


class Animation:
    """An open animation, at one of its frames; frames asked for in order are decoded once each.

    facts: what its reader knows of the file as a whole, None until it is set. Any thread may use it.
    """

    def __init__(self, data: bytes, kind: str, max_pixels: int) -> None:
        self.data = data
        self.kind = kind
        self.max_pixels = max_pixels
        self.facts: Any = None
        self.lock = threading.RLock()
        self._rewind()
        # The first frame that cannot be decoded, and the reason.
        self._broken: tuple[int, str] | None = None

    @property
    def lacks_end_mark(self) -> bool:
        """Whether the file ends without saying so, after a whole frame."""
        if self.kind != "GIF":
            return False
        gif = read_gif(BytesIO(self.data), MAX_FRAMES + 1)
        return not gif.ended and gif.frames[-1].whole

    def _rewind(self) -> None:
        """Begin again with the first frame."""
        self._frames = _decode_frames(self.data, self.kind, self.max_pixels)
        self._next = 1
        self._passed: OrderedDict[int, np.ndarray] = OrderedDict()

    def frame(self, number: int) -> np.ndarray:
        """Return pixels (h, w, 1 to 4) of the frame of that number, from 1. Raises what decoders raise."""
        with self.lock:
            if number in self._passed:
                return self._passed.pop(number)
            if self._broken is not None and number >= self._broken[0]:
                raise ValueError(_reason_for(number, *self._broken))
            if number < self._next:
                self._rewind()
            while self._next < number:
                self._keep(self._next, self._decode_next(number))
            return self._decode_next(number)

    def _decode_next(self, number: int) -> np.ndarray:
        """Decode the next frame, on the way to that number."""
        try:
            pixels = next(self._frames)
        except StopIteration:
            raise ValueError("the file has no such frame") from None
        except MemoryError:
            self._rewind()
            raise
        except Exception as error:
            # Decoders of damaged files raise anything.
            reason = str(error) or type(error).__name__
            broken = self._next
            self._broken = broken, reason
            self._rewind()
            raise ValueError(_reason_for(number, broken, reason)) from error
        self._next += 1
        return pixels

    def _keep(self, number: int, pixels: np.ndarray) -> None:
        """Keep a decoded frame: threads that read ahead may ask for two frames the other way round."""
        self._passed[number] = pixels
        while len(self._passed) * pixels.nbytes > MOST_KEPT:
            self._passed.popitem(last=False)


def _reason_for(number: int, broken: int, reason: str) -> str:
    """Say why a frame cannot be decoded. broken: the frame, it or an earlier one, that fails for that reason."""
    if number == broken:
        return reason
    return f"it builds on frame {broken}, which cannot be: {reason}"


_open: OrderedDict[tuple[object, ...], Animation] = OrderedDict()
_lock = threading.Lock()


def open_animation(path: Path, kind: str, max_pixels: int) -> Animation:
    """Open the animation in a file; one of the last comes back if unchanged. Raises OSError."""
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
    """Show an open TIFF as if its page of that number, from 1, were its first. path: where the file lies."""
    state = path.stat()
    offsets = _page_offsets(path, state.st_size, state.st_mtime_ns)
    if number > len(offsets):
        raise ValueError("the file has no such page")
    return cast(BinaryIO, PageFile(file, offsets[number - 1]))


@lru_cache(maxsize=8)
def _page_offsets(path: Path, size: int, mtime_ns: int) -> list[int]:
    """Return the places of all pages of a file in that state, which is searched once for all of them."""
    with open(path, "rb") as file:
        return page_offsets(file, MAX_FRAMES)


def _decode_frames(data: bytes, kind: str, max_pixels: int) -> Iterator[np.ndarray]:
    """Decode all frames in their order, as pixels (h, w, 1 to 4)."""
    if kind == "GIF":
        return _gif_frames(data, read_gif(BytesIO(data), MAX_FRAMES), max_pixels)
    if kind == "PNG":
        return _png_frames(data, read_apng(BytesIO(data), MAX_FRAMES), max_pixels)
    return _pillow_frames(data, kind, max_pixels)


def _pillow_frames(data: bytes, kind: str, max_pixels: int) -> Iterator[np.ndarray]:
    """Decode the frames of WebP and AVIF, which Pillow puts together."""
    gray = kind == "AVIF" and is_monochrome(BytesIO(data))
    with Image.open(BytesIO(data), formats=(kind,)) as image:
        check_pixels(image.height, image.width, max_pixels, "the image")
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            pixels = np.asarray(image)
            if gray and pixels.ndim == 3:
                # The last channel is alpha, of four.
                pixels = pixels[..., ::3] if pixels.shape[2] == 4 else pixels[..., :1]
            yield pixels[..., None] if pixels.ndim == 2 else pixels


def _gif_frames(data: bytes, gif: Gif, max_pixels: int) -> Iterator[np.ndarray]:
    """Decode the frames of a GIF, each put upon the canvas."""
    check_pixels(gif.height, gif.width, max_pixels, "the image")
    canvas = Canvas(gif.height, gif.width, np.uint8)
    gray = gif.gray
    for frame in gif.frames:
        if not frame.whole:
            raise ValueError("the file is truncated")
        if not frame.width or not frame.height:
            pixels = np.zeros((0, 0, 4), np.uint8)
        else:
            check_pixels(frame.height, frame.width, max_pixels, "a frame")
            pixels = _rgba(frame.still(data), "GIF")
        canvas.put(pixels, frame.left, frame.top, over=True, disposal=frame.disposal)
        yield canvas.snapshot(gray, has_alpha=False)


def _png_frames(data: bytes, apng: Apng, max_pixels: int) -> Iterator[np.ndarray]:
    """Decode the frames of an APNG, each put upon the canvas."""
    width, height = (int.from_bytes(apng.header[at : at + 4], "big") for at in (0, 4))
    check_pixels(height, width, max_pixels, "the image")
    canvas = Canvas(height, width, np.uint16 if apng.deep else np.uint8)
    for number in range(apng.count):
        still = apng.still(data, number)
        frame = apng.frames[number]
        pixels = _deep_rgba(still) if apng.deep else _rgba(still, "PNG")
        # By the standard, a first frame has nothing before it to give way to.
        disposal = CLEAR if number == 0 and frame.disposal == PREVIOUS else frame.disposal
        left, top, _, _ = frame.box
        canvas.put(pixels, left, top, over=frame.over, disposal=disposal)
        yield canvas.snapshot(apng.gray, apng.has_alpha)


def _rgba(data: bytes, kind: str) -> np.ndarray:
    """Decode a still file of 8 bits to pixels (h, w, 4)."""
    with Image.open(BytesIO(data), formats=(kind,)) as image:
        image.load()
        return np.asarray(image.convert("RGBA"))


def _deep_rgba(data: bytes) -> np.ndarray:
    """Decode a still PNG of 16 bits to pixels (h, w, 4)."""
    color, alpha = split_alpha(read_deep_png(parse_png(data, 0)))
    pixels = np.full((*color.shape[:2], 4), 65_535, np.uint16)
    pixels[..., :3] = color
    if alpha is not None:
        pixels[..., 3:] = alpha
    return pixels


class Canvas:
    """The pixels that a viewer shows: RGBA (h, w, 4), transparent at first."""

    def __init__(self, height: int, width: int, dtype: Any) -> None:
        self.pixels = np.zeros((height, width, 4), dtype)
        self.top = np.iinfo(dtype).max
        # What the last frame's disposal asks for before the next one comes: a place, and its pixels.
        self._disposal: Any = None

    def put(self, patch: np.ndarray, left: int, top: int, over: bool, disposal: int) -> None:
        """Show one frame, after the last one has been disposed of. What lies outside is cut off.

        patch: (h, w, 4). over: whether it is blended with what is there, and not put in its place.
        """
        if self._disposal is not None:
            place, before = self._disposal
            self.pixels[place] = before
        height, width = self.pixels.shape[:2]
        patch = patch[: max(height - top, 0), : max(width - left, 0)]
        place = (slice(top, top + patch.shape[0]), slice(left, left + patch.shape[1]))
        there = self.pixels[place]
        self._disposal = None
        if disposal == CLEAR:
            self._disposal = place, 0
        elif disposal == PREVIOUS:
            self._disposal = place, there.copy()
        self.pixels[place] = self._blend(patch, there) if over else patch

    def _blend(self, patch: np.ndarray, there: np.ndarray) -> np.ndarray:
        """Lay a patch over the pixels that are there, both (h, w, 4)."""
        alpha = patch[..., 3:]
        blended = np.where(alpha > 0, patch, there)
        partly = ((alpha > 0) & (alpha < self.top) & (there[..., 3:] > 0))[..., 0]
        if partly.any():
            upper = patch[partly].astype(np.float64) / self.top
            lower = there[partly].astype(np.float64) / self.top
            share = upper[:, 3:]
            rest = lower[:, 3:] * (1 - upper[:, 3:])
            color = (upper[:, :3] * share + lower[:, :3] * rest) / (share + rest)
            blended[partly] = np.rint(np.concatenate([color, share + rest], axis=1) * self.top)
        return blended

    def snapshot(self, gray: bool, has_alpha: bool) -> np.ndarray:
        """Copy what is shown, as (h, w, 1 to 4). has_alpha: whether alpha stays even where all is opaque."""
        alpha = has_alpha or not (self.pixels[..., 3] == self.top).all()
        channels = ([0] if gray else [0, 1, 2]) + ([3] if alpha else [])
        return self.pixels[..., channels]
