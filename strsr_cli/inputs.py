"""The pictures of a run, read."""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import dataclass, field

from strsr_models.errors import ImageError

from .color import profile_problem, revealed
from .images import Picture, decode_image, read_image, read_size, without_remarks
from .plan import Job, fitting_size

log = logging.getLogger(__name__)


@dataclass
class Inputs:
    """The pictures of a batch, each of which may be read twice; standard input itself only once."""

    scale: float
    max_pixels: int
    stream: bytes | None = None
    known: set[Job] = field(default_factory=set)

    def read(self, job: Job) -> Picture:
        """The job's input, from its file or from standard input; remarked upon the first time."""
        again = job in self.known
        self.known.add(job)
        with without_remarks(again):
            if job.source is not None:
                picture = read_image(job.source, self.max_pixels)
            else:
                if self.stream is None:
                    self.stream = sys.stdin.buffer.read()
                picture = decode_image(self.stream, "standard input", self.max_pixels)
        if not again and (problem := profile_problem(picture)):
            log.warning(
                "%s: its colour profile cannot be used, its numbers are taken as sRGB's: %s",
                job.name,
                problem,
            )
        height, width = picture.color.shape[:2]
        fitting_size(job, height, width, self.scale)  # before any network sees it
        return revealed(picture)

    def pixels(self, job: Job) -> int:
        """How many the job's input has, as far as can be told without reading it."""
        try:
            return math.prod(read_size(job.source, self.max_pixels)) if job.source is not None else 0
        except ImageError:
            return 0
