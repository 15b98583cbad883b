"""The price on seams: cells whose pixels differ from each other alike all over a picture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from strsr_models.errors import UsageError
from strsr_models.losses.seams import LEAST_CROP, seam_loss
from strsr_models.spectrum import luma
from strsr_models.spectrum.survey import seam_values, survey_seams


def noise(seed: int = 0, count: int = 4, side: int = 160) -> Tensor:
    """Gray pictures of soft noise, (b, 3, h, w) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return (0.5 + 0.05 * torch.randn(count, 1, side, side, generator=generator)).expand(-1, 3, -1, -1)


def uneven(picture: Tensor, period: int, amount: float, axis: int = -1, first: int = 0) -> Tensor:
    """The same with detail that is stronger in the first half of each cell."""
    place = (torch.arange(picture.shape[axis]) + first) % period
    gain = 1 + amount * (place < period // 2).float()
    gain = gain if axis == -1 else gain[:, None]
    return 0.5 + (picture - 0.5) * gain


@pytest.mark.parametrize("period", [4, 8])
@pytest.mark.parametrize("axis", [-1, -2])
def test_uneven_detail_costs_more_the_more_it_is(period: int, axis: int) -> None:
    costs = [float(seam_loss(uneven(noise(), period, amount, axis))) for amount in (0.0, 0.1, 0.3, 1.0)]
    assert costs == sorted(costs)
    assert costs[-1] > 2 * costs[0]


def test_other_periods_and_phases_that_differ_cost_little() -> None:
    plain = float(seam_loss(noise()))
    assert float(seam_loss(uneven(noise(), 5, 0.3))) < 1.2 * plain
    # Each picture has a phase of its own: what all of them share is gone, what each one shows is left.
    one = float(seam_loss(uneven(noise(), 4, 0.3)))
    several = torch.cat([uneven(noise(n, 1), 4, 0.3, first=n) for n in range(4)])
    assert plain < float(seam_loss(several)) < one


def test_descent_takes_it_away() -> None:
    picture = uneven(noise(), 4, 0.3)
    gain = torch.ones(4, requires_grad=True)
    before = float(seam_loss(picture))
    optimizer = torch.optim.Adam([gain], 0.02)
    for _ in range(25):
        corrected = 0.5 + (picture - 0.5) * gain.repeat(picture.shape[-1] // 4)
        optimizer.zero_grad()
        seam_loss(corrected).backward()
        optimizer.step()
    assert float(seam_loss(corrected).detach()) < before / 2
    assert abs(float((gain[:2].mean() * 1.3 / gain[2:].mean()).detach()) - 1) < 0.1


def test_flat_pictures_cost_nothing_and_have_a_gradient() -> None:
    flat = torch.full((1, 3, 128, 128), 0.4, requires_grad=True)
    cost = seam_loss(flat)
    cost.backward()
    assert float(cost.detach()) == 0
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_crops_hold_four_periods() -> None:
    seam_loss(noise(side=LEAST_CROP))
    with pytest.raises(UsageError, match=f"crops of {LEAST_CROP - 1} px"):
        seam_loss(noise(side=LEAST_CROP - 1))


def test_it_computes_in_float32_inside_autocast() -> None:
    picture = uneven(noise(), 4, 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = seam_loss(picture)
    assert torch.equal(inside, seam_loss(picture))


@pytest.mark.parametrize("period", [4, 8])
def test_it_sees_what_the_survey_sees(period: int) -> None:
    y = luma(uneven(noise(count=1), period, 0.3))
    survey = survey_seams(y, period, closely=True)
    columns, rows = seam_values(y, period)
    assert survey.values is not None
    count, harmonics = columns.shape[1:]
    assert torch.equal(survey.values[:count, :harmonics], columns[0])
    assert torch.equal(survey.values[count:, harmonics:], rows[0])
