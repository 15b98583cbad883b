"""A batch before its network is loaded: each image's fate, and the bytes, memory and time that all will take."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strsr_models.checkpoints.locations import FAITHFUL_NAME, RANGES_NAME, lite_folder, weights_file
from strsr_models.errors import ImageError, StrsrError, UsageError
from strsr_models.tiling.sizes import LEAST_SCALE

from ..batch.job import Job
from ..batch.plan import Plan, planned_sizes
from ..batch.report import DONE, EXISTS, Reporter, describe_plan
from ..batch.state import BatchState
from ..images.codecs.opencv import load_opencv
from ..images.find import describe_passed_over
from ..system.atomic import free_space, sha256_of, try_writing
from ..system.console import Tell, duration_text, size_text
from ..system.memory import memory
from ..system.paths import nearest_folder
from .options import UpscaleOptions


def weights_hash(options: UpscaleOptions) -> str:
    """The hash of the weights of a batch; empty where they cannot be read, which loading will report."""
    big = options.big
    try:
        weights = options.weights_folder if big is None else options.weights
        digest = sha256_of(weights_file(options.model, weights, big.models_dir if big else None))
        for name, counts in ((FAITHFUL_NAME, options.fidelity), (RANGES_NAME, options.in_int8)):
            if counts:
                beside = sha256_of(lite_folder(weights) / name)
                digest = hashlib.sha256(f"{digest} {beside}".encode()).hexdigest()
        return digest
    except (OSError, StrsrError):
        return ""


@dataclass
class Preflight:
    """The forecast of a batch: the pictures that are left to make, what they will take, and the number of others."""

    pending: list[Job] = field(default_factory=list)
    # That networks make for each pending output, megapixels; 0 where not known.
    areas: list[float] = field(default_factory=list)
    sizes: dict[Path, int] = field(default_factory=dict)  # bytes of each output, about
    megapixels: float = 0.0  # of all outputs
    input_bytes: int = 0  # of inputs that are objects, whose pixels are not known
    skipped: int = 0
    # Of those, the ones whose outputs are to be looked at for a grid before they are reported, and why each is skipped.
    to_score: list[tuple[Job, str]] = field(default_factory=list)
    will_fail: int = 0
    pace: float | None = None  # seconds for an output megapixel, once it is measured


def preflight(
    plan: Plan,
    options: UpscaleOptions,
    state: BatchState,
    reporter: Reporter,
    dry_run: bool,
    show: Tell | None = None,
) -> Preflight:
    """Forecast what will become of every image of a plan; what is to fail or to be skipped does so now.

    In a dry run nothing fails or is skipped yet. show: takes a line for people about each image.
    """
    forecast = Preflight()
    show = show or (lambda line: None)
    for path, reason in plan.refused:
        reporter.planned(str(path), "", error=reason)
        forecast.will_fail += 1
        show(f"{path}  will fail: {reason}")
        if not dry_run:
            reporter.failed(str(path), f"{path}: {reason}")
    for job, sizes in planned_sizes(plan.jobs, options.size, options.max_pixels):
        settled = state.settled(job)
        if settled is None and "error" not in sizes:
            sizes |= _afford(job, sizes, forecast)
        fate = {"skip": True, "reason": settled} if settled else {}
        reporter.planned(job.name, job.target_name, **sizes, **fate)
        show(describe_plan({"input": job.name, "output": job.target_name, **sizes, **fate}))
        if settled:
            forecast.skipped += 1
            if options.check_grid and settled in (DONE, EXISTS) and isinstance(job.target, Path):
                forecast.to_score.append((job, settled))
            elif not dry_run:
                reporter.skipped(job.name, job.target_name, settled)
        elif "error" in sizes:
            forecast.will_fail += 1
            if not dry_run:
                reporter.failed(job.name, str(sizes["error"]))
        else:
            forecast.pending.append(job)
            forecast.areas.append(network_megapixels(sizes, options))
    return forecast


def network_megapixels(sizes: dict[str, int | str], options: UpscaleOptions) -> float:
    """The megapixels that networks make for an output; 0 where its size is not known, or it is reduced without them."""
    if "height" not in sizes:
        return 0.0
    height, width, to_height, to_width = (int(sizes[k]) for k in ("height", "width", "to_height", "to_width"))
    pixels = to_height * to_width
    if options.big is not None or options.draft:
        return pixels / 1e6
    return max(pixels, LEAST_SCALE**2 * height * width) / 1e6 if pixels >= height * width else 0.0


def _afford(job: Job, sizes: dict[str, int | str], forecast: Preflight) -> dict[str, int | str]:
    """Add what an image will take to the forecast. Returns {"error": ...} where the machine lacks what it takes."""
    if job.kind == "jpg":
        # Its encoder may be broken here: better known now than after all the computing.
        try:
            load_opencv()
        except ImageError as error:
            return {"error": f"{job.target_name}: {error}"}
    # The pixels of streams and objects are not known before they are read.
    if "height" not in sizes:
        forecast.input_bytes += int(sizes.get("bytes", 0))
        return {}
    height, width, to_height, to_width = (int(sizes[k]) for k in ("height", "width", "to_height", "to_width"))
    try:
        check_memory(job, height, width)
    except ImageError as error:
        return {"error": str(error)}
    forecast.megapixels += to_height * to_width / 1e6
    if isinstance(job.target, Path):
        forecast.sizes[job.target] = output_bytes(job, to_height * to_width, height * width)
    return {}


def measure_pace(forecast: Preflight, options: UpscaleOptions) -> None:
    """Measure the pace of this machine, where there is something to make and that can be told."""
    if forecast.megapixels:
        forecast.pace = seconds_per_megapixel(options)


def tell_forecast(forecast: Preflight, reporter: Reporter, **costs: Any) -> str:
    """Report the end of a dry run as an event, and return it in words: how many, how much, how long.

    costs: what else the event has.
    """
    seconds = None if forecast.pace is None else round(forecast.pace * sum(forecast.areas), 1)
    size = sum(forecast.sizes.values())
    reporter.forecast(
        to_make=len(forecast.pending),
        skipped=forecast.skipped,
        will_fail=forecast.will_fail,
        megapixels=round(forecast.megapixels, 3),
        bytes=size,
        seconds=seconds,
        **costs,
    )
    fails = f", {forecast.will_fail} will fail" if forecast.will_fail else ""
    text = f"{len(forecast.pending)} to make, {forecast.skipped} skipped{fails}; nothing was written"
    if forecast.pending:
        if forecast.input_bytes:
            text += f"; {size_text(forecast.input_bytes)} to read, whose pixels are not known yet"
        if forecast.megapixels or not forecast.input_bytes:
            text += f"; about {forecast.megapixels:.1f} MP, {size_text(size)}"
        text += f", {duration_text(seconds)} (by a small tile)" if seconds is not None else ""
    passed_over = describe_passed_over(reporter.passed_over)
    return f"{text}; {passed_over}" if passed_over else text


# Bytes per output pixel, at the high end of what the project's examples came to (x4, quality 95, 8 bits).
BYTES_PER_PIXEL = {"png": 1.2, "jpg": 0.35, "webp": 0.2, "tif": 2.4, "bmp": 3.0, "avif": 0.25}
LOSSLESS = ("png", "tif")
LEAST_MARGIN, MOST_MARGIN = 2**24, 2**28  # bytes to leave free on each disk
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # errors of a folder that takes no files from us


def output_bytes(job: Job, pixels: int, input_pixels: int) -> int:
    """The size in bytes, about, of an output of so many pixels; deep pictures are known by their input's size."""
    per_pixel = BYTES_PER_PIXEL[job.kind]
    if job.kind in LOSSLESS and isinstance(job.source, Path) and input_pixels:
        # An input that cannot be read will fail for that later.
        with contextlib.suppress(OSError):
            per_pixel = max(per_pixel, job.source.stat().st_size / job.count / input_pixels / 2)
    return int(per_pixel * pixels) + 1024


def memory_needed(height: int, width: int) -> int:
    """The bytes of main memory that an input of height x width px takes, the program itself included."""
    return height * width * 16 + 2**30


def memory_there() -> int | None:
    """The bytes of main memory of this machine, or of the container that we are in; None where nothing says so."""
    return memory().total


def check_memory(job: Job, height: int, width: int) -> None:
    """Raise ImageError for an input that the machine cannot hold."""
    needed, there = memory_needed(height, width), memory_there()
    if there is not None and needed > there:
        raise ImageError(
            f"{job.name}: {width}x{height} px want about {size_text(needed)} of memory, "
            f"{size_text(there)} are here; cut the image into parts, or use a larger machine"
        )


def check_space(sizes: dict[Path, int]) -> None:
    """Raise StrsrError when outputs of these estimated sizes in bytes do not fit their disks, with a margin."""
    disks: dict[int, tuple[Path, int]] = defaultdict(lambda: (Path(), 0))
    folders: dict[Path, Path] = {}
    for target, size in sizes.items():
        if target.parent not in folders:
            folders[target.parent] = nearest_folder(target.parent)
        folder = folders[target.parent]
        try:
            device = folder.stat().st_dev
        except OSError:
            # What is written there will say why.
            continue
        disks[device] = folder, disks[device][1] + size
    for folder, size in disks.values():
        free = free_space(folder)
        margin = min(LEAST_MARGIN + size // 4, MOST_MARGIN)
        if free is not None and size + margin > free:
            raise StrsrError(
                f"{folder}: the outputs will take about {size_text(size)}, and {size_text(free)} are free on "
                f"this disk ({size_text(margin)} are kept free); make room, use --format jpg or a smaller "
                "--scale, or --no-space-check to begin all the same"
            )


def check_writable(plan: Plan, dry_run: bool = False) -> None:
    """Raise UsageError where no folder of a plan's outputs takes files from us: then OUTPUT as a whole is closed.

    A folder that is closed beside others fails its own images. dry_run: only ask, and write nothing; else the output
    folder is made.
    """
    if plan.root is not None and not dry_run:
        try:
            plan.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in CLOSED:
                raise _closed_output(plan.root, error.strerror or str(error)) from error
    closed: dict[Path, str] = {}
    for parent in dict.fromkeys(job.target.parent for job in plan.jobs if isinstance(job.target, Path)):
        folder = nearest_folder(parent)
        reason = closed.get(folder) or _closed(folder, dry_run)
        if reason is None:
            return
        closed[folder] = reason
    if closed:
        raise _closed_output(*min(closed.items()))


def _closed_output(folder: Path, reason: str) -> UsageError:
    """Return the error of an OUTPUT that takes no files."""
    return UsageError(f"{folder}: cannot be written to: {reason}; choose another OUTPUT")


def _closed(folder: Path, dry_run: bool) -> str | None:
    """Return why nothing can be made in a folder that exists, or None where something can."""
    if dry_run:
        return None if os.access(folder, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    try:
        # The attempt tells more than the question: some file systems say yes or no to that alone.
        try_writing(folder)
    except OSError as error:
        return error.strerror if error.errno in CLOSED else None
    return None


def seconds_per_megapixel(options: UpscaleOptions) -> float | None:
    """The seconds that lite takes for a million output px on this machine, measured in about a second.

    None for the other models.
    """
    if options.big is not None:
        return None
    import torch

    from strsr_models import load_pipeline
    from strsr_models.compute.devices import resolve_devices, resolve_precision

    from .backends import use_backend

    first_device = resolve_devices(options.device)[0]
    precision = resolve_precision(options.float_precision, first_device)
    pipeline = load_pipeline(options.model, options.weights_folder, str(first_device))
    use_backend(pipeline, options, precision, torch.get_num_threads())
    small = torch.rand(1, 3, 64, 64)

    def measure() -> float:
        began = time.monotonic()
        pipeline.upscale(small, 4, precision=precision)
        return time.monotonic() - began

    # The first time is slower, and does not count.
    measure()
    return min(measure(), measure()) / (256 * 256 / 1e6)
