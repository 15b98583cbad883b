"""Distance in the feature maps of a frozen network: what looks alike is close.

The idea of LPIPS (arXiv 1801.03924) without its learnt weights: each map is normalised over its
channels, compared, and averaged. This is not LPIPS, and is reported under its own name.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def feature_distance(pred: Tensor, target: Tensor, network: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """Mean over maps of the squared distance of unit feature vectors; pred, target (b, 3, h, w) in [0, 1].

    Zero for equal images; at most 4. `target` gets no gradient.
    """
    with torch.no_grad():
        wanted = network(target)
    distances = [
        (unit(a) - unit(b)).square().sum(1).mean() for a, b in zip(network(pred), wanted, strict=True)
    ]
    return torch.stack(distances).mean()


def unit(features: Tensor) -> Tensor:
    """Scale the channel vectors of (b, c, h, w) to length 1; zero vectors stay zero."""
    return features.float() * torch.rsqrt(features.float().square().sum(1, keepdim=True) + 1e-8)
