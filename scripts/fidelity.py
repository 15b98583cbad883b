"""Measure what --fidelity does: a table, and a curve of PSNR against a feature distance for each kind of damage.

    python scripts/fidelity.py PHOTOS OUT.png --features resnet50v2=FILE [--weights FOLDER] [--reduce 0.75] [--crop 384]
    python scripts/fidelity.py --subjects text face --features resnet50v2=FILE   # of small text and faces, a table alone

PHOTOS are degraded as by scripts/evaluate.py. --subjects: those of scripts/weak_spots.py, 8 draws of each kind.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from evaluate import SETTINGS, Method, Rows, degraded, evaluate, mean_scores, restorer
from weak_spots import SUBJECTS, subject

from strsr_cli.training.data.photos import load_photos
from strsr_models.compute.devices import resolve_device, resolve_precision
from strsr_models.encoders.features import FeatureNetwork

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
DRAWS = 8  # of damage to each subject


def of_subject(
    name: str, setting: str, methods: dict[str, Method], networks: dict[str, FeatureNetwork]
) -> Rows:
    """The mean scores of a subject, over DRAWS draws of damage."""
    hq = subject(name)
    return mean_scores(((hq, degraded(hq, setting, draw)) for draw in range(DRAWS)), methods, networks)


def draw(rows: dict[str, Rows], column: str, path: Path) -> None:
    """Draw a curve for each kind of damage."""
    figure, axes = plt.subplots(1, len(rows), figsize=(3.4 * len(rows), 3), layout="constrained")
    for axis, (setting, scores) in zip(np.atleast_1d(axes), rows.items(), strict=True):
        x, y = ([row[key] for row in scores.values()] for key in (column, "PSNR-Y"))
        axis.plot(x, y, "o-", color="#336699")
        for label, across, up in zip(scores, x, y, strict=True):
            axis.annotate(label, (across, up), textcoords="offset points", xytext=(6, -10), fontsize=8)
        axis.set_title(setting)
        axis.margins(0.15)
        axis.grid(alpha=0.3)
    figure.supxlabel(f"distance on {column} (lower: looks closer)", fontsize=10)
    figure.supylabel("PSNR-Y, dB (higher: is closer)", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table, and draw the curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), default=[])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--features", nargs="+", required=True, help="NAME=FILE ..., the first is drawn")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), help="of fidelity")
    parser.add_argument("--reduce", type=float, default=1.0)
    parser.add_argument("--crop", type=int)
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    files = dict(entry.split("=", 1) for entry in args.features)
    networks = {name: FeatureNetwork(name, Path(file)) for name, file in files.items()}
    device = resolve_device("auto")
    precision = resolve_precision(args.precision, device)
    methods = {
        f"{share:g}": restorer(args.weights, device, precision, fidelity=share) for share in args.shares
    }
    tables: dict[str, Rows] = {}
    for name in args.subjects:
        for setting in args.settings:
            tables[f"{name}, {setting}"] = of_subject(name, setting, methods, networks)
    if args.photos is not None:
        photos = load_photos([args.photos], 64, cache_gb=0)
        count = min(len(photos), args.limit)
        curves = {
            setting: evaluate(photos, count, setting, methods, networks, args.reduce, args.crop)
            for setting in args.settings
        }
        tables |= curves
        if args.out is not None:
            draw(curves, next(iter(files)), args.out)
    columns = ["PSNR-Y", "SSIM-Y", *files, "lattice 4"]
    print(f"\n| input | fidelity | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for name, rows in tables.items():
        for label, row in rows.items():
            print(f"| {name} | {label} | {' | '.join(f'{row[column]:.4f}' for column in columns)} |")


if __name__ == "__main__":
    main()
