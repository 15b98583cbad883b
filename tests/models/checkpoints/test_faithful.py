from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from strsr_models import UsageError, WeightsError, load_pipeline
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.pipelines.options import LiteOptions, PretrainedOptions

PICTURE = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def two_ends(tiny: LitePipeline, tiny_weights: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of weights with a faithful end, and a folder of that end's own weights."""
    other = copy.deepcopy(tiny)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.decoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path / "other-end"
    folder.mkdir()
    other.save(folder, {})
    tensors = load_file(folder / "model.safetensors")
    differing = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
    save_file(differing, tiny_weights / "faithful.safetensors")
    return tiny_weights, folder


def restored(folder: Path, fidelity: float) -> torch.Tensor:
    return load_pipeline("lite", folder, options=LiteOptions(fidelity)).upscale(PICTURE)


def test_both_ends_of_fidelity_are_the_networks_themselves(
    two_ends: tuple[Path, Path],
) -> None:
    folder, other = two_ends
    assert not torch.equal(restored(folder, 0.0), restored(folder, 1.0))
    assert torch.equal(restored(folder, 0.0), load_pipeline("lite", folder).upscale(PICTURE))
    assert torch.equal(restored(folder, 1.0), load_pipeline("lite", other).upscale(PICTURE))


def test_weights_go_in_a_straight_line(two_ends: tuple[Path, Path]) -> None:
    folder, _ = two_ends
    states = [
        load_pipeline("lite", folder, options=LiteOptions(share)).state_dict() for share in (0.0, 0.25, 1.0)
    ]
    for name, start in states[0].items():
        torch.testing.assert_close(states[1][name], start.lerp(states[2][name], 0.25))
    assert not torch.equal(states[0]["decoder.conv_out.weight"], states[2]["decoder.conv_out.weight"])
    assert torch.equal(states[0]["dit.patch_in.weight"], states[2]["dit.patch_in.weight"])


def test_weights_without_a_faithful_end_say_so(tiny_weights: Path) -> None:
    with pytest.raises(WeightsError, match=r"faithful\.safetensors: not there.*leave --fidelity out"):
        restored(tiny_weights, 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
def test_fidelity_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(UsageError, match="must be between 0 and 1"):
        LiteOptions(share)


def test_a_faithful_end_of_another_shape_is_refused(two_ends: tuple[Path, Path]) -> None:
    folder, _ = two_ends
    path = folder / "faithful.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_out.bias"] = torch.zeros(5)
    tensors["decoder.more"] = torch.zeros(5)
    save_file(tensors, path)
    with pytest.raises(WeightsError) as caught:
        restored(folder, 0.5)
    assert "decoder.conv_out.bias is (5,), expected (3,)" in str(caught.value)
    assert "unknown decoder.more" in str(caught.value)


def test_a_faithful_end_that_is_not_finite_is_refused(two_ends: tuple[Path, Path]) -> None:
    folder, _ = two_ends
    path = folder / "faithful.safetensors"
    save_file(load_file(path) | {"decoder.conv_out.bias": torch.full((3,), float("nan"))}, path)
    with pytest.raises(WeightsError, match=r"decoder\.conv_out\.bias is not finite"):
        restored(folder, 0.5)


def test_options_of_another_family_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes LiteOptions"):
        load_pipeline("lite", options=PretrainedOptions())
    with pytest.raises(UsageError, match="takes PretrainedOptions"):
        load_pipeline("zimage", tmp_path, options=LiteOptions(0.5))
