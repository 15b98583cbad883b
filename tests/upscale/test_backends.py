"""Backends: OpenVINO makes the pictures that PyTorch makes, and neither makes again what the other has made."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from strsr import Upscaler
from strsr_cli.images.read import read_image
from strsr_cli.upscale.backends import CompiledNetworks
from strsr_models.errors import UsageError, WeightsError
from strsr_models.pipelines.lite import LiteConfig, LitePipeline

from ..conftest import EXAMPLES, TINY
from ..helpers.random_lite import made, quarter

pytest.importorskip("openvino")
from strsr_models.pipelines.openvino import OpenVinoTiles

Run = Callable[..., Result]

QUARTER = quarter()


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> CompiledNetworks:
    """What is compiled once for all tests."""
    return CompiledNetworks(tmp_path_factory.mktemp("networks"))


@pytest.fixture
def _kept(networks: CompiledNetworks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands keep what they compile with all other tests."""
    monkeypatch.setattr("strsr_cli.upscale.backends.compiled_networks", lambda: networks)


def differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differences of pixels, in steps of 255."""
    deep = 257 if first.dtype == np.uint16 else 1
    return np.abs(first.astype(float) - second.astype(float)) / deep


@pytest.mark.parametrize("config", [TINY, QUARTER], ids=["pyramid", "quarter"])
def test_tiles_of_any_shape_are_those_of_pytorch(config: LiteConfig, networks: CompiledNetworks) -> None:
    pipeline = made(config)
    backend = OpenVinoTiles(pipeline, threads=1, cache=networks)
    step = pipeline.multiple_of
    for rows, columns, count in ((1, 1, 1), (3, 7, 1), (8, 2, 1), (5, 5, 2)):
        tiles = torch.rand(count, 3, rows * step, columns * step)
        conds = torch.randn(count, 4, pipeline.token_width)
        with torch.no_grad():
            expected = pipeline.restore(tiles, conds)
            assert (expected - tiles).abs().max() > 0.02
            assert (backend.restore(tiles, conds) - expected).abs().max() < 1e-5
            assert (backend.restore(tiles, conds, 2) - pipeline.restore(tiles, conds, 2)).abs().max() < 1e-5


def test_precision_is_that_of_autocast(networks: CompiledNetworks) -> None:
    pipeline = made(QUARTER)
    backend = OpenVinoTiles(pipeline, threads=1, cache=networks)
    tile, cond = torch.rand(1, 3, 64, 96), torch.randn(1, 4, pipeline.token_width)
    exact = backend.restore(tile, cond)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = backend.restore(tile, cond)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.02
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(UsageError, match="fp32 and bf16"):
        backend.restore(tile, cond)


def test_numbers_do_not_depend_on_threads(networks: CompiledNetworks) -> None:
    pipeline = made(QUARTER)
    tiles = [torch.rand(1, 3, 16 * side, 64) for side in range(1, 9)]
    cond = torch.randn(1, 4, pipeline.token_width)
    alone = OpenVinoTiles(pipeline, threads=1, cache=networks)
    expected = [alone.restore(tile, cond) for tile in tiles]
    several = OpenVinoTiles(pipeline, threads=3, workers=2, cache=networks)
    barrier = threading.Barrier(2)

    def restore_all() -> list[torch.Tensor]:
        barrier.wait()
        return [several.restore(tile, cond) for tile in tiles]

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(restore_all) for _ in range(2)]:
            assert all(map(torch.equal, future.result(), expected))


def test_a_network_is_compiled_once_for_its_weights(
    networks: CompiledNetworks, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def compiled(pipeline: LitePipeline) -> bool:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            OpenVinoTiles(pipeline, 1, cache=own).compile(torch.float32)
        return "compiled" in caplog.text

    own, pipeline = CompiledNetworks(tmp_path / "networks"), made(QUARTER)
    assert compiled(pipeline)
    assert not compiled(made(QUARTER))
    pipeline.decoder.blocks[0].conv1.bias[0] += 1e-3
    assert compiled(pipeline)
    for path in own.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert compiled(pipeline)


def test_copies_compute_alike(networks: CompiledNetworks) -> None:
    pipeline = made(QUARTER)
    pipeline.backend = OpenVinoTiles(pipeline, 1, cache=networks)
    photo = torch.rand(1, 3, 21, 30)
    expected = pipeline.upscale(photo, 3)
    for other in (copy.deepcopy(pipeline), pickle.loads(pickle.dumps(pipeline))):
        assert other.backend.pipeline is other
        assert torch.equal(other.upscale(photo, 3), expected)


def test_weights_that_train_go_back_to_pytorch(networks: CompiledNetworks) -> None:
    pipeline = made(QUARTER)
    pipeline.backend = OpenVinoTiles(pipeline, 1, cache=networks)
    pipeline.prepare_training()
    assert pipeline.backend is None


def test_damaged_weights_are_told(networks: CompiledNetworks) -> None:
    pipeline = made(QUARTER)
    pipeline.decoder.blocks[0].conv1.bias[0] = float("nan")
    pipeline.backend = OpenVinoTiles(pipeline, 1, cache=networks)
    with pytest.raises(WeightsError, match="not finite even in float32"):
        pipeline.upscale(torch.rand(1, 3, 16, 16), 2, precision="fp32")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Pictures of odd sizes: colours, gray, transparent, of 16 bits, and one file that is broken."""
    folder = tmp_path / "album"
    folder.mkdir()
    photo = Image.open(EXAMPLES / "cat.png").convert("RGB").resize((63, 41))
    photo.save(folder / "colours.png")
    photo.convert("L").resize((17, 5)).save(folder / "gray.png")
    photo.putalpha(photo.convert("L"))
    photo.resize((40, 30)).save(folder / "transparent.png")
    deep = (np.asarray(photo.convert("L"), np.uint16) * 257)[:20]
    Image.fromarray(deep).save(folder / "deep.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n none")
    return folder


@pytest.mark.usefixtures("_kept")
@pytest.mark.parametrize(
    "options", [("--scale", "4"), ("--scale", "2.3", "--tile", "64"), ("--scale", "1", "--precision", "bf16")]
)
def test_both_make_the_same_pictures(
    options: tuple[str, ...], album: Path, tmp_path: Path, tiny_weights: Path, strsr: Run
) -> None:
    for backend in ("torch", "openvino"):
        out = tmp_path / backend
        result = strsr("upscale", album, out, *options, "--weights", tiny_weights, "--backend", backend)
        assert result.exit_code == 1, result.output
        assert "4 done, 0 skipped, 1 failed" in result.output
    for path in (tmp_path / "torch").glob("*.png"):
        first, second = (read_image(tmp_path / name / path.name) for name in ("torch", "openvino"))
        assert first.color.shape == second.color.shape
        assert differences(first.color, second.color).max() <= 1
        assert (first.alpha is None) == (second.alpha is None)
        assert first.alpha is None or np.array_equal(first.alpha, second.alpha)


@pytest.fixture
def _two_threads() -> Iterator[None]:
    """PyTorch computes with two threads, and afterwards with as many as before: other tests compare bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_kept", "_two_threads")
def test_two_workers_share_a_cpu_where_there_are_several_pictures_or_a_large_one(
    album: Path, tmp_path: Path, tiny_weights: Path, strsr: Run
) -> None:
    def upscale(name: str, *options: str) -> str:
        result = strsr("upscale", album, tmp_path / name, "--weights", tiny_weights, "--verbose", *options)
        assert "4 done, 0 skipped, 1 failed" in result.output
        return result.output

    assert "on cpu, cpu in" in upscale("two", "--backend", "openvino")
    assert "on cpu in" in upscale("one", "--backend", "openvino", "--device", "cpu")
    assert "on cpu in" in upscale("torch", "--backend", "torch")
    for path in (tmp_path / "two").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
    for path in list(album.iterdir())[:2]:
        path.unlink()
    shutil.rmtree(tmp_path / "two")
    few = ("upscale", album, tmp_path / "few", "--weights", tiny_weights, "-v", "--backend", "openvino")
    assert "on cpu in" in strsr(*few).output
    Image.new("RGB", (512, 512)).save(album / "large.png")
    assert "on cpu, cpu in" in strsr(*few, "--scale", "1", "--draft", "--overwrite").output


@pytest.mark.usefixtures("_kept")
def test_what_one_has_made_the_other_skips(
    album: Path, tmp_path: Path, tiny_weights: Path, strsr: Run
) -> None:
    (album / "broken.png").unlink()
    arguments = ("upscale", album, tmp_path / "out", "--weights", tiny_weights)
    assert strsr(*arguments, "--backend", "openvino").exit_code == 0
    again = strsr(*arguments, "--backend", "torch")
    assert "0 done, 4 skipped" in again.output
    journals = (tmp_path / "out" / ".strsr-journal").iterdir()
    lines = [json.loads(line) for path in journals for line in path.read_text().splitlines()]
    assert [line["backend"] for line in lines if line["state"] == "done"] == ["openvino"] * 4


@pytest.mark.usefixtures("_kept")
def test_the_library_has_the_pixels_of_the_command(
    tmp_path: Path, tiny_weights: Path, strsr: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRSR_BACKEND", "openvino")
    cat = EXAMPLES / "cat.png"
    result = strsr("upscale", cat, tmp_path / "out.png", "--weights", tiny_weights, "--longest", "300", "-v")
    assert "by openvino" in result.output
    upscaler = Upscaler(weights=tiny_weights, backend="openvino")
    assert upscaler.pipeline.backend is not None
    assert np.array_equal(upscaler.upscale(cat, longest=300), Image.open(tmp_path / "out.png"))
    assert Upscaler(weights=tiny_weights, backend="torch").pipeline.backend is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--compile",), "drop --compile"),
        (("--precision", "fp16"), "drop --precision fp16"),
        (("--model", "zimage"), "is for --model lite, not zimage"),
    ],
)
def test_what_openvino_cannot_is_refused(
    options: tuple[str, ...], complaint: str, tmp_path: Path, strsr: Run
) -> None:
    out = tmp_path / "out.png"
    result = strsr("upscale", EXAMPLES / "cat.png", out, "--backend", "openvino", *options)
    assert result.exit_code == 2
    assert complaint in result.output
    assert not out.exists()


def test_without_the_package_it_is_named(
    tmp_path: Path, tiny_weights: Path, strsr: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    arguments = ("upscale", EXAMPLES / "cat.png", tmp_path / "out.png", "--weights", tiny_weights)
    refused = strsr(*arguments, "--backend", "openvino")
    assert refused.exit_code == 3
    assert "pip install 'strsr[openvino]'" in refused.output
    monkeypatch.setenv("STRSR_BACKEND", "auto")
    assert "by torch" in strsr(*arguments, "-v").output


def test_auto_wants_a_place_for_what_is_compiled(
    tmp_path: Path, tiny_weights: Path, strsr: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("STRSR_BACKEND", "auto")
    arguments = ("upscale", EXAMPLES / "cat.png", tmp_path / "out.png", "--weights", tiny_weights, "-v")
    assert "by torch" in strsr(*arguments).output
    assert "by openvino" in strsr(*arguments, "--replace", "--backend", "openvino").output


def test_an_unknown_name_in_the_environment_is_told(
    tmp_path: Path, strsr: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRSR_BACKEND", "onnx")
    result = strsr("upscale", EXAMPLES / "cat.png", tmp_path / "out.png")
    assert result.exit_code == 2
    assert "STRSR_BACKEND onnx: unknown" in result.output


@pytest.fixture
def bare_home(tmp_path: Path) -> dict[str, str]:
    """An environment with an empty home, in which telemetry would leave its traces."""
    home = tmp_path / "home"
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    return {**inherited, "HOME": str(home), "CI": "", "STRSR_BACKEND": "openvino"}


def test_telemetry_stays_off(bare_home: dict[str, str], tmp_path: Path, tiny_weights: Path) -> None:
    """OpenVINO would send word of its import, and of every conversion, without asking."""
    command = [sys.executable, "-m", "strsr_cli", "upscale", EXAMPLES / "cat.png", tmp_path / "out.png"]
    settings = ["--weights", tiny_weights, "--longest", "280"]
    subprocess.run([*map(str, command), *map(str, settings)], env=bare_home, check=True, timeout=300)
    files = [path for path in Path(bare_home["HOME"]).rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= {"openvino", "strsr"}
    assert not (Path(bare_home["HOME"]) / "intel").exists()


AT_ONCE = """
import sys
import threading
from openvino import Type
from strsr_models.pipelines.openvino import load_core

load_core()
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(4)

def first_tile():
    barrier.wait()
    Type.f32.to_dtype()

threads = [threading.Thread(target=first_tile, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_workers_whose_first_tiles_come_at_once_do_not_wait_for_ever() -> None:
    """OpenVINO asks for a tile's type by a table of its own, which two threads cannot make at once."""
    subprocess.run([sys.executable, "-c", AT_ONCE], check=True, timeout=60)
