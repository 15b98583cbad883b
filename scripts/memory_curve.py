"""Resident memory of `strsr upscale` over time, for outputs of several sizes; a table and a plot.

    python scripts/memory_curve.py PHOTO docs/images/memory-curve.png --megapixels 12 48 100 400 --format png

PHOTO is resized to what makes each output at --scale, and written beside it as JPEG.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import psutil
from PIL import Image

INTERVAL = 0.1  # s between two samples
Curve = list[tuple[float, float]]  # seconds, MiB


def watch(command: list[str]) -> Curve:
    """Run a command to its end; returns its resident memory over time."""
    curve: Curve = []
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        child = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                curve.append((time.monotonic() - began, child.memory_info().rss / 2**20))
            except psutil.NoSuchProcess:
                break
            time.sleep(INTERVAL)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return curve


def measure(photo: Path, megapixels: float, kind: str, options: list[str], scale: float) -> Curve:
    """Measure the curve of one output of about so many megapixels."""
    with Image.open(photo) as image:
        factor = math.sqrt(megapixels * 1e6 / scale**2 / (image.width * image.height))
        size = round(image.width * factor), round(image.height * factor)
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.jpg"), Path(folder, f"out.{kind}")
        small.save(source, quality=92)
        command = [sys.executable, "-m", "strsr_cli", "upscale", str(source), str(target)]
        return watch([*command, "--scale", f"{scale:g}", *options])


def plot(curves: dict[float, Curve], base: float, path: Path) -> None:
    """Draw all curves over the share of the time that each took."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for megapixels, curve in curves.items():
        whole = curve[-1][0]
        axes.plot(
            [100 * seconds / whole for seconds, _ in curve], [mib for _, mib in curve],
            label=f"{megapixels:g} megapixels", linewidth=1.5,
        )  # fmt: skip
    axes.axhline(base, color="grey", linestyle=":", linewidth=1)
    axes.annotate("one tile", (99, base - 12), va="top", ha="right", color="grey", fontsize=9)
    axes.set(xlabel="% of the time", ylabel="resident memory, MiB", xlim=(0, 100), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print a line for each size, write the plot and, beside it, the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("plot", type=Path)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[12, 48, 100, 400])
    parser.add_argument("--format", default="png")
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument(
        "--options", nargs="*", default=[], help="of strsr upscale, without dashes: precision=bf16"
    )
    args = parser.parse_args()
    options = [f"--{option}" for option in args.options]
    base = max(mib for _, mib in measure(args.photo, 0.25, args.format, options, args.scale))
    print(f"one tile: {base:.0f} MiB")
    curves: dict[float, Curve] = {}
    for megapixels in args.megapixels:
        curve = measure(args.photo, megapixels, args.format, options, args.scale)
        peak = max(mib for _, mib in curve)
        print(
            f"{megapixels:g} MP: peak {peak:.0f} MiB, {peak - base:.0f} above one tile; {curve[-1][0]:.0f} s"
        )
        curves[megapixels] = curve
        plot(curves, base, args.plot)
    figures = {"one_tile_mib": base, "curves": {f"{size:g}": curve for size, curve in curves.items()}}
    args.plot.with_suffix(".json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
