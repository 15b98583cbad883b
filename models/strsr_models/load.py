"""The way from a model's name to a pipeline with weights; strict, with every mismatch in one message."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .checkpoints.adapter import SAVED
from .checkpoints.files import fill_strictly, mismatches, read_tensors, shorten
from .checkpoints.lite import read_lite_config
from .checkpoints.locations import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    default_models_dir,
    lite_folder,
    require_faithful,
)

# Importable from here too.
from .checkpoints.published import check_model as check_model  # noqa: PLC0414
from .compute.devices import resolve_device
from .compute.surroundings import Unfilled, own_start
from .config import from_dict
from .errors import StrsrError, UsageError, WeightsError
from .pipelines.base import OneStepPipeline
from .pipelines.lite import LiteConfig, LitePipeline
from .pipelines.options import LiteOptions, PretrainedOptions

if TYPE_CHECKING:
    from .pipelines.conditioner import Conditioner
    from .pipelines.pretrained import PretrainedPipeline

FamilyOptions = LiteOptions | PretrainedOptions


def load_pipeline(
    model: str = "lite",
    weights: Path | str | None = None,
    device: str = "cpu",
    *,
    options: FamilyOptions | None = None,
) -> OneStepPipeline:
    """The pipeline of a family, ready for inference on `device`.

    model: one of MODELS. weights: for lite, a folder with config.json and model.safetensors to use in
    place of the embedded ones; for zimage and flux2, the models folder with the published checkpoints
    (None: STRSR_MODELS_DIR or the user's cache), or a folder that training wrote, to use in
    place of the published adapter. device: auto, cpu, cuda, cuda:N or mps. options: LiteOptions for lite,
    PretrainedOptions for zimage and flux2.
    Raises UsageError for an unknown model or options that it does not have, WeightsError for weights
    that are missing or do not fit, DeviceError for a device that is not there. Random numbers, the default
    type and whatever else the caller has set for tensors are left as they were, and do not count.
    """
    check_model(model)
    target = resolve_device(device)
    with own_start(target):
        pipeline = MODELS[model](Path(weights) if weights else None, target, options)
    return pipeline.eval().requires_grad_(False)


def load_lite(folder: Path | None, device: torch.device, options: FamilyOptions | None) -> LitePipeline:
    """Load lite from a folder (default: the embedded one), in float32."""
    if isinstance(options, PretrainedOptions):
        raise UsageError("--model lite: takes LiteOptions, not PretrainedOptions")
    folder = lite_folder(folder)
    config = read_config(folder / CONFIG_NAME)
    with Unfilled():
        pipeline = LitePipeline(config)
    fill_strictly(pipeline, read_tensors(folder / WEIGHTS_NAME), folder / WEIGHTS_NAME, CONFIG_NAME)
    if options is not None and options.fidelity:
        turn_to_faithful(pipeline, require_faithful(folder), options.fidelity)
    if options is not None and options.draft:
        pipeline.least_scale = 1.0
    pipeline.fold()
    # The memory format channels_last is a fifth faster on CPUs, and what tensor cores want.
    pipeline.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options is not None and options.settled is not None:
        pipeline.settle(options.settled)
    return pipeline


@torch.no_grad()
def turn_to_faithful(pipeline: LitePipeline, path: Path, fidelity: float) -> None:
    """Move weights in a straight line to those of the faithful end, 0 to 1 of the way.

    Between networks of which one was trained on from the other, such weights make pictures that lie between theirs,
    sharp all over where a mean of the two pictures would show both (https://arxiv.org/abs/1809.00219, section 3.4). path: the
    tensors of the faithful end, where they differ. Raises WeightsError where they do not fit.
    """
    own, faithful = pipeline.state_dict(), read_tensors(path)
    shapes = {name: tuple(own[name].shape) for name in own.keys() & faithful.keys()}
    if problems := mismatches(faithful, shapes):
        raise WeightsError(f"{path}: does not fit {WEIGHTS_NAME}: {shorten(problems)}")
    for name, tensor in faithful.items():
        own[name].lerp_(tensor.to(own[name].dtype), fidelity)


def load_zimage(
    folder: Path | None, device: torch.device, options: FamilyOptions | None
) -> PretrainedPipeline:
    """Load Z-Image-Turbo with StrSR's adapter; see `load_pipeline`."""
    return load_pretrained(pretrained_family("zimage"), folder, device, options)


def load_flux2(
    folder: Path | None, device: torch.device, options: FamilyOptions | None
) -> PretrainedPipeline:
    """Load FLUX.2-klein with StrSR's adapter; see `load_pipeline`."""
    return load_pretrained(pretrained_family("flux2"), folder, device, options)


def pretrained_family(model: str) -> type[PretrainedPipeline]:
    """The class of a family on a published base, imported on call. Raises UsageError for others."""
    check_model(model)
    if model == "zimage":
        from .pipelines.zimage import ZImagePipeline

        return ZImagePipeline
    if model == "flux2":
        from .pipelines.flux2 import Flux2Pipeline

        return Flux2Pipeline
    raise UsageError(f"--model {model}: has no published base")


def load_pretrained(
    family: type[PretrainedPipeline],
    folder: Path | None,
    device: torch.device,
    options: FamilyOptions | None,
) -> PretrainedPipeline:
    """Load a family from a models folder; `folder` may be an adapter's instead."""
    if isinstance(options, LiteOptions):
        raise UsageError(f"--model {family.name}: takes PretrainedOptions, not LiteOptions")
    root, options = models_and_adapter(folder, options or PretrainedOptions())
    return family.from_models_dir(root, device, options)


def models_and_adapter(folder: Path | None, options: PretrainedOptions) -> tuple[Path, PretrainedOptions]:
    """The models folder, and options that name the adapter: `folder` may be one or the other, or None."""
    if folder is not None and (folder / SAVED[0]).is_file():
        if options.adapter != "published":
            raise UsageError(f"{folder} holds an adapter, and options name another: {options.adapter}")
        folder, options = None, dataclasses.replace(options, adapter=str(folder))
    return folder or default_models_dir(), options


def load_conditioner(
    model: str, root: Path | None = None, device: str = "cpu", *, options: PretrainedOptions | None = None
) -> Conditioner:
    """Load the semantic half of zimage or flux2 by itself, to make conditions before the rest is loaded.

    root: the models folder (None: the default one). Raises as `load_pipeline`.
    """
    family, target = pretrained_family(model), resolve_device(device)
    with own_start(target):
        return family.load_conditioner(root, target, options or PretrainedOptions())


# The families by name: the table to extend when a family is added.
MODELS: dict[str, Callable[[Path | None, torch.device, FamilyOptions | None], OneStepPipeline]] = {
    "lite": load_lite,
    "zimage": load_zimage,
    "flux2": load_flux2,
}


def read_config(path: Path) -> LiteConfig:
    """Read the config.json of a lite folder and check every key. Raises WeightsError."""
    data = read_lite_config(path)
    if isinstance(data.get("dit"), dict):
        # Weights that are older than this choice do not state it.
        data["dit"].setdefault("unpatchify", "patch")
    try:
        return from_dict(LiteConfig, data, str(path))
    except StrsrError as error:
        raise WeightsError(str(error)) from error
