"""Weights of the transformer in 8 or 4 bits, by torchao: they take less memory and are a little less exact."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import DeviceError, UsageError
from ..packages import install_command

# The bytes per weight, with the scales of its group.
BYTES = {"int8": 1.0, "int4": 0.6}
QUANTIZATIONS = ("none", *BYTES)


def require_torchao(kind: str) -> None:
    """Raise UsageError, with the command that helps, unless `kind` can be computed here."""
    if kind == "none":
        return
    try:
        import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--quantize {kind}: needs torchao: {install_command('strsr[quant]')}") from error


def quantize(network: nn.Module, kind: str, device: torch.device) -> None:
    """Replace the weights of all Linear layers for good; they move to `device`.

    An adapter must have been merged before: what is added to rounded weights would be lost.
    """
    require_torchao(kind)
    from torchao import quantization

    config: Any = (
        quantization.Int8WeightOnlyConfig() if kind == "int8" else quantization.Int4WeightOnlyConfig()
    )
    try:
        quantization.quantize_(network, config, device=device)
    except (ImportError, NotImplementedError, AssertionError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceError(f"--quantize {kind}: torchao cannot do that on {device} ({reason})") from error
