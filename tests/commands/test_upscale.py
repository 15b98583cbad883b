from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.batch.journal_files import JOURNAL

from ..conftest import EXAMPLES

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    """Two good images, one in a folder below, and one of 1x1."""
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    Image.fromarray(photo[:40, :50]).save(root / "good.png")
    Image.fromarray(photo[:30, :20]).save(root / "sub" / "photo.jpg")
    Image.new("RGB", (1, 1), "red").save(root / "dot.png")
    return root


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder but for the journal."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and JOURNAL not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def opened(path: Path) -> Image.Image:
    """The image, decoded whole, its file closed."""
    with Image.open(path) as image:
        image.load()
        return image.copy()


def events(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_folder_is_upscaled_then_skipped_then_made_again(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = ("upscale", folder, out, "--scale", "3", "--weights", tiny_weights, "--json")
    first = strsr(*args)
    assert first.exit_code == 0, first.output
    kinds = [event["event"] for event in events(first.stdout)]
    assert kinds == ["planned"] * 3 + ["done"] * 3 + ["summary"]
    made = files(out)
    assert sorted(made) == ["dot.png", "good.png", "sub/photo.jpg"]
    assert opened(out / "good.png").size == (150, 120)
    assert opened(out / "dot.png").size == (3, 3)

    second = events(strsr(*args).stdout)[-1]
    assert {key: second[key] for key in ("found", "done", "skipped", "failed")} == {
        "found": 3,
        "done": 0,
        "skipped": 3,
        "failed": 0,
    }
    again = strsr(*args, "--overwrite")
    assert events(again.stdout)[-1]["done"] == 3
    assert files(out) == made


def test_bad_files_are_named_and_the_rest_go_on(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (folder / "text.png").write_text("not an image")
    (folder / "empty.jpg").touch()
    whole = (folder / "sub" / "photo.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    result = strsr("upscale", folder, out, "--weights", tiny_weights)
    assert result.exit_code == 1
    assert sorted(files(out)) == ["dot.png", "good.png", "sub/photo.jpg"]
    for name, reason in (("text.png", "not a PNG"), ("empty.jpg", "empty"), ("cut.jpg", "cannot be decoded")):
        lines = [line for line in result.stderr.splitlines() if name in line]
        assert len(lines) == 1
        assert lines[0].startswith("failed")
        assert reason in lines[0]
    assert "3 done, 0 skipped, 3 failed" in result.stderr
    assert "Traceback" not in result.output


def test_dry_run_writes_nothing_and_tells_sizes(strsr: Run, folder: Path, tmp_path: Path) -> None:
    result = strsr("upscale", folder, tmp_path / "out", "--dry-run", "--scale", "2.5")
    assert result.exit_code == 0
    assert "50x40 -> 125x100" in result.stdout
    assert "3 to make, 0 skipped" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_gray_stays_gray_and_alpha_comes_along(
    mode: str, strsr: Run, photo: np.ndarray, tiny_weights: Path, tmp_path: Path
) -> None:
    source = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture = Image.fromarray(photo[:20, :20])
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.linear_gradient("L").resize((20, 20)))
    picture.convert(mode).save(source)
    result = strsr("upscale", source, tmp_path / "out.png", "--scale", "2", "--weights", tiny_weights)
    assert result.exit_code == 0, result.output
    made = opened(tmp_path / "out.png")
    assert made.mode == {"P": "RGB", "1": "L", "CMYK": "RGB"}.get(mode, mode)
    assert made.size == (40, 40)
    if mode in ("LA", "RGBA"):
        alpha = np.asarray(made.getchannel("A")).astype(int)
        assert (np.diff(alpha.mean(1)) >= 0).all()
        assert alpha[0].mean() < 20
        assert alpha[-1].mean() > 235


def test_sixteen_bits_in_are_sixteen_bits_out(strsr: Run, tiny_weights: Path, tmp_path: Path) -> None:
    import cv2

    ramp = np.linspace(0, 65_535, 16 * 64, dtype=np.uint16).reshape(16, 64)
    cv2.imwrite(str(tmp_path / "deep.png"), np.dstack([ramp] * 3))
    result = strsr(
        "upscale", tmp_path / "deep.png", tmp_path / "out", "--scale", "2", "--weights", tiny_weights
    )
    assert result.exit_code == 0, result.output
    made = cv2.imread(str(tmp_path / "out" / "deep.png"), cv2.IMREAD_UNCHANGED)
    assert made.dtype == np.uint16
    assert made.shape == (32, 128, 3)
    assert len(np.unique(made)) > 1000


def test_a_pipe_carries_an_image_through(tiny_weights: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "strsr_cli", "upscale", "-", "-", "--scale", "2", "--weights", tiny_weights],
        input=(EXAMPLES / "astronaut.jpg").read_bytes(),
        capture_output=True,
        check=True,
    )
    made = Image.open(BytesIO(result.stdout))
    assert (made.format, made.size) == ("PNG", (256, 256))
    assert b"1 done" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["{in}", "{out}", "--scale", "0.5"], 2, "must be between 1 and 16"),
        (["{in}", "{out}", "--tile", "12"], 2, "--tile 12: use auto or a number"),
        (["{in}", "{out}", "--tile", "128", "--overlap", "100"], 2, "--overlap 100: must be between"),
        (["{in}", "{out}", "--overlap", "-1"], 2, "--overlap -1: must be between"),
        (["{in}", "{out}", "--model", "lit"], 2, "did you mean 'lite'"),
        (["{in}", "{out}", "--device", "cuda:99"], 3, "CUDA devices here"),
        (["{in}", "{out}", "--device", "gpu"], 2, "not a device"),
        (["{in}", "{out}", "--weights", "{in}"], 3, "no such weights"),
        (["{in}", "{out}", "--precision", "fp8"], 2, "fp8"),
        (["{in}", "-"], 2, "a folder cannot go to standard output"),
        (["{in}/none", "{out}"], 2, "no such file or folder"),
        (["{in}/good.png", "-", "--json"], 2, "both want standard output"),
    ],
)
def test_wrong_usage_is_one_line_and_the_right_code(
    args: list[str], code: int, message: str, strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    args = [arg.format(**{"in": folder, "out": out}) for arg in args]
    if "--weights" not in args:
        args += ["--weights", str(tiny_weights)]
    result = strsr("upscale", *args)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not out.exists() or files(out) == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_is_reported(strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    result = strsr("upscale", folder, out, "--weights", tiny_weights)
    assert result.exit_code == 2
    assert result.stderr.count("cannot be written to") == 1


def test_an_output_that_cannot_be_made_is_reported(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").write_text("a file where a folder should be")
    result = strsr("upscale", folder, tmp_path / "out", "--weights", tiny_weights)
    assert result.exit_code == 1
    assert "2 done, 0 skipped, 1 failed" in result.stderr


def test_quiet_says_nothing_and_verbose_says_more(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    quiet = strsr("upscale", folder, tmp_path / "a", "--weights", tiny_weights, "--quiet")
    assert quiet.output == ""
    verbose = strsr("upscale", folder, tmp_path / "b", "--weights", tiny_weights, "--verbose")
    assert "model lite on cpu in" in verbose.stderr
    assert "50x40 -> 200x160" in verbose.stderr
