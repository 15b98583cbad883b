"""`strsr upscale --longest ...`: outputs of a size, in place of a factor."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def upscale(strsr: Run, tiny_weights: Path) -> Run:
    """Run `strsr upscale` with a tiny network."""
    return partial(strsr, "upscale", "--weights", tiny_weights)


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    """Pictures of 40x30, 64x64 and 200x100 px."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, width, height in (("a", 40, 30), ("b", 64, 64), ("c", 200, 100)):
        Image.fromarray(photo[:height, :width] if width < 100 else np.resize(photo, (height, width, 3))).save(
            folder / f"{name}.png"
        )
    return folder


def sizes(out: Path) -> dict[str, tuple[int, int]]:
    """The (width, height) of all outputs by their stems."""
    return {path.stem: pixels_of(path).shape[1::-1] for path in sorted(out.glob("*.png"))}


def pixels_of(path: Path) -> np.ndarray:
    """The pixels of an image file."""
    with Image.open(path) as image:
        return np.asarray(image)


def test_outputs_are_of_the_size_asked_for(upscale: Run, folder: Path, tmp_path: Path) -> None:
    result = upscale(folder, tmp_path / "out", "--longest", "100")
    assert result.exit_code == 1
    assert sizes(tmp_path / "out") == {"a": (100, 75), "b": (100, 100)}
    assert "c.png: 200x100 px: is already larger than longest 100; with > behind the number" in result.stderr
    upscale(folder, tmp_path / "box", "--width", "300", "--height", "150", "--cover")
    assert sizes(tmp_path / "box") == {"a": (300, 225), "b": (300, 300), "c": (300, 150)}


def test_larger_pictures_are_reduced_by_lanczos(upscale: Run, folder: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (50, 120), np.uint16)
    Image.fromarray(pixels).save(folder / "deep.png")
    assert upscale(folder, tmp_path / "out", "--longest", "100>").exit_code == 0
    assert sizes(tmp_path / "out") == {"a": (100, 75), "b": (100, 100), "c": (100, 50), "deep": (100, 42)}
    with Image.open(folder / "c.png") as image:
        expected = np.asarray(image.resize((100, 50), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(pixels_of(tmp_path / "out" / "c.png"), expected)
    deep = pixels_of(tmp_path / "out" / "deep.png")
    assert deep.dtype == np.uint16
    smooth = np.asarray(
        Image.fromarray(pixels.astype(np.float32)).resize((100, 42), Image.Resampling.LANCZOS)
    )
    assert np.abs(deep - smooth.clip(0, 65535)).max() <= 0.5


def test_larger_pictures_keep_their_size_and_are_restored(upscale: Run, folder: Path, tmp_path: Path) -> None:
    assert upscale(folder, tmp_path / "out", "--longest", "100<").exit_code == 0
    assert sizes(tmp_path / "out")["c"] == (200, 100)
    # As at scale 1: it went through the network.
    assert upscale(folder / "c.png", tmp_path / "c1.png", "--scale", 1).exit_code == 0
    assert (tmp_path / "c1.png").read_bytes() == (tmp_path / "out" / "c.png").read_bytes()


def test_a_dry_run_knows_the_sizes(upscale: Run, folder: Path, tmp_path: Path) -> None:
    result = upscale(folder, tmp_path / "out", "--megapixels", "0.0064>", "--dry-run", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    planned = {Path(event["input"]).stem: event for event in events if event["event"] == "planned"}
    assert {stem: (event["to_width"], event["to_height"]) for stem, event in planned.items()} == {
        "a": (92, 69),
        "b": (80, 80),
        "c": (113, 57),
    }
    assert not (tmp_path / "out").exists()


def test_another_size_makes_outputs_anew(upscale: Run, folder: Path, tmp_path: Path) -> None:
    def counts(*size: str) -> tuple[int, int]:
        result = upscale(folder, tmp_path / "out", *size, "--json")
        last = json.loads(result.stdout.splitlines()[-1])
        return last["done"], last["skipped"]

    assert counts("--longest", "100>") == (3, 0)
    assert counts("--longest", "100>") == (0, 3)
    assert counts("--longest", "100<") == (3, 0)
    assert counts("--longest", "120<") == (3, 0)


def test_one_size_is_enough(upscale: Run, folder: Path, tmp_path: Path) -> None:
    for options in (("--scale", 2, "--longest", 100), ("--longest", "4k"), ("--cover",)):
        result = upscale(folder, tmp_path / "out", *options)
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()
