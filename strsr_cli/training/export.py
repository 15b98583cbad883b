"""`strsr export`: a run's averaged weights as a folder that stands on its own, or as an ONNX file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch

from strsr_models.checkpoints.adapter import adapter_files
from strsr_models.checkpoints.files import mismatches, read_tensors, shorten
from strsr_models.checkpoints.locations import (
    CONFIG_NAME,
    FAITHFUL_NAME,
    RANGES_NAME,
    WEIGHTS_NAME,
    lite_folder,
)
from strsr_models.checkpoints.lora import lora_rank
from strsr_models.errors import UsageError, WeightsError, nearest
from strsr_models.load import load_pipeline
from strsr_models.pipelines.flux2 import Flux2Pipeline
from strsr_models.pipelines.int8 import write_ranges
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.pipelines.onnx import onnx_bytes
from strsr_models.pipelines.zimage import ZImagePipeline

from .. import __version__
from ..system.atomic import fill_folder, is_unfinished, sha256_of, sweep, whole_file, whole_folder, writing
from .ranges import ranges_of, read_pictures

TARGETS = {family.name: family.lora_targets for family in (ZImagePipeline, Flux2Pipeline)}
A, B = ".lora_A.default.weight", ".lora_B.default.weight"


def export(run: Path, out: Path, faithful: Path | None = None, ranges: Path | None = None) -> Path:
    """Copy the weights of a run (`weights_of`), once they have been tried, to `out`, which must be new or empty.

    Their metadata says which configuration, photos and steps made them. faithful: a run that went on from these
    weights, or a folder of weights; what differs in it becomes the other end of `--fidelity`.
    ranges: a folder of pictures by which `--precision int8` gets its ranges.
    """
    source = weights_of(run)
    if out.exists() and (not out.is_dir() or not all(is_unfinished(path.name) for path in out.iterdir())):
        raise UsageError(f"{out}: exists and is not an empty folder; choose another")
    family = _family(source)
    if family == "lite":
        load_pipeline("lite", source)
    else:
        check_adapter(source, family)
    other = None if faithful is None else faithful_tensors(source, family, weights_of(faithful))
    if ranges is not None and family != "lite":
        raise UsageError(f"--ranges: is for weights of lite, not of {family}")
    pictures = None if ranges is None else read_pictures(ranges)

    def fill(folder: Path) -> None:
        _copy_files(source, folder)
        if other is not None:
            # They were those of one end alone.
            (folder / RANGES_NAME).unlink(missing_ok=True)
            # The function save_file is not used: its files can be read by their owner alone.
            (folder / FAITHFUL_NAME).write_bytes(safetensors.torch.save(other, metadata={"format": "pt"}))
        if pictures is not None:
            write_ranges(folder, ranges_of(folder, pictures))

    # A link leads to the folder that is meant.
    target = Path(os.path.realpath(out))
    sweep([target, target.parent])
    if target.is_dir():
        fill_folder(target, fill, last=WEIGHTS_NAME)
    else:
        whole_folder(target, fill)
    return out


def export_onnx(run: Path, file: Path) -> Path:
    """Write lite's weights as one ONNX file, whole or not at all.

    Raises UsageError where the file is there already, the weights are not lite's, or packages are missing.
    """
    if file.exists() or file.is_symlink():
        raise UsageError(f"--onnx {file}: exists; choose another name")
    if not file.parent.is_dir():
        raise UsageError(f"--onnx {file}: no folder {file.parent}")
    source = weights_of(run)
    family = _family(source)
    if family != "lite":
        raise UsageError(f"--onnx: is for weights of lite, not of {family}")
    weights = sha256_of(source / WEIGHTS_NAME)
    pipeline = load_pipeline("lite", source)
    assert isinstance(pipeline, LitePipeline)
    # The file is opened first: a place that takes none is told before the export, which takes long.
    with writing(file, "choose another place"), whole_file(file) as stream:
        stream.write(onnx_bytes(pipeline, {"strsr": __version__, "weights_sha256": weights}))
    return file


def weights_of(run: Path) -> Path:
    """The folder of a run's weights, or `run` itself where it is one of weights. Raises UsageError for others.

    `lite`, where no folder is called that, means the embedded weights.
    """
    if str(run) == "lite" and not run.is_dir():
        return lite_folder(None)
    source = run / "model"
    if source.is_dir():
        return source
    if (run / WEIGHTS_NAME).is_file() and (run / CONFIG_NAME).is_file():
        return run
    hint = "has no weights yet" if (run / "config.toml").exists() else "is not the folder of a run"
    raise UsageError(f"{run}: {hint} (no {source})")


def faithful_tensors(source: Path, family: str, other: Path) -> dict[str, Any]:
    """The tensors of the weights in `other` that differ from those in `source`, both lite's.

    Raises UsageError where none do or the family has no such end, WeightsError where they are of another shape.
    """
    if family != "lite" or _family(other) != "lite":
        raise UsageError(f"--faithful {other}: is for weights of lite, beside weights of lite")
    load_pipeline("lite", other)
    own, faithful = (read_tensors(folder / WEIGHTS_NAME) for folder in (source, other))
    if problems := mismatches(faithful, {name: tuple(tensor.shape) for name, tensor in own.items()}):
        raise WeightsError(f"{other / WEIGHTS_NAME}: does not fit {source}: {shorten(problems)}")
    differing = {name: tensor for name, tensor in faithful.items() if not tensor.equal(own[name])}
    if not differing:
        raise UsageError(f"--faithful {other}: has the very weights of {source}")
    return differing


def check_adapter(folder: Path, family: str) -> None:
    """Raise WeightsError for an adapter that no base of its family takes; the base itself is not loaded.

    Each layer must have both its tensors, of one rank, finite, on a target of the family; and the two
    layers of the projector must follow each other.
    """
    if family not in TARGETS:
        raise WeightsError(
            f"{folder / 'config.json'}: family {family!r} is unknown; {nearest(family, TARGETS)}"
        )
    lora_path, projector_path = adapter_files(folder)
    lora, projector = read_tensors(lora_path), read_tensors(projector_path)
    rank = lora_rank(lora, lora_path)
    wanted: dict[str, tuple[int, ...]] = {}
    for name in lora:
        layer = name.removesuffix(A).removesuffix(B)
        a, b = layer + A, layer + B
        if name not in (a, b) or not any(target in layer for target in TARGETS[family]):
            raise WeightsError(f"{lora_path}: {name} is no tensor of a LoRA of {family}")
        wanted[a] = (rank, *_shape(lora, a)[1:])
        wanted[b] = (*_shape(lora, b)[:1], rank)
    _refuse(lora_path, mismatches(lora, wanted))
    width, hidden = _shape(projector, "2.weight")[:1], _shape(projector, "0.weight")
    shapes = {"0.weight": hidden, "0.bias": hidden[:1], "2.weight": (*width, *hidden[:1]), "2.bias": width}
    _refuse(projector_path, mismatches(projector, shapes))


def _shape(tensors: dict[str, Any], name: str) -> tuple[int, ...]:
    """The shape of a tensor, if it is there and a matrix; else (0, 0), which nothing has."""
    shape = tuple(getattr(tensors.get(name), "shape", ()))
    return shape if len(shape) == 2 else (0, 0)


def _refuse(path: Path, problems: list[str]) -> None:
    """Raise WeightsError if there are problems."""
    if problems:
        raise WeightsError(f"{path}: damaged: {shorten(problems)}")


def _family(folder: Path) -> str:
    """The name of the family that a folder of weights belongs to. Raises WeightsError."""
    try:
        return str(json.loads((folder / "config.json").read_text())["family"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{folder / 'config.json'}: cannot be read ({error}); train a step more"
        ) from error


def _copy_files(source: Path, folder: Path) -> None:
    """Copy the files of one folder into another."""
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)
