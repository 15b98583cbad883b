"""Streams that take no words: a message is lost, the work goes on, and the exit code says so."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from strsr_cli.app import app
from strsr_cli.system.streams import MessageStream, message_streams

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


def run(arguments: list[object], out: Path | None = None, err: Path | None = None) -> tuple[int, str, str]:
    """The command in this process, with streams into files: (exit code, what is on stdout, on stderr)."""
    words: list[io.TextIOBase] = []
    with contextlib.ExitStack() as stack:
        for path, redirect in ((out, contextlib.redirect_stdout), (err, contextlib.redirect_stderr)):
            stream = io.StringIO() if path is None else stack.enter_context(path.open("w"))
            words.append(stream)
            stack.enter_context(redirect(stream))
        with pytest.raises(SystemExit) as leaving:
            app([str(argument) for argument in arguments])
        said = [stream.getvalue() if isinstance(stream, io.StringIO) else "" for stream in words]
    return int(leaving.value.code or 0), said[0], said[1]


@pytest.fixture
def folder(tmp_path: Path, photo: object) -> Path:
    from PIL import Image

    root = tmp_path / "in"
    root.mkdir()
    for number in range(3):
        Image.fromarray(photo[:20, number : 25 + number]).save(root / f"{number}.png")  # type: ignore[index]
    return root


LINE = "strsr: standard output cannot be written: No space left on device"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["models", "list"],
        ["models", "list", "--json"],
        ["doctor"],
        ["doctor", "--json"],
    ],
    ids=" ".join,
)
def test_a_full_standard_output_is_one_line_and_exit_code_1(arguments: list[object]) -> None:
    assert run(arguments, out=FULL) == (1, "", LINE + "\n")


def test_events_that_are_lost_cost_no_picture(folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = ["--scale", 2, "--weights", tiny_weights]
    batch = ["upscale", folder, tmp_path / "out", *options]
    assert run([*batch, "--dry-run"], out=FULL) == (1, "", LINE + "\n")
    assert run([*batch, "--json"], out=FULL) == (1, "", LINE + "\n")
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    # What was made is remembered.
    code, events, _ = run([*batch, "--json"])
    assert (code, json.loads(events.splitlines()[-1])["skipped"]) == (0, 3)


def test_a_full_standard_error_costs_no_picture(folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    batch = ["upscale", folder, tmp_path / "out", "--scale", 2, "--weights", tiny_weights]
    assert run(batch, err=FULL) == (1, "", "")
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    assert run([*batch, "--overwrite", "--json"], out=FULL, err=FULL) == (1, "", "")
    assert run(["upscale", tmp_path / "nothing", tmp_path / "out"], err=FULL) == (2, "", "")


def test_scores_that_are_lost_are_one_line(folder: Path) -> None:
    for options in ([], ["--json"]):
        assert run(["fft-inspect", folder, *options], out=FULL)[::2] == (1, LINE + "\n")


@pytest.mark.parametrize("arguments", [["--version"], ["models", "list"]], ids=" ".join)
def test_a_closed_standard_output_is_said_where_words_are_lost(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "strsr_cli", *arguments]
    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (
        1,
        "strsr: standard output cannot be written: Bad file descriptor\n",
    )
    # Who closes standard error wants no messages.
    quiet = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=subprocess.DEVNULL, check=False
    )
    assert quiet.returncode == 0


class Failing(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def test_a_stream_is_silent_after_its_first_error() -> None:
    behind = Failing(OSError(5, "Input/output error"))
    stream = MessageStream(behind)
    assert stream.write("lost") == 4
    behind.error = AssertionError("a second word")
    stream.writelines(["lost", "too"])
    stream.flush()
    assert stream.failure is not None
    assert stream.failure.errno == 5


def test_a_pipe_without_a_reader_still_ends_the_command() -> None:
    with pytest.raises(BrokenPipeError):
        MessageStream(Failing(BrokenPipeError())).write("x")


def test_a_closed_file_is_silent_and_bad_text_is_not() -> None:
    behind = io.StringIO()
    behind.close()
    stream = MessageStream(behind)
    stream.write("x")
    assert stream.failure is not None
    with pytest.raises(ValueError, match="bad"):
        MessageStream(Failing(ValueError("bad"))).write("x")


def test_streams_are_given_back() -> None:
    before = sys.stdout, sys.stderr
    with message_streams() as (out, err):
        assert (sys.stdout, sys.stderr) == (out, err)
        assert os.fspath(out.name) == before[0].name if hasattr(before[0], "name") else True
    assert (sys.stdout, sys.stderr) == before


def test_a_run_of_training_goes_on_without_words(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    settings = ["steps=1", "crop_size=64", "batch_size=1", "workers=0", "tensorboard=false", "sample_every=1"]
    options = [part for setting in settings for part in ("--set", setting)]
    code, _, err = run(["train", "--data", photos, "--out", out, *options], out=FULL)
    assert (code, err.splitlines()[-1]) == (1, LINE)
    assert (out / "model" / "model.safetensors").is_file()
