"""Make the README's picture: parts of the examples, enlarged by bicubic and by strsr.

strsr upscale examples out --scale 4
python scripts/before_after.py examples out docs/images/before-after.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE, WIDTH, HEIGHT, GAP = 4, 480, 300, 6
# Each part: the file, and left and top of what is shown, in pixels of the small picture.
PARTS = [("cat.png", 22, 6), ("rocket.jpg", 20, 30), ("astronaut.jpg", 4, 8)]


def draw(small: Path, large: Path, target: Path) -> None:
    """Draw a row for each part: bicubic at the left, strsr at the right."""
    font = ImageFont.load_default(18)
    sheet = Image.new("RGB", (2 * WIDTH + GAP, len(PARTS) * (HEIGHT + GAP) + 24), "white")
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(("bicubic x4", "strsr x4 (lite)")):
        pen.text((column * (WIDTH + GAP) + WIDTH // 2, 2), label, fill="black", font=font, anchor="ma")
    for row, (name, left, top) in enumerate(PARTS):
        with Image.open(small / name) as before, Image.open(large / name) as after:
            size = (before.width * SCALE, before.height * SCALE)
            pair = (before.convert("RGB").resize(size, Image.Resampling.BICUBIC), after.convert("RGB"))
        box = (left * SCALE, top * SCALE, left * SCALE + WIDTH, top * SCALE + HEIGHT)
        for column, image in enumerate(pair):
            sheet.paste(image.crop(box), (column * (WIDTH + GAP), 24 + row * (HEIGHT + GAP)))
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
