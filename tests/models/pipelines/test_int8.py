"""Whole numbers of 8 bits: ranges that are measured, what is rounded, and what OpenVINO makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from strsr_models import load_pipeline
from strsr_models.checkpoints.locations import lite_folder
from strsr_models.errors import WeightsError
from strsr_models.pipelines.int8 import (
    MARGIN,
    Ranges,
    RoundedWeights,
    in_whole_numbers,
    joined,
    layers,
    measure_ranges,
    read_ranges,
    write_ranges,
)
from strsr_models.pipelines.lite import LiteConfig, LitePipeline
from strsr_models.tiling.enlargement import enlarge

from ...conftest import TINY
from ...helpers.random_lite import made, quarter
from ..networks.test_shape import phase_spread

QUARTER = quarter(decoder_blocks=2)
NOISE = 0.03  # with more, the detail of some is more than a picture can have
PICTURE = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(1))


def psnr(first: Tensor, second: Tensor) -> float:
    """The PSNR in dB of images in [0, 1]."""
    return float(-10 * torch.log10((first - second).square().mean()))


def test_ranges_hold_all_that_a_layer_is_given() -> None:
    pipeline = made(QUARTER, NOISE)
    ranges = measure_ranges(pipeline, [PICTURE])
    assert list(ranges) == list(layers(pipeline))
    assert not any("semantic" in name or "shuffle" in name for name in ranges)
    seen: list[Tensor] = []
    conv = pipeline.decoder.blocks[1].conv2
    assert isinstance(conv, nn.Conv2d)
    with conv.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0])):
        pipeline.upscale(PICTURE, 4)
    least, largest = ranges["decoder.blocks.1.conv2"]
    assert min(x.min() for x in seen) == pytest.approx(least)
    assert max(x.max() for x in seen) == pytest.approx(largest)
    both = joined(ranges, measure_ranges(pipeline, [PICTURE / 2]))
    assert all(both[name][0] <= ranges[name][0] and both[name][1] >= ranges[name][1] for name in ranges)


@pytest.mark.parametrize("config", [TINY, QUARTER], ids=["pyramid", "quarter"])
def test_pictures_stay_nearly_what_they_are(config: LiteConfig) -> None:
    pipeline = made(config, NOISE)
    exact = pipeline.upscale(PICTURE, 4)
    assert (exact - enlarge(PICTURE, 160, 192)).abs().max() > 0.02
    rounded = in_whole_numbers(pipeline, measure_ranges(pipeline, [PICTURE]))
    assert 45 < psnr(rounded.upscale(PICTURE, 4), exact) < 90
    # The pipeline itself has not been touched.
    assert torch.equal(pipeline.upscale(PICTURE, 4), exact)


def test_weights_and_inputs_have_256_values_at_most() -> None:
    pipeline = made(QUARTER, NOISE)
    ranges = measure_ranges(pipeline, [PICTURE])
    rounded = in_whole_numbers(pipeline, ranges)
    seen: dict[str, Tensor] = {}
    for name, layer in layers(rounded).items():
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    # Twice as bright as anything that was measured: what goes further than the range is cut off.
    rounded.upscale(2 * PICTURE.clamp(0, 0.5), 4)
    for name, layer in layers(rounded).items():
        assert all(len(channel.unique()) <= 127 for channel in layer.weight)
        assert len(seen[name].unique()) <= 256
        step = MARGIN * (ranges[name][1] - ranges[name][0]) / 255
        assert float(seen[name].max()) <= MARGIN * ranges[name][1] + step


@pytest.mark.parametrize("color", [(0.5, 0.5, 0.5), (0.9, 0.2, 0.1)])
def test_no_lattice_is_printed_into_flat_fields(color: tuple[float, float, float]) -> None:
    pipeline = load_pipeline("lite")
    assert isinstance(pipeline, LitePipeline)
    rounded = in_whole_numbers(pipeline, read_ranges(lite_folder(None)))
    flat = torch.tensor(color).view(1, 3, 1, 1).expand(1, 3, 112, 112)
    spreads = [phase_spread(rounded.upscale(flat, 4), period) for period in (4, 8, 16)]
    assert max(spreads) < 0.05
    # The shuffle is not rounded for that reason.
    parametrize.register_parametrization(rounded.decoder.shuffle, "weight", RoundedWeights())
    assert phase_spread(rounded.upscale(flat, 4), 4) > 10 * spreads[0]


def test_openvino_computes_in_whole_numbers() -> None:
    pytest.importorskip("openvino")
    from strsr_models.pipelines.openvino import OpenVinoTiles

    pipeline = made(QUARTER, NOISE)
    ranges = measure_ranges(pipeline, [PICTURE])
    backend = OpenVinoTiles(pipeline, threads=1, ranges=ranges)
    rounded = in_whole_numbers(pipeline, ranges)
    for side in (32, 80):
        tile, cond = torch.rand(1, 3, side, 64), torch.randn(1, 4, pipeline.token_width)
        with torch.no_grad():
            made_by_torch, exact = rounded.restore(tile, cond), pipeline.restore(tile, cond)
        made_by_openvino = backend.restore(tile, cond)
        # Where a number lies between two steps, rounding may go either way.
        assert psnr(made_by_openvino, made_by_torch) > psnr(made_by_openvino, exact) > 40
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in layers(pipeline).values())
    assert kinds_of_convolutions(backend.compile(torch.float32)).count("u8") == convolutions
    assert "u8" not in kinds_of_convolutions(OpenVinoTiles(pipeline, 1).compile(torch.float32))


def kinds_of_convolutions(network: Any) -> list[str]:
    """The types that a compiled network's convolutions compute in."""
    found = [operator.get_rt_info() for operator in network.get_runtime_model().get_ops()]
    return [str(info["runtimePrecision"].value) for info in found if info["layerType"].value == "Convolution"]


def test_the_embedded_weights_come_with_ranges() -> None:
    pipeline = load_pipeline("lite")
    assert isinstance(pipeline, LitePipeline)
    assert list(read_ranges(lite_folder(None))) == list(layers(pipeline))


def test_ranges_are_read_as_they_were_written(tmp_path: Path) -> None:
    ranges: Ranges = {"decoder.blocks.0.conv1": (-1.25, 3.5), "decoder.blocks.0.conv2": (0.0, 1e-3)}
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write_ranges(tmp_path, ranges)
    assert read_ranges(tmp_path) == ranges


@pytest.mark.parametrize("name", ["model.safetensors", "faithful.safetensors"])
def test_ranges_are_those_of_their_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write_ranges(tmp_path, {"decoder.blocks.0.conv2": (-1, 2)})
    (tmp_path / name).write_bytes(b"other weights")
    with pytest.raises(WeightsError, match="measured on other weights"):
        read_ranges(tmp_path)


def test_no_ranges_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"ranges.json: not there.*strsr export RUN FOLDER --ranges"):
        read_ranges(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "cannot be read as ranges"),
        ("[1, 2]", "cannot be read as ranges"),
        ("[" * 100_000, "cannot be read as ranges"),
        ('{"weights": ""}', "cannot be read as ranges"),
        ('{"ranges": {"decoder.blocks.0.conv2": [1]}}', "cannot be read as ranges"),
        ('{"ranges": {"decoder.blocks.0.conv2": [-1, "wide"]}}', "cannot be read as ranges"),
        ('{"ranges": {"decoder.blocks.0.conv2": [-1, 1%s]}}' % ("0" * 400), "cannot be read as ranges"),
        ('{"ranges": {"decoder.blocks.0.conv2": "03"}}', "is no range around 0"),
        ('{"ranges": {"decoder.blocks.0.conv1": [-1, 1], "decoder.shuffle": "03"}}', "is no range around 0"),
        ('{"ranges": {"decoder.blocks.0.conv2": [-1, 0, 1]}}', "is no range around 0"),
        ('{"ranges": {"decoder.blocks.0.conv2": [1, 2]}}', "is no range around 0"),
        ('{"ranges": {"decoder.blocks.0.conv2": [NaN, 2]}}', "is no range around 0"),
        ('{"ranges": {"decoder.blocks.0.conv2": [-1, Infinity]}}', "is no range around 0"),
    ],
)
def test_what_is_no_range_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "ranges.json").write_text(text)
    with pytest.raises(WeightsError, match=complaint):
        read_ranges(tmp_path)


def test_ranges_of_other_layers_are_refused() -> None:
    ranges = measure_ranges(made(QUARTER, NOISE), [PICTURE])
    ranges.pop("decoder.blocks.0.conv2")
    with pytest.raises(WeightsError, match=r"of other layers than the weights' \(decoder.blocks.0.conv2\)"):
        in_whole_numbers(made(QUARTER, NOISE), ranges)


def test_weights_that_are_not_finite_are_told() -> None:
    pipeline = made(QUARTER, NOISE)
    ranges = measure_ranges(pipeline, [PICTURE])
    pipeline.decoder.blocks[0].conv1.bias[0] = float("nan")
    with pytest.raises(WeightsError, match="not finite"):
        in_whole_numbers(pipeline, ranges)
