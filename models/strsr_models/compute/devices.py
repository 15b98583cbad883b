"""Devices to compute on, and the precision to compute in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import DeviceError, UsageError, WeightsError
from ..packages import cuda_command

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# The precision to try next when a result is not finite: DiTs overflow float16 (largest value 65504).
SAFER = {"fp16": "bf16", "bf16": "fp32"}


def resolve_device(name: str, local: int | None = None) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:N` or `mps` into a device that exists, or raise DeviceError.

    local: the process's number among those of one machine, by which `auto` spreads them over its GPUs.
    """
    if name == "auto":
        if torch.cuda.is_available():
            if local is None:
                return torch.device("cuda")
            return torch.device(f"cuda:{local % torch.cuda.device_count()}")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: not a device; use auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            for_cpu = torch.version.cuda is None and torch.version.hip is None
            why = f" for this PyTorch, which is for the CPU alone ({cuda_command()})" if for_cpu else ""
            raise DeviceError(f"--device {name}: {count} CUDA devices here{why}; use --device auto or cpu")
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("--device mps: no Apple GPU here; use --device auto or cpu")
    elif device.type != "cpu":
        raise UsageError(f"--device {name}: use auto, cpu, cuda, cuda:N or mps")
    return device


def resolve_devices(names: str, local: int | None = None) -> list[torch.device]:
    """Turn `cuda:0,cuda:1` into the devices to share the work, of one kind; each as `resolve_device` says.

    The CPU may be named several times: then it is shared by as many workers.
    """
    devices = [resolve_device(name, local) for name in names.split(",")]
    if len({device.type for device in devices}) > 1:
        raise UsageError(f"--device {names}: devices of different kinds would not give the same pictures")
    gpus = [str(device) for device in devices if device.type != "cpu"]
    if len(set(gpus)) < len(gpus):
        raise UsageError(f"--device {names}: the same GPU twice")
    return devices


def cpu_has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        features = capabilities()
        return any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile"))
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether this is a GPU that multiplies bfloat16 in hardware (NVIDIA's from Ampere on)."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def resolve_precision(name: str, device: torch.device) -> str:
    """Turn `auto`, `fp16`, `bf16` or `fp32` into one of the last three that `device` can run well."""
    if name == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if device.type == "cpu" and cpu_has_fast_bf16() else "fp32"
    if name not in DTYPES:
        raise UsageError(f"--precision {name}: use auto, fp16, bf16 or fp32")
    return name


def check_precision(precision: str) -> None:
    """Raise UsageError unless this is the name of a precision that networks compute in."""
    if precision not in DTYPES:
        raise UsageError(f"precision {precision!r}: use one of {', '.join(DTYPES)}")


def native_precision(parameters: Iterable[Tensor]) -> str:
    """The name of the precision of parameters, by the first of them: fp32 (float64 as well), bf16 or fp16.

    Raises WeightsError where one of them is of a type that nothing is computed in.
    """
    names = {dtype: name for name, dtype in DTYPES.items()} | {torch.float64: "fp32"}
    dtypes = [parameter.dtype for parameter in parameters]
    for dtype in dtypes:
        if dtype not in names:
            raise WeightsError(f"the weights are {dtype}: use float32, bfloat16, float16 or float64")
    return names[dtypes[0]]


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """Return a context that multiplies in `precision`; parameters, norms and residual sums stay in float32.

    The caller's own autocast does not count inside.
    """
    check_precision(precision)
    if precision != "fp32":
        return torch.autocast(device.type, dtype=DTYPES[precision])
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def parameter_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The precision of the transformer's parameters.

    It is bfloat16 for "auto" on GPUs that multiply it, float16 on older ones, else float32.
    """
    if precision != "auto":
        return DTYPES[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if multiplies_bf16(device) else torch.float16
