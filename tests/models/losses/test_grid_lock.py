"""The price on detail that is locked to the grid of the input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from strsr_models.errors import UsageError
from strsr_models.losses.grid_lock import CELL, SIDE, grid_lock_loss


def noise(seed: int = 0, count: int = 2, side: int = 160) -> Tensor:
    """Gray pictures of soft noise, (b, 3, h, w) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return (0.5 + 0.05 * torch.randn(count, 1, side, side, generator=generator)).expand(-1, 3, -1, -1)


def stripes(begins: int) -> Tensor:
    """Pictures (2, 3, 160, 160) of short stripes, which begin at multiples of `begins` px."""
    generator = torch.Generator().manual_seed(3)
    picture = noise()[:, :1].clone()
    for _ in range(600):
        which, top, left, tall, wide = (
            int(torch.randint(high, (1,), generator=generator)) for high in (2, 156, 156, 20, 20)
        )
        top, left = (n // begins * begins for n in (top, left))
        tall, wide = (max(begins, n // begins * begins) for n in (tall, wide))
        picture[which, 0, top : top + tall, left : left + wide] = torch.rand(1, generator=generator)
    return picture.expand(-1, 3, -1, -1)


def chance(picture: Tensor) -> float:
    """What pictures without a lock cost: 1 / n blocks, of each picture and of all."""
    blocks = ((picture.shape[-2] - SIDE) // 16 + 1) * ((picture.shape[-1] - SIDE) // 16 + 1)
    return 1 / blocks + 1 / blocks / len(picture)


def test_noise_costs_what_chance_leaves() -> None:
    picture = noise()
    assert 0.8 * chance(picture) < float(grid_lock_loss(picture)) < 1.4 * chance(picture)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_enlargements_are_locked(mode: str) -> None:
    small = noise(side=40)
    assert float(grid_lock_loss(F.interpolate(small, scale_factor=CELL, mode=mode))) > 7 * chance(noise())


def test_edges_that_begin_anywhere_cost_nothing_and_those_that_snap_to_cells_do() -> None:
    anywhere, snapped = (float(grid_lock_loss(stripes(begins))) for begins in (1, CELL))
    assert anywhere < 1.6 * chance(noise())
    assert snapped > 2 * anywhere


def test_a_lock_costs_whatever_its_sign_is_at_a_place() -> None:
    # A wave of 8 px, a cosine about the pixels of an input at 1.5 + 4 n, whose sign changes from block to block.
    signs = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(1)).sign()
    signs = signs.repeat_interleave(32, 2).repeat_interleave(32, 3)
    wave = ((torch.arange(160) - 1.5) * math.pi / 4).cos()
    locked = noise() + 0.2 * signs * wave
    free = noise() + 0.2 * signs * ((torch.arange(160) - 1.5) * math.pi / 4.7).cos()
    assert float(grid_lock_loss(locked)) > float(grid_lock_loss(free)) > 0


def test_pictures_that_are_locked_alike_cost_more() -> None:
    # What pictures share is a habit of the network; here the cells of the second four begin at different columns.
    picture = F.interpolate(noise(side=40, count=1), scale_factor=CELL, mode="bicubic")
    alike = torch.cat([picture] * CELL)
    differing = torch.cat([torch.roll(picture, n, -1) for n in range(CELL)])
    assert float(grid_lock_loss(alike)) > 1.2 * float(grid_lock_loss(differing))


def test_it_begins_at_any_cell() -> None:
    picture = F.interpolate(noise(side=48), scale_factor=CELL, mode="bicubic")
    whole, moved = (float(grid_lock_loss(picture[..., n : n + 160, n : n + 160])) for n in (0, CELL))
    assert moved == pytest.approx(whole, rel=0.1)


def test_descent_makes_detail_up() -> None:
    # Beside the images of an enlargement, detail that follows from nothing in it makes agreement less.
    enlarged = F.interpolate(noise(count=4, side=40), scale_factor=CELL, mode="bilinear")
    detail = noise(seed=2, count=4) - 0.5
    share = torch.full((1,), 0.02, requires_grad=True)
    optimizer = torch.optim.Adam([share], 0.05)
    before = float(grid_lock_loss(enlarged))
    for _ in range(15):
        optimizer.zero_grad()
        cost = grid_lock_loss(enlarged + share * detail)
        cost.backward()
        optimizer.step()
    assert float(cost.detach()) < 0.6 * before
    assert float(share.detach()) > 0.2


def test_flat_pictures_cost_nothing_and_have_a_gradient() -> None:
    flat = torch.full((1, 3, 64, 64), 0.4, requires_grad=True)
    cost = grid_lock_loss(flat)
    cost.backward()
    assert float(cost.detach()) < 1e-6
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_crops_hold_a_block() -> None:
    grid_lock_loss(noise(side=SIDE))
    with pytest.raises(UsageError, match=f"crops of {SIDE - 1} px"):
        grid_lock_loss(noise(side=SIDE - 1))


def test_it_computes_in_float32_inside_autocast() -> None:
    picture = noise()
    with torch.autocast("cpu", torch.bfloat16):
        inside = grid_lock_loss(picture)
    assert torch.equal(inside, grid_lock_loss(picture))
