"""`strsr upscale --report`: when the page is written, what it has, and that it is in nobody's way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.gallery.page import TIMES

Go = Callable[..., dict]
Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen]
END = "</html>"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "out" / "report.html"


def compared(text: str) -> int:
    return text.count('<article class="card">')


def test_a_page_has_what_was_made_and_what_failed(go: Go, page: Path) -> None:
    run = go("--report", page, "--check-grid")
    assert run["event"] == "summary"
    text = page.read_text()
    assert text.rstrip().endswith(END)
    assert compared(text) == 2
    assert "not a PNG, JPEG" in text
    assert "<td>--scale</td><td>2.0</td><td>given</td>" in text
    assert f"25{TIMES}20" in text
    assert f"50{TIMES}40" in text


def test_a_page_of_a_second_run_shows_what_was_made_before(go: Go, page: Path) -> None:
    go()
    run = go("--report", page)
    assert (run["done"], run["skipped"]) == (0, 2)
    text = page.read_text()
    assert compared(text) == text.count("made before") == 2
    # The page is one of ours, and gives way to the next.
    go("--report", page, "--overwrite")
    assert "made before" not in page.read_text()


def test_a_page_in_a_folder_is_no_input_of_a_later_run(go: Go, page: Path, tmp_path: Path) -> None:
    go("--report", page)
    again = go("--report", page, paths=(page.parent, tmp_path / "again"), code=0)
    assert (again["found"], again["done"], again["passed_over"]) == (2, 2, {"other": 1})


def test_a_page_is_announced_in_words_but_not_in_json(
    strsr: Run, folder: Path, tiny_weights: Path, page: Path
) -> None:
    args = ("upscale", folder, page.parent, "--weights", tiny_weights, "--report", page, "--overwrite")
    assert f"report: {page}" in strsr(*args).stderr
    quiet = strsr(*args, "--quiet")
    assert [line for line in quiet.stderr.splitlines() if not line.startswith("failed")] == []
    assert compared(page.read_text()) == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("report.png", "must end in .html"),
        ("folder.html", "is a folder"),
        ("mine.html", "was not made by strsr"),
        ("mine.html/report.html", "is no folder"),
    ],
)
def test_a_path_for_no_page_ends_before_anything_is_made(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "mine.html").write_text("<h1>my own page</h1>")
    out = tmp_path / "out"
    result = strsr("upscale", folder, out, "--weights", tiny_weights, "--report", tmp_path / name)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert not out.exists()
    assert (tmp_path / "mine.html").read_text() == "<h1>my own page</h1>"


def test_a_dry_run_and_wrong_usage_write_no_page(
    strsr: Run, folder: Path, page: Path, tmp_path: Path
) -> None:
    assert strsr("upscale", folder, page.parent, "--dry-run", "--report", page).exit_code == 0
    assert strsr("upscale", folder, page.parent, "--device", "none", "--report", page).exit_code != 0
    assert not page.parent.exists()


def test_streams_are_listed_and_not_compared(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    out = os.open(tmp_path / "out.png", os.O_WRONLY | os.O_CREAT)
    os.set_inheritable(out, True)
    args = ("upscale", folder / "a.png", f"/dev/fd/{out}", "--weights", tiny_weights, "--report", page)
    result = strsr(*args)
    os.close(out)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert compared(text) == 0
    assert "through a stream" in text


def test_frames_are_compared_each_with_its_own(go: Go, tmp_path: Path, photo: np.ndarray) -> None:
    frames = [Image.fromarray(photo[:30, :30]), Image.fromarray(photo[60:90, 60:90])]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    page = tmp_path / "report.html"
    go("--frames", "all", "--report", page, paths=(tmp_path / "pages.tif", tmp_path / "out"), code=0)
    text = page.read_text()
    assert compared(text) == 2
    assert "(frame 2)" in text
    shown = {line for line in text.splitlines() if 'class="input"' in line}
    assert len(shown) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words", "code"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "ended at once", 143)]
)
def test_an_interrupted_run_leaves_a_page(
    start: Start, page: Path, number: signal.Signals, words: str, code: int
) -> None:
    process = start("--report", str(page), "--jobs", "1", wait=True)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == code
    text = page.read_text()
    assert text.rstrip().endswith(END)
    assert words in text
    assert "not reached" in text


@pytest.mark.slow
def test_a_page_that_does_not_fit_the_disk_costs_no_picture(
    folder: Path, tiny_weights: Path, page: Path, tmp_path: Path
) -> None:
    (folder / "broken.png").unlink()
    old = f'<meta name="generator" content="strsr">{END}'
    page.parent.mkdir()
    page.write_text(old)
    # No file of this process may have more than 20 kB, which the page has.
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
    program = f"{limit} sys.argv[0] = 'strsr'; runpy.run_module('strsr_cli', run_name='__main__')"
    args = ["upscale", folder, page.parent, "--scale", "2", "--weights", tiny_weights, "--report", page]
    result = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    assert f"{page}: cannot be written" in result.stderr
    assert "2 done" in result.stderr
    assert page.read_text() == old
    assert not list(page.parent.glob(".strsr-part*"))


@pytest.mark.slow
def test_a_page_of_many_pictures_compares_some_and_lists_all(
    go: Go, tmp_path: Path, photo: np.ndarray
) -> None:
    source = tmp_path / "many"
    source.mkdir()
    Image.fromarray(photo[:8, :8]).save(source / "000.png")
    for number in range(1, 300):
        shutil.copy(source / "000.png", source / f"{number:03}.png")
    page = tmp_path / "report.html"
    run = go("--report", page, paths=(source, tmp_path / "out"), code=0)
    assert run["done"] == 300
    text = page.read_text()
    # Every seventh.
    assert compared(text) == 43
    assert "43 of 300 pictures" in text
    assert text.count('<tr class="done">') == 300
