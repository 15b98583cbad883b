"""The script that finishes lite's weights: its optimiser."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_muon_moves_every_weight_and_kernels_in_all_directions_alike(
    monkeypatch: pytest.MonkeyPatch, memory: torch.memory_format
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    finish = importlib.import_module("finish_lite")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(16, 32))
    network.to(memory_format=memory)  # type: ignore[call-overload]
    before = [weight.detach().clone() for weight in network.parameters()]
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    finish.Optimizer(network, muon=True).step(1e-3)
    steps = [weight.detach() - old for weight, old in zip(network.parameters(), before, strict=True)]
    assert all(step.abs().max() > 0 for step in steps)
    strengths = torch.linalg.svdvals(steps[0].flatten(1))
    assert strengths[0] < 3 * strengths[-1]
    # As long as AdamW's steps usually are, 0.2 of the rate: https://arxiv.org/abs/2502.16982.
    assert steps[0].square().mean().sqrt() == pytest.approx(0.2e-3, rel=0.3)
