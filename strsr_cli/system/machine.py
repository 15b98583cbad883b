"""This machine: its processors, GPUs, memory, precisions, versions.

The module imports nothing heavy before it is asked.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from strsr_models.packages import cuda_command

from .memory import Memory, memory

# Libraries that decide what is fast and what works; the rest are as the package asks for them.
LIBRARIES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "isal",
    "tifffile",
    "torchao",
    "openvino",
    "pi-heif",
    "pillow-heif",
    "pillow-jxl-plugin",
)


def or_none(question: Callable[[], Any]) -> Any:
    """Return the answer to a question, or None where it fails.

    A library or driver that is broken must not hide what else there is to say.
    """
    try:
        return question()
    except Exception:  # noqa: BLE001  (drivers raise anything)
        return None


def cores() -> int:
    """Return how many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads() -> int:
    """Return how many threads PyTorch computes with on the CPU."""
    import torch

    return torch.get_num_threads()


def processor() -> str:
    """Return the CPU's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Return the versions of the libraries in use, without loading them; None where one is not installed."""

    import importlib.metadata

    def version(name: str) -> str:
        return importlib.metadata.version(name)

    return {name: or_none(partial(version, name)) for name in LIBRARIES}


def has_openvino() -> bool:
    """Whether OpenVINO is installed; it is not imported for that."""
    return importlib.util.find_spec("openvino") is not None


def examine_cpu() -> dict[str, Any]:
    """Return the CPU's name, cores and threads, memory in bytes, working precisions, and whether its bf16 is fast."""

    def fast_bf16() -> bool:
        from strsr_models.compute.devices import cpu_has_fast_bf16

        return cpu_has_fast_bf16()

    there = or_none(memory) or Memory(None, None)
    return {
        "device": "cpu",
        "name": processor(),
        "cores": or_none(cores),
        "cores_of_machine": os.cpu_count(),
        "threads": or_none(threads),
        "bf16_in_hardware": or_none(fast_bf16),
        "total_bytes": there.total,
        "free_bytes": there.free,
        "precisions": working_precisions("cpu"),
    }


def examine_gpus() -> list[dict[str, Any]]:
    """Return the name, memory in bytes and working precisions of every GPU."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = f"cuda:{index}"
        free, total = or_none(partial(torch.cuda.mem_get_info, index)) or (None, None)
        name = or_none(partial(torch.cuda.get_device_name, index))
        gpus.append({"device": device, "name": name, "total_bytes": total, "free_bytes": free})
    if torch.backends.mps.is_available():
        total = or_none(torch.mps.recommended_max_memory)
        used = or_none(torch.mps.driver_allocated_memory)
        free = None if total is None or used is None else total - used
        gpus.append({"device": "mps", "name": "Apple GPU", "total_bytes": total, "free_bytes": free})
    for gpu in gpus:
        gpu["precisions"] = working_precisions(gpu["device"])
    return gpus


def nvidia_card() -> str | None:
    """Return the name of the first NVIDIA card, as its driver tells it; None where there is none. Loads no PyTorch."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        name = re.search(r"^Model:\s*(.+)$", or_none(path.read_text) or "", re.MULTILINE)
        return name[1].strip() if name else "NVIDIA card"
    # Windows, WSL and some containers have no such folder. The tool may be there without a card.
    tool = shutil.which("nvidia-smi", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/lib/wsl/lib"]))
    if tool is None:
        return None
    command = [tool, "--list-gpus"]
    listed = or_none(lambda: subprocess.run(command, capture_output=True, text=True, timeout=10, check=True))
    name = re.match(r"GPU 0: (.+?)(?: \(UUID|$)", listed.stdout) if listed else None
    return name[1] if name else None


def torch_is_for_cpu_alone() -> bool:
    """Whether the PyTorch that is installed was built without CUDA and its like, without loading it."""
    spec = or_none(lambda: importlib.util.find_spec("torch"))
    folder = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    text = or_none((Path(folder) / "version.py").read_text) if folder else None
    if text is None or not re.search(r"^cuda\b", text, re.MULTILINE):
        return False
    return not re.search(r"^(?:cuda|hip|rocm|xpu)\b[^=\n]*=\s*['\"]", text, re.MULTILINE)


def advice_on_cuda() -> str | None:
    """Say that an NVIDIA card lies idle, as PyTorch is for the CPU alone, and what mends it; None where all is well."""
    if not torch_is_for_cpu_alone() or (card := nvidia_card()) is None:
        return None
    return f"{card}: not used, as this PyTorch is for the CPU alone; to use it: {cuda_command()}"


def working_precisions(device: str) -> list[str]:
    """Return those of fp32, bf16 and fp16 that a device computes in, fast or slow."""
    return [precision for precision in ("fp32", "bf16", "fp16") if computes(device, precision)]


def computes(device: str, precision: str) -> bool:
    """Whether a device multiplies matrices and convolves in a precision, by trying it."""

    def attempt() -> bool:
        import torch

        from strsr_models.compute.devices import DTYPES

        ones = torch.ones(16, 16, dtype=DTYPES[precision], device=device)
        image, kernel = ones.view(1, 4, 8, 8), ones[:4, :12].reshape(4, 4, 3, 1)
        convolved = torch.nn.functional.conv2d(image, kernel)
        return float((ones @ ones)[0, 0]) == 16 and float(convolved[0, 0, 0, 0]) == 12

    return bool(or_none(attempt))
