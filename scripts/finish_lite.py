"""Train all of lite for a last half hour: by more judges, and towards photos where these are not damaged too much.

    python scripts/finish_lite.py WEIGHTS OUT --pairs FOLDER --guide GUIDE --steps 750 \
        --judges squeezenet=FILE vgg19=FILE efficientnet_lite0=FILE
    python scripts/finish_lite.py ... --steps 520 --judged 0.9 --judges ... efficientnet_lite2=FILE
    python scripts/finish_lite.py ... --steps 320 --judged 1.5 --judges ... efficientnet_lite2=FILE --often 1 4 1 2 1
    python scripts/finish_lite.py WEIGHTS OUT --pairs FOLDER FOLDER --steps 1350 --rate 8e-5 --judged 1.5 --near 0.4 \
        --photo 1 --often 1 3 1 2 5 --judges ... efficientnet_lite2=FILE
    python scripts/finish_lite.py WEIGHTS OUT ... --steps 1100 --rate 1.2e-4 --judged 2.1 --near 0.4 --photo 1 \
        --severe photo --often 2 3 1 2 4 --judges ... inception_v3=FILE --at-once 3
    python scripts/finish_lite.py WEIGHTS OUT ... --steps 550 --rate 1.6e-4 --judged 2.1 --near 0.35 --often 2 3 1 2 4 \
        --taught 0.5 0.9 0.5 1 1 --at-once 2
    python scripts/finish_lite.py WEIGHTS OUT ... --steps 1650 --rate 1.2e-4 --judged 2.1 --near 0.25 --often 2 3 1 2 4 \
        --taught 0.5 0.9 0.5 1 1 --coach 0.2 0.2 0.2 0.25 0.3 --at-once 2
    python scripts/finish_lite.py WEIGHTS OUT ... --steps 500 --rate 1e-4 --judged 1 --often 5 3 3 2 2 --sharpen 0.6 0 0.6 0 0 \
        --at-once 1
    python scripts/finish_lite.py WEIGHTS OUT ... --muon --minutes 55 --rate 2e-4 --judged 2.1 --near 0.35 --photo 1 \
        --severe photo --often 1 3 1 3 6 --sharp-photos 0.3 0 0.3 0.3 0 --at-once 2
    python scripts/finish_lite.py ... --device cuda --compile --batch 64 --minutes 6 --guide WEIGHTS --guided 0.5

What two judges know, a student learns to please: distances to others stop falling. Judges of another family, and their
deep maps above all, bring them down again. Targets go by the kind of damage:

- clean, mild, lens, medium: the photo is what judges compare with, and a share of L1 (--photo); the rest is the
  teachers'.
- severe: nobody knows the photo's detail there, and a distance to it asks for blur. All targets are what GUIDE makes,
  weights that a coach has trained, or, without --guide, what the pairs' teachers made; or a share of each (--guided).
  With --severe photo it is the photo after all, which was better with Inception v3 among the judges.

Or one target for all losses of a crop, whatever its kind:

- --taught: the pair's teacher's output so often, the photo else; five shares, by kind.
- --sharpen: what WEIGHTS themselves make of it, behind an unsharp mask of that strength (radius 1.5 px) where edges are,
  by kind.

--sharp-photos: wherever a photo is a target, it is behind such a mask, but all over.

--coach: heads on the maps of all judges but Inception learn to tell lite's crops from their targets, and what would please
them is added to the losses' gradient on the picture, at so many times its length, by kind.

--muon: kernels and matrices take steps whose directions are made orthogonal (https://kellerjordan.github.io/posts/muon/), as long
as AdamW's at the same rate, and only the rest AdamW's.

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
from pathlib import Path

import numpy as np
import torch
from finish_decoder import EDGE, in_own_precision, replace
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from strsr_cli.training.data.crops import draw_turn
from strsr_cli.training.data.degrade import KINDS
from strsr_cli.training.run.checkpoint import Average
from strsr_models.compute.devices import resolve_device
from strsr_models.encoders.features import FeatureNetwork, unit
from strsr_models.load import load_lite
from strsr_models.losses.adversarial import discriminator_loss, generator_loss
from strsr_models.losses.grid_lock import grid_lock_loss
from strsr_models.losses.perceptual import map_distances
from strsr_models.losses.seams import seam_loss
from strsr_models.networks.discriminator import Discriminator, DiscriminatorConfig
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
NARROWEST = 16  # rows or columns of a matrix that Muon takes
RADIUS, KERNEL = 1.5, 13  # px, of the unsharp mask's Gaussian
# Slopes of brightness per px, in [0, 1], below which a place is no edge, and from which on it is one.
SLOPES = (0.02, 0.06)
HIDDEN, HEADS_RATE = 64, 1e-4  # the coach's
FLOOR = 0.5  # of a head's loss: below, a network's heads rest; 0.69 is where they know nothing
FIRST = 80  # steps in which the heads learn alone
NO_COACH = ("inception_v3",)


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
    # With --sharpen the weights guide themselves.
    guided_by = args.weights if args.sharpen else args.guide
    guide = load_lite(guided_by, device, None).eval().requires_grad_(False) if guided_by else None
    coach = CoachHeads(judges, args.coach, device) if args.coach else None
    pairs = Pairs(args.pairs, args.often, args.seed, device)
    # An OUT that exists ends it here, and not after the training.
    shutil.copytree(args.weights, args.out)
    train(student, guide, judges, coach, pairs, args)


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
    coach: CoachHeads | None,
    pairs: Pairs,
    args: argparse.Namespace,
) -> None:
    """Train the student, and write the running mean of its weights into OUT."""
    average, step_of = Average(student, DECAY), torch.compile(student) if args.compile else student
    optimizer = Optimizer(student, args.muon)
    began = saved = time.monotonic()
    known = dict[str, float]()
    step, done = 0, 0.0
    while done < 1:
        share = min(1.0, (step + 1) / WARM) * (0.51 + 0.49 * math.cos(math.pi * done))
        batch = pairs.draw(args.batch)
        compared = targets(student, guide, batch, pairs.random, args)
        with in_own_precision(batch["hq"].device):
            restored = step_of(batch["lq_up"], batch["picture"]).float()
            # The losses' gradient on the picture is taken first, so that the coach's can be weighed against it.
            picture = restored.detach().requires_grad_()
            losses = measure(picture, *compared, judges, coach, pairs.random, args)
        total = torch.stack(list(losses.values())).sum()
        (gradient,) = torch.autograd.grad(total, picture, retain_graph=coach is not None)
        if coach is not None:
            wish = coach.wish(picture, gradient, batch["kind"])
            gradient = gradient + wish if step >= FIRST else gradient
        student.zero_grad()
        restored.backward(gradient)
        torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
        optimizer.step(share * args.rate)
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


class Optimizer:
    """AdamW, or Muon for all that is a matrix, and AdamW for the rest."""

    def __init__(self, student: LitePipeline, muon: bool) -> None:
        # PyTorch's Muon takes matrices alone. A kernel (out, in, h, w) is one of (out, in * h * w), of which it gets a copy: no
        # view of that shape has a kernel that lies in memory as channels_last does.
        self.matrices = [
            (weight, torch.nn.Parameter(weight.detach().flatten(1).clone()))
            for weight in student.parameters()
            if muon and weight.ndim > 1 and min(len(weight), weight[0].numel()) >= NARROWEST
        ]
        taken = {id(weight) for weight, _ in self.matrices}
        others = [weight for weight in student.parameters() if id(weight) not in taken]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0)
        ]
        if self.matrices:
            copies = [copy for _, copy in self.matrices]
            self.optimizers.append(torch.optim.Muon(copies, weight_decay=0, adjust_lr_fn="match_rms_adamw"))

    def step(self, rate: float) -> None:
        """Take a step by the gradients of the student's parameters."""
        for weight, copy in self.matrices:
            copy.grad = None if weight.grad is None else weight.grad.flatten(1)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        for weight, copy in self.matrices:
            weight.detach().copy_(copy.detach().view_as(weight))


class CoachHeads:
    """Heads on the judges' maps that tell lite's crops from their targets, and what they wish a crop to be."""

    def __init__(
        self, judges: dict[str, FeatureNetwork], share_of_kinds: list[float], device: torch.device
    ) -> None:
        self.heads = {
            name: Discriminator(DiscriminatorConfig(judge.channels, hidden=HIDDEN)).to(device).train()
            for name, judge in judges.items()
            if name not in NO_COACH
        }
        parameters = [weight for heads in self.heads.values() for weight in heads.parameters()]
        self.optimizer = torch.optim.Adam(parameters, HEADS_RATE, betas=(0.5, 0.99))
        self.shares = torch.tensor(share_of_kinds)
        self.known = dict.fromkeys(self.heads, math.log(2))  # loss per head, a running mean
        self.losses: list[Tensor] = []  # of a step's crops, by the heads that were asked

    def look(self, name: str, restored: list[Tensor], real: list[Tensor], weight: float) -> None:
        """Take the loss of a step's crops by their maps in one network; then that network's heads take a step."""
        if name not in self.heads:
            return
        heads = self.heads[name]
        restored, real = ([unit(x) * x.shape[1] ** 0.5 for x in maps] for maps in (restored, real))
        heads.requires_grad_(False)
        self.losses.append(weight * generator_loss(heads(real), heads(restored)) / len(real))
        heads.requires_grad_(True)
        self.optimizer.zero_grad(set_to_none=True)
        loss = discriminator_loss(heads(real), heads([x.detach() for x in restored])) / len(real)
        self.known[name] = 0.95 * self.known[name] + 0.05 * float(loss.detach())
        if self.known[name] > FLOOR:
            loss.backward()
            self.optimizer.step()

    def wish(self, picture: Tensor, gradient: Tensor, kind: Tensor) -> Tensor:
        """What is added to the other losses' gradient on a step's crops (b, 3, h, w); kind (b,)."""
        losses, self.losses = self.losses, []
        if not losses:
            return torch.zeros_like(gradient)
        (own,) = torch.autograd.grad(torch.stack(losses).sum(), picture)
        scale = gradient.norm() / own.norm().clamp_min(1e-12)
        return own * scale * self.shares[kind.long()].view(-1, 1, 1, 1).to(own.device)


@torch.no_grad()
def targets(
    student: LitePipeline,
    guide: LitePipeline | None,
    batch: dict[str, Tensor],
    random: np.random.Generator,
    args: argparse.Namespace,
) -> tuple[Tensor, Tensor]:
    """What a batch is compared with, each (b, 3, h, w): L1 with a share of both, judges with the second alone."""
    teacher, photo, kind = batch["teacher"], batch["hq"], batch["kind"].long()
    if args.sharpen:
        assert guide is not None
        with in_own_precision(photo.device):
            own = guide(batch["lq_up"], batch["picture"]).float()
        strengths = torch.tensor(args.sharpen)[kind].view(-1, 1, 1, 1).to(photo.device)
        sharp = sharpened(own, strengths * edges(own))
        return sharp, sharp
    if args.sharp_photos:
        photo = sharpened(photo, torch.tensor(args.sharp_photos)[kind].view(-1, 1, 1, 1).to(photo.device))
    if args.taught:
        # Drawn on the CPU, where kinds are.
        taught = torch.from_numpy(random.random(len(kind))) < torch.tensor(args.taught)[kind]
        target = torch.where(taught.view(-1, 1, 1, 1).to(photo.device), teacher, photo)
        target = student.attainable(target, batch["lq_up"]).clamp(0, 1)
        return target, target
    severe = kind == SEVERE
    teacher, photo = teacher.clone(), photo.clone()
    # One target for all of a severe crop's losses.
    if args.severe == "photo":
        teacher[severe] = photo[severe]
    else:
        if guide is not None and severe.any():
            with in_own_precision(photo.device):
                guided = guide(batch["lq_up"][severe], batch["picture"][severe]).float().clamp(0, 1)
            teacher[severe] = torch.lerp(teacher[severe], guided, args.guided)
        photo[severe] = teacher[severe]
    return teacher, photo


def sharpened(picture: Tensor, strength: Tensor) -> Tensor:
    """Pictures (b, 3, h, w) behind an unsharp mask of that strength (b, 1, 1 or h, 1 or w), in [0, 1]."""
    return (picture + strength * (picture - gaussian_blur(picture, KERNEL, RADIUS))).clamp(0, 1)


def edges(picture: Tensor) -> Tensor:
    """Where pictures (b, 3, h, w) have edges: (b, 1, h, w), 0 on plain places and in faint texture, 1 about an edge."""
    down, across = torch.gradient(gaussian_blur(picture.mean(1, keepdim=True), 7, 1.0), dim=(2, 3))
    slope = gaussian_blur(torch.hypot(down, across), KERNEL, RADIUS)
    least, most = SLOPES
    return ((slope - least) / (most - least)).clamp(0, 1)


def measure(
    restored: Tensor,
    teacher: Tensor,
    photo: Tensor,
    judges: dict[str, FeatureNetwork],
    coach: CoachHeads | None,
    random: np.random.Generator,
    args: argparse.Namespace,
) -> dict[str, Tensor]:
    """The losses of restored crops (b, 3, h, w) by name, weighted; the coach has a look at the judges' maps, too."""
    device = restored.device
    near = (1 - args.photo) * (restored - teacher).abs().mean()
    near = near + args.photo * (restored - photo).abs().mean()
    losses = {"L1": args.near * near, "seams": SEAMS * seam_loss(restored)}
    losses["lock"] = LOCK * grid_lock_loss(restored[..., EDGE:-EDGE, EDGE:-EDGE])
    top, left = random.integers(0, SHIFT + 1, 2)
    for name, weight in shares(list(judges), args.at_once, random).items():
        judge, (_, maps, side) = judges[name], JUDGES[name]
        seen, real = (
            image[..., top : top + side, left : left + side].contiguous(memory_format=torch.channels_last)
            for image in (restored, photo)
        )
        seen_maps = judge(seen)
        with torch.no_grad():
            real_maps = judge(real)
        if coach is not None:
            coach.look(name, seen_maps, real_maps, weight)
        # The maps are there already: nothing is left for a network to do.
        distances = map_distances(seen_maps, real_maps, lambda maps: maps)
        losses[name] = args.judged * weight * (distances * torch.tensor(maps, device=device)).mean()
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
    by_kind = {"type": float, "nargs": len(KINDS), "metavar": "SHARE"}
    parser.add_argument("--taught", **by_kind, help="how often crops of a kind learn from the teacher alone")
    parser.add_argument("--sharpen", **by_kind, help="strength of an unsharp mask on own outputs, by kind")
    parser.add_argument("--sharp-photos", **by_kind, help="strength of an unsharp mask on photos, by kind")
    parser.add_argument("--coach", **by_kind, help="length of the coach's gradient, by kind")
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
    parser.add_argument("--muon", action="store_true", help="Muon in place of AdamW for kernels and matrices")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.muon and not hasattr(torch.optim, "Muon"):
        parser.error(
            f"--muon needs PyTorch 2.9 or newer, this is {torch.__version__}; leave it out, or update"
        )
    return args


if __name__ == "__main__":
    main()
