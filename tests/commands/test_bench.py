"""`strsr bench` on tiny networks: every figure is there and possible; nothing stays behind. No figure is judged."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from strsr_cli.bench import cold_start, protocol, roofline
from strsr_cli.bench.photos import make_photo
from strsr_models.compute.devices import resolve_precision

from ..conftest import LitePipeline

Run = Callable[..., Result]
SMALL = ("--images", "2", "--size", "16", "--runs", "1", "--device", "cpu", "--precision", "fp32")


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _quick_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products and copies that are over at once; the figures mean nothing then."""
    monkeypatch.setattr(roofline, "LONG_ENOUGH", 1e-4)
    monkeypatch.setitem(roofline.COPY, "cpu", 2**20)


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def test_figures_are_complete_and_possible(strsr: Run, tiny_weights: Path, scratch: Path) -> None:
    args = ("bench", *SMALL, "--weights", tiny_weights, "--batch", "1,2", "--skip", "start-up", "--json")
    result = strsr(*args)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["start_up"] is None
    assert found["load_seconds"] > 0
    assert [row["batch"] for row in found["batches"]] == [1, 2]
    assert found["output_megapixels"] == pytest.approx(2 * 64 * 64 / 1e6)
    assert found["end_to_end"]["seconds_per_megapixel"] * found["end_to_end"]["megapixels_per_second"] == (
        pytest.approx(1)
    )
    network, whole = found["network_only"]["seconds"][0], found["end_to_end"]["seconds"][0]
    assert found["efficiency"]["ratios"] == [pytest.approx(network / whole)]
    assert set(found["stages"]) == {"read", "look", "enlarge", "network", "blend", "write"}
    assert found["memory"]["resident_bytes"] >= found["memory"]["resident_before_bytes"]
    assert (found["device"], found["accelerator"], found["gpu"]) == ("cpu", False, None)
    assert found["cpu"]["name"]
    assert found["libraries"]["torch"]
    assert found["protocol"]["images"] == 2
    parts = found["roofline"]["parts"]
    assert set(parts) == {"structural_encoder", "transformer", "decoder", "whole_tile", "semantic_encoder"}
    assert all(math.isfinite(number) and number >= 0 for number in numbers(found))
    assert all(part["gflop"] > 0 and part["traffic_bytes"] > 0 for part in parts.values())
    three = sum(parts[name]["gflop"] for name in ("structural_encoder", "transformer", "decoder"))
    assert parts["whole_tile"]["gflop"] == pytest.approx(three)
    assert list(scratch.glob("strsr*")) == []


def test_text_for_people_says_on_what_it_ran(strsr: Run, tiny_weights: Path) -> None:
    result = strsr("bench", *SMALL, "--weights", tiny_weights, "--skip", "start-up,roofline,stages")
    assert result.exit_code == 0, result.output
    assert "no accelerator was used" in result.stdout
    assert "pipeline efficiency: " in result.stdout
    assert "one by one" in result.stdout


def test_int8_is_measured_beside_pytorch_in_floats(strsr: Run, tiny_weights: Path, photos: Path) -> None:
    pytest.importorskip("openvino")
    weights = tiny_weights.parent / "measured"
    assert strsr("export", tiny_weights, weights, "--ranges", photos).exit_code == 0
    options = ("--precision", "int8", "--backend", "both", "--skip", "start-up,stages")
    result = strsr("bench", *SMALL, "--weights", weights, *options)
    assert result.exit_code == 0, result.output
    assert "lite in int8 by OpenVINO" in result.stdout
    assert f"the same by PyTorch in {resolve_precision('auto', torch.device('cpu'))}" in result.stdout
    assert f"of one tile in {resolve_precision('auto', torch.device('cpu'))}" in result.stdout


def test_own_pictures_can_be_measured(strsr: Run, tiny_weights: Path, photos: Path, scratch: Path) -> None:
    """The folder of the fixture holds a damaged one: no figure of what cannot be made."""
    args = ("--runs", "1", "--device", "cpu", "--weights", tiny_weights, "--folder", photos)
    skip = ("--skip", "start-up,batches,stages,roofline", "--json")
    broken = strsr("bench", *args, *skip)
    assert broken.exit_code == 1
    assert "damaged.jpg" in broken.stderr.splitlines()[-1]
    (photos / "damaged.jpg").unlink()
    before = sorted(photos.iterdir())
    result = strsr("bench", *args, *skip, "--scale", "1")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["protocol"]["folder"] == str(photos)
    assert sorted(photos.iterdir()) == before
    assert list(scratch.glob("strsr*")) == []


def test_the_big_models_are_measured_too(strsr: Run, models: Path, tmp_path: Path) -> None:
    args = ("--model", "zimage", "--models-dir", models, "--skip", "start-up,batches,roofline", "--json")
    result = strsr("bench", *SMALL, *args)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == "zimage"
    assert not (tmp_path / "cache" / "strsr" / "tokens").exists()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--batch", "0"), "--batch 0"),
        (("--batch", "1,,2"), "--batch 1,,2"),
        (("--skip", "everything"), "--skip everything"),
        (("--scale", "99"), "scale 99"),
        (("--model", "huge"), "--model huge"),
        (("--device", "abacus"), "--device abacus"),
        (("--folder", "nowhere"), "--folder nowhere"),
        (("--folder", ".", "--size", "64"), "--size"),
        (("--models-dir", "."), "--models-dir"),
    ],
)
def test_wrong_usage_is_one_line(strsr: Run, scratch: Path, args: tuple[str, ...], complaint: str) -> None:
    result = strsr("bench", "--images", "1", *args)
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith(f"strsr: {complaint}")
    assert list(scratch.glob("strsr*")) == []


def test_an_interrupted_measurement_leaves_nothing(
    strsr: Run, tiny_weights: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(protocol, "network_alone", interrupt)
    result = strsr("bench", *SMALL, "--weights", tiny_weights)
    assert result.exit_code == 130
    assert list(scratch.glob("strsr*")) == []


def test_work_of_a_step_is_counted() -> None:
    left, right = torch.ones(10, 20), torch.ones(20, 30)
    assert roofline.work(lambda: left @ right) == (2 * 10 * 20 * 30, 4 * (200 + 600 + 300))
    assert roofline.work(lambda: left.t().reshape(20, 10)[:5].contiguous())[0] == 0
    assert roofline.work(lambda: left.view(20, 10).t()) == (0, 0)
    heads = torch.ones(1, 4, 100, 16)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert roofline.work(lambda: attention(heads, heads, heads))[0] == 4 * 4 * 100 * 100 * 16


def test_the_work_of_a_network_grows_with_its_tile(tiny: LitePipeline) -> None:
    cond = tiny.encode_condition(torch.rand(1, 3, 32, 32))
    small, large = (roofline.work(lambda n=n: tiny.restore(torch.rand(1, 3, n, n), cond)) for n in (32, 64))
    assert 3.5 < large[0] / small[0] < 4.5  # of four times the pixels
    assert large[1] > 2 * small[1]


def test_made_photos_are_the_same_and_no_noise() -> None:
    photo = make_photo(3, 64)
    assert np.array_equal(photo, make_photo(3, 64))
    assert not np.array_equal(photo, make_photo(4, 64))
    steps = np.abs(np.diff(photo.astype(int), axis=1))
    assert np.median(steps) < 8  # surfaces
    assert np.percentile(steps, 99) > 40  # edges


@pytest.mark.slow
def test_cold_starts_are_measured(tiny_weights: Path, tmp_path: Path) -> None:
    photo, output = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(make_photo(0, 16)).save(photo)
    flags = [str(photo), str(output), "--weights", str(tiny_weights), "--device", "cpu"]
    assert cold_start.seconds_to_output(flags, output, 1) > cold_start.seconds_to_help(1) > 0
    assert not output.exists()
    with pytest.raises(cold_start.StrsrError, match="exit code 2"):
        cold_start.seconds_to_output([str(tmp_path / "none.png"), str(output)], output, 1)


@pytest.mark.slow
def test_the_command_measures_its_own_start(tiny_weights: Path) -> None:
    command = [sys.executable, "-m", "strsr_cli", "bench", *SMALL, "--weights", str(tiny_weights), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    start = json.loads(done.stdout)["start_up"]
    assert start["first_output_seconds"] > start["first_output_own_seconds"] > 0
