"""Distances in the feature maps of a frozen network: pictures that look alike are close.

There are two, each under its own name: LPIPS (arXiv 1801.03924), whose weights on the features were
learnt from people's judgements, and a plain distance for any network when those are not at hand.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import read_tensors
from ..checkpoints.judges import JUDGES
from ..encoders.features import UNIT_EPS, unit
from ..encoders.frozen import FrozenNetwork, fill
from ..errors import UsageError, WeightsError, nearest
from ..packages import install_command

BACKBONES = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}  # torchvision's names


def feature_distance(pred: Tensor, target: Tensor, network: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """Return the mean squared distance of unit feature vectors over maps; pred, target (b, 3, h, w) in [0, 1].

    It is zero for equal images, and at most 4. `target` gets no gradient. This is the idea of LPIPS without
    its learnt weights: not LPIPS, and reported under its own name.
    """
    return map_distances(pred, target, network).mean()


def map_distances(pred: Tensor, target: Tensor, network: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """Return what `feature_distance` is the mean of: the distance (maps,) by each of the network's maps."""
    with torch.no_grad():
        target_maps = network(target)  # each (b, c_i, h_i, w_i)
    return torch.stack([_UnitDistance.apply(a, b) for a, b in zip(network(pred), target_maps, strict=True)])


class _UnitDistance(torch.autograd.Function):
    """`(unit(a) - unit(b)).square().sum(1).mean()` of maps (b, c, h, w), in a third of the time; b gets no gradient.

    The maps are large and the arithmetic is slight, so that each pass over them counts. Written with the lengths of
    both vectors and their product, which are maps of one channel, forward and backward take two passes each.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance, a float32 scalar."""
        wide_a, wide_b = a.float(), b.float()
        square_a, square_b, product = (
            (x * y).sum(1, keepdim=True) for x, y in ((wide_a, wide_a), (wide_b, wide_b), (wide_a, wide_b))
        )  # each (b, 1, h, w)
        inverse_a, inverse_b = torch.rsqrt(square_a + UNIT_EPS), torch.rsqrt(square_b + UNIT_EPS)
        # In this order equal maps are at 0, to the bit.
        cosine = product * inverse_a * inverse_b
        own_a, own_b = square_a * inverse_a * inverse_a, square_b * inverse_b * inverse_b
        ctx.save_for_backward(a, b, inverse_a, inverse_b, own_a, cosine)
        return (own_a + own_b - 2 * cosine).clamp_min(0).mean()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """Return the gradient for a, in its type."""
        a, b, inverse_a, inverse_b, own_a, cosine = ctx.saved_tensors
        step = 2 * slope / cosine.numel() * inverse_a
        on_a, on_b = step * inverse_a * (1 - own_a + cosine), -step * inverse_b
        # These factors are too small for the range of float16.
        kind = torch.bfloat16 if a.dtype == torch.bfloat16 else torch.float32
        gradient = (a.to(kind) * on_a.to(kind)).addcmul_(b.to(kind), on_b.to(kind))
        return gradient.to(a.dtype), None


class Lpips(FrozenNetwork):
    """The distance LPIPS 0.1, by the weights of the `lpips` package on a backbone of torchvision's.

    The sum over maps is taken here rather than by the package, whose gradient is NaN where all
    features of a pixel are zero; values agree to 1e-4. Nothing is ever downloaded.
    """

    def __init__(self, net: str = "vgg", backbone: Path | None = None) -> None:
        """Build and fill the network.

        net: "vgg" (the one to train with), "alex" or "squeeze". backbone: local file with torchvision's
        ImageNet weights of that network; by default the one that torch.hub keeps. Raises UsageError, or
        WeightsError that says where to get them.
        """
        super().__init__()
        if net not in BACKBONES:
            raise UsageError(f"LPIPS network {net!r}: unknown; {nearest(net, BACKBONES)}")
        path = backbone or hub_path(net)
        if not path.is_file():
            raise WeightsError(
                f"{path}: no such file; LPIPS needs torchvision's {BACKBONES[net]} weights "
                f"({JUDGES[BACKBONES[net]].url}): get them by: strsr models pull {BACKBONES[net]}; or name a local copy; "
                "or use the feature distance on a local network instead"
            )
        self.model: Any = _lpips_package(net)
        tensors = read_tensors(path, "features.")
        # The package's slice3.10.weight is torchvision's features.10.weight.
        names = {name: name.split(".", 1)[1] for name in self.model.net.state_dict()}
        renamed = {name: tensors[key] for name, key in names.items() if key in tensors}
        fill(self.model.net, renamed, path, BACKBONES[net])
        self.freeze()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return LPIPS, a float32 scalar, the mean over the batch; pred, target (b, 3, h, w) in [0, 1].

        `target` gets no gradient. Autocast is switched off inside: squares of features overflow float16.
        """
        with torch.autocast(pred.device.type, enabled=False):
            with torch.no_grad():
                target_maps = self._maps(target)  # each (b, c_i, h_i, w_i)
            pred_maps = self._maps(pred)  # each (b, c_i, h_i, w_i)
            distances = [
                lin((unit(a) - unit(b)).square()).mean()
                for lin, a, b in zip(self.model.lins, pred_maps, target_maps, strict=True)
            ]
            return torch.stack(distances).sum()

    def _maps(self, image: Tensor) -> list[Tensor]:
        """Return the backbone's maps (b, c_i, h_i, w_i) of an image (b, 3, h, w) in [0, 1]."""
        return list(self.model.net(self.model.scaling_layer(2 * image.float() - 1)))


def hub_path(net: str) -> Path:
    """The file in which torch.hub keeps torchvision's ImageNet weights for an LPIPS network, once they are pulled."""
    return JUDGES[BACKBONES[net]].path


def _lpips_package(net: str) -> Any:
    """Build the package's network, its backbone still random. Raises WeightsError without the package."""
    try:
        import lpips
    except ImportError as error:
        raise WeightsError(
            f"LPIPS needs the package lpips: {install_command('strsr[train]')}; "
            "or use the feature distance on a local network instead"
        ) from error
    with warnings.catch_warnings():
        # The package calls torchvision in an old way. By pnet_rand it leaves the backbone for us to fill.
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
