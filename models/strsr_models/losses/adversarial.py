"""Adversarial losses of a coach with several heads: relativistic average, and an approximate R1.

A head asks whether a picture looks more real than the mean of the other kind (arXiv 1807.00734,
eq. 10 and 11), so that its gradient does not vanish once all fakes are known as such.
Logits are lists, one tensor per head: (b, 1, h_i, w_i) for a map, (b, 1) for an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

R1_SIGMA = 0.0025  # of images in [0, 1]: the published 0.005 is for [-1, 1]


def discriminator_loss(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """Return the sum over heads of [BCE(r - mean(f), 1) + BCE(f - mean(r), 0)] / 2; means over the batch axis.

    Computed in float32. The caller detaches the fake image, not the logits. 2 log 2 / 2 = 0.693
    per head when real and fake cannot be told apart.
    """
    return _sum_over_heads(real_logits, fake_logits)


def generator_loss(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """Return the sum over heads of [BCE(f - mean(r), 1) + BCE(r - mean(f), 0)] / 2; no gradient to r."""
    return _sum_over_heads(fake_logits, [logits.detach() for logits in real_logits])


def r1_penalty(
    logits_of: Callable[[Tensor], Sequence[Tensor]],
    real: Tensor,
    real_logits: Sequence[Tensor],
    rng: torch.Generator,
    sigma: float = R1_SIGMA,
) -> Tensor:
    """Return the sum over heads of mean((D(x) - D(x + n))^2), n uniform in [0, sigma): an approximate R1.

    It needs no second derivatives. logits_of: the coach. real: images (b, 3, h, w) in [0, 1];
    real_logits: logits_of(real), not computed again. rng: where n comes from, on any device. The
    published weight is 10; it is not applied here. Spectral normalisation moves on with each forward
    pass in train mode: compute both under `torch.nn.utils.parametrize.cached()`, or the difference measures that as well.
    """
    noise = sigma * torch.rand(real.shape, generator=rng, device=rng.device, dtype=torch.float32)
    noisy_logits = logits_of(real + noise.to(real))
    differences = [
        (clean.float() - noisy.float()).square().mean()
        for clean, noisy in zip(real_logits, noisy_logits, strict=True)
    ]
    return torch.stack(differences).sum()


def _sum_over_heads(up: Sequence[Tensor], down: Sequence[Tensor]) -> Tensor:
    """Return the loss of `up` to be above the mean of `down`, and of `down` to be below the mean of `up`."""
    return torch.stack([_relativistic(a.float(), b.float()) for a, b in zip(up, down, strict=True)]).sum()


def _relativistic(up: Tensor, down: Tensor) -> Tensor:
    """Return the relativistic average loss of one head's logits, as a scalar."""
    # The BCE with logits x is softplus(-x) for target 1 and softplus(x) for target 0.
    above = F.softplus(-(up - down.mean(0, keepdim=True))).mean()
    below = F.softplus(down - up.mean(0, keepdim=True)).mean()
    return (above + below) / 2
