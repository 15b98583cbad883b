"""Frozen ImageNet feature networks, to compare pictures by, or to coach with.

Their weights are not part of the package: they come from a local file, safetensors or a torch
checkpoint, with torchvision's key names; layers behind the last tap may be left out. VGG-19 may have
Caffe's weights or torchvision's, which were trained on inputs of other sizes: which ones they are is
seen (`is_torchvision_s`), and the maps of both are of one level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import read_tensors
from ..checkpoints.judges import JUDGES
from ..errors import UsageError, nearest
from ..networks.resnet50v2 import ResNet50V2Stages
from .frozen import FrozenNetwork, fill
from .levels import levels

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class TappedLayers(nn.Sequential):
    """A chain of layers; the values behind some of them are the result."""

    def __init__(self, layers: list[nn.Module], taps: tuple[int, ...]) -> None:
        super().__init__(*layers)
        self.taps = taps

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps (b, c_i, h_i, w_i) of an image (b, 3, h, w), one per tap."""
        maps = []
        for number, layer in enumerate(self):
            x = layer(x)  # (b, c_i, h_i, w_i)
            if number in self.taps:
                maps.append(x)
        return maps


def torchvision_layers(constructor: str, taps: tuple[int, ...]) -> TappedLayers:
    """Build the layers of `torchvision.models.<constructor>().features` up to the last tap, not yet filled."""
    import torchvision

    # Nothing is drawn at random: the file fills everything.
    with torch.device("meta"):
        network = getattr(torchvision.models, constructor)(weights=None)
    layers = list(network.features)[: taps[-1] + 1]
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, nn.ReLU):
                # A ReLU in place would change the values of the tap before it.
                module.inplace = False
    return TappedLayers(layers, taps)


def resnet50v2() -> ResNet50V2Stages:
    """Build the stem and stages 1 to 3 of ResNet-50 v2, not yet filled."""
    with torch.device("meta"):
        return ResNet50V2Stages()


def timm_maps(name: str) -> nn.Module:
    """Build a network of timm's, with its names, up to its maps at 1/2, 1/4, 1/8 and 1/16 size; not yet filled.

    The package timm comes with open_clip.
    """
    import timm

    with torch.device("meta"):
        network: nn.Module = timm.create_model(name, features_only=True, out_indices=(0, 1, 2, 3))
    return network


@dataclass(frozen=True)
class FeatureSpec:
    """The way a feature network is built and fed, and what it gives."""

    build: Callable[[], nn.Module]  # on the meta device; normalised image -> list of maps
    channels: tuple[int, ...]  # of its maps, shallow to deep
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    # Root mean squares of the maps of `levels.pictures`, to which those of torchvision's weights are brought.
    levels: tuple[float, ...] = ()


FEATURES = {
    "squeezenet": FeatureSpec(
        partial(torchvision_layers, "squeezenet1_1", (1, 4, 7, 9, 10, 11, 12)),
        (64, 128, 256, 384, 384, 512, 512),
    ),
    # The taps are relu1_2, relu2_2 and relu3_1; Caffe weights want 0..255 minus a mean. The levels are theirs.
    "vgg19": FeatureSpec(
        partial(torchvision_layers, "vgg19", (3, 8, 11)),
        (64, 128, 256),
        (0.48502, 0.45795, 0.40760),
        (1 / 255, 1 / 255, 1 / 255),
        (195.5, 333.7, 320.1),
    ),
    # The taps are relu1_2, relu2_2, relu3_4, relu4_4 and relu5_4 with torchvision's own weights: what the
    # frequency distribution loss was published with.
    "vgg19_torchvision": FeatureSpec(
        partial(torchvision_layers, "vgg19", (3, 8, 17, 26, 35)), (64, 128, 256, 512, 512)
    ),
    "efficientnet_lite0": FeatureSpec(
        partial(timm_maps, "tf_efficientnet_lite0"), (16, 24, 40, 112), HALF, HALF
    ),
    "efficientnet_lite2": FeatureSpec(
        partial(timm_maps, "tf_efficientnet_lite2"), (16, 24, 48, 120), HALF, HALF
    ),
    # Its first convolutions do without padding, so that maps are some places smaller.
    "inception_v3": FeatureSpec(partial(timm_maps, "inception_v3"), (64, 192, 288, 768), HALF, HALF),
    "resnet50v2": FeatureSpec(resnet50v2, (64, 256, 512, 1024)),
}


class FeatureNetwork(FrozenNetwork):
    """The network from images (b, 3, h, w) in [0, 1] to feature maps, shallow to deep; no parameter trains."""

    mean: Tensor
    std: Tensor
    gains: Tensor | None

    def __init__(self, name: str, weights: Path) -> None:
        """Build `name`, one of FEATURES, and fill it from a local file. Raises UsageError or WeightsError."""
        super().__init__()
        if name not in FEATURES:
            raise UsageError(f"feature network {name!r}: unknown; {nearest(name, FEATURES)}")
        spec = FEATURES[name]
        # The channels of the maps.
        self.channels: tuple[int, ...] = spec.channels
        self.network = spec.build()
        tensors = read_tensors(weights)
        # A name such as torchvision's `features.0.weight` means layer 0 of `network`.
        layers = {key.removeprefix("features."): value for key, value in tensors.items()}
        fill(self.network, layers, weights, name)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        self.register_buffer("gains", None)
        if spec.levels and is_torchvision_s(name, weights, tensors):
            self._bring_to_levels(torch.tensor(spec.levels))
        self.freeze()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps (b, c_i, h_i, w_i) of an image (b, 3, h, w) in [0, 1]."""
        maps: list[Tensor] = self.network((image - self.mean) / self.std)  # each (b, c_i, h_i, w_i)
        return maps if self.gains is None else [gain * x for gain, x in zip(self.gains, maps, strict=True)]

    def _bring_to_levels(self, wanted: Tensor) -> None:
        """Feed normalised inputs, and scale each map such that its level is the one wanted (maps,)."""
        self.mean.copy_(torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.std.copy_(torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.gains = wanted / levels(self)


def is_torchvision_s(name: str, weights: Path, tensors: dict[str, Any]) -> bool:
    """Whether a file holds torchvision's weights of a network that Caffe's are known of, too.

    They cannot be told by their values. The file that torchvision publishes is known by its name, and any other
    that holds the whole network counts as such; parts of a network are Caffe's.
    """
    return weights.name == JUDGES[name].file or any(key.startswith("classifier.") for key in tensors)


UNIT_EPS = 1e-8  # added to squared lengths


def unit(features: Tensor) -> Tensor:
    """Scale the channel vectors of (b, c, h, w) to length 1; zero vectors stay zero."""
    return features.float() * torch.rsqrt(features.float().square().sum(1, keepdim=True) + UNIT_EPS)


class FeatureTrunk(FrozenNetwork):
    """The trunk of a coach made of feature networks: all their maps, and no embedding.

    The vector of channels at each place of a map is scaled to a root mean square of 1. Raw maps differ by a
    hundred times between networks and between the maps of one, and heads on them would push the student as
    much harder.
    """

    embedding_channels = 0

    def __init__(self, *networks: FeatureNetwork) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.channels = tuple(count for network in networks for count in network.channels)
        self.freeze()

    def forward(self, image: Tensor) -> tuple[list[Tensor], None]:
        """Return the scaled maps (b, c_i, h_i, w_i), and None, of an image (b, 3, h, w) in [0, 1]."""
        maps: list[Tensor] = []
        for network in self.networks:
            maps += network(image)  # each (b, c_i, h_i, w_i)
        return [math.sqrt(x.shape[1]) * unit(x) for x in maps], None
