"""From options to a model that is loaded, with the refusals that the command has as it reads its options."""

from __future__ import annotations

import logging

import numpy as np
import torch

from strsr_cli.system.machine import advice_on_cuda
from strsr_cli.upscale.backends import use_backend
from strsr_cli.upscale.conditions import pretrained_options
from strsr_cli.upscale.failures import loading
from strsr_cli.upscale.options import UpscaleOptions
from strsr_models import OneStepPipeline, load_pipeline
from strsr_models.compute.devices import resolve_device, resolve_precision
from strsr_models.errors import UsageError
from strsr_models.pipelines.options import LiteOptions

log = logging.getLogger(__name__)


def load(options: UpscaleOptions) -> tuple[OneStepPipeline, str]:
    """Load the model that the options ask for; return it with the precision that it computes in."""
    device = resolve_device(options.device)
    if options.device == "auto" and device.type == "cpu" and (advice := advice_on_cuda()):
        log.warning(advice)
    big = options.big
    if big is None:
        precision = resolve_precision(options.float_precision, device)
        own = LiteOptions(options.fidelity, options.draft)
        pipeline = load_pipeline(options.model, options.weights, str(device), options=own)
        use_backend(pipeline, options, precision, torch.get_num_threads())
        return pipeline, precision
    pretrained = pretrained_options(big, options.weights, options.precision, prompt=big.prompt or "")
    with loading(f"--model {options.model}", device):
        pipeline = load_pipeline(options.model, big.models_dir, str(device), options=pretrained)
    return pipeline, pipeline.native_precision


def check_numbers(options: UpscaleOptions) -> None:
    """Raise UsageError for numbers out of their range, which the command refuses as it reads its options."""
    ranges = {
        "tile": (options.tile, 64, None),
        "overlap": (options.overlap, 0, None),
        "steps": (options.steps, 1, 100),
        "batch": (options.batch, 1, None),
        "quality": (options.quality, 1, 100),
        "png_compression": (options.png_compression, 0, 5),
        "max_pixels": (options.max_pixels, 1, None),
    }
    for name, (number, least, most) in ranges.items():
        bounds = f"at least {least}" if most is None else f"{least} to {most}"
        if number is not None and not isinstance(number, int | np.integer):
            raise UsageError(f"{name} {number!r}: must be a whole number, {bounds}")
        if number is not None and (number < least or (most is not None and number > most)):
            raise UsageError(f"{name} {number}: must be {bounds}")
    fidelity = options.fidelity
    # The comparison is false for NaN as well.
    if not (isinstance(fidelity, int | float | np.integer | np.floating) and 0 <= fidelity <= 1):
        raise UsageError(f"fidelity {fidelity!r}: must be a number between 0 and 1")
