"""Score weights on a folder of photos: what the model cards' tables are made by.

    python scripts/evaluate.py PHOTOS [--weights FOLDER] [--features squeezenet=FILE]

Each photo is reduced four times (clean), or degraded mildly or severely by strsr_cli.degrade with
a fixed seed, then restored whole images through the code that `strsr upscale` runs.
PSNR-Y: dB on the luma of BT.601, a border of 4 px left out. features: feature_distance, not LPIPS.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strsr_cli.data import load_photos
from strsr_cli.degrade import DegradeConfig, degrade, draw_recipe, draw_sizes
from strsr_models import load_pipeline
from strsr_models.devices import resolve_device, resolve_precision
from strsr_models.encoders.features import FeatureNetwork
from strsr_models.losses.perceptual import feature_distance
from strsr_models.pipelines.base import enlarge

SCALE = 4
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


def main() -> None:
    """Print one table row for bicubic and one for the weights, per setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--features", help="name=FILE, such as squeezenet=squeezenet1_1.safetensors")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--limit", type=int, help="only the first N photos")
    args = parser.parse_args()

    device = resolve_device("auto")
    precision = resolve_precision(args.precision, device)
    pipeline = load_pipeline("lite", args.weights, str(device))
    features = None
    if args.features:
        name, _, file = args.features.partition("=")
        features = FeatureNetwork(name, Path(file)).to(device)
    photos = load_photos([args.photos], 64, cache_gb=0)
    count = min(len(photos), args.limit or len(photos))
    print("| setting | method | PSNR-Y | feature distance |\n|---|---|---|---|")
    for setting in args.settings:
        config = SETTINGS[setting]
        scores: dict[str, list[tuple[float, float]]] = {"bicubic": [], "lite": []}
        for number in range(count):
            photo, lost = photos.read(number)
            if lost:
                raise SystemExit(lost[0])
            hq = crop_to_multiple(photo, SCALE)
            rng = torch.Generator().manual_seed(number)
            lq = degrade(hq, [draw_recipe(rng, config)], draw_sizes(rng, config, setting), [rng])
            made = {
                "bicubic": enlarge(lq, *hq.shape[-2:]),
                "lite": pipeline.upscale(lq, SCALE, tile=args.tile, precision=precision),
            }
            for method, pred in made.items():
                distance = float("nan")
                if features is not None:
                    with torch.inference_mode():
                        distance = float(feature_distance(pred.to(device), hq.to(device), features))
                scores[method].append((psnr_y(pred, hq), distance))
            print(".", end="", file=sys.stderr, flush=True)
        for method, values in scores.items():
            psnr, distance = np.mean(values, axis=0)
            print(f"| {setting} | {method} | {psnr:.2f} | {distance:.4f} |", flush=True)


if __name__ == "__main__":
    main()
