from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from strsr_models import UsageError, WeightsError
from strsr_models.encoders.features import FEATURES, IMAGENET_MEAN, IMAGENET_STD, FeatureNetwork, FeatureTrunk
from strsr_models.networks.discriminator import Coach, Discriminator, DiscriminatorConfig
from strsr_models.networks.resnet50v2 import ResNet50V2Stages


def random_tensors(name: str) -> dict[str, Tensor]:
    """All tensors that a feature network wants, under the names of a file, not yet trained."""
    rng = torch.Generator().manual_seed(0)
    prefix = "" if name == "resnet50v2" else "features."
    found = {}
    for key, value in FEATURES[name].build().state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        fan_in = value[0].numel() if value.ndim > 1 else 1
        tensor = torch.randn(value.shape, generator=rng) * (2 / fan_in) ** 0.5
        found[prefix + key] = 0.5 + tensor.abs() if value.ndim == 1 else tensor  # variances too
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of random weights for each network, in float16 as they are given away."""
    folder = tmp_path_factory.mktemp("features")
    paths = {}
    for name in FEATURES:
        paths[name] = folder / f"{name}.safetensors"
        save_file({key: value.half() for key, value in random_tensors(name).items()}, paths[name])
    return paths


SIZES = {
    "squeezenet": [23, 11, 5, 2, 2, 2, 2],
    "vgg19": [48, 24, 12],
    "vgg19_torchvision": [48, 24, 12, 6, 3],
    "efficientnet_lite0": [24, 12, 6, 3],
    "efficientnet_lite2": [24, 12, 6, 3],
    "inception_v3": [21, 8, 3, 1],
    "resnet50v2": [24, 12, 6, 3],
}


@pytest.mark.parametrize("name", list(FEATURES))
def test_maps_have_the_channels_and_sizes_that_are_stated(name: str, files: dict[str, Path]) -> None:
    network = FeatureNetwork(name, files[name])
    image = torch.rand(2, 3, 48, 48, requires_grad=True)
    maps = network(image)
    assert tuple(x.shape[1] for x in maps) == network.channels
    assert [x.shape[-1] for x in maps] == SIZES[name]
    assert all(p.dtype == torch.float32 for p in network.parameters())
    maps[-1].square().mean().backward()
    assert image.grad is not None
    assert image.grad.count_nonzero() > 0
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("name", ["vgg19_torchvision", "squeezenet"])
def test_maps_are_torchvisions(name: str, files: dict[str, Path]) -> None:
    import torchvision
    from safetensors.torch import load_file

    spec = FEATURES[name]
    with torch.device("meta"):
        whole = getattr(torchvision.models, spec.build.args[0])(weights=None).features.eval()
    tensors = {key.removeprefix("features."): value.float() for key, value in load_file(files[name]).items()}
    whole.load_state_dict(tensors, strict=False, assign=True)
    network = FeatureNetwork(name, files[name])
    image = torch.rand(1, 3, 40, 40)
    x = (image - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        for number, layer in enumerate(whole[: spec.build.args[1][-1] + 1]):
            x = layer(x)
            if number in spec.build.args[1]:
                last = x
        torch.testing.assert_close(network(image)[-1], last)


def test_batchnorm_statistics_stay_whatever_mode_is_asked_for(files: dict[str, Path]) -> None:
    network = FeatureNetwork("resnet50v2", files["resnet50v2"])
    image = torch.rand(2, 3, 32, 32)
    before = network(image)
    holder = torch.nn.Sequential(network).train()
    assert holder.training
    assert not any(module.training for module in network.modules())
    network(torch.rand(2, 3, 32, 32))
    for a, b in zip(before, network(image), strict=True):
        assert torch.equal(a, b)
    assert float(network.network.bn1.num_batches_tracked) == 0
    torch.testing.assert_close(network(image[:1])[0], before[0][:1])  # no batch statistics


def test_resnet50v2_has_its_published_size_and_pre_activations() -> None:
    network = ResNet50V2Stages().eval()
    # ResNet-50 without its last stage and classifier.
    assert 8.4e6 < sum(p.numel() for p in network.parameters()) < 8.7e6
    block = network.stages[0][1]  # one that keeps its channels: x + f(x)
    with torch.no_grad():
        block.conv3.weight.zero_()
    x = torch.randn(1, 256, 4, 4)
    assert torch.equal(block(x), x)


def test_a_feature_network_coaches(files: dict[str, Path]) -> None:
    trunk = FeatureTrunk(FeatureNetwork("resnet50v2", files["resnet50v2"]))
    heads = Discriminator(DiscriminatorConfig(trunk.channels, trunk.embedding_channels, hidden=4))
    coach = Coach(trunk, heads).train()
    assert not trunk.networks.training
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    logits = coach(image)
    assert [tuple(x.shape) for x in logits] == [(2, 1, s, s) for s in (8, 4, 2, 1)]
    sum(x.sum() for x in logits).backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_a_torch_checkpoint_with_a_classifier_does_as_well(files: dict[str, Path], tmp_path: Path) -> None:
    tensors = random_tensors("squeezenet") | {"classifier.1.weight": torch.zeros(3)}
    torch.save(tensors, tmp_path / "squeezenet.pth")
    image = torch.rand(1, 3, 48, 48)
    found = FeatureNetwork("squeezenet", tmp_path / "squeezenet.pth")(image)
    expected = FeatureNetwork("squeezenet", files["squeezenet"])(image)
    torch.testing.assert_close(found[0], expected[0], rtol=0.02, atol=0.02)


def test_a_feature_network_moves_between_devices_and_types(files: dict[str, Path]) -> None:
    network = FeatureNetwork("resnet50v2", files["resnet50v2"]).to("cpu", torch.float64)
    assert network(torch.rand(1, 3, 32, 32, dtype=torch.float64))[0].dtype == torch.float64
    assert not any(value.is_meta for value in network.state_dict().values())


def test_wrong_names_and_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'resnet50v2'"):
        FeatureNetwork("resnet50", files["resnet50v2"])
    with pytest.raises(
        WeightsError, match=r"squeezenet\.safetensors: not the vgg19 expected: missing 10\.bias"
    ):
        FeatureNetwork("vgg19", files["squeezenet"])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        FeatureNetwork("vgg19", tmp_path / "none.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list, expected a dict"):
        FeatureNetwork("vgg19", tmp_path / "list.pth")
