"""Frozen ImageNet feature networks, to compare pictures by.

Their weights are not part of the package: they come from a local safetensors file with
torchvision's key names, of which any prefix of the network's layers may be present.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UsageError, WeightsError, nearest

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FeatureSpec:
    """How a network of torchvision's is fed, and after which of its layers features are taken."""

    constructor: str
    taps: tuple[int, ...]  # indices into `.features`
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


FEATURES = {
    "squeezenet": FeatureSpec("squeezenet1_1", (1, 4, 7, 9, 10, 11, 12), IMAGENET_MEAN, IMAGENET_STD),
    # relu1_2, relu2_2, relu3_1; Caffe weights want 0..255 minus a mean.
    "vgg19": FeatureSpec("vgg19", (3, 8, 11), (0.48502, 0.45795, 0.40760), (1 / 255, 1 / 255, 1 / 255)),
}


class FeatureNetwork(nn.Module):
    """Images (b, 3, h, w) in [0, 1] to a list of feature maps, shallow to deep; no parameter trains."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: Path) -> None:
        """name: one of FEATURES. weights: a safetensors file. Raises UsageError or WeightsError."""
        super().__init__()
        if name not in FEATURES:
            raise UsageError(f"feature network {name!r}: unknown; {nearest(name, FEATURES)}")
        spec = FEATURES[name]
        self.taps = spec.taps
        self.layers = _load_layers(spec, weights)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        """(b, 3, h, w) in [0, 1] -> feature maps (b, c_i, h_i, w_i)."""
        x = (image - self.mean) / self.std
        maps = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.taps:
                maps.append(x)
        return maps


def _load_layers(spec: FeatureSpec, weights: Path) -> nn.Sequential:
    import torchvision
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{weights}: cannot be read as safetensors ({error})") from error
    network = getattr(torchvision.models, spec.constructor)(weights=None).features
    layers = nn.Sequential(*list(network)[: spec.taps[-1] + 1])
    for module in layers.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # a tap must keep its values
    wanted = layers.state_dict()
    found = {key.removeprefix("features."): value.float() for key, value in tensors.items()}
    missing = [key for key in wanted if key not in found or found[key].shape != wanted[key].shape]
    if missing:
        raise WeightsError(f"{weights}: not the {spec.constructor} expected; missing {', '.join(missing)}")
    layers.load_state_dict({key: found[key] for key in wanted})
    return layers
