"""The examination by `strsr doctor`: what this machine has, which weights are there, what will fit. It never fails."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strsr_models.checkpoints.locations import cache_dir
from strsr_models.checkpoints.published import FAMILIES, FOLDERS, pull_command
from strsr_models.errors import StrsrError

from .. import __version__
from ..system.atomic import free_space
from ..system.console import Tell, print_folded, print_table, size_text
from ..system.machine import advice_on_cuda, examine_cpu, examine_gpus, has_openvino, or_none, versions
from . import store

# How many parameters there are, as counted; the bytes follow from the precision.
PARAMETERS = {
    "zimage": {"dit": 6.15e9, "vlm": 4.44e9, "vae": 0.084e9},
    "flux2": {"dit": 3.88e9, "vlm": 4.44e9, "vae": 0.084e9},
}
BYTES = {"bf16": 2, "fp32": 4}  # of a parameter
DECODING = 1.5e9  # activations, in numbers, when 1024x1024 px are decoded
LITE = 0.5e9  # bytes for lite and an output of about 10 megapixels


def peak_bytes(model: str, precision: str) -> float:
    """Return the estimated bytes of memory of a model for tiles of 1024 px, its two phases one after the other.

    First the vision-language model looks at the picture, then it makes room for transformer and VAE.
    """
    if model == "lite":
        return LITE
    count = PARAMETERS[model]
    return BYTES[precision] * max(count["vlm"], count["dit"] + count["vae"] + DECODING)


def examine(models_dir: Path | None, why_unknown: str = "") -> dict[str, Any]:
    """Return everything that is shown, for programs; None stands for what cannot be found out.

    models_dir: None where it is not known, and then why.
    """
    cpu = examine_cpu()
    gpus = or_none(examine_gpus) or []
    libraries = versions()
    places = {"output": Path.cwd, "cache": cache_dir, "models": lambda: models_dir}
    return {
        "strsr": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": or_none(_torch_version),
        "libraries": libraries,
        "cpu": cpu,
        "gpus": gpus,
        "default": or_none(_default),
        "advice": or_none(advice_on_cuda),
        "models_dir": None if models_dir is None else str(models_dir),
        "disks": {name: _disk(place) for name, place in places.items()},
        "weights": {model: examine_weights(models_dir, model, why_unknown) for model in ("lite", *FAMILIES)},
        "fit": [row for device in (*gpus, cpu) for row in estimates(device)],
    }


def _disk(place: Callable[[], Path | None]) -> dict[str, Any]:
    """Return the path of a folder, which need not be there yet, and the bytes free on its disk."""
    path = or_none(place)
    free = None if path is None else or_none(lambda: free_space(path))
    return {"path": None if path is None else str(path), "free_bytes": free}


def _default() -> dict[str, str]:
    """Return the device and the precision in which lite computes where no option says."""
    from strsr_models.compute.devices import resolve_device, resolve_precision

    device = resolve_device("auto")
    backend = "openvino" if device.type == "cpu" and has_openvino() else "torch"
    return {"device": str(device), "precision": resolve_precision("auto", device), "backend": backend}


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def examine_weights(models_dir: Path | None, model: str, why_unknown: str = "") -> dict[str, Any]:
    """Return whether a model's weights are there, what is missing, and how to get it; without a folder, why."""
    if model == "lite":
        from strsr_models import __file__ as package

        present = (Path(package).parent / "weights" / "lite" / "model.safetensors").is_file()
        return {
            "present": present,
            "missing": [] if present else ["the package's own weights; install it again"],
        }
    if models_dir is None:
        return {"present": False, "missing": [f"a models folder ({why_unknown})"]}
    missing: dict[str, list[str]] = {}
    for folder in FAMILIES[model]:
        try:
            state = store.state_of(models_dir, FOLDERS[folder])
        except (OSError, StrsrError) as error:
            missing[folder] = [f"{folder} ({error})"]
            continue
        if state.word == "absent":
            missing[folder] = [folder]
        elif not state.usable:
            missing[folder] = [f"{folder}/{part}" for part in state.missing] or [folder]
    if not missing:
        return {"present": True, "missing": []}
    named = [piece for pieces in missing.values() for piece in pieces]
    return {"present": False, "missing": named, "command": pull_command(models_dir, missing)}


def estimates(device: dict[str, Any]) -> list[dict[str, Any]]:
    """Return estimates, from parameter counts, of whether each model will fit on a device as it is now.

    The big models compute in bf16 on GPUs; on CPUs in fp32 unless bf16 is asked for.
    """
    free = device["free_bytes"]
    precisions = ("fp32", "bf16") if device["device"] == "cpu" else ("bf16",)
    rows = [("lite", "fp32")] + [(model, precision) for model in FAMILIES for precision in precisions]
    return [
        {
            "model": model,
            "device": device["device"],
            "precision": precision,
            "needed_bytes": round(peak_bytes(model, precision)),
            "free_bytes": free,
            "fits": None if free is None else peak_bytes(model, precision) <= free,
            "estimated": True,
        }
        for model, precision in rows
    ]


def show(examination: dict[str, Any], as_json: bool, report: Tell) -> None:
    """Print an examination, for people or as one JSON object."""
    if as_json:
        report(json.dumps(examination))
        return
    torch = examination["torch"] or "cannot be loaded"
    report(f"strsr {examination['strsr']}, Python {examination['python']}, PyTorch {torch}")
    report(examination["platform"])
    print_folded(
        ", ".join(f"{name} {version}" for name, version in examination["libraries"].items() if version)
    )
    absent = [name for name, version in examination["libraries"].items() if not version]
    if absent:
        print_folded(f"not installed: {', '.join(absent)}")
    devices = [*examination["gpus"], examination["cpu"]]
    print_table(
        ["device", "what", "memory free", "of", "precisions"], [_device_row(device) for device in devices]
    )
    if examination["default"]:
        report(
            "unless told otherwise, lite computes on {device} in {precision}".format(**examination["default"])
            + (" by OpenVINO" if examination["default"]["backend"] == "openvino" else "")
            + ("; --precision int8 is faster" if _gains_by_int8(examination) else "")
        )
    if examination["advice"]:
        report(examination["advice"])
    words = {"output": "this folder", "cache": "cache", "models": "models folder"}
    for name, disk in examination["disks"].items():
        report(f"{words[name]}: {disk['path'] or 'unknown'}, {_size(disk['free_bytes'])} free on its disk")
    for model, weights in examination["weights"].items():
        if weights["present"]:
            report(f"{model}: weights are there")
        else:
            command = f"; {weights['command']}" if "command" in weights else ""
            report(f"{model}: missing {', '.join(weights['missing'])}{command}")
    report("memory for tiles of 1024 px, the phases in turn; estimated from parameter counts:")
    print_table(["model", "on", "in", "needs", "verdict"], [_fit_row(row) for row in examination["fit"]])


def _gains_by_int8(examination: dict[str, Any]) -> bool:
    """Whether lite is computed by OpenVINO and in float32, so that whole numbers are faster; measured on x86-64."""
    default, is_x86 = examination["default"], platform.machine() in ("x86_64", "AMD64")
    return is_x86 and (default["backend"], default["precision"]) == ("openvino", "fp32")


def _device_row(device: dict[str, Any]) -> list[str]:
    precisions = ", ".join(device["precisions"]) or "none works"
    what = str(device["name"] or "unknown")
    if device["device"] == "cpu":
        bf16 = {True: "in hardware", False: "in software only", None: "unknown"}
        what += f", {device['cores']} cores for this process, {device['threads'] or 'unknown'} threads"
        precisions += f" (bf16 {bf16[device['bf16_in_hardware']]})"
    return [device["device"], what, _size(device["free_bytes"]), _size(device["total_bytes"]), precisions]


def _fit_row(row: dict[str, Any]) -> list[str]:
    verdict = {True: "fits", False: "does not fit in what is free", None: "unknown"}[row["fits"]]
    return [row["model"], row["device"], row["precision"], f"about {size_text(row['needed_bytes'])}", verdict]


def _size(size: int | None) -> str:
    return "unknown" if size is None else size_text(size)
