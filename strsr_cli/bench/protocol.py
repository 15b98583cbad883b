"""`strsr bench`: a fixed protocol around the very batch that `strsr upscale` runs.

load          weights to the device
warm-up       a few pictures end to end
runs          end to end (A) and the network alone on the same tiles (B), in turns: AB BA AB ...
then          a cold start in fresh processes, tiles by batch, stages one by one, roofline
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strsr_models.compute.devices import resolve_devices
from strsr_models.errors import UsageError
from strsr_models.load import check_model
from strsr_models.tiling.memory import MemoryBudget

from .. import __version__
from ..batch.job import Job
from ..batch.plan import make_plan
from ..batch.state import BatchState
from ..batch.target_size import TargetSize
from ..images.picture import Picture
from ..system.console import Tell
from ..system.machine import examine_cpu, examine_gpus, or_none, versions
from ..upscale.options import UpscaleOptions, resolve_options
from ..upscale.request import check_request
from ..upscale.restoration import overview
from ..upscale.stages import Stages, load_stages
from ..upscale.workers import threads_for_workers
from .cold_start import seconds_to_help, seconds_to_output
from .photos import write_photos
from .roofline import median, roofline, timed
from .stages import BenchReporter, Peak, network_alone, network_view, seconds_end_to_end, stage_seconds

WARM_UP, STAGED = 8, 8  # pictures
COLD_SIDE = 64  # px of the picture of a cold start
ACCELERATED_BATCHES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class BenchOptions:
    """The options of the command: what is measured, where and on which pictures."""

    model: str
    weights: Path | None
    models_dir: Path | None
    device: str
    precision: str
    backend: str
    scale: float
    runs: int
    images: int
    size: int  # px of a side of the pictures that are made
    folder: Path | None  # of the user's own pictures
    batches: tuple[int, ...] | None  # tiles at once; None: those that suit the device
    skip: frozenset[str] = field(default_factory=frozenset)  # parts that are left out


def measure(options: BenchOptions, tell: Tell) -> dict[str, Any]:
    """Measure all figures, for programs. tell: takes lines on what is being done. Raises StrsrError. Leaves no files."""
    check_model(options.model)
    devices = resolve_devices(options.device)
    reporter = BenchReporter()
    try:
        with tempfile.TemporaryDirectory(prefix="strsr-bench-") as scratch:
            tell(f"{options.model} on {', '.join(map(str, devices))}; all of it takes some minutes on a CPU")
            jobs = make_jobs(options, Path(scratch))
            big = resolve_options(options.model, jobs, models_dir=options.models_dir, **token_cache(options))
            upscale_options = UpscaleOptions(
                TargetSize(options.scale),
                options.model,
                options.weights,
                tile=None,
                overlap=None,
                device=options.device,
                precision=options.precision,
                quality=95,
                big=big,
                backend="openvino" if options.backend == "both" else options.backend,
            )
            check_request(upscale_options)
            tell("loading weights")
            with threads_for_workers() as threads:
                began = time.perf_counter()
                loaded = load_stages(jobs, upscale_options, reporter, BatchState(), threads)
                seconds = time.perf_counter() - (reporter.conditions_ready or began)
                reporter.check()
                # Where no picture can go on, the check has raised the first one's failure.
                assert loaded is not None
                stages, jobs = loaded
                other = None
                if options.backend == "both":
                    # PyTorch has no int8.
                    floats = upscale_options.float_precision
                    by_torch = replace(upscale_options, backend="torch", precision=floats)
                    other, _ = load_stages(jobs, by_torch, reporter, BatchState(), threads) or (None, jobs)
                bench = Bench(
                    options=options,
                    stages=stages,
                    other=other,
                    jobs=jobs,
                    reporter=reporter,
                    scratch=Path(scratch),
                    tell=tell,
                )
                whole = bench.measure_whole()
            return {
                **circumstances(options, bench),
                "load_seconds": seconds,
                **whole,
                **bench.measure_parts(),
            }
    finally:
        reporter.close()


def token_cache(options: BenchOptions) -> dict[str, Any]:
    """The option that keeps the pictures of a benchmark out of the user's cache; lite has none."""
    return {} if options.model == "lite" else {"token_cache": False}


def make_jobs(options: BenchOptions, scratch: Path) -> list[Job]:
    """The jobs of the benchmark: the user's pictures or made ones, with outputs in the scratch folder."""
    source = options.folder
    if source is None:
        source = scratch / "in"
        source.mkdir()
        write_photos(source, options.images, options.size)
    elif not source.is_dir():
        raise UsageError(f"--folder {source}: no such folder")
    plan = make_plan(str(source), str(scratch / "out"), "png")
    return plan.jobs[: options.images]


def circumstances(options: BenchOptions, bench: Bench) -> dict[str, Any]:
    """The circumstances of the measurements: versions, machine, model and protocol."""
    device = bench.stages.device
    cpu = examine_cpu()
    names = (str(device), f"{device.type}:{device.index or 0}")
    gpus = [gpu for gpu in or_none(examine_gpus) or [] if gpu["device"] in names]
    return {
        "strsr": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": versions(),
        "cpu": cpu,
        "gpu": gpus[0] if gpus else None,
        "model": options.model,
        "weights": str(options.weights) if options.weights else None,
        "device": str(device),
        "accelerator": device.type != "cpu",
        "precision": "int8" if bench.stages.options.in_int8 else bench.stages.precision,
        "backend": bench.stages.state.backend,
        "threads": torch.get_num_threads(),
        "protocol": {
            "runs": options.runs,
            "warm_up_images": min(WARM_UP, len(bench.jobs)),
            "images": len(bench.jobs),
            "size": None if options.folder else options.size,
            "folder": str(options.folder) if options.folder else None,
            "scale": options.scale,
            "skipped": sorted(options.skip),
        },
    }


@dataclass
class Bench:
    """A batch whose networks are loaded, its jobs, and the measurements on it."""

    options: BenchOptions
    stages: Stages
    other: Stages | None  # of PyTorch, in turns with those of OpenVINO; None: they are alone
    jobs: list[Job]
    reporter: BenchReporter
    scratch: Path
    tell: Tell

    def measure_whole(self) -> dict[str, Any]:
        """Measure what the command does, by its own threads; a part that is left out is None."""
        both = [self.stages] if self.other is None else [self.stages, self.other]
        first, *others = self.end_to_end(both)
        return {
            **first,
            "start_up": self.part("start-up", lambda: self.start_up(self.stages)),
            "torch": {**others[0], "precision": self.other.precision} if self.other else None,
            "torch_start_up": self.part("start-up", lambda: self.other and self.start_up(self.other)),
        }

    def measure_parts(self) -> dict[str, Any]:
        """Measure what this thread does, with all threads of PyTorch; a part that is left out is None."""
        return {
            "batches": self.part("batches", self.rates_by_batch),
            "stages": self.part("stages", lambda: stage_seconds(self.stages, self.jobs[:STAGED])),
            "roofline": self.part("roofline", self.roofline),
        }

    def part(self, name: str, measure: Callable[[], Any]) -> Any:
        """Measure one part, by its name in --skip. None where it is left out."""
        if name in self.options.skip:
            return None
        self.tell(name)
        return measure()

    # --- end to end, and the network alone ---

    def end_to_end(self, all_stages: list[Stages]) -> list[dict[str, Any]]:
        """Measure the batch from file to file and the network alone, in turns: AB BA AB ...; several stages in turns, too."""
        self.tell("warm-up")
        turns = [Turns(stages, self.jobs, self.reporter) for stages in all_stages]
        for turn in turns:
            seconds_end_to_end(turn.stages, self.jobs[:WARM_UP], self.reporter)
        for run in range(self.options.runs):
            self.tell(f"end to end and network alone, run {run + 1} of {self.options.runs}")
            for turn in turns:
                turn.take(run)
        return [turn.figures() for turn in turns]

    # --- the parts that can be left out ---

    def start_up(self, stages: Stages) -> dict[str, Any]:
        """Measure fresh processes: until help is there, until one small picture is there, and that picture alone."""
        (photo,) = write_photos(self.scratch, 1, COLD_SIDE)
        output = self.scratch / "cold.png"
        settings = {
            "--scale": self.options.scale,
            "--model": self.options.model,
            "--weights": self.options.weights and self.options.weights.resolve(),
            "--models-dir": self.options.models_dir and self.options.models_dir.resolve(),
            "--device": self.options.device,
            "--precision": stages.options.precision,
            "--backend": stages.state.backend,
        }
        flags = []
        for flag, value in settings.items():
            if value is not None:
                flags += [flag, str(value)]
        alone = None
        if stages.conditions is None:
            job = Job(photo, output, "png")
            alone = median(
                seconds_end_to_end(stages, [job], self.reporter) for _ in range(self.options.runs + 1)
            )
        else:
            flags.append("--no-token-cache")
        first = seconds_to_output([str(photo), str(output), *flags], output, self.options.runs)
        return {
            "help_seconds": seconds_to_help(self.options.runs),
            "first_output_seconds": first,
            "first_output_own_seconds": alone,
            "before_it_seconds": None if alone is None else first - alone,
            "side": COLD_SIDE,
        }

    def rates_by_batch(self) -> list[dict[str, Any]]:
        """Measure tiles of the first picture by how many are computed at once. Ends where memory does."""
        views, conds, _ = self.first_tiles()
        pipeline, steps = self.stages.pipelines[0], self.stages.options.steps
        height, width = views[0].shape[-2:]
        rows = []
        for count in self.batch_sizes:
            budget = MemoryBudget(count)
            restore = partial(
                pipeline.restore_tiles,
                repeated(views, count),
                repeated(conds, count),
                self.stages.precision,
                steps,
                budget,
            )
            with torch.inference_mode():
                seconds = [timed(restore, pipeline.device) for _ in range(self.options.runs + 1)][1:]
            if budget.batch < count or budget.tile is not None:
                break
            per_tile = statistics.median(seconds) / count
            rows.append(
                {
                    "batch": count,
                    "seconds": seconds,
                    "ms_per_tile": 1000 * per_tile,
                    "megapixels_per_second": height * width / 1e6 / per_tile,
                }
            )
        return rows

    def roofline(self) -> dict[str, Any]:
        """Measure the roofline: of one tile on a CPU, of the largest batch, at most 8 tiles, elsewhere."""
        views, conds, picture = self.first_tiles()
        count = 1 if self.stages.device.type == "cpu" else min(max(self.batch_sizes), 8)
        lq = None if self.stages.conditions else overview(picture)
        figures = roofline(
            self.stages.pipelines[0],
            repeated(views, count),
            repeated(conds, count),
            picture=lq,
            precision=self.stages.precision,
            runs=self.options.runs,
        )
        return {**figures, "precision": self.stages.precision}

    def first_tiles(self) -> tuple[list[Tensor], list[Tensor], Picture]:
        """Views and conditions of the first picture's tiles, and the picture."""
        job = self.jobs[0]
        picture = self.stages.inputs.read(job)
        restoration = self.stages.begin(job, picture)
        views = [network_view(self.stages, restoration, number) for number in range(restoration.tiles)]
        return views, [restoration.cond] * len(views), picture

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The numbers of tiles that the user named, or those that suit the device."""
        if self.options.batches:
            return self.options.batches
        return (1,) if self.stages.device.type == "cpu" else ACCELERATED_BATCHES


@dataclass
class Turns:
    """The measurements of one batch from file to file and of its network alone, by some stages."""

    stages: Stages
    jobs: list[Job]
    reporter: BenchReporter
    files: list[float] = field(default_factory=list)  # s
    network: list[float] = field(default_factory=list)  # s
    megapixels: float = 0.0

    def __post_init__(self) -> None:
        self.peak = Peak(self.stages.device)

    def take(self, run: int) -> None:
        """Measure both; every second run the network comes first."""
        if run % 2:
            self.network.append(network_alone(self.stages, self.jobs))
        before = self.reporter.megapixels
        with self.peak if run == 0 else nullcontext():
            self.files.append(seconds_end_to_end(self.stages, self.jobs, self.reporter))
        self.megapixels = self.reporter.megapixels - before
        if not run % 2:
            self.network.append(network_alone(self.stages, self.jobs))

    def figures(self) -> dict[str, Any]:
        """Rates, efficiency and memory."""
        ratios = [alone / whole for alone, whole in zip(self.network, self.files, strict=True)]
        sources = [job.source for job in self.jobs if isinstance(job.source, Path)]
        targets = [job.target for job in self.jobs if isinstance(job.target, Path)]
        return {
            "output_megapixels": self.megapixels,
            "input_bytes": sum(source.stat().st_size for source in sources),
            "output_bytes": sum(target.stat().st_size for target in targets),
            "end_to_end": rates(self.files, self.megapixels),
            "network_only": rates(self.network, self.megapixels),
            "efficiency": {"ratios": ratios, "median": statistics.median(ratios)},
            "memory": {
                "resident_bytes": self.peak.resident,
                "resident_before_bytes": self.peak.before,
                "device_bytes": self.peak.on_device,
            },
        }


def repeated(values: list[Tensor], count: int) -> list[Tensor]:
    """A list of `count` values: those given, over and over."""
    return [values[number % len(values)] for number in range(count)]


def rates(seconds: list[float], megapixels: float) -> dict[str, Any]:
    """The seconds of all runs, and the rates of their median by output megapixels."""
    middle = statistics.median(seconds)
    return {
        "seconds": seconds,
        "megapixels_per_second": megapixels / middle,
        "seconds_per_megapixel": middle / megapixels,
    }
