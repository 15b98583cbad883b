"""The errors of a batch: an error of an image ends that image, an error of the model ends the run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch

from strsr_models.errors import DeviceError, ImageError, StrsrError

from ..batch.job import STREAM, Job
from ..batch.report import Reporter
from ..batch.state import TAKEN_OVER, TakenOver
from ..system.console import first_line
from ..system.limits import NO_THREAD, scarcity

log = logging.getLogger(__name__)


class Abandoned(Exception):
    """The batch has ended before this picture could be finished."""


@contextlib.contextmanager
def reporting_failures(
    job: Job, reporter: Reporter, device: torch.device, cure: str = "use a smaller --tile or --scale"
) -> Iterator[None]:
    """Work on one image; if it fails, it is reported with its reason, and what follows goes on.

    One that another process has taken over is reported as left to it. cure: what to try where memory does not suffice.
    """
    try:
        yield
    except TakenOver:
        reporter.left(job.name, job.target_name, TAKEN_OVER)
    except ImageError as error:
        reporter.failed(job.name, _naming(job, str(error)))
    except (torch.OutOfMemoryError, MemoryError):
        reporter.failed(job.name, f"{job.name}: out of memory on {device}; {cure}")
    except RuntimeError as error:
        if NO_THREAD in str(error):
            # It is no fault of this image, and no other one would fare better.
            raise DeviceError(scarcity(error)) from error
        # PyTorch's word for anything from a full CPU to a lost device.
        reporter.failed(job.name, f"{job.name}: {first_line(error)}")
    except (StrsrError, OSError, Abandoned):
        # The model, the device or whoever reads our output is at fault, not this image.
        raise
    except Exception as error:
        log.debug("%s: not foreseen", job.name, exc_info=error)
        description = f"{type(error).__name__}: {first_line(error)}"
        reporter.failed(job.name, f"{job.name}: {description}; this is a bug of strsr, please report it")


def _naming(job: Job, reason: str) -> str:
    """Return a reason that names the job's input or output, as most do by themselves."""
    names = {str(job.source or job.name), job.name, job.target_name} - {STREAM} | {"standard input"}
    return reason if any(name in reason for name in names) else f"{job.name}: {reason}"


@contextlib.contextmanager
def loading(what: str, device: torch.device) -> Iterator[None]:
    """Load a network; without it no image can be made, so that too little memory raises DeviceError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceError(
            f"{what} does not fit the memory of {device}; try --offload sequential, --quantize or --device cpu"
        ) from error
