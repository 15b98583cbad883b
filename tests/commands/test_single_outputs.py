"""One image into one file or stream: whose file may be replaced, and what else OUTPUT can be."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.batch.journal_files import JOURNAL
from strsr_cli.batch.receipts import MOST, Receipts
from strsr_cli.batch.targets import FOREIGN_SUFFIXES

from ..hostile.batch import command, environment

Run = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two photos, in which we are."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo[:20, :25]).save(folder / "a.jpg")
    Image.fromarray(photo[20:40, 30:50]).save(folder / "b.jpg")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def upscale(strsr: Run, tiny_weights: Path) -> Run:
    return lambda *args: strsr("upscale", *args, "--scale", 2, "--weights", tiny_weights)


def size_of(path: Path | BytesIO) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


# --- files of others -------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [[], ["--overwrite"], ["--dry-run"], ["--no-journal", "--overwrite"]])
def test_another_photo_as_output_is_refused_and_kept(option: list[str], upscale: Run, here: Path) -> None:
    before = (here / "b.jpg").read_bytes()
    result = upscale("a.jpg", "b.jpg", *option)
    assert result.exit_code == 2
    assert result.stderr == "strsr: b.jpg exists and was not made by strsr; --replace overwrites it\n"
    assert (here / "b.jpg").read_bytes() == before


def test_replace_overwrites_somebodys_file(upscale: Run, here: Path) -> None:
    assert upscale("a.jpg", "b.jpg", "--replace").exit_code == 0
    assert size_of(here / "b.jpg") == (50, 40)


def test_a_single_output_of_ours_is_skipped_or_overwritten(upscale: Run, here: Path) -> None:
    assert "1 done" in upscale("a.jpg", "large.png").stderr
    again = upscale("a.jpg", "large.png")
    assert (again.exit_code, "1 skipped" in again.stderr) == (0, True)
    assert "1 done" in upscale("a.jpg", "large.png", "--overwrite").stderr
    # A copy of it under another name is ours too; once it is edited it is not.
    (here / "copy.png").write_bytes((here / "large.png").read_bytes())
    assert "1 done" in upscale("a.jpg", "copy.png", "--overwrite").stderr
    Image.new("RGB", (3, 3)).save(here / "copy.png")
    assert upscale("a.jpg", "copy.png", "--overwrite").exit_code == 2


def test_an_output_that_a_journal_names_is_known_as_ours(upscale: Run, here: Path, tmp_path: Path) -> None:
    assert upscale(here, tmp_path / "out").exit_code == 0
    made = tmp_path / "out" / "a.jpg"
    assert "1 done" in upscale("b.jpg", made, "--overwrite").stderr
    made.write_bytes(made.read_bytes()[:-30])  # torn
    assert "1 done" in upscale("a.jpg", made).stderr
    Image.new("RGB", (3, 3)).save(made)
    assert upscale("a.jpg", made, "--overwrite").exit_code == 2
    shutil.rmtree(tmp_path / "out" / JOURNAL)
    assert upscale("a.jpg", tmp_path / "out" / "b.jpg", "--overwrite").exit_code == 2


def test_an_empty_file_holds_nothing_to_lose(upscale: Run, here: Path) -> None:
    (here / "new.png").touch()  # as mktemp makes one
    assert "1 done" in upscale("a.jpg", "new.png", "--overwrite").stderr


def test_in_a_folder_overwrite_means_all(upscale: Run, here: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    Image.new("RGB", (3, 3)).save(tmp_path / "out" / "a.jpg")
    assert "1 skipped" in upscale("a.jpg", tmp_path / "out").stderr
    assert "1 done" in upscale("a.jpg", tmp_path / "out", "--overwrite").stderr
    result = upscale(here, tmp_path / "out", "--replace")
    assert (result.exit_code, "--replace: is for one OUTPUT file" in result.stderr) == (2, True)


def test_receipts_are_bounded_and_know_the_newest(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path)
    receipts.add("a" * 64)
    assert receipts.knows("a" * 64)
    assert not receipts.knows("b" * 64)
    receipts.path.write_text("\n".join(f"{number:064x}" for number in range(MOST // 65 + 10)))
    receipts.add("c" * 64)
    assert receipts.path.stat().st_size < MOST
    assert receipts.knows("c" * 64)
    assert receipts.knows(f"{MOST // 65:064x}")
    assert not receipts.knows(f"{0:064x}")


def test_without_a_cache_outputs_are_made_all_the_same(
    upscale: Run, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert upscale("a.jpg", "large.png").exit_code == 0
    assert upscale("a.jpg", "large.png", "--overwrite").exit_code == 2
    assert upscale("a.jpg", "large.png", "--replace").exit_code == 0


# --- outputs as inputs -----------------------------------------------------------------------------


def test_outputs_of_an_earlier_run_are_no_inputs(upscale: Run, here: Path, tmp_path: Path) -> None:
    assert upscale(here, here / "large").exit_code == 0
    (here / "large" / "mine.png").write_bytes((here / "large" / "a.jpg").read_bytes())
    result = upscale(here, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.[jp]*g")) == [
        "a.jpg",
        "b.jpg",
        "mine.png",
    ]
    assert result.stderr.count(f"{here}/large: 2 outputs of strsr are passed over") == 1
    assert "passed over: 2 outputs" in result.stderr
    # Who names that folder means it.
    assert "3 done" in upscale(here / "large", tmp_path / "larger").stderr


def test_outputs_beside_inputs_stay_no_inputs(upscale: Run, here: Path, tmp_path: Path) -> None:
    assert upscale(here, "--in-place-suffix", "_x2").exit_code == 0
    second = upscale(here, "--in-place-suffix", "_x2")
    assert "outputs of strsr" not in second.stderr
    result = upscale(here, tmp_path / "out")
    assert "2 done" in result.stderr
    assert f"{here}: 2 outputs of strsr are passed over" in result.stderr
    listed = tmp_path / "list"
    listed.write_text("a.jpg\na_x2.jpg\n")
    assert "1 done" in upscale(here, tmp_path / "other", "--files-from", listed).stderr


# --- what OUTPUT is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["b.jpe", "B.TGA", "b.ico", "b.pgm", "b.psd", "b.heic", "b.cr2", "b.mp4", "b.pdf", ".png"]
)
def test_a_format_that_is_not_written_is_no_folder(name: str, upscale: Run, here: Path) -> None:
    for source in ("a.jpg", here):
        result = upscale(source, name)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
    assert ".png, .jpg" in upscale("a.jpg", name).stderr
    assert not (here / name).exists()


@pytest.mark.parametrize("name", ["v1.2", "photos.2024", "photos.old", "x.files", "b.jpe/"])
def test_other_names_with_dots_are_folders(name: str, upscale: Run, here: Path) -> None:
    assert upscale("a.jpg", name).exit_code == 0
    assert size_of(here / name / "a.jpg") == (50, 40)


def test_an_empty_argument_is_not_the_folder_we_are_in(upscale: Run, here: Path) -> None:
    for args in (("", "out"), ("a.jpg", "")):
        result = upscale(*args)
        assert (result.exit_code, "is empty" in result.stderr) == (2, True)
    assert not (here / "out").exists()


def test_foreign_suffixes_hold_none_that_is_written() -> None:
    assert not FOREIGN_SUFFIXES & {
        ".png",
        ".jpg",
        ".jpeg",
        ".jfif",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".avif",
    }
    assert {".jpe", ".tga", ".ico", ".pgm", ".jp2", ".svg", ".gif"} <= FOREIGN_SUFFIXES


@pytest.mark.parametrize(
    "target",
    [
        "/dev/stdout",
        pytest.param("/dev/fd/1", marks=pytest.mark.slow),
        pytest.param("/proc/self/fd/1", marks=pytest.mark.slow),
    ],
)
def test_standard_output_has_several_names(target: str, here: Path, tiny_weights: Path) -> None:
    args = command("upscale", "a.jpg", target, "--scale", "2", "--weights", tiny_weights)
    ran = subprocess.run(args, env=environment(), capture_output=True, check=True)
    with Image.open(BytesIO(ran.stdout)) as image:
        assert (image.format, image.size) == ("PNG", (50, 40))
    assert b"done" in ran.stderr
    refused = subprocess.run([*args, "--json"], env=environment(), capture_output=True, check=False)
    assert (refused.returncode, b"both want standard output" in refused.stderr) == (2, True)


def test_an_open_stream_of_any_number_is_an_output(here: Path, tiny_weights: Path) -> None:
    with open("kept.webp", "wb") as file:
        args = command(
            "upscale", "a.jpg", f"/dev/fd/{file.fileno()}", "--scale", "2", "--weights", tiny_weights
        )
        subprocess.run(
            [*args, "--format", "webp", "--json"], env=environment(), pass_fds=[file.fileno()], check=True
        )
    with Image.open("kept.webp") as image:
        assert (image.format, image.size) == ("WEBP", (50, 40))


@pytest.mark.parametrize("options", [[], ["--format", "jpg"]])
def test_a_named_pipe_gets_the_image(options: list[str], upscale: Run, here: Path) -> None:
    os.mkfifo("pipe")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(Path("pipe").read_bytes()))
    reader.start()
    assert upscale("a.jpg", "pipe", *options).exit_code == 0
    reader.join(30)
    with Image.open(BytesIO(received[0])) as image:
        assert (image.format, image.size) == ("JPEG" if options else "PNG", (50, 40))


def test_the_null_device_takes_everything(upscale: Run, here: Path) -> None:
    result = upscale("a.jpg", "/dev/null")
    assert result.exit_code == 0, result.output
    assert "done /dev/null 50x40" in result.stderr
    assert Path("/dev/null").is_char_device()


def test_what_takes_no_image_is_refused_as_output(upscale: Run, here: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for target, reason in (
            ("/dev/fd/173", "this stream is not open"),
            ("/dev/stderr", "is for messages"),
            ("socket", "to which no image is written"),
        ):
            result = upscale("a.jpg", target)
            assert (result.exit_code, reason in result.stderr) == (2, True), result.output
    for target in ("/dev/null", "-", "/dev/stdout"):
        assert upscale(here, target).exit_code == 2
        assert upscale("a.jpg", target, "--frames", "all").exit_code == 2
