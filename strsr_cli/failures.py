"""What becomes of the errors of a batch: an image's own end that image, a model's end the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from strsr_models.errors import DeviceError, ImageError

from .plan import Job
from .report import Reporter


@contextlib.contextmanager
def told(
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
    except RuntimeError as error:  # torch's word for anything from a full CPU to a lost device
        reporter.failed(job.name, f"{job.name}: {str(error).splitlines()[0]}")


@contextlib.contextmanager
def loading(what: str, device: torch.device) -> Iterator[None]:
    """Load a network; without it no image can be made, so that too little memory is a DeviceError."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceError(
            f"{what} does not fit the memory of {device}; try --offload sequential, --quantize or --device cpu"
        ) from error
