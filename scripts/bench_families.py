"""Seconds and GiB of Z-Image and FLUX.2 at full size on a GPU: python scripts/bench_families.py [--families zimage flux2].

Weights are random and made on the device: time and memory do not depend on their values, and nothing
has to be downloaded. Each verb is timed by itself on one tile, after a warm-up: the median of --runs, and
the most memory that PyTorch had allocated in it. --tiny does the same with tiny networks on any device, to see
that it works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from full_size import CONDITION_TOKENS, FAMILIES, build, build_qwen
from torch import nn

from strsr_models.compute.devices import DTYPES, resolve_device
from strsr_models.compute.half_precision import companion_dtype, make_float16_safe
from strsr_models.compute.quantize import quantize
from strsr_models.errors import StrsrError
from strsr_models.pipelines.pretrained import PretrainedPipeline

GIB = 2**30


@contextmanager
def placed(network: nn.Module, device: torch.device, offload: bool) -> Iterator[None]:
    """The network on `device` for the time being; with `offload` it comes from main memory and goes back."""
    try:
        network.to(device)
        yield
    finally:
        if offload:
            network.to("cpu")


def measure(run: Callable[[], Any], device: torch.device, runs: int) -> tuple[float, float]:
    """Run several times; returns the median of seconds and the most GiB."""
    seconds = []
    run()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(runs):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else float("nan")
    return statistics.median(seconds), peak


def build_pipeline(name: str, dtype: torch.dtype, device: torch.device, tiny: bool) -> PretrainedPipeline:
    """Build a family's pipeline with new weights on `device`, float16 made safe as at loading."""
    family = FAMILIES[name]
    with device:
        dit, vae = build(family.dit, dtype, tiny), build(family.vae, companion_dtype(dtype, device), tiny)
    if dtype == torch.float16:
        make_float16_safe(dit)
    return family.pipeline(dit, vae)


def verbs(pipeline: PretrainedPipeline, tile: int, device: torch.device) -> dict[str, tuple[nn.Module, Any]]:
    """The verbs on a tile: for each, the network that it needs, and the call."""
    image = torch.rand(1, 3, tile, tile, device=device)
    cond = torch.randn(1, CONDITION_TOKENS, pipeline.condition_width(pipeline.dit), device=device)
    with placed(pipeline.vae, device, offload=False):
        latents = pipeline.encode_latents(image)
    return {
        "encode": (pipeline.vae, lambda: pipeline.encode_latents(image)),
        "denoise": (pipeline.dit, lambda: pipeline.denoise(latents, cond)),
        "decode": (pipeline.vae, lambda: pipeline.decode_latents(latents, image)),
    }


@torch.no_grad()
def bench(name: str, precision: str, device: torch.device, args: argparse.Namespace) -> None:
    """Print a row for each verb, with everything on the device and with networks that take turns."""
    pipeline = build_pipeline(name, DTYPES[precision], device, args.tiny)
    calls = verbs(pipeline, args.tile, device)
    finite = bool(torch.isfinite(calls["denoise"][1]()).all())
    for offload in (False, True):
        for network in (pipeline.dit, pipeline.vae):
            network.to("cpu" if offload else device)
        total = 0.0
        for verb, (network, call) in calls.items():

            def run(network: nn.Module = network, call: Any = call, offload: bool = offload) -> None:
                with placed(network, device, offload):
                    call()

            seconds, peak = measure(run, device, args.runs)
            total += seconds
            print(
                f"| {name} | {precision} | {'model' if offload else 'none'} | {verb} | {seconds:.3f} | {peak:.2f} |"
            )
        print(
            f"| {name} | {precision} | {'model' if offload else 'none'} | all, finite: {finite} | {total:.3f} | |"
        )


@torch.no_grad()
def bench_int8(name: str, device: torch.device, args: argparse.Namespace) -> None:
    """Print a row for the transformer with its weights in 8 bits, the rest in bf16."""
    pipeline = build_pipeline(name, torch.bfloat16, device, args.tiny)
    quantize(pipeline.dit, "int8", device)
    _, call = verbs(pipeline, args.tile, device)["denoise"]
    seconds, peak = measure(call, device, args.runs)
    print(f"| {name} | bf16, int8 weights | none | denoise | {seconds:.3f} | {peak:.2f} |")


@torch.no_grad()
def bench_look(device: torch.device, args: argparse.Namespace) -> None:
    """Print a row for Qwen3-VL on a message with an image of 1024 tokens, eyes and language model."""
    with device:
        qwen = build_qwen(companion_dtype(torch.float16, device), args.tiny)
        vision = qwen.config.vision_config
        # The picture's patches; four make a token.
        side = 16 if args.tiny else 64
        dtype = next(qwen.parameters()).dtype
        patches = torch.randn(side * side, 3 * vision.temporal_patch_size * vision.patch_size**2, dtype=dtype)
        grid = torch.tensor([[1, side, side]])
        tokens = side * side // 4 + CONDITION_TOKENS
        states = torch.randn(1, tokens, qwen.config.text_config.hidden_size, dtype=dtype)

    def run() -> None:
        qwen.visual(patches, grid_thw=grid)
        qwen.language_model(inputs_embeds=states, use_cache=False)

    seconds, peak = measure(run, device, args.runs)
    print(f"| Qwen3-VL | {dtype} | none | look | {seconds:.3f} | {peak:.2f} |")


def main() -> None:
    """Print a table in Markdown, with the device and the versions above it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp16"), default=["bf16", "fp16"])
    parser.add_argument("--tile", type=int, default=1024, help="output px, a multiple of 16")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--int8", action="store_true", help="the transformers in 8 bits, too; needs torchao")
    parser.add_argument("--tiny", action="store_true", help="tiny networks: to see that this works")
    args = parser.parse_args()
    device = resolve_device(args.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{card}, torch {torch.__version__}, tile {args.tile} px{', tiny networks' if args.tiny else ''}\n")
    print("| network | precision | offload | verb | seconds | peak GiB |\n|---|---|---|---|---|---|")
    for name in args.families:
        for precision in args.precisions:
            bench(name, precision, device, args)
        if args.int8:
            try:
                bench_int8(name, device, args)
            except StrsrError as error:
                print(f"\n{error}\n")
    bench_look(device, args)


if __name__ == "__main__":
    main()
