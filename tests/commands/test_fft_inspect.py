from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from skimage import data
from typer.testing import Result

from strsr_cli.batch.job import Job
from strsr_cli.images.color.restorer import to_tensor
from strsr_cli.images.read import read_image
from strsr_cli.inspection.inspect import find_sources
from strsr_cli.inspection.measure import fitted_slope, high_energy, inspect_image, log_spectrum
from strsr_cli.inspection.text import SPECTRUM_COLUMNS, folded_name, half_blocks, print_table, table_fits
from strsr_cli.upscale.files import grid_scores
from strsr_models.spectrum import LatticeReport, inspect_lattice, radial_profile
from strsr_models.spectrum.sample import report_by_bands

Run = Callable[..., Result]


def planted(photo: np.ndarray, period: int, levels: float = 4) -> np.ndarray:
    """The photo with a pattern of so many grey levels in each cell."""
    height, width = photo.shape[:2]
    cell = np.random.default_rng(0).standard_normal((period, period))
    grid = np.tile(cell - cell.mean(), (-(-height // period), -(-width // period)))[:height, :width, None]
    return np.rint(np.clip(photo + levels * grid, 0, 255)).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture(scope="module")
def coffee() -> np.ndarray:
    """A photo without a lattice, (256, 320, 3) uint8."""
    return np.asarray(data.coffee())[100:356, 200:520]


@pytest.fixture
def pair(coffee: np.ndarray, tmp_path: Path) -> Path:
    """A folder with a clean photo and the same with a grid, in a folder below."""
    root = tmp_path / "in"
    save(root / "clean.png", coffee)
    save(root / "sub" / "grid.png", planted(coffee, 16))
    return root


def objects(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_grid_is_told_from_the_photo_without_it(strsr: Run, pair: Path) -> None:
    result = strsr("fft-inspect", pair, "--json")
    assert result.exit_code == 0, result.output
    clean, grid = objects(result.stdout)
    assert (clean["verdict"], grid["verdict"]) == ("clean", "grid")
    assert grid["score_db"] > clean["score_db"] + 2
    assert grid["peaks"][0]["period"] == 16
    x, y, w, h = grid["region"]
    assert 0 <= x < x + w <= 320
    assert 0 <= y < y + h <= 256
    assert clean["region"] is None
    for limit, code in ((grid["score_db"] + 0.1, 0), (grid["score_db"] - 0.1, 1)):
        assert strsr("fft-inspect", pair, "--fail-above", limit).exit_code == code


@pytest.mark.parametrize("channel", ["luma", "g"])
def test_the_score_is_that_of_python(channel: str, strsr: Run, pair: Path) -> None:
    result = strsr("fft-inspect", pair, "--json", "--channel", channel, "--lattice", "16,5")
    for found in objects(result.stdout):
        image = to_tensor(read_image(Path(found["image"])).color)
        report = inspect_lattice(image, (16, 5), {"g": "green"}.get(channel, channel))
        assert list(found["excess_db"].values()) == pytest.approx(report.excess, abs=1e-3)
        assert list(found["coherence"].values()) == pytest.approx(report.coherence, abs=1e-3)


def test_lines_name_scores_verdict_and_strongest_peak(strsr: Run, pair: Path) -> None:
    clean, grid = strsr("fft-inspect", pair).stdout.splitlines()
    assert clean.startswith("clean ")
    assert grid.startswith("grid ")
    assert "16 px" in grid
    assert str(pair / "sub" / "grid.png") in grid
    assert "\x1b" not in grid


def test_jpeg_blocks_at_the_origin_are_called_jpeg(strsr: Run, coffee: np.ndarray, tmp_path: Path) -> None:
    blocks = save(tmp_path / "photo.jpg", coffee, quality=60)
    pixels = read_image(blocks).color
    shifted = save(tmp_path / "shifted.png", pixels[3:, 5:])
    grid = save(tmp_path / "grid.png", planted(coffee, 16))
    found = objects(strsr("fft-inspect", blocks, shifted, grid, "--json").stdout)
    assert [one["note"] for one in found] == ["JPEG blocks?", None, None]
    assert [one["verdict"] for one in found] == ["grid", "grid", "grid"]
    assert found[0]["excess_db"]["8"] > 3


@pytest.mark.parametrize("quality", [60, 80])
def test_webp_blocks_at_the_origin_are_called_webp(
    quality: int, strsr: Run, coffee: np.ndarray, tmp_path: Path
) -> None:
    save(tmp_path / "a.webp", coffee, quality=quality)
    inspection = objects(strsr("fft-inspect", tmp_path / "a.webp", "--json").stdout)[0]
    assert inspection["verdict"] == "grid"
    assert "WebP blocks?" in inspection["note"]


def test_a_plain_enlargement_is_clean_with_a_note(strsr: Run, coffee: np.ndarray, tmp_path: Path) -> None:
    small = Image.fromarray(coffee[:64, :80])
    small.resize((320, 256), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    small.resize((240, 192), Image.Resampling.NEAREST).save(tmp_path / "b.png")
    bicubic, nearest = objects(strsr("fft-inspect", tmp_path, "--json").stdout)
    assert bicubic["verdict"] == "clean"
    assert bicubic["interpolation"]["factor"] == 4
    gain = bicubic["interpolation"]["gain_db"]
    assert bicubic["note"] == f"interpolated x4, {gain:.1f} dB"
    assert nearest["verdict"] == "grid"
    assert nearest["note"] == "blocks of 3 px: nearest neighbour"
    assert "(interpolated x4" in strsr("fft-inspect", tmp_path / "a.png").stdout


def test_a_screenshot_that_is_not_clean_is_called_one(strsr: Run, tmp_path: Path) -> None:
    page = np.full((256, 320), 255, np.uint8)
    page[4::16, 8:300:4] = 0  # dotted rules, 16 px apart
    save(tmp_path / "page.png", page)
    inspection = objects(strsr("fft-inspect", tmp_path / "page.png", "--json").stdout)[0]
    assert inspection["verdict"] != "clean"
    assert "screenshot or drawing?" in inspection["note"]


def test_colours_that_transparency_hides_are_not_judged(
    strsr: Run, coffee: np.ndarray, tmp_path: Path
) -> None:
    grid = planted(coffee, 16)
    alpha = np.zeros((256, 320, 1), np.uint8)
    alpha[:, :130] = 255
    half = np.where(alpha > 0, coffee, grid)
    save(tmp_path / "a.png", np.concatenate([half, alpha], axis=2))
    save(tmp_path / "b.png", np.concatenate([grid, np.zeros_like(alpha)], axis=2))
    for inspection in objects(strsr("fft-inspect", tmp_path, "--json").stdout):
        assert inspection["verdict"] == "clean"


def test_a_crop_is_looked_at_alone(strsr: Run, coffee: np.ndarray, tmp_path: Path) -> None:
    half = coffee.copy()
    half[:, :160] = planted(coffee, 16)[:, :160]
    path = save(tmp_path / "half.png", half)
    left, right = (
        objects(strsr("fft-inspect", path, "--json", "--crop", crop).stdout)[0]
        for crop in ("0,0,160,256", "160,0,160,256")
    )
    assert (left["verdict"], right["verdict"]) == ("grid", "clean")
    assert left["crop"] == [0, 0, 160, 256]
    moved = objects(strsr("fft-inspect", path, "--json", "--crop", "32,64,128,128").stdout)[0]["region"]
    assert moved[0] >= 32
    assert moved[1] >= 64


def test_a_reference_of_the_same_name_stands_beside(strsr: Run, coffee: np.ndarray, tmp_path: Path) -> None:
    save(tmp_path / "made" / "a.png", planted(coffee, 16))
    save(tmp_path / "true" / "a.jpg", coffee, quality=95)
    save(tmp_path / "true" / "small.png", np.asarray(Image.fromarray(coffee).resize((80, 64))))
    against = objects(
        strsr("fft-inspect", tmp_path / "made", "--against", tmp_path / "true", "--json").stdout
    )[0]["against"]
    assert against["image"].endswith("a.jpg")
    assert against["resized_from"] is None
    assert against["high_frequency_energy_ratio"] > 1.05
    assert against["fdl_pixels"] > 0
    assert max(against["difference_db"]) > 0.5
    small = tmp_path / "true" / "small.png"
    against = objects(strsr("fft-inspect", tmp_path / "made", "--against", small, "--json").stdout)[0][
        "against"
    ]
    assert against["resized_from"] == [80, 64]
    assert against["high_frequency_energy_ratio"] > 3


def test_an_image_has_no_difference_from_itself(strsr: Run, pair: Path) -> None:
    args = ("--against", pair, "--crop", "0,0,96,80", "--json")
    line = strsr("fft-inspect", pair / "clean.png", *args).stdout
    against = json.loads(line)["against"]
    assert against["fdl_pixels"] == 0
    assert against["high_frequency_energy_ratio"] == 1
    assert set(against["difference_db"]) == {0}


def test_images_of_all_kinds_are_read(strsr: Run, coffee: np.ndarray, tmp_path: Path) -> None:
    import cv2

    gray = planted(coffee, 16)[..., :1]
    save(tmp_path / "a-gray.png", gray[..., 0])
    save(tmp_path / "b-rgb.png", gray.repeat(3, axis=2))
    alpha = np.random.default_rng(0).integers(0, 255, gray.shape, dtype=np.uint8)
    save(tmp_path / "c-alpha.png", np.concatenate([gray.repeat(3, axis=2), alpha], axis=2))
    cv2.imwrite(str(tmp_path / "d-deep.png"), gray.astype(np.uint16) * 257)
    save(tmp_path / "e.bmp", gray.repeat(3, axis=2))
    save(tmp_path / "f.tif", gray[..., 0])
    found = objects(strsr("fft-inspect", tmp_path, "--json").stdout)
    assert [one["score_db"] for one in found] == pytest.approx([found[0]["score_db"]] * 6, abs=1e-3)


def test_small_and_constant_images_are_judged_as_far_as_possible(strsr: Run, tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((16, 16, 3), 80, np.uint8))
    save(tmp_path / "b.png", np.full((200, 300), 255, np.uint8))
    result = strsr("fft-inspect", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    small, constant = objects(result.stdout)
    assert small["excess_db"] == {"4": 0, "8": None, "16": None}
    assert constant["excess_db"] == {"4": 0, "8": 0, "16": 0}
    assert {small["verdict"], constant["verdict"]} == {"clean"}
    assert "NaN" not in result.stdout
    assert strsr("fft-inspect", tmp_path / "a.png", "--out", tmp_path / "sheet.png").exit_code == 0


@pytest.mark.parametrize("as_json", [False, True])
def test_bad_files_are_named_and_the_rest_go_on(as_json: bool, strsr: Run, pair: Path) -> None:
    (pair / "bad.png").write_text("no")
    save(pair / "dot.png", np.zeros((1, 1, 3), np.uint8))
    result = strsr("fft-inspect", pair, *(["--json"] if as_json else []))
    assert result.exit_code == 1
    text = result.stdout if as_json else result.stderr
    assert "bad.png: not a PNG, JPEG, WebP" in text
    assert "dot.png: 1x1 px is too small to judge" in text
    assert "Traceback" not in result.output
    assert len(result.stdout.splitlines()) == (4 if as_json else 2)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["{in}/none.png"], 2, "no such file or folder"),
        (["{in}/empty"], 2, "no images in this folder"),
        (["{in}/text.png"], 1, "not a PNG, JPEG"),
        (["{in}/clean.png", "--crop", "1,2,3"], 2, "--crop 1,2,3: use x,y,w,h"),
        (["{in}/clean.png", "--crop", "0,0,0,5"], 2, "--crop 0,0,0,5: use x,y,w,h"),
        (["{in}/clean.png", "--crop", "-1,0,5,5"], 2, "--crop -1,0,5,5: use x,y,w,h"),
        (["{in}/clean.png", "--crop", "300,0,64,64"], 1, "reaches beyond its 320x256 px"),
        (["{in}/clean.png", "--lattice", "0"], 2, "--lattice 0: use whole periods"),
        (["{in}/clean.png", "--lattice", "abc"], 2, "--lattice abc: use whole periods"),
        (["{in}/clean.png", "--lattice", "4,4"], 2, "--lattice 4,4: use whole periods"),
        (["{in}/clean.png", "--lattice", ""], 2, "--lattice : use whole periods"),
        (["{in}/clean.png", "--fail-above", "nan"], 2, "--fail-above nan: use a number"),
        (["{in}/clean.png", "--out", "/proc/none/sheet.png"], 2, "--out /proc/none/sheet.png: cannot be written"),
        (["{in}/clean.png", "--out", "sheet.jpg"], 2, "sheets are PNG files"),
        (["{in}/clean.png", "--out", "{in}/clean.png"], 2, "would replace an image"),
        (["{in}/clean.png", "{in}/text.png", "--out", "{in}/sheet.png"], 2, "2 images want a folder"),
        (["{in}/clean.png", "--out", "{in}/text.png/folder"], 2, "cannot be written"),
        (["{in}", "--out", "{in}"], 2, "sheets would lie among the images"),
        (["{in}/clean.png", "--against", "{in}/none"], 2, "no such file or folder"),
        (["{in}/clean.png", "--against", "{in}/empty"], 1, "no clean.png there"),
        (["{in}/clean.png", "--against", "{in}/tall.png"], 1, "has another shape than"),
        (["{in}/clean.png", "--max-pixels", "81919"], 1, "is more than --max-pixels 81919"),
        (["{in}/tall.png", "--against", "{in}/clean.png", "--max-pixels", "81919"], 1, "clean.png: 320x256 px is more"),
        (["{in}/clean.png", "--channel", "alpha"], 2, "alpha"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_the_right_code(
    args: list[str], code: int, message: str, strsr: Run, pair: Path
) -> None:
    (pair / "empty").mkdir()
    (pair / "text.png").write_text("no")
    save(pair / "tall.png", np.zeros((300, 100), np.uint8))
    result = strsr("fft-inspect", *(arg.format(**{"in": pair}) for arg in args))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (pair / "sheet.png").exists()


@pytest.mark.parametrize("factor", [1e-3, 6e4, 1e25])
def test_floats_of_any_range_are_judged(factor: float, strsr: Run, tmp_path: Path) -> None:
    """The largest of such numbers is taken for white."""
    pixels = np.random.default_rng(0).random((64, 64), np.float32) * np.float32(factor)
    pixels[0, 0] = factor
    result = strsr("fft-inspect", save(tmp_path / "float.tif", pixels), "--json")
    (found,) = objects(result.stdout)
    assert found["verdict"] == "clean"


# --- pictures ----------------------------------------------------------------------------------------


def test_a_sheet_is_drawn_for_each_image_and_a_summary(
    strsr: Run, pair: Path, coffee: np.ndarray, tmp_path: Path
) -> None:
    save(pair / "clean.bmp", coffee[:64, :96])
    save(pair / "cost$_{5$.png", coffee[:64, :64])
    out = pair / "sheets"
    result = strsr("fft-inspect", pair, "--out", out, "--against", pair / "clean.png", "--crop", "0,0,64,64")
    assert result.exit_code == 1  # two have another shape than the reference
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert made == ["clean.png.png", "sub/grid.png", "summary.png"]
    for name in made:
        with Image.open(out / name) as image:
            assert image.width == 1200
    again = strsr("fft-inspect", pair / "cost$_{5$.png", "--out", out)
    assert again.exit_code == 0, again.output
    assert (out / "cost$_{5$.png").exists()
    assert len(find_sources([str(pair)], out)) == 4  # sheets are not looked at


def test_a_sheet_shows_where_the_grid_is(strsr: Run, coffee: np.ndarray, tmp_path: Path) -> None:
    names = ("clean", "grid")
    for name, pixels in zip(names, (coffee, planted(coffee, 16)), strict=True):
        strsr("fft-inspect", save(tmp_path / f"{name}.png", pixels), "--out", tmp_path / f"{name}-sheet.png")
    clean, grid = (np.asarray(Image.open(tmp_path / f"{name}-sheet.png").convert("RGB")) for name in names)
    spectrum = np.s_[130:460, 850:1180]  # the upper right panel
    vermilion = [
        (np.abs(sheet[spectrum].astype(int) - (213, 94, 0)).max(-1) < 25).sum() for sheet in (clean, grid)
    ]
    assert vermilion[1] > 1.5 * vermilion[0]


def test_the_drawn_spectrum_has_a_wave_where_it_belongs() -> None:
    y, x = torch.meshgrid(torch.arange(192), torch.arange(256), indexing="ij")
    wave = 0.5 + 0.1 * torch.cos(2 * torch.pi * (x / 8 + y / 4))[None, None]
    spectrum = log_spectrum(wave, (4, 8, 16))
    side, middle = len(spectrum), len(spectrum) // 2
    assert side % 16 == 0
    across, down = side // 8, side // 4
    peaks = {tuple(at) for at in np.argwhere(spectrum > spectrum.max() - 1)}
    assert peaks == {(middle - down, middle - across), (middle + down, middle + across)}
    inner = spectrum[1:, 1:]
    np.testing.assert_allclose(inner, inner[::-1, ::-1], atol=1e-3)


def test_half_blocks_fill_a_square_and_dots_are_brightest() -> None:
    for side in (16, 64, 130, 256):
        spectrum = np.random.default_rng(0).normal(0, 1, (side, side))
        spectrum[side // 4, side // 4] = 30
        lines = half_blocks(spectrum)
        assert [len(line.plain) for line in lines] == [SPECTRUM_COLUMNS] * (SPECTRUM_COLUMNS // 2)
        colors = [span.style for line in lines for span in line.spans]
        assert any("rgb(252,253,191)" in str(style) for style in colors)


# --- measures ----------------------------------------------------------------------------------------


def test_white_noise_has_four_fifths_of_energy_above_a_quarter() -> None:
    noise = 0.1 * torch.randn(1, 1, 512, 512)
    assert high_energy(noise) == pytest.approx(0.01 * (1 - torch.pi / 16), rel=0.02)


@pytest.mark.parametrize("slope", [-1.0, -2.0])
def test_the_slope_of_noise_made_to_fall_is_found(slope: float) -> None:
    side = 512
    fy, fx = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    fall = torch.hypot(fy[:, None], fx).clamp_min(1 / side) ** (slope / 2)
    image = torch.fft.irfft2(torch.fft.rfft2(torch.randn(side, side)) * fall)
    frequency, profile = radial_profile(image[None, None])
    assert fitted_slope(frequency.numpy(), profile[0].numpy()) == pytest.approx(slope, abs=0.15)


# --- strsr upscale --check-grid ----------------------------------------------------------------------


def banded(pixels: np.ndarray) -> LatticeReport:
    size = (pixels.shape[0], pixels.shape[1])
    return report_by_bands(size, lambda rows, columns: to_tensor(pixels[rows, columns]))


def test_bands_of_a_picture_give_the_report_on_the_whole(coffee: np.ndarray) -> None:
    tall = np.tile(planted(coffee, 16), (3, 1, 1))
    assert banded(tall) == inspect_lattice(to_tensor(tall))
    assert all(np.isnan(banded(np.zeros((9, 9, 1), np.uint16)).excess))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
@pytest.mark.parametrize("alpha", [False, True])
def test_the_check_and_the_inspection_print_one_figure(
    suffix: str, alpha: bool, strsr: Run, tiny_weights: Path, photo: np.ndarray, tmp_path: Path
) -> None:
    pixels = photo[:40, :50]
    if alpha:
        hidden = np.full((40, 50, 1), 255, np.uint8)
        hidden[:, 25:] = 0
        pixels = np.concatenate([pixels, hidden], axis=2)
    source = save(tmp_path / "photo.png", pixels)
    target = tmp_path / f"large{suffix}"
    events = objects(
        strsr("upscale", source, target, "--weights", tiny_weights, "--check-grid", "--json").stdout
    )
    done = next(event for event in events if event["event"] == "done")
    file = objects(strsr("fft-inspect", target, "--json").stdout)[0]
    if suffix in (".png", ".tif"):
        assert "after_encoding" not in done
        assert file["score_db"] == pytest.approx(done["score_db"], abs=0.05)
        assert file["verdict"] == done["verdict"]
    else:
        assert done["before_encoding"] == {name: done[name] for name in ("verdict", "score_db")}
        assert done["after_encoding"]["score_db"] == pytest.approx(file["score_db"], abs=0.05)
        assert done["after_encoding"]["verdict"] == file["verdict"]


def test_outputs_are_scored_as_they_are_made(
    strsr: Run, tiny_weights: Path, photo: np.ndarray, tmp_path: Path
) -> None:
    source = save(tmp_path / "photo.png", photo[:40, :50])
    args = ("upscale", source, tmp_path / "out", "--weights", tiny_weights, "--overwrite")
    plain = objects(strsr(*args, "--json").stdout)
    assert "score_db" not in next(event for event in plain if event["event"] == "done")
    checked = objects(strsr(*args, "--json", "--check-grid", "--grid-limit", "-90").stdout)
    done = next(event for event in checked if event["event"] == "done")
    assert done["verdict"] in ("clean", "suspect", "grid")
    warning = next(event for event in checked if event["event"] == "message")
    assert f"stands out by {done['score_db']:.1f} dB" in warning["text"]
    lines = strsr(*args, "--check-grid", "--grid-limit", "90").stderr
    assert f"grid {done['score_db']:.1f} dB: {done['verdict']}" in lines
    assert "warning" not in lines


def test_a_finished_folder_is_scored_as_its_files_are(
    strsr: Run, tiny_weights: Path, photo: np.ndarray, coffee: np.ndarray, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.jpg", "c.tif", "small.png"):
        save(folder / name, photo[:4, :4] if name == "small.png" else photo[:40, :50])
    args = ("upscale", folder, out, "--weights", tiny_weights)
    assert strsr(*args).exit_code == 0
    result = strsr(*args, "--check-grid", "--json", "--grid-limit", "-90")
    events = objects(result.stdout)
    figures = {value["image"]: value for value in objects(strsr("fft-inspect", out, "--json").stdout)}
    skipped = {event["output"]: event for event in events if event["event"] == "skipped"}
    assert len(skipped) == 4
    for name, event in skipped.items():
        assert event["reason"] == "done before"
        for key in ("verdict", "score_db"):
            wanted = figures[name].get(key)
            assert event[key] == (wanted if key == "verdict" else pytest.approx(wanted, abs=0.001))
    jpeg = skipped[str(out / "sub" / "b.jpg")]
    assert jpeg["after_encoding"] == {key: jpeg[key] for key in ("verdict", "score_db")}
    assert sum(events[-1]["verdicts"].values()) == 4
    assert sum("stands out by" in event.get("text", "") for event in events) == 4
    lines = strsr(*args, "--check-grid").stderr.splitlines()
    assert sum(line.startswith("skipped ") and ": done before, grid " in line for line in lines) == 4
    assert any(line.startswith("grid: ") for line in lines)
    # A file that was changed since is none of ours.
    save(out / "a.png", planted(coffee, 16))
    events = objects(strsr(*args, "--check-grid", "--json").stdout)
    changed = next(
        event for event in events if event.get("output") == str(out / "a.png") and "reason" in event
    )
    assert "verdict" not in changed


def test_outputs_without_a_journal_are_scored_too(
    strsr: Run, tiny_weights: Path, photo: np.ndarray, coffee: np.ndarray, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for name in ("a.png", "b.png"):
        save(folder / name, photo[:40, :50])
    save(out / "a.png", planted(coffee, 16))
    (out / "b.png").write_bytes(b"no image")
    result = strsr(
        "upscale", folder, out, "--weights", tiny_weights, "--no-journal", "--check-grid", "--json"
    )
    events = objects(result.stdout)
    assert result.exit_code == 0
    scores = {Path(e["output"]).name: e.get("verdict") for e in events if e["event"] == "skipped"}
    assert scores == {"a.png": "grid", "b.png": None}
    texts = " ".join(event.get("text", "") for event in events)
    assert "a grid of 16 px stands out" in texts
    assert "b.png: not looked at for a grid" in texts


@pytest.mark.parametrize("args", [["--grid-limit", "3"], ["--check-grid", "--grid-limit", "nan"]])
def test_a_grid_limit_is_a_number_and_wants_the_check(args: list[str], strsr: Run, pair: Path) -> None:
    result = strsr("upscale", pair, pair / "out", *args)
    assert result.exit_code == 2
    assert "use a number of dB, together with --check-grid" in result.stderr


@pytest.mark.parametrize("asked", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_color_is_used_where_the_terminal_has_it(asked: dict[str, str], pair: Path) -> None:
    path = pair / "sub" / "grid.png"
    inspection = inspect_image(str(path), to_tensor(read_image(path).color), (4, 8, 16))
    terminal = {"TERM": "xterm-256color", "COLORTERM": "truecolor", **asked}
    shown = StringIO()
    shown_as = Console(file=shown, force_terminal=True, width=100, _environ=terminal)
    print_table(shown_as, [inspection], (4, 8, 16))
    assert "grid" in shown.getvalue()
    assert ("\N{UPPER HALF BLOCK}" in shown.getvalue()) == ("38;2;" in shown.getvalue()) == (not asked)


@pytest.mark.parametrize(
    ("width", "periods", "fits"), [(80, (4, 8, 16), True), (60, (4, 8, 16), False), (80, tuple(range(2, 12)), False)]
)  # fmt: skip
def test_a_table_wants_room_for_names(width: int, periods: tuple[int, ...], fits: bool) -> None:
    assert table_fits(Console(width=width), periods) == fits


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_names_are_shown_on_one_line(strsr: Run, coffee: np.ndarray, tmp_path: Path) -> None:
    plain = save(tmp_path / "in" / "a.png", coffee)
    for name in (b"bytes-\xff.png", "two\nlines \x1b[31m \u65e5.png".encode()):
        (plain.parent / os.fsdecode(name)).write_bytes(plain.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of letters that the sheets' font lacks
        result = strsr("fft-inspect", plain.parent, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert [line.rpartition("in/")[2] for line in result.stdout.splitlines()] == [
        "a.png",
        "bytes-?.png",
        "two?lines ?[31m \u65e5.png",
    ]
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_terminal_of_few_letters_gets_names_escaped(coffee: np.ndarray, tmp_path: Path) -> None:
    path = save(tmp_path / "\u65e5.png", coffee[:32, :32])
    command = [sys.executable, "-m", "strsr_cli", "fft-inspect", path]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "\\u65e5.png" in result.stdout


def test_a_warning_names_the_period_that_the_verdict_is_about(
    coffee: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """A cell of 8 px of random numbers may score more under 4 px, whose harmonics it has too."""
    strong = planted(planted(coffee, 8, levels=2), 4, levels=8)
    job = Job(Path("in.png"), Path("out.png"), "png")
    found = grid_scores(job, strong, None)
    excess = dict(zip((4, 8, 16), banded(strong).excess, strict=True))
    assert found == {"verdict": "grid", "score_db": round(excess[4], 3)}
    assert excess[4] > excess[8]
    assert f"a grid of 8 px stands out by {excess[8]:.1f} dB" in caplog.text


def test_long_names_fold_behind_their_marks() -> None:
    assert folded_name("holidays/IMG_2019_large.png", 16) == "holidays/IMG_\n2019_large.png"
    assert folded_name("abcdefgh", 4) == "abcdefgh"
    assert folded_name("a b", 80) == "a b"
    assert folded_name("", 80) == ""
