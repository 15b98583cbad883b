"""Draw curves of training runs: one panel for each number, one line for each run.

    python scripts/plot_runs.py OUT.png KEY,KEY,... RUN[=LABEL] ...

KEY: a name in a run's metrics.jsonl, such as l1_loss or lattice_16_db; several are drawn as panels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

mpl.use("Agg")


def read_curve(run: Path, key: str) -> tuple[list[int], list[float]]:
    """Read steps and values of one number, where the run logged it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in kept], [value for _, value in kept]


def plot(out: Path, keys: list[str], runs: list[str]) -> None:
    """Draw a panel for each key."""
    columns = min(len(keys), 3)
    rows = -(-len(keys) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.9 * rows), squeeze=False)
    for axis, key in zip(axes.flat, keys, strict=False):
        for run in runs:
            folder, _, label = run.partition("=")
            steps, values = read_curve(Path(folder), key)
            if steps:
                axis.plot(steps, values, linewidth=1.6, label=label or Path(folder).name)
        axis.set_title(key, fontsize=11)
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if len(runs) > 1:
            axis.legend(fontsize=9, frameon=False)
    for axis in axes.flat[len(keys) :]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("keys", metavar="KEY,KEY,...")
    parser.add_argument("runs", nargs="+", metavar="RUN[=LABEL]")
    args = parser.parse_args()
    plot(args.out, args.keys.split(","), args.runs)


if __name__ == "__main__":
    main()
