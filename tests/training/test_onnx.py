"""`strsr export --onnx`: what another runtime computes is what lite computes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import Result

from strsr_models.encoders.lite import resize_short_side
from strsr_models.load import load_pipeline
from strsr_models.pipelines.onnx import NEW_ENOUGH, pooling

from ..helpers.random_lite import made, quarter

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Run = Callable[..., Result]
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < tuple(map(int, NEW_ENOUGH.split(".")))


@pytest.mark.parametrize("length", [4, 7, 8, 9, 13, 32])
def test_pooling_is_pytorchs(length: int) -> None:
    image = torch.rand(1, 5, length, length + 3)
    pooled = pooling(length, 4) @ image @ pooling(length + 3, 4).T
    assert torch.allclose(pooled, F.adaptive_avg_pool2d(image, 4), atol=1e-6)


@pytest.mark.skipif(OLD, reason="this PyTorch cannot write it")
@pytest.mark.parametrize("shape", ["pyramid", "quarter"])
def test_a_file_computes_what_lite_does(shape: str, tiny_weights: Path, tmp_path: Path, strsr: Run) -> None:
    if shape == "quarter":
        made(quarter()).save(tiny_weights, {})
    file = tmp_path / "lite.onnx"
    result = strsr("export", tiny_weights, "--onnx", file)
    assert result.exit_code == 0, result.output
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    pipeline = load_pipeline("lite", tiny_weights)
    assert (facts["multiple_of"], facts["sigma"]) == (str(pipeline.multiple_of), "0.8")
    step, side = int(facts["multiple_of"]), int(facts["short_side"])
    for (rows, columns), picture in (((1, 1), (32, 33)), ((3, 2), (50, 400)), ((2, 7), (90, 61))):
        tile, whole = torch.rand(1, 3, rows * step, columns * step), torch.rand(1, 3, *picture)
        overview = resize_short_side(whole, side)
        given = {"tile": tile.numpy(), "overview": overview.numpy()}
        (restored,) = session.run(None, given)
        with torch.no_grad():
            expected = pipeline.restore(tile, pipeline.encode_condition(whole)).numpy()
        assert np.abs(restored - expected).max() < 1e-5
        assert np.abs(restored - tile.numpy()).max() > 0.01


@pytest.mark.skipif(not OLD, reason="this PyTorch can write it")
def test_an_old_pytorch_is_told(tiny_weights: Path, tmp_path: Path, strsr: Run) -> None:
    result = strsr("export", tiny_weights, "--onnx", tmp_path / "lite.onnx")
    assert result.exit_code == 2
    assert f"{NEW_ENOUGH} or later can" in result.output


def test_what_is_there_is_not_replaced(tiny_weights: Path, tmp_path: Path, strsr: Run) -> None:
    file = tmp_path / "lite.onnx"
    file.write_text("mine")
    result = strsr("export", tiny_weights, "--onnx", file)
    assert result.exit_code == 2
    assert "exists; choose another name" in result.output
    assert file.read_text() == "mine"


def test_a_missing_package_is_named(
    tiny_weights: Path, tmp_path: Path, strsr: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = strsr("export", tiny_weights, "--onnx", tmp_path / "lite.onnx")
    assert result.exit_code == 2
    assert "pip install 'strsr[onnx]'" in result.output
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="wants a folder that takes no files, even root's")
def test_a_place_that_takes_no_files_is_told_before_the_export(
    tiny_weights: Path, strsr: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strsr_cli.training.export.onnx_bytes", None)
    result = strsr("export", tiny_weights, "--onnx", "/proc/lite.onnx")
    assert result.exit_code == 1
    assert result.output.startswith("strsr: /proc/lite.onnx: cannot be written")
    assert "choose another place" in result.output


def test_weights_of_others_are_refused(tmp_path: Path, strsr: Run) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text('{"family": "zimage"}')
    (folder / "model.safetensors").write_bytes(b"")
    result = strsr("export", folder, "--onnx", tmp_path / "z.onnx")
    assert result.exit_code == 2
    assert "is for weights of lite, not of zimage" in result.output
    assert strsr("export", tmp_path / "nothing", "--onnx", tmp_path / "z.onnx").exit_code == 2
