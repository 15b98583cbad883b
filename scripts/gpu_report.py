"""All figures that a GPU has to give, in one go of a few minutes: python scripts/gpu_report.py OUT [--minutes 4] [--tiny]

1. lite, network alone: megapixels a second by precision, size of tile and number of tiles, in turns as they are, compiled
   and as CUDA graphs; the best against the fastest product of matrices that the card can do (its ceiling).
2. lite from file to file: `strsr bench`.
3. zimage at full size with random weights: seconds and GiB of each verb on a tile of 1024 px, in bf16, with and without
   offload, and with int8 weights (scripts/bench_families.py).
4. The tests that are marked gpu.

OUT/report.md grows with each part, so that what was measured stays if the time ends; OUT/report.json has all numbers. A
part that fails or has no time left says so there, and the others go on. --tiny does all of it on any device within
minutes, with tiny networks where the real ones are large: to see that it works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from strsr_cli.bench.roofline import matmul_rate, median, timed
from strsr_cli.system.machine import computes
from strsr_models import load_pipeline
from strsr_models.compute.devices import resolve_device
from strsr_models.pipelines.base import OneStepPipeline
from strsr_models.tiling.memory import MemoryBudget

ROOT = Path(__file__).parent.parent
RUNS = 5
TILES, BATCHES = (256, 512, 1024), (1, 8, 32)  # output px; tiles at once
COMPILED_TILE, COMPILED_BATCH = 512, 8  # each shape costs half a minute of compiling
MODES = {"compiled": "default", "CUDA graphs": "reduce-overhead"}


class Report:
    """What was measured so far, on disk after each part."""

    def __init__(self, out: Path, minutes: float) -> None:
        self.out, self.ends = out, time.monotonic() + 60 * minutes
        self.lines: list[str] = []
        self.figures: dict[str, Any] = {}
        out.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.ends - time.monotonic()

    def part(self, title: str, measure: Callable[[Report], None]) -> None:
        """Measure one part and write all down; what goes wrong in it is a line of the report."""
        self.say(f"\n## {title}\n")
        began = time.monotonic()
        try:
            if self.left <= 0:
                raise TimeoutError("no time was left")
            measure(self)
        except Exception as error:  # noqa: BLE001  (any part may fail)
            # Any part may meet a library that is missing or memory that ends; the others are worth having.
            self.say(
                f"Not measured: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
        self.say(f"\n({time.monotonic() - began:.0f} s)")

    def say(self, line: str) -> None:
        """Add a line, on the disk at once."""
        self.lines.append(line)
        print(line, flush=True)
        (self.out / "report.md").write_text("\n".join(self.lines) + "\n")
        (self.out / "report.json").write_text(json.dumps(self.figures, indent=1) + "\n")

    def run(self, command: list[str]) -> str:
        """Run a program for as long as there is time; returns what it printed. Raises RuntimeError where it fails."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "models"), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=max(1.0, self.left),
            check=False,
        )
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
            raise RuntimeError(f"exit code {done.returncode}: {lines[-1]}")
        return done.stdout


def precisions(device: torch.device) -> list[str]:
    """The precisions that the device computes in, of those that people use there."""
    return [name for name in ("fp16", "bf16", "fp32") if computes(str(device), name)]


@torch.inference_mode()
def megapixels_per_second(pipeline: OneStepPipeline, side: int, batch: int, precision: str) -> float:
    """The rate of the network alone on `batch` tiles of `side` px, which lie on the device: the median of RUNS."""
    tiles = [torch.rand(1, 3, side, side, device=pipeline.device) for _ in range(batch)]
    cond = pipeline.condition(torch.rand(1, 3, side // 4, side // 4, device=pipeline.device), precision)

    def restore() -> None:
        # What CUDA graphs gave in the last round may be overwritten.
        torch.compiler.cudagraph_mark_step_begin()
        pipeline.restore_tiles(tiles, [cond] * batch, precision, 1, MemoryBudget(batch))

    for _ in range(2):
        timed(restore, pipeline.device)
    return batch * side**2 / 1e6 / median(timed(restore, pipeline.device) for _ in range(RUNS))


def lite_alone(report: Report, device: torch.device, tiny: bool) -> None:
    """Measure lite's network by precision, tile and batch, then compiled."""
    tiles, batches = ((256,), (1, 2)) if tiny else (TILES, BATCHES)
    pipeline = load_pipeline("lite", None, str(device))
    flop = 0.19e12  # for a megapixel, of tiles of 512 px
    rows: list[dict[str, Any]] = []
    report.say("| precision | tile | at once | how | MP/s | of the ceiling |\n|---|---|---|---|---|---|")
    report.figures["lite"] = rows
    tops = {precision: 1e9 * matmul_rate(device, precision) for precision in precisions(device)}

    def row(precision: str, side: int, batch: int, how: str, network: OneStepPipeline) -> None:
        rate = megapixels_per_second(network, side, batch, precision)
        share = rate * flop / tops[precision]
        rows.append({"precision": precision, "tile": side, "batch": batch, "how": how, "mp_per_s": rate})
        report.say(f"| {precision} | {side} | {batch} | {how} | {rate:.2f} | {share:.0%} |")

    for precision in tops:
        for side in tiles:
            for batch in batches:
                row(precision, side, batch, "as it is", pipeline)
    for how, mode in MODES.items():
        if report.left < 60 and not tiny:
            report.say(f"\n{how}: no time was left for it")
            continue
        compiled = load_pipeline("lite", None, str(device))
        compiled.compile(mode=mode)
        side, batch = (tiles[0], batches[0]) if tiny else (COMPILED_TILE, COMPILED_BATCH)
        row(next(iter(tops)), side, batch, how, compiled)
    ceilings = ", ".join(f"{name} {top / 1e12:.1f}" for name, top in tops.items())
    report.say(f"\nCeilings, TFLOP/s of a product of matrices: {ceilings}")


def file_to_file(report: Report, device: torch.device, tiny: bool) -> None:
    """Run `strsr bench`, and say what people ask first."""
    words = ["--images", "2", "--size", "64", "--runs", "1"] if tiny else ["--images", "200", "--size", "512"]
    skip = ["--skip", "start-up,roofline"]
    printed = report.run(["-m", "strsr_cli", "bench", "--device", str(device), "--json", *words, *skip])
    report.figures["bench"] = json.loads(printed)
    report.say("```json\n" + printed.strip()[:6000] + "\n```")


def zimage(report: Report, device: torch.device, tiny: bool) -> None:
    """Run scripts/bench_families.py on zimage."""
    words = ["--families", "zimage", "--precisions", "bf16", "--runs", "3", "--device", str(device)]
    printed = report.run(
        ["scripts/bench_families.py", *words, "--int8", *(["--tiny", "--tile", "64"] if tiny else [])]
    )
    report.figures["zimage"] = printed
    report.say(printed.strip())


def gpu_tests(report: Report, device: torch.device, tiny: bool) -> None:
    """Run the tests that are marked gpu; elsewhere, see that they are found."""
    words = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    printed = report.run([*words, *(["--collect-only"] if device.type != "cuda" else [])])
    report.say("\n".join(printed.strip().splitlines()[-6:]))


PARTS: dict[str, tuple[str, Callable[[Report, torch.device, bool], None]]] = {
    "lite": ("lite, network alone", lite_alone),
    "files": ("lite, from file to file", file_to_file),
    "zimage": ("zimage at full size, random weights", zimage),
    "tests": ("tests marked gpu", gpu_tests),
}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=4, help="in all; what has no time left says so")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal on any device")
    args = parser.parse_args()
    device = resolve_device(args.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    report = Report(args.out, args.minutes)
    report.say(f"# {card}, torch {torch.__version__}{', a rehearsal' if args.tiny else ''}")
    for name in args.parts:
        title, measure = PARTS[name]
        report.part(title, lambda report, measure=measure: measure(report, device, args.tiny))  # type: ignore[misc]


if __name__ == "__main__":
    main()
