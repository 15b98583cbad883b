"""Lite as one ONNX file, for other runtimes and languages: a tile and the whole picture in, the restored tile out."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..compute.surroundings import own_start
from ..errors import UsageError
from ..packages import install_command
from .lite import LitePipeline

NEW_ENOUGH = "2.11"  # the oldest PyTorch that was tried and can
LARGEST = 64  # multiples of `multiple_of`: the largest side of a tile
LONGEST = 4  # times its short side: the long side of an overview


class WholeWay(nn.Module):
    """What the file computes: `restored` (1, 3, H, W) of `tile` (1, 3, H, W) and `overview` (1, 3, h, w).

    An overview is the whole low-quality picture, resized so that its short side has `short_side` px and its long one
    at most four times as many. All are in [0, 1].
    """

    def __init__(self, pipeline: LitePipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    def forward(self, tile: Tensor, overview: Tensor) -> Tensor:
        """Restore a tile."""
        encoder = self.pipeline.semantic_encoder
        x = encoder.stages(2 * overview - 1)  # (1, e, h/16, w/16)
        grid = encoder.config.grid
        # ONNX has no pooling to a size that is not known.
        x = pooling(x.shape[-2], grid) @ x @ pooling(x.shape[-1], grid).T  # (1, e, grid, grid)
        x = x.flatten(2).transpose(1, 2)  # (1, m, e)
        tokens = self.pipeline.projector(encoder.norm(x) + encoder.positions)  # (1, m, d)
        return self.pipeline.restore(tile, tokens)  # (1, 3, H, W)


def pooling(length: int, count: int) -> Tensor:
    """The matrix (count, length) of the means that adaptive pooling takes: of floor(i n/c) to ceil((i+1) n/c)."""
    cells = torch.arange(count)[:, None]
    first = cells * length // count
    last = ((cells + 1) * length + count - 1) // count
    place = torch.arange(length)
    inside = ((place >= first) & (place < last)).float()
    return inside / inside.sum(1, keepdim=True)


def onnx_bytes(pipeline: LitePipeline, metadata: dict[str, str]) -> bytes:
    """Return lite as an ONNX file. metadata: what is added to its own. Raises UsageError where packages are missing or old."""
    try:
        for package in ("onnx", "onnxscript"):
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--onnx: needs {error.name}, which is not installed: {install_command('strsr[onnx]')}"
        ) from error
    step, side = pipeline.multiple_of, pipeline.config.semantic.short_side
    rows, columns = (step * torch.export.Dim(name, min=1, max=LARGEST) for name in ("rows", "columns"))
    high, wide = (torch.export.Dim(name, min=side, max=LONGEST * side) for name in ("height", "width"))
    examples = torch.zeros(1, 3, 3 * step, 4 * step), torch.zeros(1, 3, side + 32, side + 48)
    shapes = {"tile": {2: rows, 3: columns}, "overview": {2: high, 3: wide}}
    with own_start(pipeline.device), warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                WholeWay(pipeline).eval(),
                examples,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["tile", "overview"],
                output_names=["restored"],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UsageError(
                f"--onnx: this PyTorch, {torch.__version__}, cannot write lite; {NEW_ENOUGH} or later can"
            ) from error
    assert program is not None
    model: Any = program.model
    model.metadata_props.update(own_metadata(pipeline) | metadata)
    data: bytes = program.model_proto.SerializeToString()
    return data


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter from writing its logs, of hundreds of lines."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def own_metadata(pipeline: LitePipeline) -> dict[str, str]:
    """Return what a program has to know that uses the file."""
    return {
        "model": "strsr lite",
        "sigma": f"{pipeline.sigma:g}",
        "scale": "any from 1 to 16: the picture is enlarged by bicubic first, and its tiles are restored; "
        f"what is enlarged less than {pipeline.least_scale:g} times is made as large, and reduced",
        "least_scale": f"{pipeline.least_scale:g}",
        "tile": "a part of the enlarged picture, (1, 3, H, W) in [0, 1]",
        "multiple_of": str(pipeline.multiple_of),
        "largest_tile": str(pipeline.largest_tile),
        "overlap": str(pipeline.overlap),
        "overview": "the whole picture before it is enlarged, resized by bilinear with antialias, (1, 3, h, w) in [0, 1]",
        "short_side": str(pipeline.config.semantic.short_side),
        "longest_side": str(LONGEST * pipeline.config.semantic.short_side),
    }
