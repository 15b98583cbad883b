"""Pictures made by arithmetic, for measurements alone: a decoder and an encoder spend on them what photos cost."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

LEAVES = 60  # shapes that cover one another, each with a plain colour, a shade and a texture of its own
GRAIN = 1.5  # standard deviation of a sensor's noise, of 255
QUALITY = 92  # of JPEG, from 1 to 100


def write_photos(folder: Path, count: int, side: int) -> list[Path]:
    """Write `count` JPEG files of side x side px, the same ones each time. Raises OSError."""
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(make_photo(number, side)).save(path, quality=QUALITY)
    return paths


def make_photo(number: int, side: int) -> np.ndarray:
    """A picture (side, side, 3) uint8: leaves of all sizes with sharp edges over a background; then grain."""
    rng = np.random.default_rng(number)
    picture = surface(rng, side, side)
    for radius in sorted(0.03 / rng.uniform(0.06, 1, LEAVES), reverse=True):
        cover(picture, rng, radius * side)
    picture += rng.normal(0, GRAIN, picture.shape)
    photo: np.ndarray = np.clip(picture.round(), 0, 255).astype(np.uint8)
    return photo


def cover(picture: np.ndarray, rng: np.random.Generator, radius: float) -> None:
    """Lay an ellipse, `radius` px in its longer half, over a picture (side, side, 3), anywhere."""
    side = len(picture)
    turn, flat, (left, top) = rng.uniform(0, np.pi), rng.uniform(0.3, 1), rng.uniform(0, side, 2)
    rows = slice(max(0, int(top - radius)), int(top + radius) + 2)
    columns = slice(max(0, int(left - radius)), int(left + radius) + 2)
    y, x = np.ogrid[:side, :side]
    dx, dy = (x[:, columns] - left).astype(np.float32), (y[rows] - top).astype(np.float32)
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    inside = np.clip(radius - np.hypot(along, across / flat) + 0.5, 0, 1)[..., None]
    under = picture[rows, columns]
    under += inside * (surface(rng, *under.shape[:2]) - under)


def surface(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A surface (height, width, 3) float32: one colour, lit unevenly by octaves of noise, the finer the weaker."""
    color, roughness = rng.uniform(20, 235, 3), rng.uniform(0.35, 0.75)
    light = np.zeros((height, width), np.float32)
    cells, strength = 2, rng.uniform(10, 30)
    while cells <= max(height, width):
        grid = rng.standard_normal((cells, cells), np.float32)
        light += strength * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
        cells, strength = 2 * cells, strength * roughness
    return (color + light[..., None]).astype(np.float32)
