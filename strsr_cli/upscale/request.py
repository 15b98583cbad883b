"""What a command asks for, checked before any picture is: also where there turns out to be nothing to do.

Nothing is loaded for that; PyTorch is only where a device is named that nobody else can know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from strsr_models.checkpoints.adapter import adapter_files, check_family
from strsr_models.checkpoints.lite import read_lite_config
from strsr_models.checkpoints.locations import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    lite_folder,
    require_faithful,
    require_ranges,
)
from strsr_models.checkpoints.published import check_model, needed_pieces, require_pieces
from strsr_models.errors import UsageError, WeightsError

from ..batch.job import STREAM, Shard
from ..batch.plan import Plan
from ..batch.remote.state import check_own_object
from ..batch.state import BatchState
from ..system.paths import is_folder, is_url
from .backends import wanted_backend
from .options import UpscaleOptions


def check_request(options: UpscaleOptions) -> None:
    """Raise UsageError, WeightsError or DeviceError for a model, weights, a device or a backend that is not there."""
    check_model(options.model)
    folder = options.weights_folder
    if folder is not None:
        check_weights(options.model, folder)
    if options.fidelity:
        check_fidelity(options)
    if options.draft and options.model != "lite":
        raise UsageError(f"--draft: is for --model lite, not {options.model}")
    wanted_backend(options)
    if options.in_int8:
        require_ranges(lite_folder(options.weights_folder))
    big = options.big
    if big is not None and big.models_dir is not None:
        pieces = needed_pieces(options.model, big.conditioning, options.weights is None)
        require_pieces(big.models_dir, pieces)
    if not set(options.device.split(",")) <= {"auto", "cpu"}:
        from strsr_models.compute.devices import resolve_devices

        resolve_devices(options.device, options.local)


def check_fidelity(options: UpscaleOptions) -> None:
    """Raise UsageError for models without a faithful end, WeightsError for weights that come without theirs."""
    if options.model != "lite":
        raise UsageError(f"--fidelity: is for --model lite, not {options.model}")
    path = require_faithful(lite_folder(options.weights_folder))
    check_safetensors(path)


def check_weights(model: str, folder: Path) -> None:
    """Raise WeightsError for a folder that holds no weights of that model, as far as its files' beginnings tell."""
    if model != "lite":
        check_family(folder, model)
        adapter_files(folder)
        return
    read_lite_config(folder / CONFIG_NAME)
    check_safetensors(folder / WEIGHTS_NAME)


def check_safetensors(path: Path) -> None:
    """Raise WeightsError for what is no safetensors file, as far as its header tells."""
    from safetensors import SafetensorError, safe_open

    try:
        # Its header alone is read.
        with safe_open(path, "numpy"):
            pass
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: cannot be read as safetensors, get it again if it is damaged ({error})"
        ) from error


def check_watch(arguments: list[str], part: Shard, given: dict[str, Any]) -> None:
    """Raise UsageError where --watch makes no sense. given: other options that do not go with it, by name."""
    for option, value in given.items():
        if value:
            raise UsageError(f"--watch: not with {option}; drop one of them")
    if part.count > 1:
        raise UsageError(
            "--watch: several processes on one OUTPUT share what arrives by themselves; "
            f"drop the part {part.number} of {part.count} (by {part.source}): --shard 1/1"
        )
    for text in arguments:
        if text == STREAM or is_url(text):
            raise UsageError(f"--watch: {text} is no folder of this machine; INPUT and OUTPUT must be ones")
    sources = arguments if len(arguments) == 1 else arguments[:-1]
    if not any(map(is_folder, map(Path, sources))):
        raise UsageError(f"--watch: {sources[0]} is no folder, in which something could arrive; drop --watch")


def check_replaced(plan: Plan, state: BatchState, replace: bool) -> None:
    """Raise UsageError where OUTPUT names a file of somebody's, or --replace stands where OUTPUT names no file."""
    if plan.single is not None:
        if replace:
            return
        if isinstance(plan.single, Path):
            state.check_own(plan.single)
        else:
            check_own_object(plan.single)
    elif replace and any(job.target is not None for job in plan.jobs):
        raise UsageError("--replace: is for one OUTPUT file; in a folder --overwrite makes outputs again")
