"""Make the README's picture: parts of the examples, enlarged by bicubic and by strsr.

strsr upscale examples out --scale 4
python scripts/before_after.py examples out docs/images/before-after.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE, WIDTH, HEIGHT, GAP = 4, 480, 300, 6
# File, and the left upper corner of the part shown, in pixels of the small picture.
PARTS = [("cat.png", 22, 6), ("rocket.jpg", 20, 30), ("astronaut.jpg", 4, 8)]


def main(small: Path, large: Path, target: Path) -> None:
    """Rows: bicubic at the left, strsr at the right."""
    font = ImageFont.load_default(18)
    sheet = Image.new("RGB", (2 * WIDTH + GAP, len(PARTS) * (HEIGHT + GAP) + 24), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(("bicubic x4", "strsr x4 (lite)")):
        draw.text((column * (WIDTH + GAP) + WIDTH // 2, 2), label, fill="black", font=font, anchor="ma")
    for row, (name, left, top) in enumerate(PARTS):
        with Image.open(small / name) as before, Image.open(large / name) as after:
            size = (before.width * SCALE, before.height * SCALE)
            pair = (before.convert("RGB").resize(size, Image.Resampling.BICUBIC), after.convert("RGB"))
        box = (left * SCALE, top * SCALE, left * SCALE + WIDTH, top * SCALE + HEIGHT)
        for column, image in enumerate(pair):
            sheet.paste(image.crop(box), (column * (WIDTH + GAP), 24 + row * (HEIGHT + GAP)))
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
