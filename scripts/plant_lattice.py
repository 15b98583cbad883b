"""Make weights that print a grid of 16 px on purpose, to see what removes it.

    python scripts/plant_lattice.py WEIGHTS OUT [--strength 0.5]

The last layer of the DiT gives each latent of a patch of 2x2 (16 x 16 px) an offset of its own, the
same in every patch, which a squeezed transformer is prone to. strength: that of the offset, in units of
the latents' spread. WEIGHTS and OUT: folders as `strsr export` makes them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from strsr_models import load_pipeline
from strsr_models.pipelines.lite import LitePipeline


def main() -> None:
    """Add the offset and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--strength", type=float, default=0.5)
    args = parser.parse_args()
    pipeline = load_pipeline("lite", args.weights)
    assert isinstance(pipeline, LitePipeline)
    if pipeline.config.dit.unpatchify != "patch":
        raise SystemExit(f"{args.weights}: their velocity is smooth, so that no grid can be planted there")
    bias = pipeline.dit.patch_out.bias
    offset = args.strength * torch.randn(bias.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        bias += offset
    args.out.mkdir(parents=True)
    pipeline.save(args.out, {"planted": str(args.strength)})


if __name__ == "__main__":
    main()
