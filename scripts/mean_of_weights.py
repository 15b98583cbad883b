"""Write the mean of folders of lite's weights that were trained from the same ones: often better than each.

    python scripts/mean_of_weights.py A B [C ...] OUT [--shares 0.5 0.5 ...]

--shares: the part of each folder, all alike unless told, 1 together. Shares of 0.5 and -0.5 add half of what a training has
changed, from its result and its start. OUT has A's other files, without ranges.json, which must be
measured anew (`strsr export --ranges`).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from finish_decoder import replace
from safetensors.torch import load_file

from strsr_models.checkpoints.locations import FAITHFUL_NAME, RANGES_NAME, WEIGHTS_NAME


def main() -> None:
    """Write the mean of model.safetensors, and of faithful.safetensors where all have one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shares", type=float, nargs="+")
    args = parser.parse_args()
    shares = args.shares or [1 / len(args.weights)] * len(args.weights)
    if len(shares) != len(args.weights) or abs(sum(shares) - 1) > 1e-6:
        parser.error(f"--shares: one for each of the {len(args.weights)} folders, 1 together")
    for folder in args.weights:
        if not (folder / WEIGHTS_NAME).exists():
            parser.error(f"{folder} has no {WEIGHTS_NAME}")
    shutil.copytree(args.weights[0], args.out, ignore=shutil.ignore_patterns(RANGES_NAME))
    for name in (WEIGHTS_NAME, FAITHFUL_NAME):
        if all((folder / name).exists() for folder in args.weights):
            tensors = [load_file(folder / name) for folder in args.weights]
            mean = {
                key: torch.stack(
                    [share * part[key].float() for share, part in zip(shares, tensors, strict=True)]
                ).sum(0)
                for key in tensors[0]
            }
            replace(args.out / name, mean)


if __name__ == "__main__":
    main()
