"""The price on detail that is locked to the grid of the input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from strsr_models.errors import UsageError
from strsr_models.losses.phase_lock import SIDE, phase_lock_loss


def noise(seed: int = 0, count: int = 2, side: int = 160) -> Tensor:
    """Gray pictures of soft noise, (b, 3, h, w) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return (0.5 + 0.05 * torch.randn(count, 1, side, side, generator=generator)).expand(-1, 3, -1, -1)


def wave(side: int, sine: float) -> Tensor:
    """A wave of 8 px (side,), a cosine about the pixels of an input at 1.5 + 4 n, and a part of a sine beside it."""
    x = (torch.arange(side) - 1.5) * math.pi / 4
    return x.cos() + sine * x.sin()


def chance(picture: Tensor) -> float:
    """What pictures without a lock cost: 1 / n blocks."""
    return 1 / ((picture.shape[-2] - SIDE) // 16 + 1) / ((picture.shape[-1] - SIDE) // 16 + 1)


def test_noise_costs_what_chance_leaves() -> None:
    picture = noise()
    assert 0.5 * chance(picture) < float(phase_lock_loss(picture)) < 2 * chance(picture)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_enlargements_are_locked(mode: str) -> None:
    small = noise(side=40)
    assert float(phase_lock_loss(F.interpolate(small, scale_factor=4, mode=mode))) > 10 * chance(noise())


def test_a_lock_costs_whatever_its_sign_is_at_a_place() -> None:
    side = 160
    signs = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)).sign()
    signs = signs.repeat_interleave(32, 2).repeat_interleave(32, 3)
    printed = noise() + 0.05 * wave(side, 0)
    changing = noise() + 0.05 * signs * wave(side, 0)
    plain = float(phase_lock_loss(noise()))
    assert float(phase_lock_loss(printed)) > 2 * plain
    assert float(phase_lock_loss(changing)) > 1.5 * plain


def test_it_begins_at_any_cell_of_the_decoder() -> None:
    picture = F.interpolate(noise(side=48), scale_factor=4, mode="bicubic")
    whole, moved = (float(phase_lock_loss(picture[..., n : n + 160, n : n + 160])) for n in (0, 4))
    assert moved == pytest.approx(whole, rel=0.1)


def test_descent_makes_the_sine_up() -> None:
    # A second wave with signs of its own and another phase: beside it all phases are more nearly as frequent.
    generator = torch.Generator().manual_seed(2)

    def amplitudes() -> Tensor:
        return F.interpolate(torch.randn(4, 1, 20, 20, generator=generator), scale_factor=8, mode="bilinear")

    cosine, other = (0.05 * amplitudes() * wave(160, part) for part in (0.0, 1.0))
    share = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([share], 0.1)
    before = float(phase_lock_loss(noise(count=4) + cosine))
    for _ in range(25):
        optimizer.zero_grad()
        cost = phase_lock_loss(noise(count=4) + cosine + share * other)
        cost.backward()
        optimizer.step()
    assert float(cost.detach()) < before
    assert abs(float(share.detach())) > 0.3


def test_flat_pictures_cost_nothing_and_have_a_gradient() -> None:
    flat = torch.full((1, 3, 64, 64), 0.4, requires_grad=True)
    cost = phase_lock_loss(flat)
    cost.backward()
    assert float(cost.detach()) < 1e-6
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_crops_hold_a_block() -> None:
    phase_lock_loss(noise(side=SIDE))
    with pytest.raises(UsageError, match=f"crops of {SIDE - 1} px"):
        phase_lock_loss(noise(side=SIDE - 1))


def test_it_computes_in_float32_inside_autocast() -> None:
    picture = noise()
    with torch.autocast("cpu", torch.bfloat16):
        inside = phase_lock_loss(picture)
    assert torch.equal(inside, phase_lock_loss(picture))
