"""Floats beyond [0, 1]: highlights do not ring, and numbers that go to 255 or 65,535 are known as such."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import Result

from strsr_cli.images.color.floats import white_of
from strsr_cli.images.color.restorer import compress, expand
from strsr_cli.images.picture import Picture
from strsr_cli.images.read import decode_image
from strsr_cli.images.write import EncodeSettings, encode_image
from strsr_models import load_pipeline
from strsr_models.tiling.enlargement import Enlargement, rectangles_of

from ..helpers.image_files import ADOBE_RGB, matrix_profile
from ..helpers.restoring import restored

Run = Callable[..., Result]
lite = cache(lambda: load_pipeline("lite"))
RNG = np.random.default_rng(6)


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    options.setdefault("photometric", "rgb" if pixels.ndim == 3 and pixels.shape[2] > 2 else "minisblack")
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


def range_around(pixels: np.ndarray, scale: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest input px within `reach` px of each output px's own place."""
    size = 2 * reach + 1
    kernel = np.ones((size, size), np.uint8)
    low, high = (
        np.stack(
            [
                way(np.ascontiguousarray(pixels[..., c]), kernel, borderType=cv2.BORDER_REPLICATE)
                for c in range(pixels.shape[2])
            ],
            axis=2,
        )
        for way in (cv2.erode, cv2.dilate)
    )
    return tuple(part.repeat(scale, 0).repeat(scale, 1) for part in (low, high))  # type: ignore[return-value]


# --- highlights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("light", [1.5, 100, 5e4, 1e29])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("icc", [None, matrix_profile(*ADOBE_RGB)], ids=["srgb", "adobe"])
def test_highlights_do_not_ring(light: float, channels: int, icc: bytes | None) -> None:
    pixels = np.full((24, 28, channels), 0.3, np.float32)
    pixels[10:14, 12:16] = light
    enlarged = restored(lite(), Picture(pixels, None, icc if channels == 3 else None, "TIFF"), 4).color
    low, high = range_around(pixels, 4, 2)
    assert (enlarged >= low).all()
    assert (enlarged <= high).all()
    # The light stays: its middle is whole, and what is far from it is what it was.
    assert enlarged[44:52, 52:60].max() == pytest.approx(light, rel=1e-4)
    np.testing.assert_allclose(enlarged[:24], 0.3, atol=1e-6)


def test_holes_below_zero_do_not_ring() -> None:
    pixels = np.full((24, 24, 3), 0.6, np.float32)
    pixels[10:13, 10:13] = -40
    enlarged = restored(lite(), Picture(pixels, None, None, "TIFF"), 3).color
    assert enlarged.max() <= np.float32(0.6)
    assert enlarged.min() == pytest.approx(-40, rel=1e-4)


def test_detail_of_the_network_reaches_pictures_with_highlights() -> None:
    """Far from the light, where values stay between their neighbours, the answer is that for a plain picture."""
    y, x = np.mgrid[:32, :64]
    pixels = (0.5 + 0.3 * np.sin(x / 2) * np.cos(y / 3)).astype(np.float32)[..., None].repeat(3, 2)
    plain = restored(lite(), Picture(pixels, None, None, "TIFF"), 4).color
    with_light = pixels.copy()
    with_light[:2, :2] = 30
    enlarged = restored(lite(), Picture(with_light, None, None, "TIFF"), 4).color
    bicubic = Enlargement((32, 64), (128, 256)).crop(
        rectangles_of(torch.from_numpy(pixels).permute(2, 0, 1)[None]), slice(0, 128), slice(0, 256)
    )
    far = (slice(16, 112), slice(192, 240))
    detail = np.abs(plain[far] - bicubic[0].permute(1, 2, 0).numpy()[far]).mean()
    assert detail > 1e-4
    assert np.abs(enlarged[far] - plain[far]).mean() < 0.5 * detail


def test_ordinary_floats_keep_their_pixels() -> None:
    """By a formula of this file: the enlargement, and what the network adds to its clipped self."""
    pixels = RNG.random((16, 20, 3)).astype(np.float32)
    pixels[0, 0], pixels[0, 1] = 0, 1
    enlarged = restored(lite(), Picture(pixels, None, None, "TIFF"), 2).color
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    own = Enlargement((16, 20), (32, 40)).crop(rectangles_of(image), slice(0, 32), slice(0, 40))
    hq = lite().upscale(image, 2)
    expected = own + (hq - own.clamp(0, 1))
    np.testing.assert_array_equal(enlarged, expected[0].permute(1, 2, 0).numpy())
    assert enlarged.min() < 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), min_size=2, max_size=40))
def test_the_curve_is_monotone_and_comes_back(numbers: list[float]) -> None:
    values = torch.tensor(sorted(numbers), dtype=torch.float32)
    curved = compress(values)
    assert (curved.diff() >= 0).all()
    torch.testing.assert_close(expand(curved), values, rtol=2e-5, atol=1e-6)
    inside = values[(values >= 0) & (values <= 1)]
    assert torch.equal(compress(inside), inside)
    assert torch.equal(expand(inside), inside)


def test_extremes_are_those_of_sixteen_neighbours() -> None:
    image = torch.rand(1, 2, 9, 7)
    enlargement = Enlargement((9, 7), (27, 14))
    low, high = enlargement.extremes(rectangles_of(image), slice(5, 20), slice(0, 14))
    for row, column in ((0, 0), (7, 5), (14, 13)):
        at_row, at_column = (row + 5 + 0.5) / 3 - 0.5, (column + 0.5) / 2 - 0.5
        rows = (np.floor(at_row).astype(int) + np.arange(-1, 3)).clip(0, 8)
        columns = (np.floor(at_column).astype(int) + np.arange(-1, 3)).clip(0, 6)
        around = image[0][:, rows][:, :, columns]
        torch.testing.assert_close(low[0, :, row, column], around.amin((1, 2)))
        torch.testing.assert_close(high[0, :, row, column], around.amax((1, 2)))


# --- white -----------------------------------------------------------------------------------------


def photo(top: float) -> np.ndarray:
    y, x = np.mgrid[:20, :24]
    return (top * (0.1 + 0.8 * np.stack([x / 23, y / 19, (x + y) / 42], -1))).astype(np.float32)


@pytest.mark.parametrize(
    ("pixels", "white"),
    [
        (photo(1), 1),
        (photo(1.2), 1),
        (np.where(photo(1) > 0.85, 50, photo(1)), 1),
        (photo(255), 255),
        (photo(1_023), 1_023),
        (photo(4_095), 4_095),
        (photo(16_383), 16_383),
        (photo(65_535), 65_535),
        (photo(300), 255),
        (photo(200), 255),
        (np.rint(photo(20)), 255),
        (np.where(photo(1) > 0.7, 255, 0).astype(np.float32), 255),
        (photo(2_000_000), photo(2_000_000).max()),
        (photo(12), photo(12).max()),
        (np.zeros((4, 4, 3), np.float32), 1),
        (np.full((4, 4, 3), -3, np.float32), 1),
    ],
)
def test_the_number_that_is_white_is_known(pixels: np.ndarray, white: float) -> None:
    assert white_of(pixels) == pytest.approx(white)


@pytest.mark.parametrize("top", [255, 65_535])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_floats_to_that_number_come_out_as_they_look(
    top: int, kind: str, strsr: Run, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "counts.tif").write_bytes(tiff(photo(top)))
    (tmp_path / "plain.tif").write_bytes(tiff(photo(1)))
    for name in ("counts", "plain"):
        source, target = tmp_path / f"{name}.tif", tmp_path / f"{name}.{kind}"
        result = strsr("upscale", source, target, "--scale", "2", "--draft", "--weights", tiny_weights)
        assert result.exit_code == 0, result.output
        assert ("is taken as white" in result.stderr) == (name == "counts")
    counts, plain = (cv2.imread(str(tmp_path / f"{name}.{kind}"), -1) for name in ("counts", "plain"))
    assert np.abs(counts.astype(int) - plain).max() <= (2 if counts.dtype == np.uint8 else 64)


def test_floats_in_a_float_file_keep_their_numbers(strsr: Run, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "counts.tif").write_bytes(tiff(photo(65_535)))
    (tmp_path / "plain.tif").write_bytes(tiff(photo(1)))
    for name in ("counts", "plain"):
        args = ("upscale", tmp_path / f"{name}.tif", tmp_path / "out", "--scale", "2")
        result = strsr(*args, "--weights", tiny_weights)
        assert result.exit_code == 0, result.output
    counts, plain = (tifffile.imread(tmp_path / "out" / f"{name}.tif") for name in ("counts", "plain"))
    assert counts.dtype == np.float32
    np.testing.assert_allclose(counts / 65_535, plain, atol=1e-5)


@pytest.mark.parametrize("opaque", [1, 255])
def test_alpha_may_have_another_top_than_colours(opaque: int) -> None:
    alpha = np.linspace(0, opaque, 480, dtype=np.float32).reshape(20, 24, 1)
    pixels = np.concatenate([photo(255), alpha], axis=2)
    picture = decode_image(tiff(pixels, extrasamples=["unassalpha"]), "x")
    assert picture.alpha is not None
    assert picture.white == (255, opaque)
    assert (picture.alpha.max(), picture.color.max()) == (1, pytest.approx(229.5 / 255))
    again = tifffile.imread(BytesIO(encode_image(picture, "tif", EncodeSettings())))
    np.testing.assert_allclose(again, pixels, rtol=1e-6)


def test_white_is_zero_turns_around_its_white() -> None:
    picture = decode_image(tiff(255 - photo(255)[..., 0], photometric="miniswhite"), "x")
    np.testing.assert_allclose(picture.color[..., 0], photo(1)[..., 0], atol=1e-6)
