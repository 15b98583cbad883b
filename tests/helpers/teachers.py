"""Tiny teachers: real restorers of few weights, and their files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def tiny_network(seed: int, scale: int = 4, channels: int = 3) -> nn.Module:
    """A restorer of few weights, which are a function of the seed."""
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(seed)
    return Compact(
        num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=2, upscale=scale
    ).requires_grad_(False)


def save_teacher(path: Path, seed: int = 0, broken: bool = False) -> Path:
    """A file of a tiny restorer; a broken one makes NaN of everything."""
    tensors = tiny_network(seed).state_dict()
    if broken:
        tensors["body.0.bias"].fill_(float("nan"))
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path
