"""Show what networks with random weights print into a flat field, with and without a grid in their layers.

    python scripts/screen_door.py OUT.png [--seed 0]

Four lites that have learnt nothing restore a gray picture. Two layers are exchanged: the one that turns
tokens into a velocity (one patch each, or smooth) and the one that turns latents into pixels (pixel shuffles, or one
balanced shuffle); see docs/developing/screen-door.md. The table has, for each period, how far the means of its phases
lie apart, in levels of 255. The picture shows the middle of the four outputs' green, all in the same contrast.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from strsr_models.networks.autoencoder import PyramidConfig, ShuffleUp, keep_variance
from strsr_models.networks.dit import DiTConfig
from strsr_models.pipelines.lite import LiteConfig, LitePipeline, lite_dit

PERIODS = (4, 8, 16, 32)
SIDE = 1024  # px, of the flat field
MARGIN = 128  # px at each border that nothing is measured in: zero padding shows there
GRAY = 128 / 255
NOISE = 0.1  # standard deviation of what would start at zero
SHOWN = 96  # px, the middle of an output
MAGNIFIED = 4
SPAN = 32  # levels of 255 from black to white in the picture
HEAD, GAP = 36, 16  # px, of the picture

CONFIGS = {
    "patches, pixel shuffles": LiteConfig(autoencoder=PyramidConfig(), dit=DiTConfig(unpatchify="patch")),
    "patches, balanced shuffle": LiteConfig(dit=replace(lite_dit(), unpatchify="patch")),
    "smooth, pixel shuffles": LiteConfig(autoencoder=PyramidConfig(), dit=DiTConfig(unpatchify="smooth")),
    "smooth, balanced shuffle": LiteConfig(),
}


@torch.no_grad()
def with_random_weights(config: LiteConfig, seed: int) -> LitePipeline:
    """Make a pipeline that is random in every layer, in those too that start at zero or alike in all phases (ICNR)."""
    torch.manual_seed(seed)
    pipeline = LitePipeline(config).eval()
    for module in pipeline.modules():
        if isinstance(module, ShuffleUp):
            keep_variance(module.conv)
    for parameter in pipeline.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=NOISE)
    return pipeline


@torch.inference_mode()
def restore_flat(config: LiteConfig, seed: int) -> Tensor:
    """Restore a grey field: (3, s, s) in levels of 255, without the margin."""
    flat = torch.full((1, 3, SIDE, SIDE), GRAY)
    restored = with_random_weights(config, seed)(flat, flat)[0].float()
    inner: Tensor = restored[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return 255 * inner


def phase_difference(image: Tensor, period: int) -> float:
    """The distance between the means of (3, s, s) over the phases of a lattice, in the worst channel.

    A phase is one of the p x p places in a cell of `period` = p px, which divides s.
    """
    count = image.shape[-1] // period
    cells = image.double().reshape(3, count, period, count, period)
    means = cells.mean((1, 3)).flatten(1)  # (3, p*p)
    return float((means.amax(1) - means.amin(1)).max())


def magnified_middle(image: Tensor) -> Image.Image:
    """The middle of green in (3, s, s) less its mean, SPAN levels from black to white, each pixel a square."""
    green = image[1]
    first = (len(green) - SHOWN) // 2
    middle = green[first : first + SHOWN, first : first + SHOWN]
    shown = (0.5 + (middle - green.mean()) / SPAN).clamp(0, 1)
    side = SHOWN * MAGNIFIED
    pixels = Image.fromarray((255 * shown).round().byte().numpy())
    return pixels.resize((side, side), Image.Resampling.NEAREST)


def draw_sheet(outputs: dict[str, Tensor]) -> Image.Image:
    """Draw two rows of two outputs, each below its name."""
    side, font = SHOWN * MAGNIFIED, ImageFont.load_default(20)
    sheet = Image.new("L", (2 * side + 3 * GAP, 2 * (side + HEAD) + GAP), 255)
    draw = ImageDraw.Draw(sheet)
    for number, (name, output) in enumerate(outputs.items()):
        row, column = divmod(number, 2)
        left, top = GAP + column * (side + GAP), row * (side + HEAD)
        draw.text((left, top + HEAD // 2), name, 0, font, anchor="lm")
        sheet.paste(magnified_middle(output), (left, top + HEAD))
    return sheet


def main() -> None:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| velocity, pixels | " + " | ".join(f"{period} px" for period in PERIODS) + " |")
    print("|---" * (1 + len(PERIODS)) + "|")
    outputs = {}
    for name, config in CONFIGS.items():
        outputs[name] = restore_flat(config, args.seed)
        differences = [phase_difference(outputs[name], period) for period in PERIODS]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in differences) + " |")
    draw_sheet(outputs).save(args.out)


if __name__ == "__main__":
    main()
