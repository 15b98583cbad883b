"""Drawn pictures to train on beside photos: plain colours, ramps, soft blobs, shapes, letters.

Photos hold few plain fields of strong colours, and teachers shift those; and a network that has seen photos alone takes
what is meant to be smooth for blurred. What is drawn is known exactly, so that it is its own best target.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

OVERSAMPLING = 2  # px drawn for each px, so that edges are smooth
MOST_SHAPES = 14
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0123456789&?!."
SMOOTH_SHARE = 0.35  # of pictures that have neither shapes nor letters


def draw_graphic(side: int, rng: torch.Generator) -> Tensor:
    """A picture (1, 3, side, side), uint8, made of what `rng` draws."""
    random = np.random.default_rng(int(torch.randint(2**31, (), generator=rng)))
    canvas = side * OVERSAMPLING
    pixels = _ramp(canvas, random)
    smooth = random.random() < SMOOTH_SHARE
    for _ in range(random.integers(1, 4) if smooth else random.integers(0, 2)):
        pixels = _with_blob(pixels, random)
    image = Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8))
    if not smooth:
        _add_shapes(image, random)
    image = image.resize((side, side), Image.Resampling.BOX)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous()


def _color(random: np.random.Generator) -> np.ndarray:
    """Draw a colour (3,) in [0, 1]: any, or one of the corners of the cube, or a grey."""
    kind = random.random()
    if kind < 0.35:
        return random.integers(0, 2, 3).astype(float)
    if kind < 0.5:
        return np.full(3, random.random())
    return random.random(3)


def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates y (side, 1) and x (1, side) from -1 to 1."""
    line = np.linspace(-1, 1, side)
    return line[:, None], line[None]


def _ramp(side: int, random: np.random.Generator) -> np.ndarray:
    """Draw a background (side, side, 3): one colour, or two with a straight ramp between."""
    first = _color(random)
    if random.random() < 0.5:
        return np.broadcast_to(first, (side, side, 3)).copy()
    y, x = _grid(side)
    angle = random.uniform(0, 2 * np.pi)
    share = ((np.cos(angle) * x + np.sin(angle) * y) / 2**0.5 + 1) / 2
    pixels: np.ndarray = first + share[..., None] * (_color(random) - first)
    return pixels


def _with_blob(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Pixels blended with a colour by a Gaussian whose standard deviation is 3 to 50 % of half the side."""
    y, x = _grid(len(pixels))
    (top, left), sigma = random.uniform(-0.8, 0.8, 2), random.uniform(0.03, 0.5)
    share = random.uniform(0.2, 1) * np.exp(-((x - left) ** 2 + (y - top) ** 2) / 2 / sigma**2)
    blended: np.ndarray = pixels + share[..., None] * (_color(random) - pixels)
    return blended


def _add_shapes(image: Image.Image, random: np.random.Generator) -> None:
    """Draw rectangles, ellipses, polygons, lines and letters into the image."""
    draw, side = ImageDraw.Draw(image), image.width
    for _ in range(random.integers(2, MOST_SHAPES)):
        color = tuple(int(value) for value in np.rint(_color(random) * 255))
        corner = random.uniform(-0.1, 1, 2) * side
        size = random.uniform(0.03, 0.6, 2) * side
        box = [*corner, *(corner + size)]
        kind = random.integers(5)
        if kind == 0:
            draw.rectangle(box, fill=color)
        elif kind == 1:
            draw.ellipse(box, fill=color)
        elif kind == 2:
            corners = corner + random.uniform(0, 1, (random.integers(3, 6), 2)) * size
            draw.polygon([tuple(point) for point in corners], fill=color)
        elif kind == 3:
            draw.line(box, fill=color, width=int(random.integers(1, 12)))
        else:
            letters = "".join(random.choice(list(LETTERS), random.integers(1, 9)))
            font = ImageFont.load_default(float(random.integers(14, 80)))
            draw.text(tuple(corner), letters, fill=color, font=font)
