"""The package strsr: what it takes and gives back, and that its pixels are the command's."""

from __future__ import annotations

import copy
import inspect
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

import strsr as library
from strsr.settings import Settings
from strsr_models import load_pipeline

from ..helpers.image_files import camera_exif, small_files

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """The environment of a process that imports this checkout."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "models")])}


@pytest.fixture
def upscaler(tiny_weights: Path) -> library.Upscaler:
    return library.Upscaler(weights=tiny_weights, tile=64)


def commanded(strsr: Run, source: Path, target: Path, *options: object) -> bytes:
    """The file that the command makes, twice as large."""
    result = strsr("upscale", source, target, "--scale", 2, *options)
    assert result.exit_code == 0, result.output
    return target.read_bytes()


# --- the command's pixels --------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(small_files()))
def test_a_file_is_the_very_file_of_the_command(
    strsr: Run, upscaler: library.Upscaler, tiny_weights: Path, tmp_path: Path, name: str
) -> None:
    source, own = tmp_path / f"in-{name}", tmp_path / "own.png"
    source.write_bytes(small_files()[name])
    assert upscaler.upscale(source, 2, output=own) == own
    options = ("--tile", 64, "--weights", tiny_weights)
    assert own.read_bytes() == commanded(strsr, source, tmp_path / "commanded.png", *options)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "bmp", "avif"])
def test_other_formats_are_the_files_of_the_command(
    strsr: Run, tiny_weights: Path, tmp_path: Path, suffix: str
) -> None:
    source, own = tmp_path / "in.png", tmp_path / f"own.{suffix}"
    source.write_bytes(small_files()["png"])
    library.upscale(str(source), 2, output=str(own), weights=tiny_weights, quality=70, strip=True)
    options = ("--weights", tiny_weights, "--quality", 70, "--strip")
    assert own.read_bytes() == commanded(strsr, source, tmp_path / f"commanded.{suffix}", *options)


def test_lite_itself_gives_the_command_s_file(strsr: Run, photo: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(photo[:60, :80]).save(tmp_path / "in.png")
    library.upscale(tmp_path / "in.png", 2, output=tmp_path / "own.png")
    expected = commanded(strsr, tmp_path / "in.png", tmp_path / "commanded.png")
    assert (tmp_path / "own.png").read_bytes() == expected


@pytest.mark.parametrize("conditioning", ["vlm", "text"])
def test_a_large_model_gives_the_command_s_file(
    strsr: Run, models: Path, photo: np.ndarray, tmp_path: Path, conditioning: str
) -> None:
    Image.fromarray(photo[:30, :40]).save(tmp_path / "in.png")
    prompt = "a cat" if conditioning == "text" else None
    upscaler = library.Upscaler("zimage", models_dir=models, conditioning=conditioning, prompt=prompt)
    upscaler.upscale(tmp_path / "in.png", 2, output=tmp_path / "own.png")
    options = ["--model", "zimage", "--models-dir", models, "--conditioning", conditioning]
    options += [] if prompt is None else ["--prompt", prompt]
    expected = commanded(strsr, tmp_path / "in.png", tmp_path / "commanded.png", *options)
    assert (tmp_path / "own.png").read_bytes() == expected


# --- kinds of images -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "LA"),
        ("P", "RGB"),
        ("RGB", "RGB"),
        ("RGBA", "RGBA"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("F", "F"),
        ("I;16", "I;16"),
    ],
)
def test_a_pillow_image_keeps_its_mode(
    upscaler: library.Upscaler, photo: np.ndarray, mode: str, expected: str
) -> None:
    image = Image.fromarray(photo[:10, :12])
    if mode == "I;16":
        image = Image.fromarray(photo[:10, :12, 0].astype(np.uint16) * 257)
    large = upscaler.upscale(image if mode == "I;16" else image.convert(mode), 2)
    assert (large.mode, large.size) == (expected, (24, 20))
    assert np.asarray(large).std() > 0


@pytest.mark.parametrize("name", ["png", "jpg", "palette.png", "gray.jpg", "cmyk.jpg", "webp"])
def test_an_opened_image_is_as_good_as_its_file(
    upscaler: library.Upscaler, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(small_files()[name])
    by_path = upscaler.upscale(tmp_path / name, 2)
    with Image.open(tmp_path / name) as image:
        by_image = upscaler.upscale(image, 2)
    assert by_path == by_image
    assert by_path.info.get("icc_profile") == by_image.info.get("icc_profile")
    assert ("icc_profile" in by_path.info) == (name in ("png", "jpg", "webp"))
    assert by_path.info.get("exif") == by_image.info.get("exif")


def test_an_image_is_turned_upright_and_says_so(upscaler: library.Upscaler, photo: np.ndarray) -> None:
    buffer = BytesIO()
    Image.fromarray(photo[:10, :12]).save(buffer, "PNG", exif=camera_exif(orientation=6))
    large = upscaler.upscale(Image.open(buffer), 2)
    assert large.size == (20, 24)
    exif = large.getexif()
    assert (exif[0x0112], exif[0x010F]) == (1, "Tester")
    plain = Image.fromarray(photo[:10, :12].copy())
    assert upscaler.upscale(plain, 2).transpose(Image.Transpose.ROTATE_270).size == large.size


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64", ">u2"])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_an_array_keeps_type_and_layout(upscaler: library.Upscaler, dtype: str, channels: int | None) -> None:
    shape = (10, 12) if channels is None else (10, 12, channels)
    top = 1 if "float" in dtype else np.iinfo(dtype).max
    ramp = np.linspace(0.3, 0.7, 120).reshape(10, 12, *[1] * len(shape[2:]))
    array = (np.broadcast_to(ramp, shape) * top).astype(dtype)
    before = array.copy()
    large = upscaler.upscale(array, 2)
    assert large.dtype == array.dtype
    assert large.shape == (20, 24, *shape[2:])
    expected = upscaler.upscale(array / top, 2)
    assert (large / top).clip(0, 1) == pytest.approx(expected.clip(0, 1), abs=1 / 200)
    assert (array == before).all()


def test_an_array_and_its_file_have_the_same_pixels(
    strsr: Run, upscaler: library.Upscaler, tiny_weights: Path, photo: np.ndarray, tmp_path: Path
) -> None:
    for name, array in {"color": photo[:10, :12], "gray": photo[:10, :12, 1]}.items():
        source, target = tmp_path / f"{name}.png", tmp_path / f"{name}-large.png"
        Image.fromarray(array.copy()).save(source)
        commanded(strsr, source, target, "--tile", 64, "--weights", tiny_weights)
        with Image.open(target) as image:
            assert (upscaler.upscale(array, 2) == np.asarray(image)).all()


def test_floats_of_another_range_stay_in_it(upscaler: library.Upscaler, photo: np.ndarray) -> None:
    counts = photo[:10, :12].astype(np.float32)
    large = upscaler.upscale(counts, 2)
    assert large.max() > 100
    assert large == pytest.approx(255 * upscaler.upscale(counts / 255, 2), abs=0.01)


def test_deep_colours_as_a_pillow_image_are_rounded_aloud(
    upscaler: library.Upscaler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(small_files()["deep.png"])
    with caplog.at_level(logging.WARNING):
        assert upscaler.upscale(path, 2).mode == "RGB"
    assert f"{path}: Pillow holds no colours of 16 bits" in caplog.text


@pytest.mark.parametrize("shape", [(3, 10, 12), (2, 3, 10, 12)])
def test_a_tensor_is_what_the_pipeline_makes_of_it(
    upscaler: library.Upscaler, tiny_weights: Path, shape: tuple[int, ...]
) -> None:
    image = torch.rand(shape)
    large = upscaler.upscale(image, 2)
    expected = load_pipeline("lite", tiny_weights).upscale(
        image.reshape(-1, 3, 10, 12), 2, tile=64, precision=upscaler.precision
    )
    assert torch.equal(large, expected.reshape(large.shape))
    assert large.shape[-2:] == (20, 24)


# --- many pictures ---------------------------------------------------------------------------------


def test_several_threads_share_one_upscaler(
    upscaler: library.Upscaler, photo: np.ndarray, tmp_path: Path
) -> None:
    crops = [photo[top : top + 40, :50].copy() for top in range(0, 80, 10)]
    alone = [upscaler.upscale(crop, 2) for crop in crops]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda crop: upscaler.upscale(crop, 2), crops))
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))


def test_tiles_are_counted_in_order(upscaler: library.Upscaler, photo: np.ndarray) -> None:
    calls: list[tuple[int, int]] = []
    upscaler.upscale(photo[:60, :60], 2, on_tile=lambda done, tiles: calls.append((done, tiles)))
    assert len(calls) > 3
    assert calls == [(number, len(calls)) for number in range(1, len(calls) + 1)]


def test_a_callback_that_raises_ends_one_image_alone(
    upscaler: library.Upscaler, photo: np.ndarray, tmp_path: Path
) -> None:
    def refuse(done: int, tiles: int) -> None:
        raise RuntimeError("enough")

    target = tmp_path / "out.png"
    target.write_bytes(b"what was there")
    with pytest.raises(RuntimeError, match="enough"):
        upscaler.upscale(photo[:20, :20], 2, output=target, on_tile=refuse)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.png"]
    assert target.read_bytes() == b"what was there"
    upscaler.upscale(photo[:20, :20], 2, output=target)
    with Image.open(target) as image:
        assert image.size == (40, 40)


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "cannot enlarge a NoneType: give a path"),
        (np.zeros((3, 10, 12), np.uint8), "array of 3x10x12: .* move its channels last"),
        (np.zeros((10, 12, 5), np.uint8), "array of 10x12x5: use"),
        (np.zeros((0, 12, 3), np.uint8), "has no pixels"),
        (np.zeros((10, 12), bool), "array of bool: use uint8"),
        (np.zeros((10, 12), np.int32), "array of int32: use uint8"),
        (np.full((10, 12), np.nan), "the array: .* not finite"),
        (torch.zeros(3, 10, 12, dtype=torch.uint8), "expected a float tensor"),
        (Image.new("I", (10, 12)), "32-bit integers"),
        (Path("nowhere.png"), "nowhere.png: cannot be read"),
        (Path("docs"), "docs: is a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_images_of_no_use_are_refused(upscaler: library.Upscaler, image: object, reason: str) -> None:
    with pytest.raises(library.StrsrError, match=reason) as caught:
        upscaler.upscale(image, 2)  # type: ignore[call-overload]
    assert "\n" not in str(caught.value)


def test_outputs_of_no_use_are_refused(upscaler: library.Upscaler, photo: np.ndarray, tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    Image.fromarray(photo[:10, :12]).save(source)
    kept = source.read_bytes()
    for output, reason in {
        tmp_path / "out": "no suffix is no format",
        tmp_path / "out.jpgg": "did you mean '.jpg'",
        source: "is the image itself",
    }.items():
        with pytest.raises(library.UsageError, match=reason):
            upscaler.upscale(source, 2, output=output)
    with pytest.raises(library.ImageError, match="cannot be written: No such file"):
        upscaler.upscale(source, 2, output=tmp_path / "no" / "out.png")
    with pytest.raises(library.UsageError, match="scale 17"):
        upscaler.upscale(source, 17)
    with pytest.raises(library.ImageError, match="more than WEBP can hold"):
        upscaler.upscale(np.zeros((2, 1100, 3), np.uint8), 16, output=tmp_path / "wide.webp")
    assert source.read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["in.png"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "light"}, "did you mean 'lite'"),
        ({"device": "cuda:99"}, "CUDA devices here"),
        ({"device": "tpu"}, "--device tpu"),
        ({"precision": "fp8"}, "--precision fp8"),
        ({"tile": 3}, "tile 3: must be at least 64"),
        ({"tile": "64"}, "tile '64': must be a whole number, at least 64"),
        ({"steps": 0}, "steps 0: must be 1 to 100"),
        ({"steps": 1.5}, "steps 1.5: must be a whole number, 1 to 100"),
        ({"quality": 0}, "quality 0: must be 1 to 100"),
        ({"weights": "nowhere"}, "nowhere"),
        ({"prompt": "a cat"}, "not for --model lite"),
    ],
    ids=str,
)
def test_settings_of_no_sense_are_refused(settings: dict, reason: str) -> None:
    with pytest.raises(library.StrsrError, match=reason) as caught:
        library.upscale(np.zeros((10, 12), np.uint8), **settings)
    assert "\n" not in str(caught.value)


def test_a_file_of_too_many_pixels_is_refused_unread(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(small_files()["png"])
    with pytest.raises(library.ImageError, match="more than --max-pixels 100"):
        library.upscale(tmp_path / "in.png", weights=tiny_weights, max_pixels=100)


# --- inside other programs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "surroundings",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.inference_mode,
        lambda: torch.device("meta"),
    ],
)
def test_what_a_caller_has_set_does_not_count(
    upscaler: library.Upscaler, tiny_weights: Path, photo: np.ndarray, surroundings: Callable
) -> None:
    array = photo[:30, :40].astype(np.uint16) * 257
    tensor = torch.rand(3, 20, 24)
    expected, large = upscaler.upscale(array, 2), upscaler.upscale(tensor, 2)
    with surroundings():
        loaded = library.Upscaler(weights=tiny_weights, tile=64)
        for one in (upscaler, loaded):
            np.testing.assert_array_equal(one.upscale(array, 2), expected)
            assert torch.equal(one.upscale(tensor, 2), large)


def test_a_callback_has_the_caller_s_settings(upscaler: library.Upscaler, photo: np.ndarray) -> None:
    seen = []
    with torch.autocast("cpu", torch.bfloat16):
        upscaler.upscale(
            photo[:30, :60],
            4,
            on_tile=lambda *_: seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))),
        )
    assert len(seen) > 1
    assert set(seen) == {(True, True)}


def test_an_array_of_nan_is_the_image_s_fault(upscaler: library.Upscaler) -> None:
    array = np.full((3, 10, 12), 0.5, np.float32)
    array[1, 2, 3] = np.nan
    for image in (array.transpose(1, 2, 0), torch.from_numpy(array)):
        with pytest.raises(library.ImageError, match="not finite numbers"):
            upscaler.upscale(image, 2)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copied_upscaler_makes_the_same_picture(
    upscaler: library.Upscaler, photo: np.ndarray, duplicate: Callable
) -> None:
    array = photo[:20, :30]
    np.testing.assert_array_equal(duplicate(upscaler).upscale(array, 2), upscaler.upscale(array, 2))


def test_the_first_use_draws_no_random_numbers(tiny_weights: Path) -> None:
    """In a process of its own: libraries that draw do so as they are imported."""
    code = (
        "import random, sys, strsr\n"
        "random.seed(7)\n"
        "import numpy as np\n"
        "strsr.upscale(np.zeros((8, 8), np.uint8), weights=sys.argv[1], device='cpu')\n"
        "drawn = random.random()\n"
        "random.seed(7)\n"
        "sys.exit(drawn != random.random())\n"
    )
    subprocess.run([sys.executable, "-c", code, tiny_weights], check=True, cwd=ROOT, env=environment())


# --- the package -----------------------------------------------------------------------------------


def test_settings_are_those_of_an_upscaler() -> None:
    parameters = list(inspect.signature(library.Upscaler).parameters)
    assert list(Settings.__annotations__) == parameters


def test_public_names_of_the_library_can_be_imported() -> None:
    assert all(getattr(library, name) is not None for name in library.__all__)
    assert set(library.__all__) <= set(dir(library))
    with pytest.raises(AttributeError):
        _ = library.nothing
