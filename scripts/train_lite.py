"""Lite's whole recipe in a stated number of minutes: photos in, weights, curves, sheets and a table out.

    python scripts/train_lite.py OUT --data PHOTOS [MORE] --val HELD_OUT --minutes 60 \\
        --squeezenet FILE --resnet50v2 FILE --vgg19 FILE [--shape small|full] [--start WEIGHTS]

1. pixel: all organs end to end by L1.  2. distill, stage 1: L1, perceptual distance, coach, lattice
loss.  3. distill, stage 2: the same and the Frequency Distribution Loss. A probe of some steps decides how
many fit the minutes (SHARES); OUT/schedule.json keeps what it found. The same command goes on where it was stopped
(Ctrl-C, SIGTERM, a kill): `timeout -s TERM 9m python scripts/train_lite.py ...` spreads it over
several short turns on a lent machine.

Makes OUT/pixel and OUT/distill (runs, with sheets in samples/), OUT/weights, OUT/curves.png and OUT/table.md.
`--steps 20` takes that many steps of each, without a probe: a dry run of everything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from strsr_cli.distill import distill
from strsr_cli.export import export
from strsr_cli.judges import DistillConfig
from strsr_cli.logbook import Stopped
from strsr_cli.runs import read_config
from strsr_cli.train import TrainConfig, train

CONFIGS = Path(__file__).parent.parent / "examples" / "training"
SHARES = {"pixel": 0.4, "distill": 0.55}  # of the minutes; the rest is for loading, sheets and the table
STAGE_TWO = 0.7  # of the distillation's steps are over when the frequency loss joins
PROBE_STEPS = 30  # of which the last third is timed
CURVES = "l1_loss,perceptual_loss,gan_loss,coach_loss,lattice_4_db,lattice_8_db,lattice_16_db,sample_gain_db,sample_perceptual"


@dataclass(frozen=True)
class Recipe:
    """What is trained on what."""

    data: list[Path]
    shape: str  # small: what is shipped, for CPUs; full: the whole budget, for a GPU
    start: Path | None  # weights to go on from
    pixel: list[str]  # settings of each run
    distill: list[str]

    def run_pixel(self, out: Path, settings: list[str]) -> Path:
        """Fidelity; returns the weights."""
        start = [f"init={self.start}"] if self.start else []
        config = CONFIGS / f"lite-{self.shape}-pixel.toml"
        return train(self.data, out, config, [*self.pixel, *start, *settings], say)

    def run_distill(self, student: Path, out: Path, settings: list[str]) -> Path:
        """Both stages of the distillation; returns the weights."""
        config = CONFIGS / f"lite-{self.shape}-distill.toml"
        return distill(str(student), self.data, out, config, [*self.distill, *settings], say)


def say(line: str) -> None:
    """Progress, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def make_schedule(recipe: Recipe, out: Path, minutes: float) -> dict[str, int]:
    """Steps of each run and where stage 2 begins; probed once, then read from OUT/schedule.json."""
    path = out / "schedule.json"
    if path.exists():
        return dict(json.loads(path.read_text())["steps"])
    seconds: dict[str, float] = {}
    few = [f"steps={PROBE_STEPS}", f"log_every={PROBE_STEPS // 3}", "warmup_steps=0", "tensorboard=false"]
    with tempfile.TemporaryDirectory(prefix="probe-") as name:
        probe = Path(name)
        weights = recipe.run_pixel(probe / "pixel", few)
        for run, fdl_from in (("distill", PROBE_STEPS), ("stage two", 0)):
            recipe.run_distill(weights, probe / run, [*few, f"fdl_from={fdl_from}"])
        for run, kind in (("pixel", TrainConfig), ("distill", DistillConfig), ("stage two", DistillConfig)):
            config = read_config(kind, probe / run / "config.toml", [])
            seconds[run] = seconds_per_step(probe / run, config.batch_size)
    distilling = STAGE_TWO * seconds["distill"] + (1 - STAGE_TWO) * seconds["stage two"]
    count = int(60 * minutes * SHARES["distill"] / distilling)
    steps = {
        "pixel": max(1, int(60 * minutes * SHARES["pixel"] / seconds["pixel"])),
        "distill": max(2, count),
        "fdl_from": max(1, int(STAGE_TWO * count)),
    }
    found = {"minutes": minutes, "seconds_per_step": seconds, "threads": torch.get_num_threads()}
    path.write_text(json.dumps({"steps": steps, **found}, indent=2) + "\n")
    return steps


def seconds_per_step(run: Path, batch_size: int) -> float:
    """As the last line of a run's log has it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speed = [line["crops_per_s"] for line in lines if "crops_per_s" in line][-1]
    return float(batch_size / speed)


def main() -> None:
    """Train what is not there yet, then draw and measure."""
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        args.data,
        args.shape,
        args.start,
        args.set,
        [
            f"perceptual_weights={args.squeezenet}",
            f"coach_weights={args.resnet50v2}",
            f"fdl_weights={args.vgg19}",
            *args.set,
        ],
    )
    if args.steps:
        steps = {"pixel": args.steps, "distill": args.steps, "fdl_from": max(1, args.steps // 2)}
    else:
        steps = make_schedule(recipe, args.out, args.minutes)
    say(f"steps: {steps}")
    try:
        fidelity = recipe.run_pixel(args.out / "pixel", [f"steps={steps['pixel']}"])
        settings = [f"steps={steps['distill']}", f"fdl_from={steps['fdl_from']}"]
        recipe.run_distill(fidelity, args.out / "distill", settings)
    except Stopped as stopped:
        say("stopped; the same command goes on")
        raise SystemExit(stopped.exit_code) from stopped
    weights = args.out / "weights"
    if not weights.exists():
        export(args.out / "distill", weights)
    finish(args, fidelity, weights)


def finish(args: argparse.Namespace, fidelity: Path, weights: Path) -> None:
    """Curves and table, by the scripts beside this one."""
    scripts = Path(__file__).parent
    runs = [f"{args.out / run}={run}" for run in ("pixel", "distill")]
    subprocess.run(
        [sys.executable, scripts / "plot_runs.py", args.out / "curves.png", CURVES, *runs], check=True
    )
    if args.val is None:
        return
    command = [sys.executable, scripts / "evaluate.py", args.val, "--weights"]
    command += [f"pixel={fidelity}", f"distill={weights}", "--limit", str(args.limit)]
    command += ["--features", f"squeezenet={args.squeezenet}", f"resnet50v2={args.resnet50v2}"]
    table = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (args.out / "table.md").write_text(table)
    print(table)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of good photos")
    parser.add_argument("--val", type=Path, help="folder of photos that are not trained on, for the table")
    parser.add_argument("--limit", type=int, default=24, help="photos of --val")
    parser.add_argument("--minutes", type=float, default=60, help="for all of it, but the table")
    parser.add_argument("--steps", type=int, help="of each run, in place of --minutes")
    parser.add_argument("--shape", choices=("small", "full"), default="small")
    parser.add_argument("--start", type=Path, help="folder of weights to go on from")
    for network in ("squeezenet", "resnet50v2", "vgg19"):
        parser.add_argument(f"--{network}", type=Path, required=True, help="file of its weights")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for both runs; may be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    main()
