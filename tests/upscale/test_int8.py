"""--precision int8 from the command's side: pictures, what is skipped, what is refused, and ranges by export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

import strsr as library
from strsr_cli.upscale.backends import use_backend
from strsr_models.errors import UsageError
from strsr_models.pipelines.lite import LitePipeline

from ..conftest import EXAMPLES

Run = Callable[..., Result]
INT8 = ("--precision", "int8", "--backend", "openvino")


@pytest.fixture
def _openvino() -> None:
    pytest.importorskip("openvino")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a photo, its gray twin with alpha, and a file that is broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    photo = Image.open(EXAMPLES / "cat.png").convert("RGB").resize((63, 41))
    photo.save(folder / "colours.png")
    gray = photo.convert("LA")
    gray.putalpha(photo.convert("L"))
    gray.save(folder / "gray.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n none")
    return folder


@pytest.fixture
def measured(tiny: LitePipeline, tiny_weights: Path, pictures: Path, strsr: Run, tmp_path: Path) -> Path:
    """The tiny weights with ranges, made by export; and a faithful end, to which the ranges go as well."""
    other = tmp_path / "other"
    other.mkdir()
    with torch.no_grad():
        tiny.decoder.at_half[0].conv1.weight.mul_(3)
    tiny.save(other, {})
    folder = tmp_path / "measured"
    result = strsr("export", tiny_weights, folder, "--faithful", other, "--ranges", pictures)
    assert result.exit_code == 0, result.output
    return folder


def test_ranges_hold_both_ends_of_fidelity(
    measured: Path, tiny_weights: Path, pictures: Path, strsr: Run, tmp_path: Path
) -> None:
    strsr("export", tiny_weights, tmp_path / "sharp", "--ranges", pictures)
    sharp, both = (
        json.loads((folder / "ranges.json").read_text())["ranges"]
        for folder in (tmp_path / "sharp", measured)
    )
    layer = "decoder.at_half.0.conv2"
    assert both[layer][1] > 1.5 * sharp[layer][1]
    assert both["decoder.at_half.0.conv1"] == sharp["decoder.at_half.0.conv1"]


@pytest.mark.usefixtures("_openvino")
def test_pictures_are_nearly_those_of_floats_and_are_skipped(
    measured: Path, pictures: Path, strsr: Run, tmp_path: Path
) -> None:
    def upscale(name: str, *options: str) -> str:
        result = strsr("upscale", pictures, tmp_path / name, "--weights", measured, *options)
        assert result.exit_code == 1, result.output
        return result.output

    assert "2 done, 0 skipped, 1 failed" in upscale("int8", *INT8)
    floats = ("--precision", "fp32", "--backend", "openvino")
    assert "2 done, 0 skipped, 1 failed" in upscale("floats", *floats)
    for name, mode in (("colours.png", "RGB"), ("gray.png", "LA")):
        first, second = (Image.open(tmp_path / folder / name) for folder in ("int8", "floats"))
        assert first.mode == second.mode == mode
        assert first.size == second.size == (252, 164)
        difference = np.abs(np.asarray(first, float) - np.asarray(second, float)).max()
        assert 0 < difference <= 4
    assert "0 done, 2 skipped, 1 failed" in upscale("int8", *INT8)
    # Other ranges make other pictures.
    path = measured / "ranges.json"
    path.write_text(path.read_text().replace("[", "[ "))
    assert "2 done, 0 skipped, 1 failed" in upscale("int8", *INT8)
    assert "2 done, 0 skipped, 1 failed" in upscale("int8", "--precision", "fp32")


@pytest.mark.usefixtures("_openvino")
def test_the_library_has_the_pixels_of_the_command(measured: Path, strsr: Run, tmp_path: Path) -> None:
    cat = EXAMPLES / "cat.png"
    options = ("--weights", measured, *INT8, "--fidelity", "0.5", "--scale", "2")
    assert strsr("upscale", cat, tmp_path / "out.png", *options).exit_code == 0
    upscaler = library.Upscaler(weights=measured, precision="int8", backend="openvino", fidelity=0.5)
    assert np.array_equal(upscaler.upscale(cat, scale=2), Image.open(tmp_path / "out.png"))


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (("--model", "zimage"), 2, "strsr: --precision int8: is for --model lite, not zimage"),
        (("--compile",), 2, "drop --compile"),
        (("--backend", "torch"), 2, "--backend torch: does not compute in int8; drop it or --precision int8"),
    ],
)
@pytest.mark.usefixtures("_openvino")
def test_what_int8_cannot_is_one_line(
    options: tuple[str, ...], code: int, complaint: str, strsr: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    result = strsr("upscale", EXAMPLES / "cat.png", out, *INT8, *options)
    assert result.exit_code == code, result.output
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.usefixtures("_openvino")
def test_weights_without_ranges_are_told(tiny_weights: Path, strsr: Run, tmp_path: Path) -> None:
    arguments = ("upscale", EXAMPLES / "cat.png", tmp_path / "out.png", "--weights", tiny_weights, *INT8)
    refused = strsr(*arguments)
    assert refused.exit_code == 3
    assert "ranges.json: not there" in refused.stderr
    assert "strsr export RUN FOLDER --ranges PICTURES" in refused.stderr
    (tiny_weights / "ranges.json").write_text("no ranges")
    refused = strsr(*arguments)
    assert refused.exit_code == 3
    assert "ranges.json: cannot be read as ranges" in refused.stderr


@pytest.mark.usefixtures("_openvino")
def test_int8_is_for_cpus(tiny: LitePipeline, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = library.Upscaler(weights=measured, precision="int8", backend="openvino").options
    monkeypatch.setattr(LitePipeline, "device", torch.device("cuda"))
    with pytest.raises(UsageError, match="--precision int8: is for CPUs, not cuda; add --device cpu"):
        use_backend(tiny, options, "fp16", threads=1)


@pytest.mark.usefixtures("_openvino")
def test_a_default_device_of_the_callers_does_not_count(measured: Path) -> None:
    with torch.device("meta"):
        upscaler = library.Upscaler(weights=measured, precision="int8", backend="openvino", device="cpu")
        assert upscaler.upscale(EXAMPLES / "cat.png", scale=1).size == (160, 120)


def test_training_does_not_take_it(photos: Path, strsr: Run, tmp_path: Path) -> None:
    result = strsr("train", "--data", photos, "--out", tmp_path / "run", "--set", "precision=int8")
    assert result.exit_code == 2
    assert "int8" in result.stderr


def test_ranges_without_a_folder_are_refused(strsr: Run, tmp_path: Path) -> None:
    result = strsr("export", "lite", "--onnx", tmp_path / "lite.onnx", "--ranges", tmp_path)
    assert result.exit_code == 2
    assert "--ranges: belongs to a folder of weights; name OUT, too" in result.stderr
    assert not (tmp_path / "lite.onnx").exists()


def test_a_new_faithful_end_leaves_no_old_ranges(
    measured: Path, tiny: LitePipeline, strsr: Run, tmp_path: Path
) -> None:
    assert strsr("export", measured, tmp_path / "copy").exit_code == 0
    assert (tmp_path / "copy" / "ranges.json").exists()
    third = tmp_path / "third"
    third.mkdir()
    tiny.save(third, {})
    assert strsr("export", measured, tmp_path / "new", "--faithful", third).exit_code == 0
    assert not (tmp_path / "new" / "ranges.json").exists()


def test_pictures_for_ranges_must_be_there(
    tiny_weights: Path, strsr: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.png").write_bytes(b"none")
    complaints = {
        "absent": "no such folder",
        "empty": "no picture that can be read",
        "empty/a.png": "is not a folder; give one with pictures in it",
    }
    for folder, complaint in complaints.items():
        result = strsr("export", tiny_weights, tmp_path / "out", "--ranges", tmp_path / folder)
        assert result.exit_code == 2
        assert f"--ranges {tmp_path / folder}: {complaint}" in result.stderr
        assert not (tmp_path / "out").exists()
    assert "a.png" in caplog.text
