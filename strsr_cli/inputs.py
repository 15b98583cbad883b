"""The pictures of a run, read."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from strsr_models.errors import ImageError

from .color import profile_problem, revealed
from .images import Picture, decode_image, read_frame, read_image, read_size, without_remarks
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
            if job.source is not None and job.frame is not None:
                picture = read_frame(job.source, job.frame, self.max_pixels)
            elif job.source is not None:
                picture = read_image(job.source, self.max_pixels)
            else:
                if self.stream is None:
                    self.stream = job.read_stream()
                name = "standard input" if job.pipe is None else job.name
                picture = decode_image(self.stream, name, self.max_pixels)
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
            if job.source is None:
                return 0
            return math.prod(read_size(job.source, self.max_pixels, job.frame))
        except (ImageError, MemoryError):  # it will fail for that
            return 0
