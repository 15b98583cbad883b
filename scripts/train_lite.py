"""Lite's whole recipe by the clock: photos and teachers in, weights, curves, sheets and a table out.

    python scripts/train_lite.py OUT --data PHOTOS [MORE] --teachers FOLDER --squeezenet FILE --vgg19 FILE \\
        [--pairs 10000] [--minutes 600 300] [--faithful-minutes 60] [--start WEIGHTS] [--val HELD_OUT --resnet50v2 FILE]

1. pairs: photos are degraded and kept with what the teachers make of them (OUT/pairs).  2. teachers: lite learns
those outputs (OUT/teachers).  3. coach: lite goes on with a coach and the Frequency Distribution Loss (OUT/coach).
4. faithful: its decoder goes on from there towards the photos, for the other end of --fidelity (OUT/faithful).
--minutes gives the time of training in 2 and 3; learning rates follow the clock. OUT/weights is the export of what
was reached, OUT/curves.png and, with --val, OUT/table.md describe it.

Training that was stopped, by Ctrl-C, SIGTERM or a kill, goes on from its last checkpoint when the same command is given
again, as often as is needed. Where OUT is lost but weights of this script are left, --start WEIGHTS --go-on goes on from
them with the rest of their schedule; pairs are made again from their seed.

--teachers: the folder with lsdir-compact-c3.safetensors and realesrgan-x4plus.safetensors. Clean photos learn from the
first, mild ones from the mean of both, all others from the second. `--steps 20` takes that many steps in place of minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from strsr_cli.system.signals import Stopped
from strsr_cli.training.distill import distill, make_teachers_pairs
from strsr_cli.training.export import export
from strsr_models.checkpoints.locations import WEIGHTS_NAME, weights_folder

CONFIGS = Path(__file__).parent.parent / "examples" / "training"
STAGES = ("teachers", "coach")
FAITHFUL = "faithful"
CURVES = "teacher_loss,l1_loss,perceptual_loss,gan_loss,coach_loss,lattice_4_db,lattice_8_db,lattice_16_db,sample_gain_db,sample_perceptual"
COMPACT, STRONG = "lsdir-compact-c3.safetensors", "realesrgan-x4plus.safetensors"


@dataclass(frozen=True)
class Recipe:
    """The data of a recipe, its folder, and its settings."""

    data: list[Path]
    out: Path
    settings: list[str]  # of all stages
    own: list[str]  # of one, STAGE:KEY=VALUE

    def make_pairs(self, count: int) -> None:
        """Make pairs: photos with what the teachers make of them."""
        make_teachers_pairs(self.data, count, CONFIGS / "lite-teachers.toml", self.settings, say)

    def run(self, stage: str, student: Path, settings: list[str]) -> Path:
        """Run one stage; returns its weights."""
        config = CONFIGS / f"lite-{stage}.toml"
        own = [setting.partition(":")[2] for setting in self.own if setting.startswith(f"{stage}:")]
        all_settings = [*self.settings, *own, *settings]
        return distill(str(student), self.data, self.out / stage, config, all_settings, say)


def say(line: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def settings_of(args: argparse.Namespace) -> list[str]:
    """The settings that all stages share: the files of teachers and judges, and what the command line sets."""
    compact, strong = (str(args.teachers / name) for name in (COMPACT, STRONG))
    networks = json.dumps(["squeezenet", "vgg19"])
    files = json.dumps([str(args.squeezenet), str(args.vgg19)])
    return [
        f"pairs={json.dumps(str(args.out / 'pairs'))}",
        f"teacher.clean={json.dumps([compact])}",
        f"teacher.mild={json.dumps([compact, strong])}",
        f"teacher.severe={json.dumps([strong])}",
        f"perceptual_network={networks}",
        f"perceptual_weights={files}",
        f"coach_weights={files}",
        f"fdl_weights={json.dumps(str(args.vgg19))}",
        "fdl_network=vgg19",
        *args.set,
    ]


def length_of(args: argparse.Namespace, minutes: float) -> list[str]:
    """The settings that say how long a stage runs: so many minutes, or as many steps as --steps says."""
    return [f"steps={args.steps}"] if args.steps else [f"minutes={minutes}", "steps=1000000000"]


def rest_of_schedule(weights: Path) -> tuple[str, float]:
    """Read from a file of weights the stage that they come from, and how many minutes of it they have behind them."""
    with safe_open(weights_folder(weights) / WEIGHTS_NAME, "pt") as file:
        words = file.metadata() or {}
    try:
        return words["run"], float(words["minutes"])
    except (KeyError, ValueError):
        raise SystemExit(f"{weights}: do not say how far they were trained; leave --go-on out") from None


def main() -> None:
    """Train what is not there yet, then draw and measure."""
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    marks = tuple(f"{stage}:" for stage in (*STAGES, FAITHFUL))
    own = [setting for setting in args.set if setting.startswith(marks)]
    args.set = [setting for setting in args.set if setting not in own]
    recipe = Recipe(args.data, args.out, settings_of(args), own)
    first, before = rest_of_schedule(args.start) if args.go_on else (STAGES[0], 0.0)
    if args.pairs:
        recipe.make_pairs(args.pairs)
    weights: Path = args.start
    faithful: Path | None = None
    try:
        for stage, minutes in zip(STAGES, args.minutes, strict=True):
            if STAGES.index(stage) < STAGES.index(first) or minutes == 0:
                continue
            length = length_of(args, minutes)
            begun = [f"minutes_before={before}"] if stage == first else []
            weights = recipe.run(stage, weights, [*length, *begun])
        if args.faithful_minutes and weights != args.start:
            recipe.run(FAITHFUL, weights, length_of(args, args.faithful_minutes))
            faithful = args.out / FAITHFUL
    except Stopped as stopped:
        say("stopped; the same command goes on")
        raise SystemExit(stopped.exit_code) from stopped
    if weights == args.start:
        return
    if not (args.out / "weights").exists():
        export(weights.parent, args.out / "weights", faithful)
    finish(args, args.out / "weights")


def finish(args: argparse.Namespace, weights: Path) -> None:
    """Draw curves and write the table, by the scripts beside this one."""
    scripts = Path(__file__).parent
    runs = [f"{args.out / stage}={stage}" for stage in STAGES if (args.out / stage).exists()]
    subprocess.run(
        [sys.executable, scripts / "plot_runs.py", args.out / "curves.png", CURVES, *runs], check=True
    )
    if args.val is None:
        return
    stages = [f"{stage}={args.out / stage / 'model'}" for stage in STAGES if (args.out / stage).exists()]
    command = [sys.executable, scripts / "evaluate.py", args.val, "--weights", *stages, f"final={weights}"]
    command += ["--limit", str(args.limit), "--features", f"squeezenet={args.squeezenet}"]
    command += [f"vgg19={args.vgg19}"] + ([f"resnet50v2={args.resnet50v2}"] if args.resnet50v2 else [])
    table = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (args.out / "table.md").write_text(table)
    print(table)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of good photos")
    parser.add_argument("--teachers", type=Path, required=True, help=f"folder with {COMPACT} and {STRONG}")
    parser.add_argument(
        "--pairs", type=int, default=10_000, help="how many; 0 makes none, and takes those of --set pairs=..."
    )
    parser.add_argument(
        "--minutes",
        type=float,
        nargs=2,
        default=(600, 300),
        metavar=("TEACHERS", "COACH"),
        help="of training in each stage; 0 leaves it out",
    )
    parser.add_argument(
        "--faithful-minutes", type=float, default=60, help="of the faithful end's training; 0 leaves it out"
    )
    parser.add_argument("--steps", type=int, help="of each stage, in place of --minutes")
    parser.add_argument("--start", type=Path, default="lite", help="folder of weights to begin with")
    parser.add_argument("--go-on", action="store_true", help="with the rest of the schedule of --start")
    parser.add_argument("--squeezenet", type=Path, required=True, help="file of its weights")
    parser.add_argument("--vgg19", type=Path, required=True, help="file of its weights")
    parser.add_argument(
        "--resnet50v2", type=Path, help="file of its weights: a judge that nothing is trained on"
    )
    parser.add_argument("--val", type=Path, help="folder of photos that are not trained on, for the table")
    parser.add_argument("--limit", type=int, default=24, help="photos of --val")
    parser.add_argument(
        "--set", action="append", default=[], help="KEY=VALUE for all stages, or STAGE:KEY=VALUE"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
