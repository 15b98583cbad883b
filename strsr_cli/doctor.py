"""`strsr doctor`: what this machine has, which weights are there, and what will fit. It never fails."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from strsr_models.errors import StrsrError
from strsr_models.published import FAMILIES, FOLDERS, pull_command

from . import __version__, store
from .report import print_table, size_text

# Parameters, counted; bytes follow from the precision.
PARAMETERS = {
    "zimage": {"dit": 6.15e9, "vlm": 4.44e9, "vae": 0.084e9},
    "flux2": {"dit": 3.88e9, "vlm": 4.44e9, "vae": 0.084e9},
}
BYTES = {"bf16": 2, "fp32": 4}  # of a parameter
DECODING = 1.5e9  # activations, in numbers, when 1024x1024 px are decoded
LITE = 0.5e9  # bytes for lite and an output of about 10 megapixels


def peak_bytes(model: str, precision: str) -> float:
    """Estimated memory of a model for tiles of 1024 px, its two phases one after the other.

    First the vision-language model looks at the picture, then it makes room for transformer and VAE.
    """
    if model == "lite":
        return LITE
    count = PARAMETERS[model]
    return BYTES[precision] * max(count["vlm"], count["dit"] + count["vae"] + DECODING)


def examine(models_dir: Path) -> dict[str, Any]:
    """Everything that is shown, for programs; what cannot be found out is None."""
    cpu = examine_cpu()
    gpus = _or_none(examine_gpus) or []
    return {
        "strsr": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": _or_none(_torch_version),
        "cpu": cpu,
        "gpus": gpus,
        "models_dir": str(models_dir),
        "disk_free_bytes": _or_none(lambda: store.free_space(models_dir)),
        "weights": {model: examine_weights(models_dir, model) for model in ("lite", *FAMILIES)},
        "fit": [row for device in (*gpus, cpu) for row in estimates(device)],
    }


def _or_none(question: Callable[[], Any]) -> Any:
    """The answer, or None: a library or driver that is broken must not hide what else there is to say."""
    try:
        return question()
    except Exception:  # noqa: BLE001  (drivers raise anything)
        return None


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def examine_cpu() -> dict[str, Any]:
    """Cores, free memory, and whether bf16 is computed in hardware."""

    def fast_bf16() -> bool:
        from strsr_models.devices import cpu_has_fast_bf16

        return cpu_has_fast_bf16()

    def memory(kind: str) -> int:
        import psutil

        return int(getattr(psutil.virtual_memory(), kind))

    return {
        "device": "cpu",
        "name": platform.processor() or platform.machine(),
        "cores": _or_none(lambda: len(os.sched_getaffinity(0))) or os.cpu_count(),
        "bf16_in_hardware": _or_none(fast_bf16),
        "total_bytes": _or_none(lambda: memory("total")),
        "free_bytes": _or_none(lambda: memory("available")),
    }


def examine_gpus() -> list[dict[str, Any]]:
    """Name, memory and working precisions of every GPU."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = f"cuda:{index}"
        free, total = _or_none(partial(torch.cuda.mem_get_info, index)) or (None, None)
        name = _or_none(partial(torch.cuda.get_device_name, index))
        gpus.append({"device": device, "name": name, "total_bytes": total, "free_bytes": free})
    if torch.backends.mps.is_available():
        total = _or_none(torch.mps.recommended_max_memory)
        used = _or_none(torch.mps.driver_allocated_memory)
        free = None if total is None or used is None else total - used
        gpus.append({"device": "mps", "name": "Apple GPU", "total_bytes": total, "free_bytes": free})
    for gpu in gpus:
        gpu["precisions"] = [name for name in ("fp32", "fp16", "bf16") if computes(gpu["device"], name)]
    return gpus


def computes(device: str, precision: str) -> bool:
    """Whether a device multiplies matrices in a precision: it is tried."""

    def attempt() -> bool:
        import torch

        from strsr_models.devices import DTYPES

        ones = torch.ones(16, 16, dtype=DTYPES[precision], device=device)
        return float((ones @ ones)[0, 0]) == 16

    return bool(_or_none(attempt))


def examine_weights(models_dir: Path, model: str) -> dict[str, Any]:
    """Whether a model's weights are there, what is missing, and how to get it."""
    if model == "lite":
        from strsr_models import __file__ as package

        there = (Path(package).parent / "weights" / "lite" / "model.safetensors").is_file()
        return {"present": there, "missing": [] if there else ["the package's own weights; install it again"]}
    missing = []
    for folder in FAMILIES[model]:
        try:
            state = store.state_of(models_dir, FOLDERS[folder])
        except (OSError, StrsrError) as error:
            missing.append(f"{folder} ({error})")
            continue
        if state.word == "absent":
            missing.append(folder)
        elif not state.usable:
            missing += [f"{folder}/{part}" for part in state.missing] or [folder]
    if not missing:
        return {"present": True, "missing": []}
    return {"present": False, "missing": missing, "command": pull_command(models_dir, FAMILIES[model])}


def estimates(device: dict[str, Any]) -> list[dict[str, Any]]:
    """Whether each model will fit on a device as it is now: estimates from parameter counts.

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


def show(found: dict[str, Any], as_json: bool, report: Callable[[str], None]) -> None:
    """Print it, for people or as one JSON object."""
    if as_json:
        report(json.dumps(found))
        return
    report(
        f"strsr {found['strsr']}, Python {found['python']}, PyTorch {found['torch'] or 'cannot be loaded'}"
    )
    report(found["platform"])
    print_table(
        ["device", "what", "memory free", "of", "precisions"], [_device_row(d) for d in _devices(found)]
    )
    report(f"models folder: {found['models_dir']}, {_size(found['disk_free_bytes'])} free on its disk")
    for model, weights in found["weights"].items():
        if weights["present"]:
            report(f"{model}: weights are there")
        else:
            command = f"; {weights['command']}" if "command" in weights else ""
            report(f"{model}: missing {', '.join(weights['missing'])}{command}")
    report("memory for tiles of 1024 px, the phases in turn; estimated from parameter counts:")
    print_table(["model", "on", "in", "needs", "verdict"], [_fit_row(row) for row in found["fit"]])


def _devices(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [*found["gpus"], found["cpu"]]


def _device_row(device: dict[str, Any]) -> list[str]:
    if device["device"] == "cpu":
        bf16 = {True: "bf16 in hardware", False: "bf16 in software only", None: "bf16 unknown"}
        what = f"{device['name']}, {device['cores']} cores"
        precisions = f"fp32, {bf16[device['bf16_in_hardware']]}"
    else:
        what = str(device["name"] or "unknown")
        precisions = ", ".join(device["precisions"]) or "none works"
    return [device["device"], what, _size(device["free_bytes"]), _size(device["total_bytes"]), precisions]


def _fit_row(row: dict[str, Any]) -> list[str]:
    verdict = {True: "fits", False: "does not fit in what is free", None: "unknown"}[row["fits"]]
    return [row["model"], row["device"], row["precision"], f"about {size_text(row['needed_bytes'])}", verdict]


def _size(size: int | None) -> str:
    return "unknown" if size is None else size_text(size)
