"""The paper's ablation on lite: which coach, with and without the frequency loss.

    python scripts/ablation.py OUT --student WEIGHTS --data PHOTOS --val PHOTOS \\
        --features squeezenet=FILE --set steps=200 --set coach_weights=FILE ...

Runs `strsr distill` six times from the same weights on the same crops, coach none, conv and dit, FDL
off and on, into OUT/; a run that is there already goes on or is only read. Then prints a table: L1
and perceptual distance on held-out photos (clean and severe), and lattice excess over the photos' own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from evaluate import Method, evaluate, restorer

from strsr_cli.data import load_photos
from strsr_cli.distill import distill
from strsr_models.devices import resolve_precision
from strsr_models.encoders.features import FeatureNetwork

COACHES = ("none", "conv", "dit")


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
    for coach in COACHES:
        for filtered in (False, True):
            name = f"{coach}{' + FDL' if filtered else ''}"
            settings = [*args.set, f"coach={coach}", "fdl_from=0" if filtered else "fdl_weight=0"]
            folder = args.out / name.replace(" ", "")
            print(f"{name}: {folder}", file=sys.stderr, flush=True)
            weights = distill(args.student, args.data, folder, None, settings, lambda _line: None)
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
