"""Draw what lite cannot do: small text and a small face, mildly and severely degraded.

    python scripts/weak_spots.py OUT.png

Rows: scikit-image's page and astronaut, each in both degradations of scripts/evaluate.py; columns: bicubic x4, lite, the original.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from evaluate import SETTINGS, bicubic
from PIL import Image
from skimage import data
from torch import Tensor

from strsr_cli.degrade import degrade, draw_recipe, draw_sizes
from strsr_models import load_pipeline

SIDE = 160  # px of the original that is drawn


def pictures() -> list[Tensor]:
    """Originals (1, 3, h, w) in [0, 1] with text of 10 px and a face of 50 px."""
    page = np.repeat(data.page()[:, :, None], 3, axis=2)[16:176, 16:176]
    face = np.asarray(Image.fromarray(data.astronaut()).resize((256, 256), Image.Resampling.LANCZOS))
    return [
        torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 255 for x in (page, face[:SIDE, 32 : 32 + SIDE])
    ]


def main(out: Path) -> None:
    """Write the picture."""
    pipeline = load_pipeline("lite")
    rows = []
    for number, hq in enumerate(pictures()):
        for setting in ("mild", "severe"):
            config, rng = SETTINGS[setting], torch.Generator().manual_seed(number)
            lq = degrade(hq, [draw_recipe(rng, config)], draw_sizes(rng, config, setting), [rng])
            rows.append(torch.cat([bicubic(lq), pipeline.upscale(lq, 4), hq], dim=3))
    sheet = torch.cat(rows, dim=2)[0].permute(1, 2, 0)
    pixels = (255 * sheet.clamp(0, 1)).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).resize((2 * pixels.shape[1], 2 * pixels.shape[0]), Image.Resampling.NEAREST).save(
        out
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
