"""Lite's weights by scale: a decoder for x4, one for x2 and one for x1, and mixes of them in between."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from strsr_models import WeightsError, load_pipeline
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.pipelines.options import LiteOptions
from strsr_models.pipelines.scales import ScaledWeights, level_of

PICTURE = torch.rand(1, 3, 30, 42, generator=torch.Generator().manual_seed(0))


def other_decoder(tiny: LitePipeline, folder: Path, seed: int) -> dict[str, torch.Tensor]:
    """Weights of a pipeline whose decoder alone differs from the tiny one, saved into a new folder."""
    other = copy.deepcopy(tiny)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.decoder.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    folder.mkdir()
    other.save(folder, {})
    return load_file(folder / "model.safetensors")


@pytest.fixture
def folders(tiny: LitePipeline, tiny_weights: Path, tmp_path: Path) -> dict[float, Path]:
    """A folder of weights for all scales (4), and folders of the networks for x2 and x1 alone."""
    folders = {4.0: tiny_weights}
    for scale in (2.0, 1.0):
        folders[scale] = tmp_path / f"x{scale:g}"
        tensors = other_decoder(tiny, folders[scale], int(scale))
        decoder = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
        save_file(decoder, tiny_weights / f"x{scale:g}.safetensors")
    return folders


def upscaled(folder: Path, scale: float, fidelity: float = 0.0, precision: str | None = None) -> torch.Tensor:
    pipeline = load_pipeline("lite", folder, options=LiteOptions(fidelity))
    return pipeline.upscale(PICTURE, scale, precision=precision)


def alone(folder: Path, scale: float) -> torch.Tensor:
    """What the main weights of a folder make, whatever lies beside them."""
    pipeline = load_pipeline("lite", folder)
    assert isinstance(pipeline, LitePipeline)
    pipeline.scaled = ScaledWeights({})
    return pipeline.upscale(PICTURE, scale)


@pytest.mark.parametrize(
    ("scale", "level"),
    [(16, 4), (4, 4), (3.9, 4), (3, 2**1.5), (2, 2), (1.5, 2**0.5), (1.05, 1), (1, 1), (0.5, 1)],
)
def test_a_scale_has_the_nearest_quarter_of_an_octave(scale: float, level: float) -> None:
    assert level_of(scale) == pytest.approx(level)


def test_each_scale_has_its_own_decoder(folders: dict[float, Path]) -> None:
    for scale in (1.0, 2.0, 4.0):
        assert torch.equal(upscaled(folders[4.0], scale), alone(folders[scale], scale))
    assert not torch.equal(upscaled(folders[4.0], 2), alone(folders[4.0], 2))
    assert torch.equal(upscaled(folders[4.0], 6), alone(folders[4.0], 6))


@pytest.mark.parametrize(("scale", "below", "above"), [(2**1.5, 2.0, 4.0), (2**0.5, 1.0, 2.0)])
def test_between_two_scales_weights_are_mixed(
    folders: dict[float, Path], tmp_path: Path, scale: float, below: float, above: float
) -> None:
    first, second = (load_file(folders[at] / "model.safetensors") for at in (below, above))
    mean = {name: first[name].float().lerp(second[name].float(), 0.5) for name in first}
    folder = tmp_path / "mean"
    folder.mkdir()
    save_file(mean, folder / "model.safetensors")
    (folder / "config.json").write_bytes((folders[4.0] / "config.json").read_bytes())
    torch.testing.assert_close(
        upscaled(folders[4.0], scale), alone(folder, scale), atol=1e-6, rtol=0, check_stride=False
    )


def test_weights_for_one_scale_serve_all_below(folders: dict[float, Path]) -> None:
    (folders[4.0] / "x1.safetensors").unlink()
    assert torch.equal(upscaled(folders[4.0], 1.2), alone(folders[2.0], 1.2))


def test_weights_without_others_serve_all_scales(tiny_weights: Path) -> None:
    pipeline = load_pipeline("lite", tiny_weights)
    assert pipeline.at(2) is pipeline


def test_pipelines_of_other_scales_share_what_is_not_the_decoder(folders: dict[float, Path]) -> None:
    pipeline = load_pipeline("lite", folders[4.0], options=LiteOptions(settled="bf16"))
    assert isinstance(pipeline, LitePipeline)
    half = pipeline.at(2)
    assert pipeline.at(2.05) is half
    assert half.dit is pipeline.dit
    assert half.decoder is not pipeline.decoder
    assert half.narrow[torch.bfloat16].dit is pipeline.narrow[torch.bfloat16].dit
    assert half.at(1) is half
    plain = load_pipeline("lite", folders[2.0])
    assert torch.equal(
        pipeline.upscale(PICTURE, 2, precision="bf16"), plain.upscale(PICTURE, 2, precision="bf16")
    )


def test_copies_have_all_scales(folders: dict[float, Path]) -> None:
    expected = upscaled(folders[4.0], 2)
    pipeline = load_pipeline("lite", folders[4.0])
    pipeline.at(2)
    for other in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        assert torch.equal(other.upscale(PICTURE, 2), expected)


def test_a_pipeline_that_is_cast_is_cast_at_all_scales(folders: dict[float, Path]) -> None:
    pipeline = load_pipeline("lite", folders[4.0])
    expected = pipeline.upscale(PICTURE, 2)
    doubled = pipeline.double().upscale(PICTURE.double(), 2)
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled.float(), expected, atol=1e-5, rtol=0)
    assert next(pipeline.at(2).decoder.parameters()).dtype == torch.float64


def test_training_goes_on_from_the_main_weights(folders: dict[float, Path]) -> None:
    pipeline = load_pipeline("lite", folders[4.0])
    pipeline.at(2)
    pipeline.prepare_training()
    assert pipeline.at(2) is pipeline


def test_fidelity_moves_smaller_scales_by_less(
    folders: dict[float, Path], tiny: LitePipeline, tmp_path: Path
) -> None:
    tensors = other_decoder(tiny, tmp_path / "faithful", 7)
    decoder = {name: tensor for name, tensor in tensors.items() if name.startswith("decoder.")}
    save_file(decoder, folders[4.0] / "faithful.safetensors")
    assert torch.equal(upscaled(folders[4.0], 1, 1.0), upscaled(folders[4.0], 1, 0.0))
    assert not torch.equal(upscaled(folders[4.0], 2, 1.0), upscaled(folders[4.0], 2, 0.0))
    assert torch.equal(upscaled(folders[4.0], 4, 1.0), alone(tmp_path / "faithful", 4))


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "decoder.conv_out.bias",
            torch.zeros(5),
            r"x2\.safetensors: does not fit.*is \(5,\), expected \(3,\)",
        ),
        ("decoder.conv_out.bias", torch.full((3,), torch.nan), r"x2\.safetensors: .*is not finite"),
        ("dit.patch_in.bias", None, r"x2\.safetensors: holds more than a decoder: dit\.patch_in\.bias"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    folders: dict[float, Path], name: str, tensor: torch.Tensor | None, message: str
) -> None:
    path = folders[4.0] / "x2.safetensors"
    own = load_file(folders[4.0] / "model.safetensors")
    save_file(load_file(path) | {name: own[name] if tensor is None else tensor}, path)
    with pytest.raises(WeightsError, match=message):
        load_pipeline("lite", folders[4.0])
