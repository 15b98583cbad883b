"""Whole numbers of 8 bits where lite multiplies most: in convolutions of residual blocks, and the transformer.

Each of these layers gets its inputs in 256 steps over a range that was measured on pictures, and its weights in 127
steps per output channel. That is recorded in floats (Jacob et al., arXiv 1712.05877, section 3), and OpenVINO makes
whole numbers of it. Sums, norms, attention and the shuffle stay floats: rounded weights of a shuffle would not be
balanced any more, and print a lattice into flat fields.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..checkpoints.locations import FAITHFUL_NAME, RANGES_NAME, WEIGHTS_NAME, require_ranges
from ..errors import WeightsError
from ..networks.autoencoder import ResidualBlock

if TYPE_CHECKING:
    from .lite import LitePipeline

Ranges = dict[str, tuple[float, float]]  # by the layer's name: the least and the largest of its inputs

MARGIN = 1.2  # of a range: other pictures may go further, and what does is cut off
LEAST_WIDTH = 1e-6  # of a range
STEPS = 255  # from the least input to the largest
# From 0 to the largest weight. Processors without VNNI add two products in 16 bits, which larger weights overflow
# (text lost 8 dB); so pictures are the same on all of them.
WEIGHT_STEPS = 63


def layers(pipeline: LitePipeline) -> dict[str, nn.Conv2d | nn.Linear]:
    """The layers that are computed in whole numbers, by their names in the pipeline."""
    found: dict[str, nn.Conv2d | nn.Linear] = {}
    # The semantic encoder sees each picture once, and small.
    organs = {"structural_encoder": pipeline.structural_encoder, "decoder": pipeline.decoder}
    for name, organ in {**organs, "dit.blocks": pipeline.dit.blocks}.items():
        for path, module in organ.named_modules(prefix=name):
            if isinstance(module, ResidualBlock):
                found |= {f"{path}.conv1": module.conv1, f"{path}.conv2": module.conv2}
            elif isinstance(module, nn.Linear):
                found[path] = module
    return found


def measure_ranges(pipeline: LitePipeline, pictures: Iterable[Tensor]) -> Ranges:
    """The ranges of the layers' inputs while pictures (1, 3, h, w) in [0, 1] are enlarged four times, in float32."""
    measured = layers(pipeline)
    ranges: Ranges = dict.fromkeys(measured, (0.0, 0.0))

    def widen(name: str, _layer: nn.Module, inputs: tuple[Tensor]) -> None:
        least, largest = ranges[name]
        ranges[name] = min(least, float(inputs[0].min())), max(largest, float(inputs[0].max()))

    hooks = [layer.register_forward_pre_hook(partial(widen, name)) for name, layer in measured.items()]
    try:
        for picture in pictures:
            pipeline.upscale(picture, 4, precision="fp32")
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


def joined(first: Ranges, second: Ranges) -> Ranges:
    """The ranges that hold those of two, of the same layers."""
    return {
        name: (min(least, second[name][0]), max(largest, second[name][1]))
        for name, (least, largest) in first.items()
    }


def write_ranges(folder: Path, ranges: Ranges) -> None:
    """Write the ranges of a folder of weights beside them, as JSON with a line for each layer."""
    lines = [f'    "{name}": [{least:.5g}, {largest:.5g}]' for name, (least, largest) in ranges.items()]
    layers_text = ",\n".join(lines)
    text = f'{{\n  "weights": "{weights_digest(folder)}",\n  "ranges": {{\n{layers_text}\n  }}\n}}\n'
    (folder / RANGES_NAME).write_text(text)


def read_ranges(folder: Path) -> Ranges:
    """Read what `write_ranges` has written. Raises WeightsError for none, for what is damaged or of other weights."""
    path = require_ranges(folder)
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        entries: dict[str, list[float]] = data["ranges"]
        ranges = {name: (float(ends[0]), float(ends[1])) for name, ends in entries.items()}
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise WeightsError(f"{path}: cannot be read as ranges ({error})") from error
    for name, (least, largest) in ranges.items():
        is_pair = isinstance(entries[name], list) and len(entries[name]) == 2
        if not (is_pair and -math.inf < least <= 0 <= largest < math.inf):
            raise WeightsError(f"{path}: {name} {entries[name]}: is no range around 0")
    if data.get("weights") != weights_digest(folder):
        raise WeightsError(
            f"{path}: was measured on other weights; measure these by strsr export RUN FOLDER --ranges PICTURES"
        )
    return ranges


def weights_digest(folder: Path) -> str:
    """The SHA-256 of the weights in a folder, those of the faithful end included, in hexadecimal."""
    digest = hashlib.sha256()
    for path in (folder / WEIGHTS_NAME, folder / FAITHFUL_NAME):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def in_whole_numbers(pipeline: LitePipeline, ranges: Ranges) -> LitePipeline:
    """A copy to be recorded, whose layers round their inputs and weights. Its other weights are the pipeline's own.

    Raises WeightsError for ranges of other layers, and for weights that are not finite: rounding would hide them.
    """
    names = set(layers(pipeline))
    if names != set(ranges):
        differing = ", ".join(sorted(names ^ set(ranges))[:3])
        raise WeightsError(f"ranges for int8: are of other layers than the weights' ({differing})")
    if not all(bool(tensor.isfinite().all()) for tensor in pipeline.parameters()):
        raise WeightsError("the weights are damaged: some of their numbers are not finite")
    rounded = pipeline.sharing_copy()
    for name, layer in layers(rounded).items():
        least, largest = (MARGIN * end for end in ranges[name])
        step = max(largest - least, LEAST_WIDTH) / STEPS
        layer.register_forward_pre_hook(partial(_round_inputs, step, round(-least / step)))
        parametrize.register_parametrization(layer, "weight", RoundedWeights())
    return rounded


class RoundedWeights(nn.Module):
    """Weights (e', ...) in WEIGHT_STEPS steps either way, up to the largest of each output channel."""

    def forward(self, weights: Tensor) -> Tensor:
        """Round weights; the shape stays."""
        steps = weights.detach().abs().flatten(1).amax(1).clamp_min(1e-12) / WEIGHT_STEPS
        zeros = torch.zeros_like(steps, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weights, steps, zeros, 0, -WEIGHT_STEPS, WEIGHT_STEPS)


def _round_inputs(step: float, zero: int, _layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (torch.fake_quantize_per_tensor_affine(inputs[0], step, zero, 0, STEPS),)
