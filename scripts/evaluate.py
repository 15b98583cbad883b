"""Score weights on a folder of photos: what the model cards' tables are made by.

    python scripts/evaluate.py PHOTOS [--weights LABEL=FOLDER ...] [--features squeezenet=FILE ...]

Each photo is reduced four times (clean), or degraded mildly or severely by strsr_cli.degrade with
a fixed seed, then restored whole images through the code that `strsr upscale` runs.
PSNR-Y, SSIM-Y: on the luma of BT.601, a border of 4 px left out; L1: in 8-bit steps. The columns named after networks:
feature_distance on them, not LPIPS; lower is better. lattice p: dB by which the energy at the
harmonics of a lattice of p px stands above the photo's own, on the axes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from strsr_cli.data import Photos, load_photos
from strsr_cli.degrade import DegradeConfig, degrade, draw_recipe, draw_sizes
from strsr_models import load_pipeline
from strsr_models.devices import resolve_device, resolve_precision
from strsr_models.encoders.features import FeatureNetwork
from strsr_models.enlargement import enlarge
from strsr_models.losses.perceptual import feature_distance
from strsr_models.spectrum import lattice_excess

Method = Callable[[Tensor], Tensor]  # lq -> hq, both (1, 3, h, w) in [0, 1]

SCALE = 4
PERIODS = (4, 8, 16)  # px
DIGITS = {"SSIM-Y": 3, "squeezenet": 4, "vgg19": 4, "resnet50v2": 4}
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
    """PSNR in dB on 8-bit luma."""
    pred = (pred * 255).round() / 255
    error = (luma(pred) - luma(hq))[..., border:-border, border:-border]
    return float(10 * torch.log10(255**2 / error.square().mean()))


def crop_to_multiple(photo: np.ndarray, multiple: int) -> Tensor:
    """uint8 (h, w, 3) -> float (1, 3, h', w'), cut at the right and below."""
    h, w = (side // multiple * multiple for side in photo.shape[:2])
    return torch.from_numpy(photo[:h, :w]).permute(2, 0, 1)[None].contiguous().float() / 255


def ssim_y(pred: Tensor, hq: Tensor, border: int = 4) -> float:
    """SSIM of 8-bit luma, Gaussian window of sigma 1.5, as published (Wang et al. 2004)."""
    first, second = (
        luma((image * 255).round() / 255)[0, border:-border, border:-border].double().numpy()
        for image in (pred, hq)
    )
    return float(
        structural_similarity(
            first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def score(pred: Tensor, hq: Tensor, networks: dict[str, FeatureNetwork]) -> dict[str, float]:
    """All columns of the table for one picture; pred, hq (1, 3, h, w) in [0, 1] on the CPU."""
    columns = {
        "PSNR-Y": psnr_y(pred, hq),
        "SSIM-Y": ssim_y(pred, hq),
        "L1": 255 * float((pred - hq).abs().mean()),
    }
    with torch.inference_mode():
        for name, network in networks.items():
            columns[name] = float(feature_distance(pred, hq, network))
    excess = [lattice_excess(image, PERIODS, where="axes")[0] for image in (pred, hq)]
    over = (excess[0] - excess[1]).tolist()
    return columns | {f"lattice {period}": value for period, value in zip(PERIODS, over, strict=True)}


def evaluate(
    photos: Photos, count: int, setting: str, methods: dict[str, Method], networks: dict[str, FeatureNetwork]
) -> dict[str, dict[str, float]]:
    """Mean score of each method on the first `count` photos, degraded by `setting` with fixed seeds."""
    config = SETTINGS[setting]
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    for number in range(count):
        photo, lost = photos.read(number)
        if lost:
            raise SystemExit(lost[0])
        hq = crop_to_multiple(photo, SCALE)
        rng = torch.Generator().manual_seed(number)
        lq = degrade(hq, [draw_recipe(rng, config)], draw_sizes(rng, config, setting), [rng])
        for name, method in methods.items():
            scores[name].append(score(method(lq).cpu(), hq, networks))
        print(".", end="", file=sys.stderr, flush=True)
    return {
        name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        for name, rows in scores.items()
    }


def table_lines(
    folders: list[Path],
    methods: dict[str, Method],
    networks: dict[str, FeatureNetwork],
    settings: list[str],
    limit: int | None,
) -> Iterator[str]:
    """Lines of a Markdown table: a row for each setting and method, on the first `limit` photos."""
    photos = load_photos(folders, 64, cache_gb=0)
    count = min(len(photos), limit or len(photos))
    for number, setting in enumerate(settings):
        rows = evaluate(photos, count, setting, methods, networks)
        keys = list(next(iter(rows.values())))
        if number == 0:
            yield f"| setting | method | {' | '.join(keys)} |"
            yield f"|---|---|{'---|' * len(keys)}"
        for name, row in rows.items():
            numbers = " | ".join(f"{value:.{DIGITS.get(key, 2)}f}" for key, value in row.items())
            yield f"| {setting} | {name} | {numbers} |"


def bicubic(lq: Tensor) -> Tensor:
    """The enlargement that everything is measured against."""
    return enlarge(lq, SCALE * lq.shape[-2], SCALE * lq.shape[-1])


def restorer(weights: Path | None, device: torch.device, precision: str, tile: int | None) -> Method:
    """What `strsr upscale` does with a folder of weights; None: the embedded ones."""
    pipeline = load_pipeline("lite", weights, str(device))
    return lambda lq: pipeline.upscale(lq, SCALE, tile=tile, precision=precision)


def main() -> None:
    """Print a table: a row for bicubic and one for each folder of weights, per setting."""
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
    parser.add_argument("--tile", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--limit", type=int, help="only the first N photos")
    args = parser.parse_args()

    device = resolve_device("auto")
    precision = resolve_precision(args.precision, device)
    files = dict(entry.split("=", 1) for entry in args.features)
    networks = {name: FeatureNetwork(name, Path(file)) for name, file in files.items()}
    folders = dict(entry.split("=", 1) for entry in args.weights)
    methods: dict[str, Method] = {"bicubic": bicubic}
    for name, folder in (folders or {"lite": ""}).items():
        methods[name] = restorer(Path(folder) if folder else None, device, precision, args.tile)
    for line in table_lines([args.photos], methods, networks, args.settings, args.limit):
        print(line, flush=True)


if __name__ == "__main__":
    main()
