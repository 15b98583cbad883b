"""`strsr upscale`, the page to read first: how one picture is restored, and how many are."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from strsr_models import OneStepPipeline, load_pipeline
from strsr_models.checkpoints import cache_dir
from strsr_models.devices import resolve_devices, resolve_precision
from strsr_models.memory import Room
from strsr_models.pipelines.base import TileCallback

from .color import network_input, revealed
from .conditions import Conditions
from .flow import threads_for_workers
from .images import Picture, split_alpha
from .inputs import Inputs
from .ledger import Ledger
from .plan import Job
from .provenance import provenance
from .report import Reporter
from .restoration import begin
from .runs import weights_folder
from .stages import Stages, UpscaleOptions

log = logging.getLogger(__name__)


def upscale_image(
    pipeline: OneStepPipeline,
    picture: Picture,
    options: UpscaleOptions,
    precision: str,
    on_tile: TileCallback = lambda done, total: None,
    cond: Tensor | None = None,
) -> Picture:
    """Restore one picture at `scale` times its size: gray stays gray, 16 bits stay 16, alpha comes along.

    The batch below does the same steps in several threads. cond: the pipeline's condition of this
    picture, where it was made before.
    """
    with torch.inference_mode():
        one = begin(
            pipeline,
            revealed(picture),
            options.scale,
            precision,
            tile=options.tile,
            overlap=options.overlap,
            cond=cond,
        )
        finished, room = [], Room(1)
        for number in range(one.tiles):
            view = one.walk.view(number)
            ((restored, _),) = pipeline.restore_tiles([view], [one.cond], precision, options.steps, room)
            finished += [one.finished(top, rows) for top, rows in one.add(number, restored)]
            on_tile(number + 1, one.tiles)
    color, alpha = split_alpha(np.concatenate(finished))
    return replace(picture, color=color, alpha=alpha)


def upscale_batch(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter, ledger: Ledger | None = None
) -> None:
    """Do all jobs; one that fails is reported with its reason, and the rest go on.

    ledger: asked and told of each image, so that a later run knows it and other processes leave it; and asked
    whether to stop.
    """
    with threads_for_workers() as threads:
        loaded = load_stages(jobs, options, reporter, ledger or Ledger(), threads)
        if loaded is not None:
            stages, jobs = loaded
            stages.run(jobs)


def load_stages(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter, ledger: Ledger, threads: int
) -> tuple[Stages, list[Job]] | None:
    """Weights on the devices, and the jobs that can go on; None where none can.

    threads: of PyTorch, for all workers together.
    """
    devices = resolve_devices(options.device, options.local)
    device = devices[0]
    weights = weights_folder(options.weights) if options.weights else None
    inputs = Inputs(options.scale, options.max_pixels)
    conditions: Conditions | None = None
    if options.big is None:
        precision: str | None = resolve_precision(options.precision, device)
        load: Callable[..., OneStepPipeline] = partial(load_pipeline, options.model, weights)
        reporter.start(len(jobs))
    else:  # what the pictures mean, before the transformer comes into memory
        conditions = Conditions(options.model, weights, options.big, options.precision, device)
        reporter.start(len(jobs))
        torch.set_num_threads(threads)
        jobs = conditions.make(jobs, lambda job: network_input(inputs.read(job)), reporter)
        torch.set_num_threads(1)
        if not jobs:
            return None
        load = conditions.load_pipeline
        precision = None
    loaded = {str(device): load(device=str(device)) for device in devices}
    pipelines = [loaded[str(device)] for device in devices]
    precision = precision or pipelines[0].native_precision
    if options.compile:
        set_up_compiler()
        for pipeline in loaded.values():
            pipeline.compile()
    log.debug("model %s on %s in %s", options.model, ", ".join(map(str, devices)), precision)
    made_by = None
    if options.provenance:
        made_by = provenance(options.model, weights, options.big, options.scale)
    found = (options, reporter, ledger, inputs, conditions, pipelines, precision, made_by, threads)
    return Stages(*found), jobs


def set_up_compiler() -> None:
    """Keep what torch.compile makes, for the next start."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
