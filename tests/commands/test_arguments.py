"""Arguments that the system refuses, lists in other encodings, wrong options where nothing is to do: one line each."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.images.codecs import pillow_writer

from ..helpers.refusing import refuse
from ..hostile.batch import command, environment, obey_modes

Run = Callable[..., Result]
LONG = "n" * 300


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(photo[:20, :25]).save(folder / name)
    return folder


@pytest.fixture
def upscale(strsr: Run, tiny_weights: Path) -> Run:
    return lambda *args: strsr("upscale", *args, "--scale", 2, "--weights", tiny_weights)


def one_line(result: Result, code: int, *parts: str) -> None:
    """Check that a command ended with that code and one line that has these parts."""
    assert result.exit_code == code, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for part in parts:
        assert part in result.stderr


# --- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--no-journal"]])
def test_a_name_too_long_fails_that_picture_alone(options: list[str], upscale: Run, photos: Path) -> None:
    shutil.copy(photos / "a.jpg", photos / f"{'n' * 251}.jpg")
    result = upscale(photos, "--in-place-suffix", "_x2", *options)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert sum(line.startswith("failed") for line in result.stderr.splitlines()) == 1
    assert "_x2.jpg cannot be written: File name too long; rename the image" in result.stderr
    assert (photos / "a_x2.jpg").exists()
    assert "2 done, 0 skipped, 1 failed" in result.stderr


def test_a_name_that_is_refused_when_it_is_written_fails_alone(
    upscale: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def refuse(source: str, target: Path) -> None:
        if Path(target).name == "a.jpg":
            raise OSError(84, "Invalid or incomplete multibyte or wide character", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    result = upscale(photos, tmp_path / "out", "--no-journal")
    assert result.exit_code == 1
    assert f"{tmp_path}/out/a.jpg: cannot be written: Invalid or incomplete multibyte" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.jpg"]


def test_arguments_too_long_are_one_line(upscale: Run, strsr: Run, photos: Path, tmp_path: Path) -> None:
    source, out = photos / "a.jpg", tmp_path / "out"
    for args in (
        [LONG, out],
        [photos / f"{LONG}.jpg", out],
        [source, tmp_path / LONG],
        [source, tmp_path / f"{LONG}.png"],
        [source, f"{'d/' * 3000}x.png"],
        [photos, tmp_path / LONG],
        [photos, tmp_path / LONG / "below"],
        [photos, out, "--files-from", LONG],
    ):
        one_line(upscale(*args), 2, "File name too long")
    one_line(strsr("upscale", source, out, "--weights", LONG), 3, "File name too long")
    one_line(strsr("upscale", source, out, "--model", "zimage", "--models-dir", LONG), 3, "missing")
    one_line(strsr("fft-inspect", LONG), 2, "File name too long")
    assert not out.exists()


def test_a_long_name_in_a_list_fails_alone(upscale: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{LONG}.jpg\na.jpg\n")
    result = upscale(photos, tmp_path / "out", "--files-from", tmp_path / "list")
    assert result.exit_code == 1
    assert "cannot be read: File name too long" in result.stderr
    assert "1 done, 0 skipped, 1 failed" in result.stderr


# --- permissions -----------------------------------------------------------------------------------


def run_obediently(*args: object) -> subprocess.CompletedProcess[str]:
    """Run the command as somebody who is bound by modes, root too."""
    return subprocess.run(
        command("upscale", *args),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=obey_modes,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="root obeys modes on Linux alone")
@pytest.mark.parametrize("mode", [0o000, pytest.param(0o400, marks=pytest.mark.slow)])
def test_an_input_or_output_closed_as_a_whole_is_wrong_usage(
    mode: int, photos: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    closed = tmp_path / "closed"
    shutil.copytree(photos, closed / "in")
    lone = tmp_path / "lone.png"
    Image.new("RGB", (3, 3)).save(lone)
    lone.chmod(0)
    closed.chmod(mode)
    for source, target in (
        (closed, "out"),
        (closed / "in", "out"),
        (closed / "in" / "a.jpg", "out"),
        (lone, "out"),
        (photos / "a.jpg", closed / "x.png"),
        (photos / "a.jpg", closed / "below" / "x.png"),
        (photos, closed),
        (photos, closed / "below"),
    ):
        ran = run_obediently(source, tmp_path / target, "--weights", tiny_weights)
        assert ran.returncode == 2, (source, target, ran.stderr)
        assert len(ran.stderr.splitlines()) == 1
        assert "Permission denied" in ran.stderr
    closed.chmod(0o700)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="root obeys modes on Linux alone")
def test_one_closed_image_among_others_fails_alone(photos: Path, tmp_path: Path, tiny_weights: Path) -> None:
    (photos / "a.jpg").chmod(0)
    ran = run_obediently(photos, tmp_path / "out", "--weights", tiny_weights)
    assert ran.returncode == 1
    assert f"failed {photos}/a.jpg: cannot be read: Permission denied" in ran.stderr
    assert "1 done, 0 skipped, 1 failed" in ran.stderr


def test_an_output_that_may_not_be_made_is_wrong_usage(
    upscale: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "mkdir", errno.EACCES, lambda path, *_, **__: str(path).endswith("out"))
    one_line(upscale(photos, tmp_path / "out"), 2, "out: cannot be written to: Permission denied")


# --- options where nothing is to do ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--model", "lit"], 2, "did you mean 'lite'"),
        (["--device", "gpu"], 2, "not a device"),
        (["--device", "cpu,tpu"], 2, "not a device"),
        (["--device", "cuda:99"], 3, "CUDA devices here"),
        (["--precision", "fp8"], 2, "fp8"),
        (["--weights", "{photos}"], 3, "no such weights"),
        (["--weights", "{photos}/a.jpg"], 3, "no such weights"),
        (["--weights", "{photos}/none"], 3, "no such weights"),
        (["--weights", "{damaged}"], 3, "cannot be read as safetensors"),
        (["--model", "zimage", "--weights", "{photos}"], 3, "no adapter there"),
        (["--model", "flux2", "--models-dir", "{photos}"], 3, "missing FLUX.2-klein-base-4B/transformer"),
    ],
)
def test_wrong_options_count_where_all_is_done(
    options: list[str], code: int, reason: str, strsr: Run, photos: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    args = ("upscale", photos, tmp_path / "out", "--no-journal")
    assert strsr(*args, "--weights", tiny_weights).exit_code == 0
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_weights, damaged)
    (damaged / "model.safetensors").write_text("no tensors")
    given = [option.format(photos=photos, damaged=damaged) for option in options]
    result = strsr(*args, *given)
    assert result.exit_code == code, result.output
    assert reason in result.stderr
    assert strsr(*args, "--weights", tiny_weights, "--device", "cpu").exit_code == 0


def test_a_run_with_nothing_to_do_loads_no_torch(photos: Path, tmp_path: Path, strsr: Run) -> None:
    args = ["upscale", str(photos), str(tmp_path / "out"), "--scale", "1", "--device", "cpu"]
    assert strsr(*args).exit_code == 0
    code = (
        f"import sys\nfrom strsr_cli.app import app\ntry: app({args})\nexcept SystemExit as end: print(end.code)\n"
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert "2 skipped" in ran.stderr
    assert ran.stdout.split() == ["0", "False"]


# --- lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
def test_a_list_with_a_mark_is_read_and_told(
    encoding: str, upscale: Run, photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "a.jpg", photos / "Größe 1.jpg")
    data = "Größe 1.jpg\r\nb.jpg\r\n".encode(encoding)
    if encoding == "utf-16-be":
        data = b"\xfe\xff" + data
    (tmp_path / "list.txt").write_bytes(data)
    result = upscale(photos, tmp_path / "out", "--files-from", tmp_path / "list.txt")
    assert result.exit_code == 0, result.output
    assert "2 done, 0 skipped, 0 failed" in result.stderr
    told = f"--files-from {tmp_path}/list.txt: is UTF-16 text, and was read as such"
    assert (told in result.stderr) == (encoding != "utf-8-sig")


def test_a_list_of_utf_16_without_its_mark_is_one_line(upscale: Run, photos: Path, tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "list").write_bytes("a.jpg\nb.jpg\n".encode(encoding))
        result = upscale(photos, tmp_path / "out", "--files-from", tmp_path / "list")
        one_line(result, 2, f"--files-from {tmp_path}/list: looks like UTF-16", "save it as UTF-8")
    (tmp_path / "list").write_bytes(b"\xff\xfea\0b")
    one_line(upscale(photos, tmp_path / "out", "--files-from", tmp_path / "list"), 2, "damaged")


def test_a_list_in_latin_1_is_read_and_told(upscale: Run, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "a.jpg", photos / "café.jpg")
    shutil.copy(photos / "a.jpg", photos / os.fsdecode(b"r\xe9al.jpg"))
    (tmp_path / "list").write_bytes("café.jpg\nréal.jpg\nnaïf.jpg\n".encode("latin-1"))
    result = upscale(photos, tmp_path / "out", "--files-from", tmp_path / "list")
    assert result.exit_code == 1
    assert "2 done, 0 skipped, 1 failed" in result.stderr
    assert result.stderr.count("the list names it in Latin-1, not UTF-8") == 1
    assert "no such file; the list is not UTF-8 text: save it as UTF-8" in result.stderr
    assert (tmp_path / "out" / "café.jpg").exists()
    assert (tmp_path / "out" / os.fsdecode(b"r\xe9al.jpg")).exists()


# --- messages --------------------------------------------------------------------------------------


def test_each_warning_names_its_file(
    upscale: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 500
    for name in ("a.jpg", "b.jpg"):
        with Image.open(photos / name) as image:
            image.save(photos / name, exif=exif)
    out = tmp_path / "out"
    bitmaps = upscale(photos, out, "--format", "bmp", "--provenance")
    for name in ("a.bmp", "b.bmp"):
        assert f"warning: {out}/{name}: BMP has no place for --provenance" in bitmaps.stderr
    monkeypatch.setitem(pillow_writer.JPEG_SEGMENT, "EXIF", 100)
    photographs = upscale(photos, out)
    warnings = [line for line in photographs.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 2
    for name in ("a.jpg", "b.jpg"):
        assert sum(line.startswith(f"warning: {out}/{name}: ") for line in warnings) == 1
