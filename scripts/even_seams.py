"""Even out what lite's last layer does to a cell of pixels: no row or column of it is rougher than another.

    python scripts/even_seams.py WEIGHTS OUT --pairs FOLDER [FOLDER ...] [--parts model faithful x2 x1]

A shuffle makes 4 x 4 pixels of each place in a map, by weights of their own. They print nothing into flat fields, but
detail comes out a little stronger at some places of a cell than at others: 4 to 7 % in roughness, with the same phase all
over a picture. Nobody sees that; `strsr fft-inspect` does. Here these weights go on for some minutes, with nothing
to learn but to lose that phase (losses/seams.py) and to change the picture as little as can be.

WEIGHTS: a folder as `strsr export` makes it. OUT: the new folder. --pairs: what `strsr distill --make-pairs` has made; one
folder, or one for each part. --parts: of WEIGHTS, those that are to be evened; the others are copied.
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
from strsr_models.pipelines.scales import ScaledWeights
from torch import Tensor, nn

from strsr_models.load import DECODER, load_lite
from strsr_models.losses.seams import seam_loss
from strsr_models.pipelines.lite import LitePipeline

BATCH = 24
EDGE = 16  # px of a crop that do not count in how far the picture moves


def main() -> None:
    """Even the parts of a folder of weights."""
    args = parse_arguments()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    shutil.copytree(args.weights, args.out)
    folders = args.pairs if len(args.pairs) > 1 else args.pairs * len(args.parts)
    for part, pairs in zip(args.parts, folders, strict=True):
        file = args.out / f"{part}.safetensors"
        pipeline = load_lite(args.weights, torch.device("cpu"), None).train().requires_grad_(False)
        pipeline.scaled = ScaledWeights({})
        pipeline.load_state_dict(load_file(args.weights / file.name), strict=False)
        tail, features, enlarged = split(pipeline, args.blocks, *read_pairs(pairs, args.count))
        even(pipeline, features, enlarged, args)
        replace(file, {f"{DECODER}{name}": tensor for name, tensor in tail.items()})


def read_pairs(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """So many pairs, evenly taken: enlarged pictures (n, 3, h, w) and the pictures around them, both uint8."""
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("lq_up", "picture")]
    rows = np.linspace(0, len(arrays[0]) - 1, count).astype(int)
    enlarged, pictures = (torch.from_numpy(array[rows]) for array in arrays)
    return enlarged, pictures


def split(
    pipeline: LitePipeline, blocks: int, enlarged: Tensor, pictures: Tensor
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Leave to the decoder its last blocks and the shuffle, and run all before them once, on each pair.

    Returns those tensors of the decoder that train, under their own names; what comes before them (n, c, h/4, w/4); and
    the enlarged pictures again.
    """
    decoder = pipeline.decoder
    first = len(decoder.blocks) - blocks
    before, after = decoder.blocks[:first], decoder.blocks[first:]
    features = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for x, picture in zip(enlarged, pictures, strict=True):
            cond = pipeline.encode_condition(picture[None].float() / 255)
            latents = pipeline.denoise(pipeline.encode_latents(x[None].float() / 255), cond)
            features.append(before(latents).half())
    decoder.blocks = after
    tail = {name.replace("blocks.", f"blocks.{first}.", 1): p for name, p in decoder.named_parameters()}
    if blocks:
        tail = {}
        for name, parameter in decoder.named_parameters():
            if name.startswith("blocks."):
                number, rest = name.removeprefix("blocks.").split(".", 1)
                name = f"blocks.{int(number) + first}.{rest}"
            tail[name] = parameter
    return tail, torch.cat(features), enlarged


def even(pipeline: LitePipeline, features: Tensor, enlarged: Tensor, args: argparse.Namespace) -> None:
    """Train the decoder, with its old output to keep to."""
    decoder = pipeline.decoder
    old = copy.deepcopy(decoder).eval()
    decoder.requires_grad_(True)
    groups = [
        {"params": list(decoder.shuffle.parameters())[:1], "base": args.rate},
        {"params": list(decoder.blocks.parameters()), "base": args.rate_of_blocks},
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    began = time.monotonic()
    for step in range(args.steps):
        rows = torch.randint(len(features), (BATCH,))
        x, maps = enlarged[rows].float() / 255, features[rows].float()
        share = min(1.0, (step + 1) / 20) * (0.51 + 0.5 * math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = share * group["base"]
        with torch.no_grad():
            expected = decoded(pipeline, old, maps, x)
        restored = decoded(pipeline, decoder, maps, x)
        moved = (restored - expected)[..., EDGE:-EDGE, EDGE:-EDGE].abs().mean()
        seams = seam_loss(restored)
        optimizer.zero_grad()
        (moved + args.weight * seams).backward()
        optimizer.step()
        if step % 50 == 0 or step == args.steps - 1:
            before = float(seam_loss(expected))
            print(
                f"step {step}: moved by {255 * moved:.3f} of 255, seams {seams:.4f} (before {before:.4f}), "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )


def decoded(pipeline: LitePipeline, decoder: nn.Module, maps: Tensor, enlarged: Tensor) -> Tensor:
    """What a decoder makes of maps (b, c, h/4, w/4): (b, 3, h, w)."""
    pipeline.decoder = decoder
    with torch.autocast("cpu", torch.bfloat16, enabled=len(decoder.blocks) > 0):  # type: ignore[arg-type]
        return pipeline.decode_latents(maps, enlarged)


def replace(file: Path, tensors: dict[str, Tensor]) -> None:
    """Replace some tensors of a file of weights."""
    with safe_open(file, "pt") as opened:
        words = opened.metadata()
    kept = load_file(file)
    for name, tensor in tensors.items():
        kept[name] = tensor.detach().to(torch.float16).contiguous()
    save_file(kept, file, metadata=words)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True)
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
