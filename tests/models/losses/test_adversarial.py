from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from strsr_models.losses.adversarial import R1_SIGMA, discriminator_loss, generator_loss, r1_penalty


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_adversarial_losses_are_those_by_hand() -> None:
    """One head, a batch of two: r = 1, 3 (mean 2), f = -1, 0 (mean -0.5)."""
    real, fake = [torch.tensor([[1.0], [3.0]])], [torch.tensor([[-1.0], [0.0]])]
    # BCE(x, 1) = softplus(-x), BCE(x, 0) = softplus(x)
    r_as_real = (softplus(-1.5) + softplus(-3.5)) / 2
    f_as_fake = (softplus(-3.0) + softplus(-2.0)) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx((r_as_real + f_as_fake) / 2, rel=1e-6)
    f_as_real = (softplus(3.0) + softplus(2.0)) / 2
    r_as_fake = (softplus(1.5) + softplus(3.5)) / 2
    assert float(generator_loss(real, fake)) == pytest.approx((f_as_real + r_as_fake) / 2, rel=1e-6)


def test_means_are_taken_over_the_batch_not_over_a_map() -> None:
    """Two places of a map, which are judged each by its own mean."""
    real = [torch.tensor([[5.0, -5.0], [7.0, -7.0]]).view(2, 1, 1, 2)]
    fake = [torch.tensor([[4.0, -4.0], [6.0, -6.0]]).view(2, 1, 1, 2)]
    # r - mean(f): 0, 2 at the left place, 0, -2 at the right; f - mean(r): -2, 0 and 2, 0
    left = (softplus(0) + softplus(-2)) / 2 + (softplus(-2) + softplus(0)) / 2
    right = (softplus(0) + softplus(2)) / 2 + (softplus(2) + softplus(0)) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx((left + right) / 4, rel=1e-6)


def test_heads_are_summed_however_large_their_maps_are() -> None:
    one = ([torch.randn(2, 1, 3, 4)], [torch.randn(2, 1, 3, 4)])
    other = ([torch.randn(2, 1)], [torch.randn(2, 1)])
    for loss in (discriminator_loss, generator_loss):
        both = loss(one[0] + other[0], one[1] + other[1])
        torch.testing.assert_close(both, loss(*one) + loss(*other))


def test_a_coach_that_cannot_tell_loses_log_two_per_head() -> None:
    logits = [torch.full((3, 1, 2, 2), 4.0), torch.full((3, 1), -2.0)]
    assert float(discriminator_loss(logits, logits)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss(logits, logits)) == pytest.approx(2 * math.log(2))


def test_losses_of_each_side_pull_its_own_way() -> None:
    real, fake = torch.randn(2, 4, 1, 3, 3).requires_grad_().unbind(0)
    real.retain_grad()
    fake.retain_grad()
    discriminator_loss([real], [fake]).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()  # descending raises real logits and lowers fake ones
    assert (fake.grad > 0).all()
    real.grad = fake.grad = None
    generator_loss([real], [fake]).backward()
    assert real.grad is None
    assert (fake.grad < 0).all()


def test_extreme_and_half_precision_logits_stay_finite() -> None:
    fake = torch.full((2, 1), -6e4, dtype=torch.float16, requires_grad=True)
    real = torch.full((2, 1), 6e4, dtype=torch.float16)
    loss = generator_loss([real], [fake])
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.2e5, rel=1e-3)
    assert fake.grad.tolist() == [[-0.5], [-0.5]]  # two terms, halved, over a batch of two


def test_heads_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        discriminator_loss([torch.zeros(1, 1)], [])


def test_r1_is_that_by_hand() -> None:
    """A coach of two heads: the sum of the image, and twice its first pixel."""
    image = torch.rand(2, 3, 4, 4)
    scale = torch.tensor(1.0, requires_grad=True)

    def logits_of(x: Tensor) -> list[Tensor]:
        return [scale * x.sum((1, 2, 3))[:, None], 2 * x[:, :1, :1, :1]]

    rng = torch.Generator().manual_seed(5)
    noise = 0.1 * torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    penalty = r1_penalty(logits_of, image, logits_of(image), rng, sigma=0.1)
    expected = noise.sum((1, 2, 3)).square().mean() + (2 * noise[:, 0, 0, 0]).square().mean()
    torch.testing.assert_close(penalty, expected, rtol=1e-4, atol=0)
    penalty.backward()
    # d/ds of s^2 E = 2 E at s = 1
    assert scale.grad.item() == pytest.approx(2 * noise.sum((1, 2, 3)).square().mean().item(), rel=1e-4)


def test_noise_is_small_positive_and_of_the_given_generator() -> None:
    seen: list[Tensor] = []

    def logits_of(x: Tensor) -> list[Tensor]:
        seen.append(x)
        return [x.mean((1, 2, 3))[:, None]]

    image = torch.full((2, 3, 64, 64), 0.5, dtype=torch.float64)
    state = torch.get_rng_state()
    penalties = [
        r1_penalty(logits_of, image, [torch.full((2, 1), 0.5)], torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(state, torch.get_rng_state())
    assert penalties[0] == penalties[1] != penalties[2]
    noise = seen[0] - image
    assert noise.min() >= 0
    assert noise.max() < R1_SIGMA == 0.0025
    assert noise.mean() == pytest.approx(R1_SIGMA / 2, rel=0.02)
