"""Finish lite's decoder: it stays steady on soft shapes of strong colours, and its cells of 4 px show less.

    python scripts/finish_decoder.py WEIGHTS OUT --pairs FOLDER [MORE] [--parts model faithful]

What is trained on photos alone may be unsteady elsewhere: on some soft, dark spots in fields of strong colour each
residual block of the decoder enlarged what the one before had made, up to a thousandfold, and a black box came out.
Such pictures are drawn here, and those kept on which most happens; then the decoder goes on for some minutes with four
prices beside its own old output, which it is to keep to on photos:

- on the drawn pictures: what it adds, for they are smooth and need nothing; and numbers inside it that are large,
- on photos: seams (losses/seams.py). A shuffle makes 4 x 4 pixels of each place in a map, by weights of their own, and
  detail comes out a little stronger at some places of a cell than at others, with the same phase all over a picture;
- on photos: detail that is locked to the grid of the input (losses/grid_lock.py): meshes in textures.

WEIGHTS: a folder as `strsr export` makes it. OUT: the new folder. --pairs: folders that `strsr distill --make-pairs` has
made, of which as many pairs are taken each.
--parts: files of WEIGHTS whose decoders are finished; others are copied. --check N: only draw N pictures and count on how
many the decoder is unsteady.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from contextlib import AbstractContextManager
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from strsr_models.compute.devices import autocast, resolve_precision
from strsr_models.load import load_lite
from strsr_models.losses.grid_lock import grid_lock_loss
from strsr_models.losses.seams import seam_loss
from strsr_models.networks.autoencoder import QuarterDecoder
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.tiling.enlargement import enlarge

CPU = torch.device("cpu")
PHOTOS, DRAWN = 12, 6  # in a batch
EDGE = 16  # px of a crop that do not count in how far the picture moves
SIDE = 256  # px of a crop
SEARCHED = 8  # times as many drawn pictures are looked at as are kept
USUAL = 35.0  # what numbers behind a decoder's blocks stay below, on photos mostly
UNSTEADY = 60.0  # photos reach 50
CLIP = 0.1  # of the gradient's norm


def main() -> None:
    """Finish the parts of a folder of weights."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    if args.check:
        check(load_lite(args.weights, CPU, None).eval(), args.check, args.seed)
        return
    shutil.copytree(args.weights, args.out)
    for part in args.parts:
        torch.manual_seed(args.seed)
        file = args.out / f"{part}.safetensors"
        pipeline = load_lite(args.weights, CPU, None).requires_grad_(False)
        pipeline.load_state_dict(load_file(args.weights / file.name), strict=False)
        photos = collected(
            [read_photos(pipeline, folder, args.count // len(args.pairs)) for folder in args.pairs]
        )
        drawn = find_unsteady(pipeline, args.drawn, args.seed)
        print(f"{part}: {len(photos[0])} crops of photos, {len(drawn[0])} drawn pictures", flush=True)
        finish(pipeline.train(), photos, drawn, args)
        replace(file, {f"decoder.{name}": tensor for name, tensor in pipeline.decoder.state_dict().items()})


Inputs = tuple[
    Tensor, Tensor
]  # enlarged pictures (n, 3, h, w), uint8, and restored latents (n, c, h/4, w/4), float16


@torch.no_grad()
def read_photos(pipeline: LitePipeline, folder: Path, count: int) -> Inputs:
    """So many of a folder's pairs, evenly taken, without those on which the decoder is unsteady."""
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("lq_up", "picture")]
    rows = np.linspace(0, len(arrays[0]) - 1, count).astype(int)
    kept: list[Inputs] = []
    for row in rows:
        enlarged, picture = (torch.from_numpy(array[row][None]) for array in arrays)
        latents = latents_of(pipeline, enlarged.float() / 255, picture.float() / 255)
        if largest(pipeline, latents) < UNSTEADY:
            kept.append((enlarged, latents.half()))
    return collected(kept)


@torch.no_grad()
def find_unsteady(pipeline: LitePipeline, wanted: int, seed: int) -> Inputs:
    """Draw SEARCHED times as many pictures as are wanted, and keep those on which numbers behind the blocks grow largest."""
    random = np.random.default_rng(seed)
    found: list[tuple[float, Inputs]] = []
    for _ in range(SEARCHED * wanted):
        lq = draw(random)
        enlarged = enlarge(lq, SIDE, SIDE)
        latents = latents_of(pipeline, enlarged, lq)
        inputs = (255 * enlarged).round().byte(), latents.half()
        found = sorted([*found, (largest(pipeline, latents), inputs)], key=lambda pair: -pair[0])[:wanted]
    return collected([inputs for _, inputs in found])


def collected(rows: list[Inputs]) -> Inputs:
    """Many inputs as one."""
    enlarged, latents = zip(*rows, strict=True)
    return torch.cat(enlarged), torch.cat(latents)


def draw(random: np.random.Generator) -> Tensor:
    """A soft picture, a quarter or half as large as a crop: a ramp of strong colours with one to three spots."""
    side = SIDE // int(random.choice([2, 4]))

    def color() -> np.ndarray:
        return random.integers(0, 2, 3).astype(float) if random.random() < 0.7 else random.random(3)

    line = np.linspace(-1, 1, side)
    y, x = line[:, None], line[None]
    angle, first = random.uniform(0, 2 * np.pi), color()
    share = ((np.cos(angle) * x + np.sin(angle) * y) / 2**0.5 + 1) / 2
    steepness = float(random.random() < 0.5)
    pixels = first + steepness * share[..., None] * (color() - first)
    for _ in range(random.integers(1, 4)):
        (top, left), width = random.uniform(-0.8, 0.8, 2), random.uniform(0.06, 0.3)
        spot = np.zeros(3) if random.random() < 0.6 else color()
        share = random.uniform(0.5, 1) * np.exp(-((x - left) ** 2 + (y - top) ** 2) / 2 / width**2)
        pixels = pixels + share[..., None] * (spot - pixels)
    image = torch.from_numpy(pixels.clip(0, 1)).float().permute(2, 0, 1)[None]
    return (255 * image).round() / 255  # (1, 3, side, side)


def in_own_precision(device: torch.device = CPU) -> AbstractContextManager[None]:
    """Compute in what a device is fast in: float32 on a CPU without bfloat16, else bfloat16."""
    return autocast(device, "bf16" if device.type == "cuda" else resolve_precision("auto", device))


def latents_of(pipeline: LitePipeline, enlarged: Tensor, picture: Tensor) -> Tensor:
    """The restored latents of an enlarged picture."""
    with in_own_precision():
        return pipeline.denoise(pipeline.encode_latents(enlarged), pipeline.encode_condition(picture))


def largest(pipeline: LitePipeline, latents: Tensor) -> float:
    """The largest number behind the decoder's blocks."""
    with in_own_precision():
        return float(pipeline.decoder.blocks(latents.float()).abs().max())


@torch.no_grad()
def check(pipeline: LitePipeline, count: int, seed: int) -> None:
    """Print on how many of so many drawn pictures the decoder is unsteady."""
    random = np.random.default_rng(seed)
    numbers = []
    for _ in range(count):
        lq = draw(random)
        numbers.append(largest(pipeline, latents_of(pipeline, enlarge(lq, SIDE, SIDE), lq)))
    above = sum(number > UNSTEADY for number in numbers)
    print(f"{above} of {count} above {UNSTEADY:g}; the largest number is {max(numbers):.4g}")


def finish(pipeline: LitePipeline, photos: Inputs, drawn: Inputs, args: argparse.Namespace) -> None:
    """Train the decoder, with its old output to keep to on photos."""
    decoder = pipeline.decoder
    assert isinstance(decoder, QuarterDecoder)
    old = deepcopy(decoder).eval()
    decoder.requires_grad_(True)
    behind: list[Tensor] = []
    for block in decoder.blocks:
        block.register_forward_hook(lambda _block, _inputs, output: behind.append(output))
    optimizer = torch.optim.Adam(decoder.parameters(), args.rate)
    began = time.monotonic()
    for step in range(args.steps):
        rows, others = torch.randint(len(photos[0]), (PHOTOS,)), torch.randint(len(drawn[0]), (DRAWN,))
        enlarged = torch.cat([photos[0][rows], drawn[0][others]]).float() / 255
        latents = torch.cat([photos[1][rows], drawn[1][others]]).float()
        share = min(1.0, (step + 1) / 20) * (0.51 + 0.5 * math.cos(math.pi * step / args.steps))
        optimizer.param_groups[0]["lr"] = share * args.rate
        with torch.no_grad():
            expected = decoded(pipeline, old, latents[:PHOTOS], enlarged[:PHOTOS])
        behind.clear()
        restored = decoded(pipeline, decoder, latents, enlarged)
        # What overflows must not outweigh all else: logarithms grow slowly.
        large = torch.stack([F.relu(maps.float().abs() / USUAL - 1).log1p().mean() for maps in behind]).sum()
        added = (10 * (restored - enlarged)[PHOTOS:].abs()).log1p().mean() / 10
        inner, expected = (image[..., EDGE:-EDGE, EDGE:-EDGE] for image in (restored[:PHOTOS], expected))
        moved = (inner - expected).abs().mean()
        seams, lock = seam_loss(inner), grid_lock_loss(inner)
        optimizer.zero_grad()
        (moved + added + args.steadiness * large + args.seams * seams + args.lock * lock).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), CLIP)
        optimizer.step()
        if step % 25 == 0 or step == args.steps - 1:
            figures = (
                f"photos moved by {255 * float(moved.detach()):.3f} of 255, seams {float(seams.detach()):.4f}"
                f" (before {float(seam_loss(expected)):.4f}), lock {float(lock.detach()):.4f}"
                f" (before {float(grid_lock_loss(expected)):.4f}),"
                f" drawn ones by {255 * float(added.detach()):.3f}, large numbers {float(large.detach()):.5f}"
            )
            print(f"step {step}: {figures}, {time.monotonic() - began:.0f} s", flush=True)
    pipeline.decoder = decoder


def decoded(pipeline: LitePipeline, decoder: QuarterDecoder, latents: Tensor, enlarged: Tensor) -> Tensor:
    """What a decoder makes of latents (b, c, h/4, w/4): (b, 3, h, w)."""
    pipeline.decoder = decoder
    with in_own_precision():
        return pipeline.decode_latents(latents, enlarged)


def replace(file: Path, tensors: dict[str, Tensor]) -> None:
    """Put those of the tensors that a file of weights has in the place of its own."""
    with safe_open(file, "pt") as opened:
        words = opened.metadata()
    kept = load_file(file)
    kept |= {name: tensor.half().contiguous() for name, tensor in tensors.items() if name in kept}
    # The function save_file is not used: its files can be read by their owner alone.
    file.write_bytes(save(kept, metadata=words))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path("finished"))
    parser.add_argument("--pairs", nargs="+", type=Path, default=[Path("pairs")])
    parser.add_argument("--parts", nargs="+", default=["model"])
    parser.add_argument("--count", type=int, default=320, help="of pairs")
    parser.add_argument("--drawn", type=int, default=80, help="pictures to be found")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seams", type=float, default=0.1, help="the weight of their price")
    parser.add_argument("--lock", type=float, default=0.3, help="the weight of the price on locked detail")
    parser.add_argument("--steadiness", type=float, default=0.1, help="the weight of large numbers' price")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", type=int, default=0, metavar="N")
    return parser.parse_args()


if __name__ == "__main__":
    main()
