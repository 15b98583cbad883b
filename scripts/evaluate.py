"""Score weights on a folder of photos, as in the tables of the model cards.

    python scripts/evaluate.py PHOTOS [--weights LABEL=FOLDER ...] [--restorer LABEL=FILE ...]
        [--features squeezenet=FILE ...] [--reduce 0.75] [--crop 384] [--scale 2]

--restorer: weights of an x4 restorer that spandrel reads, run on whole images. --reduce: photos are first reduced by that
factor, so that what their own compression has left of a grid is gone. --crop: only the middle square of so many px counts.
--scale: photos are reduced by that factor, and enlarged by it again; the default is 4.

Each photo is reduced (clean), or degraded mildly or severely by strsr_cli.training.data.degrade with
a fixed seed, then restored as a whole by the code that `strsr upscale` runs.
PSNR-Y, SSIM-Y: on the luma of BT.601, a border of 4 px left out; L1: in 8-bit steps. The columns named after networks:
feature_distance on them, not LPIPS; lower is better. lattice p: dB by which the energy at the
harmonics of a lattice of p px stands above the photo's own, on the axes. clean: how many outputs `strsr fft-inspect`
finds no grid in.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F

from strsr_cli.training.data.degrade import DegradeConfig, degrade, draw_recipe, draw_sizes
from strsr_cli.training.data.photos import Photos, load_photos
from strsr_cli.training.data.teachers import load_teacher
from strsr_models import load_pipeline
from strsr_models.compute.devices import autocast, resolve_device, resolve_precision
from strsr_models.encoders.features import FeatureNetwork
from strsr_models.losses.perceptual import feature_distance
from strsr_models.pipelines.options import LiteOptions
from strsr_models.spectrum import inspect_lattice, lattice_excess, verdict
from strsr_models.tiling.enlargement import enlarge

Method = Callable[[Tensor], Tensor]  # lq -> hq, both (1, 3, h, w) in [0, 1]
Rows = dict[str, dict[str, float]]  # a score by its name, by method

SCALE = 4
SIDES = 12  # px: sides of photos at other scales are multiples of this, so that 1.5, 2 and 3 divide them
PERIODS = (4, 8, 16, 32)  # px
COUNTED = "clean"  # the column that is a count, not a mean
DIGITS = {COUNTED: 0, "SSIM-Y": 3, "squeezenet": 4, "vgg19": 4, "resnet50v2": 4}
BASE = DegradeConfig(scale_four_share=1.0)
SETTINGS = {
    "clean": replace(BASE, clean_share=1.0, mild_share=0.0),
    "mild": replace(BASE, clean_share=0.0, mild_share=1.0),
    "severe": replace(BASE, clean_share=0.0, mild_share=0.0),
}


def luma(image: Tensor) -> Tensor:
    """BT.601 luma (b, h, w) in 0..255 of (b, 3, h, w) in [0, 1]."""
    weights = torch.tensor([65.481, 128.553, 24.966], device=image.device).view(1, 3, 1, 1)
    return 16 + (image * weights).sum(1)


def psnr_y(pred: Tensor, hq: Tensor, border: int = 4) -> float:
    """The PSNR in dB on 8-bit luma."""
    pred = (pred * 255).round() / 255
    error = (luma(pred) - luma(hq))[..., border:-border, border:-border]
    return float(10 * torch.log10(255**2 / error.square().mean()))


def crop_to_multiple(photo: np.ndarray, multiple: int) -> Tensor:
    """Cut uint8 (h, w, 3) at the right and below to multiples: float (1, 3, h', w') in [0, 1]."""
    h, w = (side // multiple * multiple for side in photo.shape[:2])
    return torch.from_numpy(photo[:h, :w]).permute(2, 0, 1)[None].contiguous().float() / 255


def ssim_y(pred: Tensor, hq: Tensor, border: int = 4) -> float:
    """The SSIM of 8-bit luma with a Gaussian window of sigma 1.5, as published (Wang et al. 2004)."""
    first, second = (
        luma((image * 255).round() / 255)[0, border:-border, border:-border].double().numpy()
        for image in (pred, hq)
    )
    return float(
        structural_similarity(
            first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


Features = dict[str, Callable[[Tensor], list[Tensor]]]


def remembering(network: FeatureNetwork, hq: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """The network as a function that computes the features of `hq` once and for all."""
    with torch.inference_mode():
        known = network(hq)
    return lambda image: known if image is hq else network(image)


def score(pred: Tensor, hq: Tensor, networks: Features) -> dict[str, float]:
    """The columns of the table for one picture; pred, hq (1, 3, h, w) in [0, 1] on the CPU."""
    columns = {
        "PSNR-Y": psnr_y(pred, hq),
        "SSIM-Y": ssim_y(pred, hq),
        "L1": 255 * float((pred - hq).abs().mean()),
    }
    with torch.inference_mode():
        for name, network in networks.items():
            columns[name] = float(feature_distance(pred, hq, network))
    excess = [lattice_excess(image, PERIODS, where="axes")[0] for image in (pred, hq)]
    added = (excess[0] - excess[1]).tolist()
    columns |= {f"lattice {period}": value for period, value in zip(PERIODS, added, strict=True)}
    output = (pred * 255).round() / 255
    columns[COUNTED] = float(verdict(inspect_lattice(output)) == "clean")
    return columns


def degraded(hq: Tensor, setting: str, seed: int, scale: float = SCALE) -> Tensor:
    """A photo (1, 3, h, w) in [0, 1] as a setting damages it, always the same for a seed: (1, 3, h/scale, w/scale)."""
    config, rng = SETTINGS[setting], torch.Generator().manual_seed(seed)
    if scale == 1 and setting == "clean":
        return (hq * 255).round() / 255
    if scale != SCALE:
        config = replace(config, scale=(scale, scale), scale_four_share=0.0)
    return degrade(hq, [draw_recipe(rng, config)], draw_sizes(rng, config, setting), [rng])


def evaluate(
    photos: Photos,
    count: int,
    setting: str,
    methods: dict[str, Method],
    networks: dict[str, FeatureNetwork],
    reduce: float = 1.0,
    crop: int | None = None,
    scale: float = SCALE,
) -> Rows:
    """The mean score of each method on the first `count` photos, degraded by `setting` with fixed seeds.

    scale: by which the photos are reduced; methods enlarge as far.
    """

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(count):
            photo, lost = photos.read(number)
            if lost:
                raise SystemExit(lost[0])
            hq = crop_to_multiple(middle(reduced(photo, reduce), crop), SCALE if scale == SCALE else SIDES)
            yield hq, degraded(hq, setting, number, scale)

    return mean_scores(pairs(), methods, networks)


def mean_scores(
    pairs: Iterable[tuple[Tensor, Tensor]], methods: dict[str, Method], networks: dict[str, FeatureNetwork]
) -> Rows:
    """The mean score of each method over pairs (photo, what it was degraded to)."""
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for hq, lq in pairs:
        known = {name: remembering(network, hq) for name, network in networks.items()}
        for name, method in methods.items():
            scores[name].append(score(method(lq).float().clamp(0, 1).cpu(), hq, known))
        print(".", end="", file=sys.stderr, flush=True)
    return {name: {key: collected(key, rows) for key in rows[0]} for name, rows in scores.items()}


def collected(key: str, rows: list[dict[str, float]]) -> float:
    """The mean of a column, or its sum where it counts."""
    values = [row[key] for row in rows]
    return float(np.sum(values) if key == COUNTED else np.mean(values))


def reduced(photo: np.ndarray, factor: float) -> np.ndarray:
    """A photo (h, w, 3) uint8 made smaller by bicubic with antialias; as it is for a factor of 1."""
    if factor == 1:
        return photo
    h, w = (round(side * factor) for side in photo.shape[:2])
    return np.array(Image.fromarray(photo).resize((w, h), Image.Resampling.BICUBIC))


def middle(photo: np.ndarray, side: int | None) -> np.ndarray:
    """The middle square of `side` px, or what there is of it; None: all of the photo."""
    if side is None:
        return photo
    top, left = (max(0, (length - side) // 2) for length in photo.shape[:2])
    return photo[top : top + side, left : left + side]


def table_lines(
    folders: list[Path],
    methods: dict[str, Method],
    networks: dict[str, FeatureNetwork],
    settings: list[str],
    limit: int | None,
    reduce: float = 1.0,
    crop: int | None = None,
    scale: float = SCALE,
) -> Iterator[str]:
    """Yield the lines of a Markdown table: a row for each setting and method, on the first `limit` photos."""
    photos = load_photos(folders, 64, cache_gb=0)
    count = min(len(photos), limit or len(photos))
    for number, setting in enumerate(settings):
        rows = evaluate(photos, count, setting, methods, networks, reduce, crop, scale)
        keys = list(next(iter(rows.values())))
        if number == 0:
            yield f"| setting | method | {' | '.join(keys)} |"
            yield f"|---|---|{'---|' * len(keys)}"
        for name, row in rows.items():
            numbers = " | ".join(f"{value:.{DIGITS.get(key, 2)}f}" for key, value in row.items())
            yield f"| {setting} | {name} | {numbers} |"


def bicubic(lq: Tensor, scale: float = SCALE) -> Tensor:
    """The enlargement that everything is measured against."""
    return enlarge(lq, round(scale * lq.shape[-2]), round(scale * lq.shape[-1]))


def restorer(
    weights: Path | None,
    device: torch.device,
    precision: str,
    tile: int | None = None,
    fidelity: float = 0.0,
    scale: float = SCALE,
    draft: bool = False,
) -> Method:
    """The restorer that `strsr upscale` runs with a folder of weights; None: the embedded ones."""
    pipeline = load_pipeline("lite", weights, str(device), options=LiteOptions(fidelity, draft))
    return lambda lq: pipeline.upscale(lq, scale, tile=tile, precision=precision)


def peer(file: Path, device: torch.device, precision: str, scale: float = SCALE) -> Method:
    """A restorer of another project, for x4, from a file that spandrel reads.

    For smaller scales its output is reduced by bicubic with antialias.
    """
    network = load_teacher(file, device)

    def restore(lq: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(device, precision):
            hq: Tensor = network(lq.to(device, memory_format=torch.channels_last))
        if scale == SCALE:
            return hq
        size = [round(side * scale) for side in lq.shape[-2:]]
        return F.interpolate(hq.float(), size, mode="bicubic", align_corners=False, antialias=True)

    return restore


def main() -> None:
    """Print a table: a row for bicubic and one for each folder of weights and each restorer, per setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument(
        "--weights", nargs="*", default=[], help="LABEL=FOLDER ...; default: the embedded ones"
    )
    parser.add_argument(
        "--features", nargs="*", default=[], help="NAME=FILE ...: squeezenet, vgg19, resnet50v2"
    )
    parser.add_argument("--restorer", nargs="*", default=[], help="LABEL=FILE ... of other projects' weights")
    parser.add_argument("--reduce", type=float, default=1.0, help="photos first, by this factor")
    parser.add_argument("--scale", type=float, default=SCALE, help="from 1 to 4")
    parser.add_argument("--draft", action="store_true", help="rows for `--draft` too")
    parser.add_argument("--crop", type=int, help="only the middle square of so many px")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--limit", type=int, help="only the first N photos")
    args = parser.parse_args()

    device = resolve_device("auto")
    precision = resolve_precision(args.precision, device)
    files = dict(entry.split("=", 1) for entry in args.features)
    networks = {name: FeatureNetwork(name, Path(file)) for name, file in files.items()}
    for network in networks.values():
        network.to(memory_format=torch.channels_last)
    folders = dict(entry.split("=", 1) for entry in args.weights)
    methods: dict[str, Method] = {"bicubic": partial(bicubic, scale=args.scale)}
    for name, folder in (folders or {"lite": ""}).items():
        weights = Path(folder) if folder else None
        methods[name] = restorer(weights, device, precision, args.tile, scale=args.scale)
        if args.draft:
            methods[f"{name}, draft"] = restorer(
                weights, device, precision, args.tile, scale=args.scale, draft=True
            )
    for entry in args.restorer:
        label, _, file = entry.partition("=")
        methods[label] = peer(Path(file), device, precision, args.scale)
    for line in table_lines(
        [args.photos], methods, networks, args.settings, args.limit, args.reduce, args.crop, args.scale
    ):
        print(line, flush=True)


if __name__ == "__main__":
    main()
