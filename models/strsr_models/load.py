"""From a model's name to a pipeline with weights; strict, with every mismatch in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import from_dict, to_dict
from .devices import resolve_device
from .errors import StrsrError, UsageError, WeightsError, nearest
from .pipelines.base import OneStepPipeline
from .pipelines.lite import LiteConfig, LitePipeline

EMBEDDED = Path(__file__).parent / "weights"
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"


def load_pipeline(
    model: str = "lite", weights: Path | str | None = None, device: str = "cpu"
) -> OneStepPipeline:
    """The pipeline of a family, ready for inference on `device`.

    model: one of MODELS. weights: a folder with config.json and model.safetensors to use in place
    of the embedded ones. device: auto, cpu, cuda, cuda:N or mps.
    Raises UsageError for an unknown model, WeightsError for weights that are missing or do not
    fit, DeviceError for a device that is not there.
    """
    if model not in MODELS:
        raise UsageError(f"--model {model}: unknown; {nearest(model, MODELS)}")
    target = resolve_device(device)
    pipeline = MODELS[model](Path(weights) if weights else None)
    # channels_last: a fifth faster on CPUs, and what tensor cores want.
    pipeline.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return pipeline.eval().requires_grad_(False)


def load_lite(folder: Path | None) -> LitePipeline:
    """Lite from a folder (default: the embedded one), float32 on the CPU."""
    folder = folder or EMBEDDED / "lite"
    config = read_config(folder / CONFIG_NAME)
    pipeline = LitePipeline(config)
    load_strict(pipeline, read_tensors(folder / WEIGHTS_NAME), folder / WEIGHTS_NAME)
    return pipeline


# Family by name; the page to extend when a family is added.
MODELS: dict[str, Callable[[Path | None], OneStepPipeline]] = {"lite": load_lite}


def save_lite(pipeline: LitePipeline, folder: Path, metadata: dict[str, str]) -> None:
    """Write config.json and model.safetensors (float16) into an existing folder."""
    from safetensors.torch import save

    config = {"family": "lite", **to_dict(pipeline.config)}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in pipeline.state_dict().items()}
    # Not save_file: its files can be read by their owner alone.
    (folder / WEIGHTS_NAME).write_bytes(save(tensors, metadata={"format": "pt", **metadata}))


def read_config(path: Path) -> LiteConfig:
    """The config.json of a lite folder, every key checked."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise WeightsError(
            f"{path}: no such weights ({error.strerror}); give a folder with {CONFIG_NAME}"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict) or data.pop("family", None) != "lite":
        raise WeightsError(f"{path}: not the configuration of a lite model")
    try:
        return from_dict(LiteConfig, data, str(path))
    except StrsrError as error:
        raise WeightsError(str(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error})") from error


def load_strict(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Fill all of a module's tensors, or raise one WeightsError that names every mismatch."""
    wanted = module.state_dict()
    problems = [f"missing {key}" for key in wanted.keys() - tensors.keys()]
    problems += [f"unknown {key}" for key in tensors.keys() - wanted.keys()]
    problems += [
        f"{key} is {tuple(tensors[key].shape)}, expected {tuple(wanted[key].shape)}"
        for key in wanted.keys() & tensors.keys()
        if tensors[key].shape != wanted[key].shape
    ]
    problems += [f"{key} is not finite" for key, value in tensors.items() if not value.isfinite().all()]
    if problems:
        shown = "; ".join(sorted(problems)[:20])
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise WeightsError(f"{path}: does not fit {CONFIG_NAME}: {shown}{more}")
    module.load_state_dict(tensors)
