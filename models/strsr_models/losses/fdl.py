"""The Frequency Distribution Loss (Ni et al., CVPR 2024, arXiv 2402.18192): a filter against grids.

The DFT of each map of a feature pyramid is split into amplitude and phase, and the distributions of
each are compared by the sliced Wasserstein-1 distance. A grid is few strong bins: they move the
tail of the distribution however well pixels are aligned, and content that is shifted is not punished.

    FDL = sum over maps of SW(amplitude) + phase_weight * SW(phase)
    SW(x, y) = mean over projections q and ranks r of | sort(x * q)_r - sort(y * q)_r |

Letters: b batch, c channels, h w pixels of a map, q projections, k kernel, n positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from ..errors import UsageError
from ..spectrum import amplitude_and_phase

CHUNK = 1 << 24  # projected values at a time


class FrequencyDistributionLoss(nn.Module):
    """FDL of two feature pyramids, (b, c_i, h_i, w_i) each, as a scalar in float32.

    All bins of the DFT count, as published: to a projection the mirrored half of the spectrum is a
    second sample, not a copy. The DFT is not normalised either, so the value grows with the side of a
    crop (of white noise: twice on twice the side), and with the scale of the features. The published
    weight 0.002 is for crops of 1024 px on five maps of VGG19 ("vgg19_torchvision" of
    encoders/features.py).

    Memory: gradients are made in the forward pass, map by map and some projections at a time, and one
    gradient as large as a map is all that is kept. A crop of 1024 px on VGG19, float32: relu1_2 is
    64 x 1024 x 1024 = 268 MB. While it is compared it takes ten times that (measured, on smaller ones):
    the spectrum 537 MB, two amplitudes, two phases, two gradients 268 MB each, and a complex
    gradient; and less than ten arrays of a chunk, 16 projections of 1020 x 1020, of 67 MB. That is
    3.4 GB at the worst moment per crop, and then only its gradient is left. relu2_2 is half as large,
    relu3_4 a quarter, relu4_4 an eighth: 0.5 GB of gradients in the end. All 256 projections at once,
    kept by autograd, would take 10 GB for relu1_2 alone.

    Time goes into convolutions, 2 q c k^2 n operations four times with two more for the gradient, and
    into sorting: fewer projections and a stride of 2 on shallow maps are the honest ways to save.
    """

    def __init__(
        self,
        channels: Sequence[int],
        projections: int = 256,
        kernel: int = 5,
        strides: Sequence[int] | int = 1,
        phase_weight: float = 1.0,
        seed: int = 0,
        chunk: int = CHUNK,
    ) -> None:
        """Draw the projections.

        channels: those of each map. strides: of the projections, for all maps or for each.

        projections: random unit vectors of kernel x kernel x c, fixed by `seed` alone.
        chunk: how many projected values are held at a time; does not change the result.
        Raises UsageError for values that make no sense.
        """
        super().__init__()
        strides = [strides] * len(channels) if isinstance(strides, int) else list(strides)
        numbers = [projections, kernel, chunk, *channels, *strides]
        if not channels or len(strides) != len(channels) or min(numbers) < 1:
            raise UsageError(
                f"frequency loss: channels {list(channels)}, strides {strides}, projections {projections}, "
                f"kernel {kernel}, chunk {chunk}: all must be at least 1, with a stride for each map"
            )
        self.strides, self.phase_weight, self.chunk = strides, phase_weight, chunk
        rng = torch.Generator().manual_seed(seed)
        for number, count in enumerate(channels):
            weights = torch.randn(projections, count, kernel, kernel, generator=rng)
            weights = weights / weights.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            self.register_buffer(f"projections_{number}", weights, persistent=False)

    def forward(self, pred_maps: Sequence[Tensor], target_maps: Sequence[Tensor]) -> Tensor:
        """Return a scalar distance, zero for equal pyramids. The target gets no gradient.

        The distance is in float32 inside autocast, whose bfloat16 would round phases to 2 digits.
        Raises UsageError for maps that are not what the loss was built for, or smaller than a kernel.
        """
        if not len(pred_maps) == len(target_maps) == len(self.strides):
            raise UsageError(
                f"frequency loss: built for {len(self.strides)} maps, "
                f"got {len(pred_maps)} of the prediction and {len(target_maps)} of the target"
            )
        terms = []
        for number, (pred, target) in enumerate(zip(pred_maps, target_maps, strict=True)):
            weights: Tensor = getattr(self, f"projections_{number}")
            _check(number, pred, target, weights)
            with torch.autocast(pred.device.type, enabled=False):
                terms.append(
                    _MapDistance.apply(
                        _at_least_float32(pred),
                        _at_least_float32(target.detach()),
                        weights,
                        self.strides[number],
                        self.phase_weight,
                        self.chunk,
                    )
                )
        return torch.stack(terms).sum()


class _MapDistance(torch.autograd.Function):
    """The distance SW(amplitude) + phase_weight * SW(phase) of two maps, with its gradient made on the way.

    Autograd would keep every projection and its order, or sort twice under checkpointing.
    """

    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, target: Tensor, weights: Tensor, stride: int, phase_weight: float, chunk: int
    ) -> Tensor:
        """Return the scalar distance of maps (b, c, h, w), and keep its gradient where that is needed."""
        weights = weights.to(pred)  # (q, c, k, k)
        with_gradient = ctx.needs_input_grad[0]
        with torch.set_grad_enabled(with_gradient):
            leaf = pred.detach().requires_grad_(with_gradient)
            pair = amplitude_and_phase(leaf)  # each (b, c, h, w)
        with torch.no_grad():
            value = pred.new_zeros(())
            gradients = []
            target_pair = amplitude_and_phase(target)  # each (b, c, h, w)
            for x, y, weight in zip(pair, target_pair, (1.0, phase_weight), strict=True):
                distance, gradient = _sliced_wasserstein(
                    x=x.detach(),
                    y=y,
                    weights=weights,
                    stride=stride,
                    chunk=chunk,
                    with_gradient=with_gradient,
                )
                value += weight * distance
                gradients.append(gradient.mul_(weight))
        if with_gradient:
            # Each of these is as large as the map, and the gradient needs room.
            del target_pair, x, y
            ctx.save_for_backward(*torch.autograd.grad(pair, leaf, gradients))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the kept gradient, scaled by that of the loss."""
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None, None


def _sliced_wasserstein(
    x: Tensor, y: Tensor, weights: Tensor, stride: int, chunk: int, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return the mean over b, q, n of |sort(x * q) - sort(y * q)| for x, y (b, c, h, w), and its gradient by x.

    The gradient of one projected value is the sign of the difference at its rank.
    """
    value, gradient = x.new_zeros(()), torch.zeros_like(x)
    k = weights.shape[-1]
    positions = ((x.shape[2] - k) // stride + 1) * ((x.shape[3] - k) // stride + 1)
    at_a_time = max(1, chunk // (x.shape[0] * positions))
    for part in torch.split(weights, at_a_time):
        projected = F.conv2d(x, part, stride=stride)  # (b, q, h', w')
        ranked, order = projected.flatten(2).sort(dim=-1)  # (b, q, n)
        difference = ranked - _ranked(F.conv2d(y, part, stride=stride).flatten(2))  # (b, q, n)
        value += difference.abs().mean((0, 2)).sum()
        if with_gradient:
            signs = torch.empty_like(ranked).scatter_(-1, order, difference.sign())  # (b, q, n)
            signs = signs.view_as(projected)  # (b, q, h', w')
            gradient += conv2d_input(x.shape, part, signs, stride=stride)  # type: ignore[no-untyped-call]
    q = weights.shape[0]
    return value / q, gradient / (x.shape[0] * q * positions)


def _ranked(values: Tensor) -> Tensor:
    """Sort along the last axis; on a CPU by numpy, which is three times as fast where no indices are needed."""
    # A subclass may have a size and no values: it is left to torch.
    if values.device.type == "cpu" and type(values) is Tensor:
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


def _at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is in float64."""
    return x if x.dtype == torch.float64 else x.float()


def _check(number: int, pred: Tensor, target: Tensor, weights: Tensor) -> None:
    """Raise UsageError unless both are (b, c, h, w) with the projections' c, and h, w >= k."""
    count, k = weights.shape[1], weights.shape[-1]
    where = f"frequency loss, map {number}"
    if pred.shape != target.shape:
        raise UsageError(f"{where}: prediction {tuple(pred.shape)}, target {tuple(target.shape)}")
    if pred.ndim != 4 or pred.shape[1] != count:
        raise UsageError(f"{where}: expected (b, {count}, h, w), got {tuple(pred.shape)}")
    if min(pred.shape[-2:]) < k:
        raise UsageError(
            f"{where}: {pred.shape[-2]} x {pred.shape[-1]} is smaller than the kernel, {k} x {k}; "
            "use larger crops, a smaller kernel or fewer maps"
        )
