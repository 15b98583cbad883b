"""Seconds per output megapixel of lite and of other restorers, by PyTorch and by OpenVINO, in turns in one run.

    python scripts/bench_peers.py [--restorer LABEL=FILE ...] [--side 512] [--runs 5] [--threads N] [--cpu-isa ISA]

Networks alone, on one tile of --side output px. A restorer is a file that spandrel reads, of four times; lite is the
embedded one, in whole numbers of 8 bits too. One that takes longer than --slow seconds for a tile is measured in
bfloat16 alone. No bfloat16 is measured where the processor does not multiply it. --cpu-isa: the
instructions that both libraries are held to, such as AVX2 or AVX512_CORE_BF16 (oneDNN's names). Wants the extras train
and openvino; tell other programs to be quiet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[], Any]


def main() -> None:
    """Print a table in Markdown: a row for each restorer, medians of its turns."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--restorer", action="extend", nargs="+", default=[], metavar="LABEL=FILE")
    parser.add_argument("--side", type=int, default=512, help="output px, a multiple of 32")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--slow", type=float, default=3.0)
    parser.add_argument("--cpu-isa", default=None)
    args = parser.parse_args()
    if args.cpu_isa:
        # Read when the libraries are loaded.
        os.environ["ONEDNN_MAX_CPU_ISA"] = args.cpu_isa
    import torch

    from strsr_models.compute.devices import cpu_has_fast_bf16

    if args.threads:
        torch.set_num_threads(args.threads)
    threads = torch.get_num_threads()
    has_bf16 = cpu_has_fast_bf16()
    # Held to instructions without bfloat16, OpenVINO does not compile for it.
    held = args.cpu_isa and not args.cpu_isa.endswith(("BF16", "AMX"))
    named = dict(text.split("=", 1) for text in args.restorer)
    calls: dict[tuple[str, str], Run] = {}
    for label, (torch_runs, openvino_runs) in {
        "lite": lite(args.side, threads),
        **{label: peer(Path(path), args.side, threads) for label, path in named.items()},
    }.items():
        for by, runs in (("PyTorch", torch_runs), ("OpenVINO", openvino_runs)):
            for precision, run in runs.items():
                if precision == "bf16" and (held or not has_bf16):
                    continue
                calls[label, f"{by} {precision}"] = run
    seconds: dict[tuple[str, str], list[float]] = {}
    for key, run in list(calls.items()):
        # The first call compiles.
        run()
        if has_bf16 and timed(run) > args.slow and key[1].endswith("float32"):
            del calls[key]
    for _ in range(args.runs):
        for key, run in calls.items():
            seconds.setdefault(key, []).append(timed(run))
    columns = [
        f"{by} {precision}" for by in ("PyTorch", "OpenVINO") for precision in ("float32", "bf16", "int8")
    ]
    columns = [column for column in columns if any(column == measured for _, measured in seconds)]
    print(
        f"torch {torch.__version__}, {threads} threads, {args.side} px, {args.cpu_isa or 'all instructions'}\n"
    )
    print(f"| s per output megapixel | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for label in ["lite", *named]:
        medians = [
            f"{statistics.median(seconds[label, column]) / args.side**2 * 1e6:.3f}"
            if (label, column) in seconds
            else ""
            for column in columns
        ]
        print(f"| {label} | {' | '.join(medians)} |")


def timed(run: Run) -> float:
    """The seconds of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def lite(side: int, threads: int) -> tuple[dict[str, Run], dict[str, Run]]:
    """Lite's calls by precision: of PyTorch, and of OpenVINO."""
    import torch

    from strsr_models import load_pipeline
    from strsr_models.checkpoints.locations import lite_folder
    from strsr_models.compute.devices import resolve_precision
    from strsr_models.pipelines.int8 import read_ranges
    from strsr_models.pipelines.lite import LitePipeline
    from strsr_models.pipelines.openvino import OpenVinoTiles

    pipeline = load_pipeline("lite")
    assert isinstance(pipeline, LitePipeline)
    pipeline.settle("bf16")
    tile = pipeline.placed(torch.rand(1, 3, side, side))
    cond = pipeline.condition(torch.rand(1, 3, side // 4, side // 4), "fp32")
    backend = OpenVinoTiles(pipeline, threads)
    ranges = read_ranges(lite_folder(None))
    in_int8 = OpenVinoTiles(pipeline, threads, ranges=ranges)
    floats = resolve_precision("auto", pipeline.device)

    def call(restorer: Any, precision: str) -> Run:
        def run() -> None:
            with torch.inference_mode(), pipeline.computing(precision):
                restorer.restore(tile, cond)

        return run

    names = {"float32": "fp32", "bf16": "bf16"}
    by_torch, by_openvino = (
        {name: call(restorer, precision) for name, precision in names.items()}
        for restorer in (pipeline, backend)
    )
    return by_torch, by_openvino | {"int8": call(in_int8, floats)}


def peer(path: Path, side: int, threads: int) -> tuple[dict[str, Run], dict[str, Run]]:
    """The calls of a restorer that spandrel reads."""
    import torch
    from spandrel import ModelLoader

    from strsr_models.pipelines.openvino import load_core, recorded, settings_of

    network = ModelLoader(device="cpu").load_from_file(path).model.eval()
    image = torch.rand(1, 3, side // 4, side // 4)
    core, model = load_core(), recorded(network, (image,), [list(image.shape)])
    pixels = image.numpy()
    wide = network.to(memory_format=torch.channels_last)
    placed = image.to(memory_format=torch.channels_last)

    def by_torch(dtype: torch.dtype) -> Run:
        def run() -> None:
            with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                wide(placed)

        return run

    def by_openvino(dtype: torch.dtype) -> Run:
        compiled = core.compile_model(model, "CPU", settings_of(dtype, threads))
        return lambda: compiled([pixels])

    return (
        {"float32": by_torch(torch.float32), "bf16": by_torch(torch.bfloat16)},
        {"float32": by_openvino(torch.float32), "bf16": by_openvino(torch.bfloat16)},
    )


if __name__ == "__main__":
    main()
