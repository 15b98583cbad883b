"""What a batch will take: bytes on disks, memory, time. Estimates, made before any network is loaded."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import defaultdict
from pathlib import Path

import psutil

from strsr_models.errors import ImageError, StrsrError

from .plan import Job
from .report import size_text

# Bytes per output pixel, at the high end of what strsr's examples came to (x4, quality 95, 8 bits).
BYTES_PER_PIXEL = {"png": 1.2, "jpg": 0.35, "webp": 0.2, "tif": 2.4, "bmp": 3.0, "avif": 0.25}
LOSSLESS = ("png", "tif")
LEAST_MARGIN, MOST_MARGIN = 2**24, 2**28  # bytes to leave free on each disk
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def output_bytes(job: Job, pixels: int, input_pixels: int) -> int:
    """About how large an output of so many pixels will be; deep files are known by their own size."""
    each = BYTES_PER_PIXEL[job.kind]
    if job.kind in LOSSLESS and job.source is not None and input_pixels:
        with contextlib.suppress(OSError):  # it will fail for that
            each = max(each, job.source.stat().st_size / job.count / input_pixels / 2)
    return int(each * pixels) + 1024


def memory_needed(height: int, width: int) -> int:
    """Bytes of main memory that an input of so many px takes, the program itself included."""
    return height * width * 16 + 2**30


def memory_there() -> int:
    """Bytes of main memory of this machine, or of the container that we are in."""
    total = int(psutil.virtual_memory().total)
    for path in CGROUP_LIMITS:
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such container, or "max"
            continue
    return total


def check_memory(job: Job, height: int, width: int) -> None:
    """Raise ImageError for an input that the machine cannot hold."""
    needed, there = memory_needed(height, width), memory_there()
    if needed > there:
        raise ImageError(
            f"{job.name}: {width}x{height} px want about {size_text(needed)} of memory, "
            f"{size_text(there)} are here; cut the image into parts, or use a larger machine"
        )


def check_space(sizes: dict[Path, int]) -> None:
    """Raise StrsrError when outputs of those estimated sizes do not fit their disks, with a margin."""
    disks: dict[int, tuple[Path, int]] = defaultdict(lambda: (Path(), 0))
    folders: dict[Path, Path] = {}
    for target, size in sizes.items():
        if target.parent not in folders:
            folders[target.parent] = _existing(target.parent)
        folder = folders[target.parent]
        device = folder.stat().st_dev
        disks[device] = folder, disks[device][1] + size
    for folder, size in disks.values():
        free = shutil.disk_usage(folder).free
        margin = min(LEAST_MARGIN + size // 4, MOST_MARGIN)
        if size + margin > free:
            raise StrsrError(
                f"{folder}: the outputs will take about {size_text(size)}, and {size_text(free)} are free on "
                f"this disk ({size_text(margin)} are kept free); make room, use --format jpg or a smaller "
                "--scale, or --no-space-check to begin all the same"
            )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def seconds_per_megapixel(model: str, weights: Path | None, device: str, precision: str) -> float | None:
    """How long lite takes for a million output px on this machine: measured, in a second. Others: None."""
    if model != "lite":
        return None
    import torch

    from strsr_models import load_pipeline
    from strsr_models.devices import resolve_devices, resolve_precision

    where = resolve_devices(device)[0]
    pipeline = load_pipeline(model, weights, str(where))
    small = torch.rand(1, 3, 64, 64)

    def once() -> float:
        began = time.monotonic()
        pipeline.upscale(small, 4, precision=resolve_precision(precision, where))
        return time.monotonic() - began

    once()  # the first is slower
    return min(once(), once()) / (256 * 256 / 1e6)
