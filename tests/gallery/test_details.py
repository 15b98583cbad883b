from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strsr_cli.gallery.details import (
    HEIGHT,
    MOST_BYTES,
    WIDTH,
    Region,
    enlarge,
    flat,
    jpeg_uri,
    liveliest,
    make_detail,
)
from strsr_cli.images.picture import Picture
from strsr_models.errors import ImageError


def decoded(uri: str) -> np.ndarray:
    kind, data = uri.split(",")
    assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
    with Image.open(BytesIO(base64.b64decode(data))) as image:
        return np.array(image)


@pytest.fixture
def pair(tmp_path: Path, photo: np.ndarray) -> tuple[Path, Path]:
    """A photo of 480 x 360, and itself with each pixel four times as wide and high."""
    large = np.asarray(Image.fromarray(photo).resize((480, 360), Image.Resampling.BICUBIC))
    Image.fromarray(large).save(tmp_path / "in.png")
    Image.fromarray(large.repeat(4, 0).repeat(4, 1)).save(tmp_path / "out.png")
    return tmp_path / "in.png", tmp_path / "out.png"


def test_a_detail_is_the_same_part_before_and_after(pair: tuple[Path, Path]) -> None:
    detail = make_detail(*pair, None)
    assert detail.size == (WIDTH, HEIGHT)
    assert detail.own == (WIDTH // 4, HEIGHT // 4)
    before, after = decoded(detail.input), decoded(detail.output)
    left, top = round(480 * detail.box[0]), round(360 * detail.box[1])
    with Image.open(pair[0]) as image:
        whole = np.array(image)
    assert np.array_equal(before, whole[top : top + 105, left : left + 140])
    squares = before.repeat(4, 0).repeat(4, 1)
    # What JPEG has changed is little, a shift by a pixel would be much.
    error = np.abs(after.astype(int) - squares).mean()
    shifted = np.abs(np.roll(after, 2, axis=1).astype(int) - squares).mean()
    assert error < 2 < shifted


def test_bicubic_is_that_of_the_whole_picture(photo: np.ndarray) -> None:
    picture = Picture(photo, None, icc=None, format="PNG")
    whole = Image.fromarray(photo).resize((640, 480), Image.Resampling.BICUBIC)
    part = enlarge(picture, Region(20, 30, 50, 40), (4.0, 4.0))
    assert np.array_equal(np.asarray(part), np.asarray(whole)[120:280, 80:280])


def test_the_part_shown_has_the_most_contours(photo: np.ndarray) -> None:
    pixels = np.full((600, 800, 3), 128, np.uint8)
    pixels[400:520, 600:760] = photo
    region = liveliest(Picture(pixels, None, icc=None, format="PNG"), 140, 105)
    assert 590 <= region.left <= 640
    assert 390 <= region.top <= 430


def test_small_and_narrow_pictures_are_shown_whole(tmp_path: Path) -> None:
    for size in ((1, 1), (3, 200), (200, 2)):
        Image.new("RGB", size, "red").save(tmp_path / "in.png")
        Image.new("RGB", (2 * size[0], 2 * size[1]), "red").save(tmp_path / "out.png")
        detail = make_detail(tmp_path / "in.png", tmp_path / "out.png", None)
        assert detail.own == size
        assert detail.box == (0, 0, 1, 1)


def test_an_output_of_another_shape_is_not_compared(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    Image.new("RGB", (1920, 1000)).save(tmp_path / "other.png")
    with pytest.raises(ImageError, match="not an enlargement"):
        make_detail(pair[0], tmp_path / "other.png", None)
    (tmp_path / "torn.png").write_bytes(pair[1].read_bytes()[:5000])
    with pytest.raises(ImageError):
        make_detail(pair[0], tmp_path / "torn.png", None)


def test_transparency_is_shown_on_white_and_gray_as_gray() -> None:
    color = np.full((4, 4, 1), 0, np.uint16)
    alpha = np.full((4, 4, 1), 65_535, np.uint16)
    alpha[:, :2] = 0
    shown = np.asarray(flat(Picture(color, alpha, icc=None, format="PNG"), Region(0, 0, 4, 4)))
    assert shown.shape == (4, 4, 3)
    assert (shown[:, :2] == 255).all()
    assert (shown[:, 2:] == 0).all()


def test_images_of_a_page_are_bounded_even_for_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    assert len(jpeg_uri(Image.fromarray(noise))) < MOST_BYTES * 4 / 3 + 100
