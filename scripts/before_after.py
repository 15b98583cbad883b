"""Make the README's picture: parts of the examples as they are, enlarged by bicubic, and by strsr.

strsr upscale examples out --scale 4
python scripts/before_after.py examples out docs/images/before-after.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE, WIDTH, HEIGHT, GAP = 4, 400, 260, 8
TOP = 26  # px, of the labels
# Each part: the file, and left and top of what is shown, in pixels of the small picture.
PARTS = [("cat.png", 32, 10), ("astronaut.jpg", 14, 13), ("rocket.jpg", 30, 32)]


def draw(small: Path, large: Path, target: Path) -> None:
    """Draw a row for each part: the input pixel by pixel, bicubic, strsr."""
    font = ImageFont.load_default(16)
    lefts = (0, WIDTH // SCALE + GAP, WIDTH // SCALE + WIDTH + 2 * GAP)
    sheet = Image.new("RGB", (lefts[2] + WIDTH, len(PARTS) * (HEIGHT + GAP) + TOP - GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for left, label in zip(lefts, ("input", "bicubic x4", "strsr x4"), strict=True):
        pen.text((left, 2), label, fill="black", font=font)
    for row, (name, left, top) in enumerate(PARTS):
        with Image.open(small / name) as before, Image.open(large / name) as after:
            size = (before.width * SCALE, before.height * SCALE)
            own = before.convert("RGB")
            pair = (own.resize(size, Image.Resampling.BICUBIC), after.convert("RGB"))
        down = TOP + row * (HEIGHT + GAP)
        sheet.paste(own.crop((left, top, left + WIDTH // SCALE, top + HEIGHT // SCALE)), (0, down))
        box = (left * SCALE, top * SCALE, left * SCALE + WIDTH, top * SCALE + HEIGHT)
        for across, image in zip(lefts[1:], pair, strict=True):
            sheet.paste(image.crop(box), (across, down))
    sheet.save(target, optimize=True)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("small", type=Path, help="folder of the examples")
    parser.add_argument("large", type=Path, help="folder of the same, enlarged")
    parser.add_argument("target", type=Path, help="the picture")
    args = parser.parse_args()
    draw(args.small, args.large, args.target)


if __name__ == "__main__":
    main()
