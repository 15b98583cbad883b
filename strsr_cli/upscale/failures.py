"""What becomes of the errors of a batch: an image's own end that image, a model's end the run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch

from strsr_models.errors import DeviceError, ImageError, StrsrError

from ..batch.job import Job
from ..batch.report import Reporter

log = logging.getLogger(__name__)


class Abandoned(Exception):
    """The batch has ended before this picture could be finished."""


@contextlib.contextmanager
def reporting_failures(
    job: Job, reporter: Reporter, device: torch.device, cure: str = "use a smaller --tile or --scale"
) -> Iterator[None]:
    """Work on one image; if it fails, it is reported with its reason, and what follows goes on.

    cure: of too little memory.
    """
    try:
        yield
    except ImageError as error:
        reporter.failed(job.name, str(error))
    except (torch.OutOfMemoryError, MemoryError):
        reporter.failed(job.name, f"{job.name}: out of memory on {device}; {cure}")
    except RuntimeError as error:
        # Torch's word for anything from a full CPU to a lost device.
        reporter.failed(job.name, f"{job.name}: {_first_line(error)}")
    except (StrsrError, OSError, Abandoned):
        # Of the model, the device, or whoever reads our output.
        raise
    except Exception as error:
        log.debug("%s: not foreseen", job.name, exc_info=error)
        what = f"{type(error).__name__}: {_first_line(error)}"
        reporter.failed(job.name, f"{job.name}: {what}; this is a bug of strsr, please report it")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def loading(what: str, device: torch.device) -> Iterator[None]:
    """Load a network; without it no image can be made, so that too little memory is a DeviceError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceError(
            f"{what} does not fit the memory of {device}; try --offload sequential, --quantize or --device cpu"
        ) from error
