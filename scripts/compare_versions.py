"""The same folder upscaled by two checkouts in turns: python scripts/compare_versions.py OLD NEW [--images 60] [--runs 3] [ARGUMENT ...].

Whole processes are timed, from the start of `strsr upscale` to its end, loading included. Pictures are those of
`strsr bench`, JPEG of 256x256 px; outputs are PNG. Further arguments, such as --precision fp32, go to both. To have
an old checkout: git worktree add /tmp/old COMMIT.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from strsr_cli.bench.photos import write_photos


def seconds(checkout: Path, source: Path, target: Path, arguments: list[str]) -> float:
    """The seconds of one process of a checkout, which makes all outputs again."""
    roots = os.pathsep.join([str(checkout), str(checkout / "models")])
    command = [sys.executable, "-m", "strsr_cli", "upscale", str(source), str(target)]
    command += ["--format", "png", "--overwrite", "--quiet", *arguments]
    began = time.perf_counter()
    # It runs in the checkout, since python -m looks for packages in the current folder before all others.
    subprocess.run(command, cwd=checkout, env={**os.environ, "PYTHONPATH": roots}, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Print medians of both, and the median of the ratios run by run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    args, arguments = parser.parse_known_args()
    times: dict[str, list[float]] = {"old": [], "new": []}
    with tempfile.TemporaryDirectory(prefix="strsr-compare-") as scratch:
        source, target = Path(scratch, "in"), Path(scratch, "out")
        source.mkdir()
        write_photos(source, args.images, args.size)
        for run in range(args.runs):
            for name in ("old", "new") if run % 2 == 0 else ("new", "old"):
                times[name].append(seconds(getattr(args, name).resolve(), source, target / name, arguments))
        megapixels = 0.0
        for path in (target / "new").rglob("*.png"):
            with Image.open(path) as image:
                megapixels += image.width * image.height / 1e6
    for name, spent in times.items():
        middle = statistics.median(spent)
        print(
            f"{name}: {middle:.2f} s, {megapixels / middle:.3f} megapixels per second, {megapixels:.1f} in all"
        )
    ratios = [old / new for old, new in zip(times["old"], times["new"], strict=True)]
    print(f"speed-up: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
