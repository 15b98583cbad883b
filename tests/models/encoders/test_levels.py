"""VGG-19 with weights of either kind: those of torchvision's are known, and their maps have one level."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from strsr_models.checkpoints.judges import JUDGES
from strsr_models.encoders.features import FEATURES, IMAGENET_MEAN, FeatureNetwork
from strsr_models.encoders.levels import levels, pictures
from strsr_models.losses.fdl import FrequencyDistributionLoss

# The first layers' numbers and channels.
LAYERS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256)}


def vgg19(path: Path, scale: float = 1.0, whole: bool = True) -> Path:
    """A file of the first layers with random weights; the maps of unit inputs are `scale` times as large."""
    torch.manual_seed(0)
    tensors = {}
    for number, (inputs, outputs) in LAYERS.items():
        grown = scale if number == 0 else 1.0
        spread = (2 / (9 * outputs)) ** 0.5
        tensors[f"features.{number}.weight"] = grown * spread * torch.randn(outputs, inputs, 3, 3)
        tensors[f"features.{number}.bias"] = 0.3 * scale * torch.randn(outputs)
    if whole:
        tensors["classifier.6.bias"] = torch.zeros(1000)
    save_file(tensors, path)
    return path


def test_pictures_are_like_photos_and_always_the_same() -> None:
    image = pictures()
    assert image.shape == (4, 3, 96, 96)
    assert 0 <= image.min() < image.max() <= 1
    assert image.mean() == pytest.approx(0.45, abs=0.02)
    assert torch.equal(image, pictures())


def test_whole_networks_are_brought_to_caffe_s_levels(tmp_path: Path) -> None:
    network = FeatureNetwork("vgg19", vgg19(tmp_path / "whole.safetensors"))
    assert torch.allclose(network.mean.flatten(), torch.tensor(IMAGENET_MEAN))
    assert torch.allclose(levels(network), torch.tensor(FEATURES["vgg19"].levels), rtol=1e-4)


def test_a_part_of_a_network_is_caffe_s_and_stays_as_it_is(tmp_path: Path) -> None:
    network = FeatureNetwork("vgg19", vgg19(tmp_path / "part.safetensors", whole=False))
    assert network.gains is None
    assert network.std[0, 0, 0, 0] == pytest.approx(1 / 255)


def test_torchvision_s_own_file_is_known_by_its_name(tmp_path: Path) -> None:
    path = vgg19(tmp_path / "part.safetensors", whole=False)
    named = tmp_path / JUDGES["vgg19"].file
    torch.save(load_file(path), named)
    assert FeatureNetwork("vgg19", named).gains is not None


def test_frequency_loss_is_free_of_the_weights_scale(tmp_path: Path) -> None:
    first, second = torch.rand(2, 1, 3, 64, 64)

    def loss(path: Path) -> Tensor:
        network = FeatureNetwork("vgg19", path)
        distance = FrequencyDistributionLoss(network.channels, projections=4, strides=(2, 1, 1))
        return distance(network(first), network(second))

    plain, large = (loss(vgg19(tmp_path / f"{scale}.safetensors", scale)) for scale in (1.0, 7.0))
    assert torch.allclose(plain, large, rtol=1e-3)
