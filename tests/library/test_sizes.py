"""Target sizes in Python: the command's sizes, bytes and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

import strsr as library

from ..helpers.image_files import small_files

Run = Callable[..., Result]

# Of pictures of 40x30 px, as keywords and as options.
SIZES = [
    ({"longest": 100}, ["--longest", "100"], (100, 75)),
    ({"longest": "30>"}, ["--longest", "30>"], (30, 23)),
    ({"longest": "30<"}, ["--longest", "30<"], (40, 30)),
    ({"shortest": np.int64(61)}, ["--shortest", "61"], (81, 61)),
    ({"width": 41}, ["--width", "41"], (41, 31)),
    ({"height": "20>"}, ["--height", "20>"], (27, 20)),
    ({"width": 100, "height": 100}, ["--width", "100", "--height", "100"], (100, 75)),
    (
        {"width": 100, "height": 100, "cover": True},
        ["--width", "100", "--height", "100", "--cover"],
        (133, 100),
    ),
    ({"megapixels": 0.0048}, ["--megapixels", "0.0048"], (80, 60)),
    ({"megapixels": "0.00048>"}, ["--megapixels", "0.00048>"], (25, 19)),
    ({"scale": 1.5, "longest": None}, ["--scale", "1.5"], (60, 45)),
    ({}, [], (160, 120)),
]


@pytest.fixture
def upscaler(tiny_weights: Path) -> library.Upscaler:
    return library.Upscaler(weights=tiny_weights)


@pytest.fixture
def picture(photo: np.ndarray, tmp_path: Path) -> Path:
    """A picture of 40x30 px with transparency."""
    alpha = np.linspace(0, 255, 1200).astype(np.uint8).reshape(30, 40, 1)
    Image.fromarray(np.concatenate([photo[:30, :40], alpha], axis=2)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


@pytest.mark.parametrize(("size", "options", "expected"), SIZES, ids=str)
def test_a_file_of_a_size_is_the_command_s_file(
    strsr: Run,
    upscaler: library.Upscaler,
    tiny_weights: Path,
    picture: Path,
    tmp_path: Path,
    size: dict,
    options: list[str],
    expected: tuple[int, int],
) -> None:
    upscaler.upscale(picture, output=tmp_path / "own.png", **size)
    result = strsr("upscale", picture, tmp_path / "commanded.png", "--weights", tiny_weights, *options)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "own.png").read_bytes() == (tmp_path / "commanded.png").read_bytes()
    with Image.open(tmp_path / "own.png") as own:
        assert own.size == expected


@pytest.mark.parametrize("name", sorted(small_files()))
def test_a_reduced_file_is_the_command_s_file(
    strsr: Run, upscaler: library.Upscaler, tiny_weights: Path, tmp_path: Path, name: str
) -> None:
    source, own, commanded = tmp_path / f"in-{name}", tmp_path / "own.png", tmp_path / "commanded.png"
    source.write_bytes(small_files()[name])
    upscaler.upscale(source, longest="7>", output=own)
    result = strsr("upscale", source, commanded, "--weights", tiny_weights, "--longest", "7>")
    assert result.exit_code == 0, result.output
    assert own.read_bytes() == commanded.read_bytes()


@pytest.mark.parametrize("limit", [90, "20>", "20<"])
def test_all_kinds_of_images_take_sizes(
    upscaler: library.Upscaler, photo: np.ndarray, limit: int | str
) -> None:
    array = photo[:30, :40]
    width, height = {90: (90, 68), "20>": (20, 15), "20<": (40, 30)}[limit]
    large = upscaler.upscale(array, longest=limit)
    assert large.shape == (height, width, 3)
    image = upscaler.upscale(Image.fromarray(array), longest=limit)
    np.testing.assert_array_equal(np.asarray(image), large)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1) / 255
    answer = upscaler.upscale(tensor.half(), longest=limit)
    assert (answer.dtype, tuple(answer.shape)) == (torch.float16, (3, height, width))
    batch = upscaler.upscale(torch.stack([tensor, tensor]), longest=limit)
    assert batch.shape == (2, 3, height, width)
    # Pillow rounds bytes between its two passes.
    assert np.abs(255 * batch[1].permute(1, 2, 0).numpy() - large).max() <= (1 if limit == "20>" else 0.51)
    batch.add_(1)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_a_reduced_array_keeps_its_type_and_range(
    upscaler: library.Upscaler, photo: np.ndarray, dtype: type
) -> None:
    array = photo[:30, :40].astype(dtype) * 257
    small = upscaler.upscale(array, width="10>")
    assert (small.dtype, small.shape) == (dtype, (8, 10, 3))
    expected = [
        np.asarray(Image.fromarray(channel.astype(np.float32)).resize((10, 8), Image.Resampling.LANCZOS))
        for channel in np.moveaxis(array, 2, 0)
    ]
    np.testing.assert_allclose(small, np.stack(expected, axis=2).clip(0, 65535), atol=1)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ({"scale": 2, "longest": 100}, "--scale and --longest: one size is enough"),
        ({"longest": 100, "shortest": 100}, "--longest and --shortest: one size is enough"),
        ({"longest": "4k"}, "--longest 4k: use a number of px"),
        ({"longest": 0}, "--longest 0: "),
        ({"longest": -5}, "--longest -5: "),
        ({"longest": 10.5}, "--longest 10.5: use a number of px"),
        ({"megapixels": float("nan")}, "--megapixels NaN: "),
        ({"megapixels": float("inf")}, "--megapixels Infinity: "),
        ({"width": [100]}, "width: must be a number, or a text such as '4096>', not a list"),
        ({"width": True}, "not a bool"),
        ({"cover": True}, "--cover: needs --width and --height"),
        ({"width": "100>", "height": "100<"}, "put the same > or <"),
        ({"scale": 17}, "scale 17"),
    ],
    ids=str,
)
def test_sizes_of_no_sense_are_refused_before_loading(picture: Path, size: dict, reason: str) -> None:
    with pytest.raises(library.UsageError, match=reason) as caught:
        library.upscale(picture, weights="nowhere", **size)
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_is_refused_by_name(
    strsr: Run, upscaler: library.Upscaler, tiny_weights: Path, picture: Path, tmp_path: Path
) -> None:
    with pytest.raises(library.ImageError, match=r"in\.png: 40x30 px: is already larger") as caught:
        upscaler.upscale(picture, longest=20, output=tmp_path / "out.png")
    result = strsr("upscale", picture, tmp_path / "out.png", "--weights", tiny_weights, "--longest", "20")
    assert result.exit_code == 1
    assert str(caught.value) in result.stderr
    assert not (tmp_path / "out.png").exists()
    for image in (np.zeros((30, 40), np.uint8), torch.zeros(3, 30, 40), Image.new("L", (40, 30))):
        with pytest.raises(
            library.ImageError, match=r"40x30 px: .* would enlarge it 25\.0 times, and 16 is the most"
        ):
            upscaler.upscale(image, longest=1000)


def test_an_unknown_size_is_named(upscaler: library.Upscaler) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'longset'; did you mean 'longest'"):
        upscaler.upscale(np.zeros((3, 4), np.uint8), longset=100)  # type: ignore[call-overload]
