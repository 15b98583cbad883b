"""The paper's ablation on lite: which coach, with and without the frequency loss.

    python scripts/ablation.py OUT --student WEIGHTS --data PHOTOS --val PHOTOS \\
        --features squeezenet=FILE --set steps=200 --set coach_weights=FILE ...

The script runs `strsr distill` from the same weights on the same crops, with coach none, conv and dit, FDL off and on,
then without semantic tokens and with the lattice loss (VARIANTS), into OUT/; a run that is there already goes on or is
only read. Then it prints a table: fidelity and perceptual distances on held-out photos (clean and severe), and lattice
excess over the photos' own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from evaluate import Method, evaluate, restorer

from strsr_cli.training.data.photos import load_photos
from strsr_cli.training.distill import distill
from strsr_models.compute.devices import resolve_precision
from strsr_models.encoders.features import FeatureNetwork

VARIANTS = {
    "none": ["coach=none", "fdl_weight=0"],
    "none + FDL": ["coach=none", "fdl_from=0"],
    "conv": ["coach=conv", "fdl_weight=0"],
    "conv + FDL": ["coach=conv", "fdl_from=0"],
    "dit": ["coach=dit", "fdl_weight=0"],
    "dit + FDL": ["coach=dit", "fdl_from=0"],
    "conv + FDL, no semantic tokens": ["coach=conv", "fdl_from=0", "semantic_tokens=false"],
    "conv + FDL + lattice loss": ["coach=conv", "fdl_from=0", "lattice_weight=1e-4"],
}


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--student", required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument(
        "--features", nargs="*", default=[], help="NAME=FILE ...: what the table measures with"
    )
    parser.add_argument("--set", action="append", default=[], help="of strsr distill; may be repeated")
    parser.add_argument("--limit", type=int, default=24, help="photos of --val")
    args = parser.parse_args()

    device = torch.device("cpu")
    precision = resolve_precision("auto", device)
    methods: dict[str, Method] = {}
    for name, variant in VARIANTS.items():
        folder = args.out / name.replace(" ", "").replace(",", "-")
        print(f"{name}: {folder}", file=sys.stderr, flush=True)
        weights = distill(args.student, args.data, folder, None, [*args.set, *variant], lambda _line: None)
        methods[name] = restorer(weights, device, precision, None)
    methods = {"start": restorer(Path(args.student), device, precision, None), **methods}
    files = dict(entry.split("=", 1) for entry in args.features)
    networks = {name: FeatureNetwork(name, Path(file)) for name, file in files.items()}
    photos = load_photos([args.val], 64, cache_gb=0)
    for setting in ("clean", "severe"):
        table = evaluate(photos, min(args.limit, len(photos)), setting, methods, networks)
        keys = list(next(iter(table.values())))
        print(f"\n| {setting}: coach | {' | '.join(keys)} |\n|---|{'---|' * len(keys)}")
        for name, row in table.items():
            print(f"| {name} | {' | '.join(f'{row[key]:.3f}' for key in keys)} |", flush=True)


if __name__ == "__main__":
    main()
