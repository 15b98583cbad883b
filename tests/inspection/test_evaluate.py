"""`strsr evaluate`: pairs by name; PSNR and SSIM as scikit-image has them; errors of a pair end that pair alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from typer.testing import Result

from strsr_cli.inspection import quality
from strsr_cli.inspection.evaluate import Row, table
from strsr_cli.inspection.pairs import pair
from strsr_cli.inspection.quality import Quality

Run = Callable[..., Result]


@pytest.fixture
def noisy(photo: np.ndarray) -> np.ndarray:
    """The photo with an error that depends on the channel."""
    noise = np.random.default_rng(0).normal(0, (4, 8, 12), photo.shape)
    return (photo + noise).round().clip(0, 255).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path, photo: np.ndarray, noisy: np.ndarray) -> tuple[Path, Path]:
    """Outputs: one with noise, one equal to its reference, one of another size, one without reference."""
    out, references = tmp_path / "out", tmp_path / "references"
    (out / "sub").mkdir(parents=True)
    (references / "sub").mkdir(parents=True)
    for name in ("sub/noisy.bmp", "equal.png", "small.png", "unused.png"):
        Image.fromarray(photo).save(references / name)
    Image.fromarray(noisy).save(out / "sub" / "noisy_x4.png")
    Image.fromarray(photo).save(out / "equal.webp", lossless=True)
    Image.fromarray(photo[:-1]).save(out / "small_x2.png")
    Image.fromarray(photo).save(out / "stranger.png")
    return out, references


def evaluated(strsr: Run, out: Path, against: Path, *options: object, code: int = 0) -> dict:
    result = strsr("evaluate", out, "--against", against, "--json", *options)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_every_output_is_measured_or_named(strsr: Run, folders: tuple[Path, Path]) -> None:
    scores = evaluated(strsr, *folders, code=1)
    assert [Path(row["output"]).name for row in scores["pairs"]] == ["equal.webp", "noisy_x4.png"]
    equal, noisy = scores["pairs"]
    assert (equal["equal"], equal["psnr_y"], equal["psnr_rgb"], equal["ssim_y"]) == (True, None, None, 1)
    assert noisy["equal"] is False
    assert scores["mean"]["psnr_y"] == noisy["psnr_y"]
    assert scores["mean"]["ssim_y"] == pytest.approx((1 + noisy["ssim_y"]) / 2, abs=1e-6)
    errors = {Path(row["output"]).name: row["error"] for row in scores["failed"]}
    assert "has 160x119 px" in errors["small_x2.png"]
    assert "160x120; nothing is resized" in errors["small_x2.png"]
    assert "no stranger" in errors["stranger.png"]
    assert [Path(path).name for path in scores["unused"]] == ["unused.png"]


@pytest.mark.parametrize("border", [0, 4])
def test_numbers_are_those_of_an_independent_library(
    strsr: Run, folders: tuple[Path, Path], photo: np.ndarray, noisy: np.ndarray, border: int
) -> None:
    files = folders[0] / "sub" / "noisy_x4.png", folders[1] / "sub" / "noisy.bmp"
    (row,) = evaluated(strsr, *files, "--border", border)["pairs"]
    inner = slice(border, -border or None)
    first, second = noisy[inner, inner], photo[inner, inner]
    assert row["psnr_rgb"] == pytest.approx(peak_signal_noise_ratio(second, first, data_range=255), abs=1e-4)
    luma = [rgb2ycbcr(image)[..., 0] for image in (second, first)]
    assert row["psnr_y"] == pytest.approx(peak_signal_noise_ratio(*luma, data_range=255), abs=1e-4)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    whole = structural_similarity(*luma, data_range=255, **settings)
    assert row["ssim_y"] == pytest.approx(whole, abs=1e-5)


def test_bands_make_up_the_whole(
    strsr: Run, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = folders[0] / "sub" / "noisy_x4.png", folders[1] / "sub" / "noisy.bmp"
    (whole,) = evaluated(strsr, *files)["pairs"]
    for rows in (1, 7, 50):
        monkeypatch.setattr(quality, "BAND", rows)
        assert evaluated(strsr, *files)["pairs"] == [whole]


def test_sixteen_bits_are_not_rounded(strsr: Run, tmp_path: Path) -> None:
    for name, value in (("a.png", 30_000), ("b.png", 30_010)):
        Image.fromarray(np.full((20, 20), value, np.uint16)).save(tmp_path / name)
    (row,) = evaluated(strsr, tmp_path / "a.png", tmp_path / "b.png")["pairs"]
    assert row["psnr_rgb"] == pytest.approx(20 * math.log10(65_535 / 10), abs=0.01)
    assert row["psnr_y"] == pytest.approx(row["psnr_rgb"] + 20 * math.log10(255 / 219), abs=0.01)


def test_pictures_of_two_profiles_are_compared_in_srgb(strsr: Run, tmp_path: Path, photo: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(photo).save(tmp_path / "b.png", icc_profile=srgb)
    (row,) = evaluated(strsr, tmp_path / "a.png", tmp_path / "b.png")["pairs"]
    # As good as equal: the profile goes through tables.
    assert row["equal"] or row["psnr_rgb"] > 45


def test_small_and_gray_pictures_have_what_can_be_told(strsr: Run, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 100).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), (110, 110, 110)).save(tmp_path / "b.png")
    (row,) = evaluated(strsr, tmp_path / "a.png", tmp_path / "b.png")["pairs"]
    assert row["psnr_rgb"] == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)
    assert (row["ssim_y"], row["lpips"], row["grid_db"]) == (None, None, None)
    failed = evaluated(strsr, tmp_path / "a.png", tmp_path / "b.png", "--border", 4, code=1)["failed"]
    assert "too small for --border 4" in failed[0]["error"]


def test_lpips_is_measured_by_weights_that_are_named(
    strsr: Run, folders: tuple[Path, Path], squeezenet: Path
) -> None:
    pytest.importorskip("lpips")
    scores = evaluated(strsr, *folders, "--lpips", "squeeze", "--lpips-weights", squeezenet, code=1)
    equal, noisy = scores["pairs"]
    assert equal["lpips"] == 0
    assert noisy["lpips"] > 0
    assert scores["lpips_net"] == "squeeze"


def test_lpips_without_weights_is_left_out_or_refused(
    strsr: Run, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    result = strsr("evaluate", folders[0], "--against", folders[1])
    assert result.exit_code == 1
    assert "LPIPS" not in result.stdout
    assert "LPIPS is left out" in result.stderr
    refused = strsr("evaluate", folders[0], "--against", folders[1], "--lpips", "alex")
    assert refused.exit_code == 3
    assert "alexnet" in refused.stderr
    assert list(tmp_path.rglob("*.pth")) == []
    unnamed = strsr("evaluate", folders[0], "--against", folders[1], "--lpips-weights", "x.pth")
    assert unnamed.exit_code == 2


@pytest.mark.parametrize(
    ("out", "against", "reason"),
    [
        ("none", "references", "OUT none: no such file"),
        ("out", "none", "--against none: no such file"),
        ("out", "references/equal.png", "OUT is a folder"),
        ("out", "out", "is OUT itself"),
        ("empty", "references", "no images in this folder"),
    ],
)
def test_paths_that_make_no_sense_are_refused(
    strsr: Run,
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    out: str,
    against: str,
    reason: str,
) -> None:
    monkeypatch.chdir(folders[0].parent)
    Path("empty").mkdir()
    result = strsr("evaluate", out, "--against", against)
    assert result.exit_code == 2
    assert reason in result.stderr


def test_references_are_found_by_the_nearest_name(tmp_path: Path) -> None:
    out, references = tmp_path / "out", tmp_path / "references"
    wanted = {
        "a_x4.png": "a.jpg",
        "b.png": "b.png",
        "c_x2.png": "c_x2.bmp",
        "d.jpg.webp": "d.jpg",
        "sub/e_X1.5.png": "sub/E.png",
        "f.png": "else/f.tif",
        "g.png": None,
        "h.png": None,
        # It is no suffix of an upscaler.
        "i_xl.png": None,
    }
    there = [name for name in wanted.values() if name]
    there += ["b.jpg", "c.png", "d.png", "e.png", "g.jpg", "g.webp", "i.png"]
    for folder, names in ((out, wanted), (references, there)):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    pairs = pair(out, references)
    found = {
        str(first.relative_to(out)): str(second.relative_to(references)) for first, second in pairs.pairs
    }
    assert found == {name: reference for name, reference in wanted.items() if reference}
    lonely = {path.name: reason for path, reason in pairs.lonely}
    assert set(lonely) == {"g.png", "h.png", "i_xl.png"}
    assert "2 references may be meant: g.jpg, g.webp" in lonely["g.png"]


def test_a_table_fits_eighty_columns_and_keeps_its_numbers() -> None:
    some = Quality(100, 100, 31.234, math.inf, 0.98765, 0.1234, "clean", 0.44, 0.1)
    name = Path("out") / f"{'long' * 30}.png"
    rows = [Row(name, Path("r.png"), some), Row(Path("out/b.png"), Path("b.png"), some), Row(Path("x"), None)]
    lines = table(rows, "alex", Path("out"), 80)
    assert {len(line) for line in lines} == {80}
    assert lines[0].split() == [
        "output",
        "PSNR-Y",
        "dB",
        "PSNR-RGB",
        "dB",
        "SSIM-Y",
        "LPIPS",
        "alex",
        "grid",
        "dB",
    ]
    assert lines[1].split()[1:] == lines[2].split()[1:] == ["31.23", "equal", "0.9877", "0.1234", "0.4"]
    assert lines[3].split() == ["mean", "of", "2", "31.23", "-", "0.9877", "0.1234", "0.4"]
    assert str(name.name) in table(rows, "alex", Path("out"), None)[1]
