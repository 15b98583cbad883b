"""A list of images cut into chunks, each handed out once; knows neither images nor clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence

IMAGES = 64  # most images of a chunk
SECONDS = 30.0  # of work in a chunk, about
FIRST = 8  # images of the first chunk of a worker whose pace is not known


class Chunks:
    """The queue of a list that several workers share: each takes the next chunk when it has done its last one.

    Chunks end at 64 images or 30 s of work, by the pace of the worker that takes them. Towards the end of the list
    they become small, so that no worker has much left when the others have nothing to do.
    """

    def __init__(self, megapixels: Sequence[float], workers: int, whole: bool = False) -> None:
        """Cut nothing yet. megapixels: of each output, in order; 0 where that is not known.

        whole: chunks go by images alone, and only once round at the end, as is right where each chunk has to load
        networks.
        """
        self.megapixels, self.workers, self.whole = megapixels, max(1, workers), whole
        # How many images have been handed out.
        self.taken = 0

    @property
    def left(self) -> int:
        """The number of images that nobody has taken."""
        return len(self.megapixels) - self.taken

    def take(self, pace: float | None = None) -> range:
        """Return the places in the list of the next chunk; an empty range at the end.

        pace: the seconds that the worker takes for an output megapixel, if known.
        """
        most = self._most_images(pace)
        start, end, seconds = self.taken, self.taken, 0.0
        while end < min(start + most, len(self.megapixels)):
            if pace is not None and not self.whole:
                seconds += pace * self.megapixels[end]
                if end > start and seconds > SECONDS:
                    break
            end += 1
        self.taken = end
        return range(start, end)

    def _most_images(self, pace: float | None) -> int:
        """Return how many images the next chunk may have."""
        share = math.ceil(self.left / self.workers / (1 if self.whole else 2))
        return min(FIRST if pace is None and not self.whole else IMAGES, max(1, share))
