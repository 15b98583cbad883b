"""The seam between a planned batch and who makes it: one function, of which there is one for each engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

from strsr_models.errors import UsageError
from strsr_models.packages import install_command

from ...batch.report import Reporter
from ...batch.state import BatchState
from ...system.processes import without_collection
from ..options import UpscaleOptions
from ..preflight import Preflight

# Makes what a forecast has left to make; what becomes of each image goes to the reporter.
Engine = Callable[[Preflight, UpscaleOptions, Reporter, BatchState], None]


def upscale_here(forecast: Preflight, options: UpscaleOptions, reporter: Reporter, state: BatchState) -> None:
    """Make all images in this process."""
    with without_collection():
        from ..stages import upscale_batch

    upscale_batch(forecast.pending, options, reporter, state)


def choose_engine(
    name: str,
    workers: int | None,
    gpus_per_worker: float | None,
    device: str,
    is_batch: bool,
    dry_run: bool,
) -> Engine:
    """Return the engine that --engine names; Ray is loaded once it has something to make.

    workers, gpus_per_worker: None where they are not given. is_batch: whether it is for a folder, or for a
    file's frames. dry_run: Ray is not needed.
    Raises UsageError for options that make no sense together, and where Ray is not installed.
    """
    if name == "local":
        for option, value in (("--workers", workers), ("--gpus-per-worker", gpus_per_worker)):
            if value is not None:
                raise UsageError(f"{option}: is for --engine ray")
        return upscale_here
    if not is_batch:
        raise UsageError("--engine ray: is for folders; a single image or a stream is made without it")
    if device not in ("auto", "cpu"):
        raise UsageError(f"--device {device}: with --engine ray use auto, the GPUs that Ray gives, or cpu")
    if device == "cpu" and gpus_per_worker:
        raise UsageError("--gpus-per-worker: not with --device cpu")
    if importlib.util.find_spec("ray") is None and not dry_run:
        raise UsageError(f"--engine ray: needs the package ray: {install_command('strsr[ray]')}")
    from .ray_driver import upscale_on_ray

    return partial(upscale_on_ray, workers=workers, gpus_per_worker=gpus_per_worker)
