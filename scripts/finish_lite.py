"""Train all of lite for a last half hour: by more judges, and towards photos where these are not damaged too much.

    python scripts/finish_lite.py WEIGHTS OUT --pairs FOLDER --guide GUIDE --steps 750 \
        --judges squeezenet=FILE vgg19=FILE efficientnet_lite0=FILE
    python scripts/finish_lite.py ... --steps 520 --judged 0.9 --judges ... efficientnet_lite2=FILE
    python scripts/finish_lite.py ... --steps 320 --judged 1.5 --judges ... efficientnet_lite2=FILE --often 1 4 1 2 1
    python scripts/finish_lite.py WEIGHTS OUT --pairs FOLDER FOLDER --steps 1350 --rate 8e-5 --judged 1.5 --near 0.4 \
        --photo 1 --often 1 3 1 2 5 --judges ... efficientnet_lite2=FILE
    python scripts/finish_lite.py WEIGHTS OUT ... --steps 1100 --rate 1.2e-4 --judged 2.1 --near 0.4 --photo 1 \
        --severe photo --often 2 3 1 2 4 --judges ... inception_v3=FILE --at-once 3
    python scripts/finish_lite.py ... --device cuda --compile --batch 64 --minutes 6 --guide WEIGHTS --guided 0.5

What two judges know, a student learns to please: distances to others stop falling. Judges of another family, and their
deep maps above all, bring them down again. Targets go by the kind of damage:

- clean, mild, lens, medium: the photo is what judges compare with, and a share of L1 (--photo); the rest is the
  teachers'.
- severe: nobody knows the photo's detail there, and a distance to it asks for blur. All targets are what GUIDE makes,
  weights that a coach has trained, or, without --guide, what the pairs' teachers made; or a share of each (--guided).
  With --severe photo it is the photo after all, which was better with Inception v3 among the judges.

--at-once N: only N judges are asked in each step, drawn by their weights, which takes less time and comes to the same on average.

OUT holds the running mean of the weights, written anew every ten minutes, so that a stop loses no more than that. On a GPU
all pairs lie in its memory, 0.6 MB each.

WEIGHTS, GUIDE, OUT: folders as `strsr export` makes them. --pairs: folders that `strsr distill --make-pairs` has made. The
decoder is finished after that (finish_decoder.py), and its faithful end trained anew (examples/training/lite-faithful.toml).
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from finish_decoder import EDGE, in_own_precision, replace
from torch import Tensor

from strsr_cli.training.data.crops import draw_turn
from strsr_cli.training.data.degrade import KINDS
from strsr_cli.training.run.checkpoint import Average
from strsr_models.compute.devices import resolve_device
from strsr_models.encoders.features import FeatureNetwork
from strsr_models.load import load_lite
from strsr_models.losses.grid_lock import grid_lock_loss
from strsr_models.losses.perceptual import map_distances
from strsr_models.losses.seams import seam_loss
from strsr_models.pipelines.lite import LitePipeline

SEVERE = KINDS.index("severe")  # as a folder of pairs has it
CROP, SHIFT = 192, 32  # px: of a window of a pair, and what judges' windows are smaller by
STRIDE = 32  # px between places of windows
DEEP = (0.2, 0.4, 1.6, 1.8)
# Each judge's weight, its maps' weights, and the side in px of what it sees: VGG takes three times as long as others.
JUDGES: dict[str, tuple[float, tuple[float, ...], int]] = {
    "squeezenet": (1.0, (1.0,) * 7, CROP - SHIFT),
    "vgg19": (1.0, (1.0,) * 3, 96),
    "efficientnet_lite0": (2.0, DEEP, CROP - SHIFT),
    "efficientnet_lite2": (2.0, DEEP, CROP - SHIFT),
    "inception_v3": (2.4, DEEP, CROP - SHIFT),
}
SEAMS, LOCK = 0.02, 4.0  # weights beside L1's
SAVED = 600  # s between two writings of OUT
WARM = 20  # steps
DECAY = 0.995  # of the running mean of weights
CLIP = 0.3  # of the gradient's norm


def main() -> None:
    """Load all that is needed, and train."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = resolve_device(args.device)
    files = dict(entry.split("=", 1) for entry in args.judges)
    judges = {name: FeatureNetwork(name, Path(file)) for name, file in files.items()}
    for judge in judges.values():
        judge.to(device, memory_format=torch.channels_last)
    student = load_lite(args.weights, device, None).train().requires_grad_(True)
    guide = load_lite(args.guide, device, None).eval().requires_grad_(False) if args.guide else None
    pairs = Pairs(args.pairs, args.often, args.seed, device)
    # An OUT that exists ends it here, and not after the training.
    shutil.copytree(args.weights, args.out)
    train(student, guide, judges, pairs, args)


class Pairs:
    """The windows of folders of pairs, turned and flipped at random."""

    def __init__(self, folders: list[Path], often: list[int], seed: int, device: torch.device) -> None:
        def opened(name: str) -> list[Tensor]:
            # Pages that are copied when they are written to, which nobody does, are all that PyTorch takes.
            arrays = (np.load(folder / f"{name}.npy", mmap_mode="c") for folder in folders)
            return [torch.from_numpy(array).to(device) for array in arrays]

        self.images = {name: opened(name) for name in ("lq_up", "picture", "hq", "teacher")}
        self.kinds = [kinds.cpu() for kinds in opened("kind")]
        # The number of a folder and that of a pair in it, as often as the pair is to be drawn.
        self.rows = np.concatenate(
            [
                np.stack([np.full(len(kinds), number), np.arange(len(kinds))], 1).repeat(
                    np.array(often)[kinds], 0
                )
                for number, kinds in enumerate(self.kinds)
            ]
        )
        self.random, self.turns = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def draw(self, count: int) -> dict[str, Tensor]:
        """So many windows (b, 3, CROP, CROP) and whole pictures (b, 3, h, w) in [0, 1], and kinds (b,)."""
        rows = self.rows[self.random.choice(len(self.rows), count, replace=False)]
        places = (self.images["hq"][0].shape[-1] - CROP) // STRIDE + 1
        top, left = self.random.integers(0, places, 2) * STRIDE
        turn = draw_turn(self.turns)
        batch = {"kind": torch.stack([self.kinds[number][row] for number, row in rows])}
        for name, images in self.images.items():
            image = torch.stack([images[number][row] for number, row in rows])
            if name != "picture":
                image = image[..., top : top + CROP, left : left + CROP]
            batch[name] = turn(image.float() / 255).contiguous(memory_format=torch.channels_last)
        return batch


def train(
    student: LitePipeline,
    guide: LitePipeline | None,
    judges: dict[str, FeatureNetwork],
    pairs: Pairs,
    args: argparse.Namespace,
) -> None:
    """Train the student, and write the running mean of its weights into OUT."""
    average, step_of = Average(student, DECAY), torch.compile(student) if args.compile else student
    optimizer = torch.optim.AdamW(student.parameters(), args.rate, betas=(0.9, 0.99), weight_decay=0)
    began = saved = time.monotonic()
    known = dict[str, float]()
    step, done = 0, 0.0
    while done < 1:
        share = min(1.0, (step + 1) / WARM) * (0.51 + 0.49 * math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = share * args.rate
        losses = measure(step_of, guide, judges, pairs.draw(args.batch), pairs.random, args)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step()
        average.update(step)
        step, now = step + 1, time.monotonic()
        done = (now - began) / 60 / args.minutes if args.minutes else step / args.steps
        for name, loss in losses.items():
            known[name] = 0.95 * known.get(name, float(loss.detach())) + 0.05 * float(loss.detach())
        if step % 50 == 0 or done >= 1:
            words = ", ".join(f"{name} {value:.4f}" for name, value in known.items())
            print(f"step {step}: {words}, {now - began:.0f} s", flush=True)
        if now - saved > SAVED or done >= 1:
            saved = now
            replace(args.out / "model.safetensors", average.pipeline.state_dict())


def measure(
    student: Callable[[Tensor, Tensor], Tensor],
    guide: LitePipeline | None,
    judges: dict[str, FeatureNetwork],
    batch: dict[str, Tensor],
    random: np.random.Generator,
    args: argparse.Namespace,
) -> dict[str, Tensor]:
    """The losses of a batch by name, weighted."""
    severe = batch["kind"] == SEVERE
    teacher, photo = batch["teacher"].clone(), batch["hq"].clone()
    device = photo.device
    with in_own_precision(device):
        restored = student(batch["lq_up"], batch["picture"]).float()
        # One target for all of a severe crop's losses.
        if args.severe == "photo":
            teacher[severe] = photo[severe]
        else:
            if guide is not None and severe.any():
                with torch.no_grad():
                    guided = guide(batch["lq_up"][severe], batch["picture"][severe]).float().clamp(0, 1)
                teacher[severe] = torch.lerp(teacher[severe], guided, args.guided)
            photo[severe] = teacher[severe]
        near = (1 - args.photo) * (restored - teacher).abs().mean()
        near = near + args.photo * (restored - photo).abs().mean()
        losses = {"L1": args.near * near, "seams": SEAMS * seam_loss(restored)}
        losses["lock"] = LOCK * grid_lock_loss(restored[..., EDGE:-EDGE, EDGE:-EDGE])
        top, left = random.integers(0, SHIFT + 1, 2)
        for name, weight in shares(list(judges), args.at_once, random).items():
            judge, (_, maps, side) = judges[name], JUDGES[name]
            seen = [
                image[..., top : top + side, left : left + side].contiguous(memory_format=torch.channels_last)
                for image in (restored, photo)
            ]
            distances = map_distances(*seen, judge)
            mean = (distances * torch.tensor(maps, device=device)).mean()
            losses[name] = args.judged * weight * mean
    return losses


def shares(names: list[str], at_once: int, random: np.random.Generator) -> dict[str, float]:
    """The weights of judges in one step, by name: all by JUDGES, or so many draws by these, alike on average."""
    weights = np.array([JUDGES[name][0] for name in names])
    weights /= weights.sum()
    if not at_once:
        return dict(zip(names, weights.tolist(), strict=True))
    counts = random.multinomial(at_once, weights)
    return {name: int(count) / at_once for name, count in zip(names, counts, strict=True) if count}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", nargs="+", type=Path, required=True)
    parser.add_argument("--guide", type=Path)
    parser.add_argument("--guided", type=float, default=1.0, help="the guide's share of severe targets")
    parser.add_argument(
        "--severe", choices=("teacher", "photo"), default="teacher", help="what severe crops learn from"
    )
    parser.add_argument("--judges", nargs="+", required=True, metavar="NAME=FILE", help=", ".join(JUDGES))
    parser.add_argument("--judged", type=float, default=0.5, help="the judges' weight beside L1's")
    parser.add_argument("--at-once", type=int, default=0, metavar="N", help="judges in a step; 0: all")
    parser.add_argument("--near", type=float, default=1.0, help="L1's weight")
    parser.add_argument("--photo", type=float, default=0.3, help="the photo's share of L1")
    parser.add_argument(
        "--often",
        type=int,
        nargs=len(KINDS),
        default=[1] * len(KINDS),
        help=f"how often pairs are drawn: {', '.join(KINDS)}",
    )
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--minutes", type=float, help="go by the clock in place of --steps")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--compile", action="store_true", help="for GPUs, half a minute at the start")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=6e-5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
