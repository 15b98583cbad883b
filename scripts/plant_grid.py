"""Plant in an image a grid such as decoders and transformers print, to see what `strsr fft-inspect` makes of it.

    python scripts/plant_grid.py IMAGE OUT.png [--period 16] [--levels 3] [--seed 0]

Every patch of period x period px gets the same pattern: random numbers, smoothed over neighbours as a
decoder's convolutions do. levels: their root mean square, in grey levels of 255. A scikit-image
photo may be named in place of a file: skimage:coffee.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image


def load(name: str) -> np.ndarray:
    """Load a picture as float (h, w, 3) in [0, 255]."""
    if name.startswith("skimage:"):
        from skimage import data

        pixels = getattr(data, name.removeprefix("skimage:"))()
    else:
        pixels = np.asarray(Image.open(name).convert("RGB"))
    return np.asarray(pixels, np.float64)


def pattern(period: int, seed: int) -> np.ndarray:
    """Draw a pattern (period, period) of mean 0 and root mean square 1, without a seam where it repeats."""
    noise = np.random.default_rng(seed).standard_normal((period, period))
    for axis in (0, 1):
        noise = np.roll(noise, -1, axis) + 2 * noise + np.roll(noise, 1, axis)
    noise -= noise.mean()
    return noise / np.sqrt(np.square(noise).mean())


def main() -> None:
    """Add the grid and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image")
    parser.add_argument("out", type=Path)
    parser.add_argument("--period", type=int, default=16)
    parser.add_argument("--levels", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    photo = load(args.image)
    height, width = photo.shape[:2]
    repeats = (-(-height // args.period), -(-width // args.period))
    grid = np.tile(pattern(args.period, args.seed), repeats)[:height, :width, None]
    planted = np.rint(np.clip(photo + args.levels * grid, 0, 255)).astype(np.uint8)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(planted).save(args.out)


if __name__ == "__main__":
    main()
