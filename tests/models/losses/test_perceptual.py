from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch

from strsr_models import UsageError, WeightsError
from strsr_models.encoders.features import unit
from strsr_models.losses.perceptual import Lpips, feature_distance, hub_path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SqueezeNet in torchvision's own format, with random weights."""
    import torchvision

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("hub") / "squeezenet1_1.pth"
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def test_lpips_values_are_those_of_the_package(backbone: Path) -> None:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    tensors = torch.load(backbone, weights_only=True)
    package.net.load_state_dict(
        {key: tensors[f"features.{key.split('.', 1)[1]}"] for key in package.net.state_dict()}
    )
    pred, target = torch.rand(2, 3, 3, 64, 48).unbind(0)
    expected = package(2 * pred - 1, 2 * target - 1).mean()
    found = Lpips("squeeze", backbone)(pred, target)
    assert found.ndim == 0
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-6)


def test_lpips_is_zero_at_equality_and_trains_predictions_only(backbone: Path) -> None:
    lpips = Lpips("squeeze", backbone).train()
    assert not any(module.training for module in lpips.modules())
    assert not any(p.requires_grad for p in lpips.parameters())
    target = torch.rand(1, 3, 48, 48, requires_grad=True)
    assert float(lpips(target.detach(), target)) == 0
    pred = torch.rand(1, 3, 48, 48, requires_grad=True)
    lpips(pred, target).backward()
    assert pred.grad is not None
    assert pred.grad.count_nonzero() > 0
    assert target.grad is None


def test_black_pictures_and_autocast_give_finite_float32(backbone: Path) -> None:
    lpips = Lpips("squeeze", backbone)
    pred, target = torch.zeros(1, 3, 48, 48, requires_grad=True), torch.rand(1, 3, 48, 48)
    expected = lpips(pred, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lpips(pred, target)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    found.backward()
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all()


def test_a_missing_backbone_is_told_with_where_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import socket

    def no_network(*_args: object) -> None:
        raise AssertionError("it tried the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert hub_path("vgg") == tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    with pytest.raises(WeightsError) as caught:
        Lpips()
    message = str(caught.value)
    assert str(hub_path("vgg")) in message
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in message
    assert "feature distance" in message


def test_a_backbone_that_hub_has_is_found(
    backbone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    hub_path("squeeze").parent.mkdir(parents=True)
    hub_path("squeeze").write_bytes(backbone.read_bytes())
    assert float(Lpips("squeeze")(torch.zeros(1, 3, 32, 32), torch.rand(1, 3, 32, 32))) > 0


def test_wrong_files_names_and_a_missing_package(
    backbone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="LPIPS network 'vgg19': unknown"):
        Lpips("vgg19", backbone)
    tensors = torch.load(backbone, weights_only=True)
    del tensors["features.0.weight"]
    torch.save(tensors, tmp_path / "damaged.pth")
    with pytest.raises(
        WeightsError, match=r"damaged\.pth: not the squeezenet1_1 expected: missing slice1\.0\.weight"
    ):
        Lpips("squeeze", tmp_path / "damaged.pth")
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(WeightsError, match=r"pip install 'strsr\[train\]'"):
        Lpips("squeeze", backbone)


def plain_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The feature distance of one map, as its docstring puts it."""
    return (unit(a) - unit(b)).square().sum(1).mean()


@pytest.mark.parametrize(
    ("kind", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.01)]
)
@pytest.mark.parametrize("level", [0.01, 1.0, 300.0])
def test_feature_distance_and_its_gradient_are_those_of_unit_vectors(
    kind: torch.dtype, tolerance: float, level: float
) -> None:
    torch.manual_seed(5)
    a = (level * torch.randn(2, 24, 17, 11).relu()).to(kind)
    b = (a.float() + 0.5 * level * torch.randn(a.shape)).relu().to(kind)
    a[0, :, 3], b[0, :, 3] = 0, 0  # places where nothing answers
    found, expected = (a.clone().requires_grad_() for _ in range(2))
    distance = feature_distance(found, b, lambda image: [image])
    plain = plain_distance(expected, b)
    assert distance.dtype == torch.float32
    torch.testing.assert_close(distance, plain, rtol=1e-5, atol=0)
    # As a scaler of losses does, so that float16 has something to hold.
    (2**14 * distance).backward()
    (2**14 * plain).backward()
    assert found.grad is not None
    assert expected.grad is not None
    assert found.grad.dtype == kind
    assert found.grad.isfinite().all()
    error = (found.grad.float() - expected.grad.float()).norm() / expected.grad.float().norm()
    assert float(error) < tolerance


def test_feature_distance_of_equal_maps_is_exactly_zero() -> None:
    maps = torch.randn(2, 24, 9, 9, requires_grad=True)
    distance = feature_distance(maps, maps.detach(), lambda image: [image])
    assert float(distance.detach()) == 0
    distance.backward()
    assert maps.grad is not None
    assert float(maps.grad.abs().max()) < 1e-6
