"""Even out what lite's last layers do to a cell of pixels: no row or column of it is rougher than another.

    python scripts/even_seams.py WEIGHTS OUT --pairs FOLDER [--parts model faithful]

A shuffle makes 4 x 4 pixels of each place in a map, by weights of their own. They print nothing into flat fields, but
detail comes out a little stronger at some places of a cell than at others: 4 to 7 % in roughness, with the same phase all
over a picture. Nobody sees that; `strsr fft-inspect` does. Here these weights go on for some minutes, with nothing
to learn but to lose that phase (losses/seams.py) and to change the picture as little as can be.

WEIGHTS: a folder as `strsr export` makes it. OUT: the new folder. --pairs: what `strsr distill --make-pairs` has made.
--parts: files of WEIGHTS whose decoders are evened; others are copied.
"""

from __future__ import annotations

import argparse
import copy
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from strsr_models.load import load_lite
from strsr_models.losses.seams import seam_loss
from strsr_models.networks.autoencoder import QuarterDecoder
from strsr_models.pipelines.lite import LitePipeline

BATCH = 24
EDGE = 16  # px of a crop that do not count in how far the picture moves


def main() -> None:
    """Even the parts of a folder of weights."""
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    shutil.copytree(args.weights, args.out)
    enlarged, pictures = read_pairs(args.pairs, args.count)
    for part in args.parts:
        torch.manual_seed(args.seed)
        file = args.out / f"{part}.safetensors"
        pipeline = load_lite(args.weights, torch.device("cpu"), None).train().requires_grad_(False)
        pipeline.load_state_dict(load_file(args.weights / file.name), strict=False)
        decoder = pipeline.decoder
        assert isinstance(decoder, QuarterDecoder)
        whole = copy.copy(decoder.blocks)
        maps = first_half(pipeline, decoder, len(whole) - args.blocks, enlarged, pictures)
        even(pipeline, decoder, maps, enlarged, args)
        decoder.blocks = whole
        replace(file, {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()})


def read_pairs(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """So many pairs, evenly taken: enlarged pictures (n, 3, h, w) and the pictures around them, both uint8."""
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("lq_up", "picture")]
    rows = np.linspace(0, len(arrays[0]) - 1, count).astype(int)
    enlarged, pictures = (torch.from_numpy(array[rows]) for array in arrays)
    return enlarged, pictures


@torch.no_grad()
def first_half(
    pipeline: LitePipeline, decoder: QuarterDecoder, count: int, enlarged: Tensor, pictures: Tensor
) -> Tensor:
    """What each pair is behind so many of the decoder's blocks, (n, c, h/4, w/4); the decoder is left with the others."""
    before, decoder.blocks = decoder.blocks[:count], decoder.blocks[count:]
    maps = []
    with torch.autocast("cpu", torch.bfloat16):
        for x, picture in zip(enlarged, pictures, strict=True):
            cond = pipeline.encode_condition(picture[None].float() / 255)
            latents = pipeline.denoise(pipeline.encode_latents(x[None].float() / 255), cond)
            maps.append(before(latents).half())
    return torch.cat(maps)


def even(
    pipeline: LitePipeline,
    decoder: QuarterDecoder,
    maps: Tensor,
    enlarged: Tensor,
    args: argparse.Namespace,
) -> None:
    """Train what is left of the decoder, with its old output to keep to."""
    old = copy.deepcopy(decoder).eval()
    decoder.requires_grad_(True)
    groups = [{"params": [decoder.shuffle.weight], "base": args.rate}]
    if len(decoder.blocks):
        groups.append({"params": list(decoder.blocks.parameters()), "base": args.rate_of_blocks})
    optimizer = torch.optim.Adam(groups)
    began = time.monotonic()
    for step in range(args.steps):
        rows = torch.randint(len(maps), (BATCH,))
        x, batch = enlarged[rows].float() / 255, maps[rows].float()
        share = min(1.0, (step + 1) / 20) * (0.51 + 0.5 * math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = share * group["base"]
        with torch.no_grad():
            expected = decoded(pipeline, old, batch, x)
        restored = decoded(pipeline, decoder, batch, x)
        moved = (restored - expected)[..., EDGE:-EDGE, EDGE:-EDGE].abs().mean()
        seams = seam_loss(restored[..., EDGE:-EDGE, EDGE:-EDGE])
        optimizer.zero_grad()
        (moved + args.weight * seams).backward()
        optimizer.step()
        if step % 50 == 0 or step == args.steps - 1:
            print(
                f"step {step}: moved by {255 * float(moved.detach()):.3f} of 255, seams {float(seams.detach()):.4f} "
                f"(before {float(seam_loss(expected)):.4f}), {time.monotonic() - began:.0f} s",
                flush=True,
            )


def decoded(pipeline: LitePipeline, decoder: QuarterDecoder, maps: Tensor, enlarged: Tensor) -> Tensor:
    """What a decoder makes of maps (b, c, h/4, w/4): (b, 3, h, w)."""
    pipeline.decoder = decoder
    # The shuffle alone costs little, and what it is to learn is finer than bfloat16.
    with torch.autocast("cpu", torch.bfloat16, enabled=len(decoder.blocks) > 0):
        return pipeline.decode_latents(maps, enlarged)


def replace(file: Path, tensors: dict[str, Tensor]) -> None:
    """Put those of the tensors that a file of weights has in the place of its own."""
    with safe_open(file, "pt") as opened:
        words = opened.metadata()
    kept = load_file(file)
    kept |= {name: tensor.half().contiguous() for name, tensor in tensors.items() if name in kept}
    save_file(kept, file, metadata=words)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=["model"])
    parser.add_argument("--count", type=int, default=320, help="of pairs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--weight", type=float, default=0.2, help="of the seams, beside L1 to the old output")
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--blocks", type=int, default=0, help="of the decoder's last ones that train too")
    parser.add_argument("--rate-of-blocks", type=float, default=1e-4)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
