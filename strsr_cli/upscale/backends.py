"""What computes lite's tiles: PyTorch, or OpenVINO where it is installed and the device is a CPU.

A backend is where a picture is computed, and not how: it decides no output that a later run would skip, and the journal
names it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from strsr_models.checkpoints.locations import cache_dir, lite_folder
from strsr_models.errors import DeviceError, StrsrError, UsageError, nearest
from strsr_models.packages import install_command

from ..batch.job import Job
from ..system.atomic import whole_file
from ..system.caches import mark_used, trim
from ..system.machine import has_openvino
from .options import UpscaleOptions

if TYPE_CHECKING:
    import torch

    from strsr_models import OneStepPipeline

log = logging.getLogger(__name__)

BACKENDS = ("auto", "torch", "openvino")
VARIABLE = "STRSR_BACKEND"  # what auto means, where it is set
LARGEST = 2**28  # bytes of compiled networks on disk; one of lite takes 27 MB
SUFFIX = ".network"
SEVERAL = 4  # pictures that are worth two workers
# Some twenty tiles at x4: of few tiles the last one, which one worker computes alone, costs more than is gained.
LARGE = 2**18  # pixels of fewer pictures that are


@dataclass(frozen=True)
class CompiledNetworks:
    """Compiled networks on disk, each behind its hash: one that is damaged is as good as none."""

    folder: Path

    def read(self, key: str) -> bytes | None:
        """Return what was kept under a key, None where there is nothing that is whole."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        sha256, network = data[:32], data[32:]
        if hashlib.sha256(network).digest() != sha256:
            log.debug("%s: damaged, made anew", path)
            return None
        mark_used(path)
        return network

    def write(self, key: str, data: bytes) -> None:
        """Keep data under a key, if it can be; what was used longest ago goes."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path(key)) as file:
                file.write(hashlib.sha256(data).digest())
                file.write(data)
        except OSError as error:
            log.warning(
                "%s: the compiled network cannot be kept there (%s)", self.folder, error.strerror or error
            )
            return
        trim(self.folder, LARGEST, keep=[self._path(key).name])

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"


def compiled_networks() -> CompiledNetworks | None:
    """Return where compiled networks are kept, None where nothing can be."""
    try:
        folder = cache_dir() / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, StrsrError):
        return None
    return CompiledNetworks(folder) if os.access(folder, os.W_OK | os.X_OK) else None


def wanted_backend(options: UpscaleOptions) -> str:
    """Return auto, torch or openvino, as the options or, in place of auto, the environment say.

    Raises UsageError for other names, and where openvino is asked for with what it cannot do, DeviceError where it is
    not installed.
    """
    name, by = options.backend, "--backend"
    if name == "auto" and os.environ.get(VARIABLE):
        name, by = os.environ[VARIABLE], VARIABLE
    if name not in BACKENDS:
        raise UsageError(f"{by} {name}: unknown; {nearest(name, BACKENDS)}")
    asked = f"{by} {name}"
    if options.in_int8:
        if name == "torch":
            raise UsageError(f"{asked}: does not compute in int8; drop it or --precision int8")
        name, asked = "openvino", "--precision int8"
    if name == "openvino":
        if reason := _reason_against(options):
            raise UsageError(f"{asked}: {reason}")
        if not has_openvino():
            raise DeviceError(f"{asked}: OpenVINO is not installed: {install_command('strsr[openvino]')}")
    return name


def workers_of_cpu(
    options: UpscaleOptions, threads: int, jobs: list[Job], pixels: Callable[[Job], int]
) -> int:
    """How many workers share the CPU where no option says: two, where OpenVINO has several pictures or a large one.

    Threads that share one tile wait for each other, and for those that read and write beside them: two workers
    with half of the threads each took an eighth less time in int8, and the outputs are the same to the last bit.
    pixels: says how many pixels a job's input has.
    """
    if threads < 2 or (len(jobs) < SEVERAL and sum(map(pixels, jobs)) < LARGE):
        return 1
    return 2 if _leads_to_openvino(wanted_backend(options), options) else 1


def _leads_to_openvino(wanted: str, options: UpscaleOptions) -> bool:
    """Whether OpenVINO is to compute on a CPU, as far as that is known before it is tried."""
    if wanted == "auto":
        return not _reason_against(options) and has_openvino()
    return wanted == "openvino"


def _reason_against(options: UpscaleOptions) -> str | None:
    """Return why OpenVINO cannot do what options ask for, None where it can, on a CPU."""
    if options.big is not None:
        return f"is for --model lite, not {options.model}"
    if options.compile:
        return "compiles by itself; drop --compile"
    if options.precision == "fp16":
        return "computes in fp32 and bf16; drop --precision fp16"
    return None


def use_backend(
    pipeline: OneStepPipeline, options: UpscaleOptions, precision: str, threads: int, workers: int = 1
) -> str:
    """Let a pipeline that has been loaded compute its tiles by the backend of the options; return its name.

    auto is openvino where that is installed, works, and can keep what it compiles; it depends on machine and model
    alone. threads: of all tiles that are computed at a time; workers: how many those are. Raises as `wanted_backend`,
    and DeviceError where OpenVINO is asked for and does not work.
    """
    wanted = wanted_backend(options)
    if pipeline.device.type != "cpu":
        if wanted == "openvino":
            asked = "--precision int8" if options.in_int8 else "--backend openvino"
            raise UsageError(f"{asked}: is for CPUs, not {pipeline.device}; add --device cpu")
        return "torch"
    if not _leads_to_openvino(wanted, options):
        return "torch"
    cache = compiled_networks()
    if wanted == "auto" and cache is None:
        return "torch"
    try:
        _use_openvino(pipeline, options, _dtype(precision), threads, workers, cache)
    except DeviceError as error:
        if wanted == "openvino":
            raise
        log.warning("%s; PyTorch computes in its place (--backend torch says so)", error)
        return "torch"
    return "openvino"


def _use_openvino(
    pipeline: OneStepPipeline,
    options: UpscaleOptions,
    dtype: torch.dtype,
    threads: int,
    workers: int,
    cache: CompiledNetworks | None,
) -> None:
    from strsr_models.pipelines.int8 import read_ranges
    from strsr_models.pipelines.lite import LitePipeline
    from strsr_models.pipelines.openvino import OpenVinoTiles

    assert isinstance(pipeline, LitePipeline)
    ranges = read_ranges(lite_folder(options.weights_folder)) if options.in_int8 else None
    backend = OpenVinoTiles(pipeline, threads, workers, cache, ranges)
    backend.compile(dtype, options.steps)
    pipeline.backend = backend


def _dtype(precision: str) -> torch.dtype:
    from strsr_models.compute.devices import DTYPES

    return DTYPES[precision]
