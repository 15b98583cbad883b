"""The figures of `strsr bench` as text for people, or as one JSON object."""

from __future__ import annotations

import json
import math
from typing import Any

from ..system.console import Tell, print_table, size_text


def show(figures: dict[str, Any], as_json: bool, report: Tell) -> None:
    """Print the figures that were measured; report: prints a line."""
    if as_json:
        report(json.dumps(_plain(figures)))
        return
    _show_what(figures, report)
    _show_start(figures, report)
    _show_speed(figures, report)
    if figures["torch"]:
        report(f"the same by PyTorch in {figures['torch']['precision']}, in turns with it:")
        _show_speed({**figures["torch"], "stages": None}, report)
        _show_first({"start_up": figures["torch_start_up"]}, report)
    if figures["batches"]:
        one_by_one = "" if figures["accelerator"] else "; a CPU computes the tiles of a batch one by one"
        report(f"network alone, by tiles at once{one_by_one}:")
        print_table(
            ["batch", "ms per tile", "megapixels per second"],
            [
                [
                    str(row["batch"]),
                    f"{row['ms_per_tile']:.2f}",
                    f"{row['megapixels_per_second']:.2f}",
                ]
                for row in figures["batches"]
            ],
        )
    if figures["roofline"]:
        _show_roofline(figures, report)


def _plain(value: Any) -> Any:
    """The value with null in place of numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show_what(figures: dict[str, Any], report: Tell) -> None:
    cpu, protocol = figures["cpu"], figures["protocol"]
    device = figures["gpu"]["name"] if figures["gpu"] else "the CPU: no accelerator was used"
    report(f"strsr {figures['strsr']}, PyTorch {figures['libraries']['torch']}, {figures['platform']}")
    by = " by OpenVINO" if figures["backend"] == "openvino" else ""
    report(f"{figures['model']} in {figures['precision']}{by} on {device}")
    report(f"{cpu['name']}, {cpu['cores']} cores for this process, {figures['threads']} threads of PyTorch")
    side, megapixels = protocol["size"], figures["output_megapixels"]
    kind = f"{side}x{side} px" if side else protocol["folder"]
    pictures = f"{protocol['images']} pictures of {kind}"
    sizes = f"{size_text(figures['input_bytes'])} in, {size_text(figures['output_bytes'])} of PNG out"
    report(
        f"{pictures} x{protocol['scale']:g}: {megapixels:.3g} megapixels, {sizes}; {_runs(protocol['runs'])}"
    )


def _runs(count: int) -> str:
    return "one run" if count == 1 else f"medians of {count} runs"


def _show_start(figures: dict[str, Any], report: Tell) -> None:
    start = figures["start_up"]
    if start:
        report(f"start-up: --help in {start['help_seconds']:.2f} s")
    _show_first(figures, report)
    report(f"load: weights on the device in {figures['load_seconds']:.2f} s")


def _show_first(figures: dict[str, Any], report: Tell) -> None:
    start = figures["start_up"]
    if start:
        first = f"first output of a cold `strsr upscale` ({start['side']}x{start['side']} px)"
        own_seconds = start["first_output_own_seconds"]
        own_work = "" if own_seconds is None else f", of which {own_seconds:.2f} s are its own work"
        report(f"{first} in {start['first_output_seconds']:.2f} s{own_work}")


def _show_speed(figures: dict[str, Any], report: Tell) -> None:
    for key, name in (
        ("end_to_end", "end to end, from files to files"),
        ("network_only", "network alone, same tiles"),
    ):
        row = figures[key]
        rate = f"{row['megapixels_per_second']:.3f} megapixels per second"
        report(f"{name}: {rate}, {row['seconds_per_megapixel']:.3f} s per megapixel")
    ratios = figures["efficiency"]["ratios"]
    spread = f" ({min(ratios):.0%} to {max(ratios):.0%})" if len(ratios) > 1 else ""
    report(f"pipeline efficiency: {figures['efficiency']['median']:.1%}{spread}")
    if figures["stages"]:
        stages = ", ".join(f"{stage} {1000 * spent:.1f}" for stage, spent in figures["stages"].items())
        report(f"stages by themselves, one after the other by one worker, ms per megapixel: {stages}")
    memory = figures["memory"]
    on_device = "" if memory["device_bytes"] is None else f", {size_text(memory['device_bytes'])} on the GPU"
    before = f"{size_text(memory['resident_before_bytes'])} before the pictures"
    report(f"peak memory: {size_text(memory['resident_bytes'])} resident ({before}){on_device}")


def _show_roofline(figures: dict[str, Any], report: Tell) -> None:
    top = figures["roofline"]
    rates = top["matmul_gflop_per_s"]
    products = ", ".join(f"{precision} {_rate(rate)}" for precision, rate in rates.items())
    report(f"ceilings of this machine: products {products}; copies {top['copy_gb_per_s']:.1f} GB/s")
    size = f"{top['parameters'] / 1e6:.1f} M parameters, {size_text(top['parameter_bytes'])}"
    report(
        f"roofline of one tile in {top['precision']}, {top['batch']} at once; {size}; traffic is an upper bound:"
    )
    print_table(
        ["part", "arithmetic", "traffic", "time", "achieved", "of products", "of copies", "limit"],
        [
            [
                name.replace("_", " ") + (", once per picture" if name == "semantic_encoder" else ""),
                f"{part['gflop']:.2f} GFLOP",
                size_text(part["traffic_bytes"]),
                f"{1000 * part['seconds']:.2f} ms",
                _rate(part["gflop_per_s"]),
                f"{part['share_of_matmul']:.0%}",
                f"{part['share_of_copy']:.0%}",
                part["limit"],
            ]
            for name, part in top["parts"].items()
        ],
    )


def _rate(gflop: float | None) -> str:
    if gflop is None:
        return "does not work"
    return f"{gflop / 1000:.2f} TFLOP/s" if gflop >= 1000 else f"{gflop:.1f} GFLOP/s"
