"""Draw what lite makes of a few degraded subjects: bicubic x4, lite, the original.

    python scripts/weak_spots.py OUT.png                                 # what it cannot do: small text, a small face
    python scripts/weak_spots.py OUT.png --settings clean mild --subjects fur foliage fabric brick

Subjects are parts of scikit-image's pictures; each is a row for each setting of scripts/evaluate.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from evaluate import SETTINGS, bicubic, degraded
from PIL import Image
from skimage import data
from torch import Tensor

from strsr_models import load_pipeline

SIDE = 160  # px of the original that is drawn
# Each subject: the picture, the side it is reduced to first (0: as it is), top and left of the part.
SUBJECTS = {
    "text": ("page", 0, 16, 16),
    "face": ("astronaut", 256, 0, 32),
    "fur": ("chelsea", 0, 60, 90),
    "foliage": ("grass", 256, 40, 40),
    "fabric": ("astronaut", 0, 330, 60),
    "brick": ("brick", 256, 20, 20),
}


def subject(name: str) -> Tensor:
    """The part (1, 3, h, w) in [0, 1] of a picture that shows a subject."""
    picture, reduced, top, left = SUBJECTS[name]
    pixels = getattr(data, picture)()
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if reduced:
        pixels = np.asarray(Image.fromarray(pixels).resize((reduced, reduced), Image.Resampling.LANCZOS))
    part = pixels[top : top + SIDE, left : left + SIDE].copy()
    return torch.from_numpy(part).permute(2, 0, 1)[None] / 255


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), default=["text", "face"])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=["mild", "severe"])
    parser.add_argument("--columns", type=int, default=1, help="of rows beside each other")
    args = parser.parse_args()
    pipeline = load_pipeline("lite")
    rows = []
    for number, name in enumerate(args.subjects):
        for setting in args.settings:
            hq = subject(name)
            lq = degraded(hq, setting, number)
            rows.append(torch.cat([bicubic(lq), pipeline.upscale(lq, 4), hq], dim=3))
    height = -(-len(rows) // args.columns)
    blocks = [torch.cat(rows[n * height : (n + 1) * height], dim=2) for n in range(args.columns)]
    sheet = torch.cat(blocks, dim=3)[0].permute(1, 2, 0)
    pixels = (255 * sheet.clamp(0, 1)).round().to(torch.uint8).numpy()
    magnified = 1 if args.columns > 1 else 2
    size = (magnified * pixels.shape[1], magnified * pixels.shape[0])
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(args.out, optimize=True, quality=92)


if __name__ == "__main__":
    main()
