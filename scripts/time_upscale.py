"""Seconds per output megapixel of the network alone: python scripts/time_upscale.py PHOTO [--scale 4] [--runs 5]."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from strsr_cli.color import to_tensor
from strsr_cli.images import read_image
from strsr_models import load_pipeline


def main() -> None:
    """Print a median for each precision, after one warm-up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--scale", type=float, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    pipeline = load_pipeline("lite", device=args.device)
    lq = to_tensor(read_image(args.photo).rgb8())
    for precision in ("fp32", "bf16"):
        seconds = []
        for _ in range(args.runs + 1):
            began = time.perf_counter()
            hq = pipeline.upscale(lq, args.scale, precision=precision)
            seconds.append(time.perf_counter() - began)
        megapixels = hq.shape[-1] * hq.shape[-2] / 1e6
        print(f"{precision}: {statistics.median(seconds[1:]) / megapixels:.2f} s per output megapixel")


if __name__ == "__main__":
    main()
