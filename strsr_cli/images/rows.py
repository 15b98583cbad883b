"""A picture as its writers see it: what it will be, and rows of pixels that come a strip at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from .metadata.carried import Metadata

# Bytes of pixels that PNG and TIFF encode at a time: numpy works on them within the CPU's cache.
STRIP = 2**18


@dataclass(frozen=True)
class RowLayout:
    """A picture without its pixels: height and width in px, channels with alpha last, and their type.

    channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha. dtype: uint8, uint16, or float32 near [0, 1].
    white: what 1 is to be in files of floats, of colours and of alpha. icc, color_chunks: as a Picture has them.
    """

    height: int
    width: int
    channels: int
    dtype: np.dtype
    icc: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)
    white: tuple[float, float] = (1.0, 1.0)
    color_chunks: tuple[tuple[bytes, bytes], ...] = ()

    def __post_init__(self) -> None:
        # Callers may say np.uint8, which is no dtype yet.
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    @property
    def row_bytes(self) -> int:
        """The number of bytes of one row."""
        return self.width * self.channels * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """The number of bytes of all rows."""
        return self.height * self.row_bytes

    @property
    def strip_rows(self) -> int:
        """The number of rows that make about STRIP bytes; at least one."""
        return max(1, min(self.height, STRIP // self.row_bytes))


def restrip(bands: Iterable[np.ndarray], layout: RowLayout, rows: int) -> Iterator[np.ndarray]:
    """Gather bands (n, width, channels) of any heights into strips of `rows` rows; the last may be shorter.

    A strip is valid until the next one is asked for. Raises ValueError unless the bands have as many rows
    in all as the layout.
    """
    strip = np.empty((rows, layout.width, layout.channels), layout.dtype)
    filled = 0
    total = 0
    for band in bands:
        total += len(band)
        if total > layout.height:
            raise ValueError(f"bands of {total} rows or more for a picture of {layout.height}")
        at = 0
        while at < len(band):
            # A whole strip lies in the band: nothing has to be gathered.
            if filled == 0 and len(band) - at >= rows:
                yield np.ascontiguousarray(band[at : at + rows])
                at += rows
                continue
            taken = min(rows - filled, len(band) - at)
            strip[filled : filled + taken] = band[at : at + taken]
            filled += taken
            at += taken
            if filled == rows:
                yield strip
                filled = 0
    if filled:
        yield strip[:filled]
    if total != layout.height:
        raise ValueError(f"bands of {total} rows in all for a picture of {layout.height}")
