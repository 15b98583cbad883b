"""Networks that wait in main memory while others compute on the GPU.

    none         all of them stay on the GPU
    model        they take turns: whole networks come and go
    sequential   each layer comes for its own computation and leaves again

The moving is accelerate's. It changes where numbers are computed, never which.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

MODES = ("auto", "none", "model", "sequential")
# Activations beside the weights, in bytes per output pixel of a tile at 2 bytes a number. They are estimates:
# 3 GB to decode 1024 x 1024 px, less than half of it for the transformer's 4096 tokens.
VAE_BYTES, TRANSFORMER_BYTES = 3000, 1200


def choose_mode(mode: str, device: torch.device, dit: int, vae: int, pixels: int, itemsize: int) -> str:
    """Return `mode`, where "auto" becomes the fastest mode that should fit the memory that is free now.

    dit, vae: bytes of weights. pixels: those of the largest tile. itemsize: bytes of a number while computing.
    Everything but a CUDA device has one memory, so that nothing needs to move.
    """
    if device.type != "cuda":
        return "none"
    if mode != "auto":
        return mode
    free, _ = torch.cuda.mem_get_info(device)
    return fitting_mode(free, dit, vae, pixels * itemsize // 2)


def fitting_mode(free: int, dit: int, vae: int, work: int) -> str:
    """The fastest mode whose peak fits `free` bytes; work: pixels of a tile, weighted by precision."""
    if dit + vae + VAE_BYTES * work <= free:
        return "none"
    peak = max(dit + TRANSFORMER_BYTES * work, vae + VAE_BYTES * work)
    return "model" if peak <= free else "sequential"


def parameter_bytes(network: nn.Module) -> int:
    """The bytes of all parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def take_turns(networks: tuple[nn.Module, nn.Module], device: torch.device) -> None:
    """Let only one of the two networks be on the device from now on: the one called last."""
    from accelerate import cpu_offload_with_hook

    hooks: list[Any] = [cpu_offload_with_hook(network, device)[1] for network in networks]
    for hook, other in zip(hooks, reversed(hooks), strict=True):
        hook.hook.prev_module_hook = other


def move_layer_by_layer(network: nn.Module, device: torch.device) -> None:
    """Let a layer's weights be on the device only while the layer computes, from now on."""
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module

    cpu_offload(network, device, offload_buffers=bool(network._parameters))
    for name, layer in network.named_modules():
        # A table of a few MB, which transformers before 5.9 asks for its device before it computes.
        if name.endswith("pos_embed") and isinstance(layer, nn.Embedding):
            remove_hook_from_module(layer)
            layer.to(device)


def execution_device(network: nn.Module) -> torch.device:
    """The device that a network computes on: what its offloading says, else where its parameters are."""
    for module in network.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(network.parameters()).device
