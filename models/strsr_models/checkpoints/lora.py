"""Low-rank adapters (LoRA, arXiv 2106.09685) on a diffusers transformer.

W x becomes W x + B A x with A (r, in) and B (out, r); alpha equals the rank, so the product is not
scaled. Training wraps the layers by peft; inference merges B A into W and pays nothing. Files name
the tensors as the released checkpoints do: base_model.model.<module>.lora_A.default.weight, lora_B.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, WeightsError
from ..packages import install_command
from .files import mismatches, shorten

PREFIX = "base_model.model."
MOST_PROBLEMS = 6  # in one message; the names are long


def target_names(dit: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """The Linear layers of an unwrapped `dit` that have one of `targets` anywhere in their name."""
    return [
        name
        for name, module in dit.named_modules()
        if isinstance(module, nn.Linear) and any(target in name for target in targets)
    ]


def add_lora(dit: nn.Module, targets: tuple[str, ...], rank: int = 256) -> None:
    """Wrap the target layers in place; only the new A (Gaussian, std 1/rank) and B (zero) are trainable.

    They are float32 whatever the base is: steps of 5e-6 would be lost in bfloat16. At first B A is
    zero, so that the output does not change. Raises UsageError without peft or a sensible rank.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError(f"training this family needs peft: {install_command('strsr[train]')}") from error
    if rank < 1:
        raise UsageError(f"rank {rank}: must be at least 1")
    names = target_names(dit, targets)
    # One pattern is given, as peft would compare the names in a list with the ends of module names only.
    pattern = "|".join(re.escape(name) for name in names)
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=pattern)
    dit.requires_grad_(False)
    inject_adapter_in_model(config, dit)
    for parameter in _lora_parameters(dit).values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)


def _lora_parameters(dit: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the adapter of a wrapped `dit`, under their published names."""
    return {
        PREFIX + name: parameter
        for name, parameter in dit.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }


def lora_state_dict(dit: nn.Module) -> dict[str, Tensor]:
    """The adapter of a wrapped `dit`, detached but not copied, under its published names."""
    return {name: parameter.detach() for name, parameter in _lora_parameters(dit).items()}


def published_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """Rename an adapter's tensors to the published names, from these or from those that peft saves."""

    def published(name: str) -> str:
        """The published name of a tensor."""
        name = re.sub(r"\.lora_([AB])\.weight$", r".lora_\1.default.weight", name)
        return name if name.startswith(PREFIX) or ".lora_" not in name else PREFIX + name

    return {published(name): value for name, value in tensors.items()}


def lora_rank(tensors: dict[str, Any], path: Path) -> int:
    """The rank of an adapter: that of most of its tensors, so that the others are named as misfits."""
    ranks = Counter(
        int(value.shape[0])
        for name, value in tensors.items()
        if str(name).endswith(".lora_A.default.weight") and isinstance(value, Tensor) and value.ndim == 2
    )
    del ranks[0]
    if not ranks:
        raise WeightsError(f"{path}: holds no LoRA tensors (names that end in .lora_A.default.weight)")
    return ranks.most_common(1)[0][0]


@torch.no_grad()
def load_lora(dit: nn.Module, tensors: dict[str, Any], path: Path) -> None:
    """Fill the adapter of a wrapped `dit` from the tensors of `path`, to train on from there."""
    parameters = _lora_parameters(dit)
    problems = mismatches(tensors, {name: tuple(value.shape) for name, value in parameters.items()})
    if problems:
        raise WeightsError(f"{path}: does not fit this model: {shorten(problems, MOST_PROBLEMS)}")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])


@torch.no_grad()
def merge_lora(
    dit: nn.Module, tensors: dict[str, Any], targets: tuple[str, ...], path: Path, scale: float = 1.0
) -> None:
    """Add scale * B A to the target layers of an unwrapped `dit`: in float32, then rounded back.

    tensors: those of `path`. Raises as `check_lora`; the layers are then as they were.
    """
    for name in check_lora(dit, tensors, targets, path):
        weight = dit.get_parameter(f"{name}.weight")
        a, b = (tensors[key].to(weight.device, torch.float32) for key in _keys(name))  # (r, in), (out, r)
        weight.copy_(weight.float() + scale * (b @ a))


def check_lora(dit: nn.Module, tensors: dict[str, Any], targets: tuple[str, ...], path: Path) -> list[str]:
    """The target layers of an unwrapped `dit`, for all of which `tensors`, those of `path`, must be.

    Raises one WeightsError that names every missing, unknown, non-tensor, wrongly shaped or not
    finite entry.
    """
    rank = lora_rank(tensors, path)
    names = target_names(dit, targets)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        linear = dit.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        key_a, key_b = _keys(name)
        shapes[key_a] = (rank, linear.in_features)
        shapes[key_b] = (linear.out_features, rank)
    if not shapes.keys() & tensors.keys():
        raise WeightsError(
            f"{path}: does not fit this model, with none of its layers: is it another family's?"
        )
    problems = mismatches(tensors, shapes)
    if problems:
        raise WeightsError(f"{path}: does not fit this model: {shorten(problems, MOST_PROBLEMS)}")
    return names


def _keys(module: str) -> tuple[str, str]:
    """The published names of A and B of a module."""
    return f"{PREFIX}{module}.lora_A.default.weight", f"{PREFIX}{module}.lora_B.default.weight"
