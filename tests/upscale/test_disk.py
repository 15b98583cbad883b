"""Disks, folders and files that fail while a batch runs: one line for each picture, and the rest go on."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from ..hostile.batch import command, environment, obey_modes
from ..hostile.batch import strsr as in_a_process

Run = Callable[..., Result]
ROOT = os.geteuid() == 0


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    """Thirty pictures, of which the tenth is the only one with a large output."""
    root = tmp_path / "in"
    root.mkdir()
    for number in range(30):
        Image.fromarray(photo[:20, number : number + 30]).save(root / f"{number:02}.png")
    noise = np.random.default_rng(1).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    Image.fromarray(noise).save(root / "10.png")
    return root


def pictures(out: Path) -> list[str]:
    """Outputs, all of them whole; anything that is not finished is found here too."""
    found = [path for path in out.rglob("*") if path.is_file() and path.suffix in (".png", ".jpg")]
    for path in found:
        with Image.open(path) as image:
            image.load()
    return sorted(str(path.relative_to(out)) for path in found)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond that: what a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A small disk of its own; skips where none may be mounted."""
    folder.mkdir(exist_ok=True)
    if (
        not ROOT
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def after_the_first(act: Callable[[], None], *args: object) -> tuple[int, list[dict], str]:
    """Run a batch, held still after its first output while `act` does something: (code, events, stderr)."""
    process = subprocess.Popen(
        command("upscale", *args, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if events[-1]["event"] == "done":
            break
    process.send_signal(signal.SIGSTOP)
    act()
    process.send_signal(signal.SIGCONT)
    rest, stderr = process.communicate(timeout=120)
    events += [json.loads(line) for line in rest.splitlines()]
    assert "Traceback" not in stderr
    return process.returncode, events, stderr


def outcomes(events: list[dict]) -> tuple[list[str], dict[str, str]]:
    """(names of outputs, reasons by names of inputs); the summary agrees with them."""
    done = [event["output"] for event in events if event["event"] == "done"]
    failed = {Path(event["input"]).name: event["reason"] for event in events if event["event"] == "failed"}
    summary = events[-1]
    assert (summary["done"], summary["failed"]) == (len(done), len(failed))
    assert summary["found"] == len(done) + len(failed) + summary["skipped"]
    assert all(len(reason.splitlines()) == 1 for reason in failed.values())
    return done, failed


# --- full disks ------------------------------------------------------------------------------------


def test_a_file_that_may_not_grow_is_one_error(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with files_of_at_most(100_000):
        result = strsr("upscale", folder, out, "--weights", tiny_weights)
    assert result.exit_code == 1, result.output
    assert "29 done, 0 skipped, 1 failed" in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("failed")]
    assert len(lines) == 1
    assert "10.png: cannot be written: File too large" in lines[0]
    assert "Traceback" not in result.output
    assert len(pictures(out)) == 29
    assert [path.name for path in out.rglob(".strsr-*.png")] == []
    # With room again, the next run makes what is missing.
    again = strsr("upscale", folder, out, "--weights", tiny_weights)
    assert "1 done, 29 skipped, 0 failed" in again.stderr


@pytest.mark.slow
def test_a_disk_that_fills_up_fails_what_does_not_fit(strsr: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with mounted(out, "64m"):

        def fill() -> None:
            with contextlib.suppress(OSError), (out / "filler").open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        known = "--no-space-check" in strsr("upscale", "--help").stdout
        unchecked = ["--no-space-check"] if known else []
        code, events, _ = after_the_first(fill, folder, out, *unchecked)
        done, failed = outcomes(events)
        assert code == 1
        assert failed
        assert all("cannot be written: No space left on device" in reason for reason in failed.values())
        assert sorted(pictures(out)) == sorted(Path(name).name for name in done)
        (out / "filler").unlink()
        last = in_a_process("upscale", folder, out, "--json", *unchecked)
        assert last.returncode == 0, last.stdout
        assert len(pictures(out)) == 30


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_output_is_one_line(folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = in_a_process(
            "upscale", folder / "00.png", "-", capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    lines = [line for line in ran.stderr.decode().splitlines() if not line.startswith("0 done")]
    assert ran.returncode == 1
    assert len(lines) == 1, lines
    assert "No space left on device" in lines[0]


# --- folders ---------------------------------------------------------------------------------------


def test_a_read_only_disk_takes_one_line(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    with read_only(tmp_path / "out"):
        for option in ([], ["--dry-run"]):
            result = strsr("upscale", folder, tmp_path / "out", "--weights", tiny_weights, *option)
            assert result.exit_code == 2
            assert f"{tmp_path}/out: cannot be written to: " in result.stderr
            assert len(result.stderr.splitlines()) == 1


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    if not ROOT:
        folder.mkdir(mode=0o500)
        yield
        folder.chmod(0o700)
        return
    with mounted(folder, "1g"):  # as far as a check of free space can see
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        yield


def test_an_output_that_is_a_file_stays_as_it_is(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.write_text("precious")
    result = strsr("upscale", folder, out, "--weights", tiny_weights)
    assert result.exit_code in (1, 2)
    assert str(out) in result.stderr
    assert "Traceback" not in result.output
    assert out.read_text() == "precious"


def test_a_folder_in_an_output_s_place_is_an_error(
    strsr: Run, folder: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "03.png").mkdir(parents=True)
    result = strsr("upscale", folder, tmp_path / "out", "--weights", tiny_weights)
    assert "Traceback" not in result.output
    assert len(pictures(tmp_path / "out")) == 29
    told = result.exit_code == 1 and "29 done, 0 skipped, 1 failed" in result.stderr
    assert told, result.stderr


@pytest.mark.slow
def test_an_output_folder_that_goes_is_made_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, events, _ = after_the_first(lambda: shutil.rmtree(out), folder, out)
    done, failed = outcomes(events)
    assert len(done) + len(failed) == 30
    assert code == (1 if failed else 0)
    assert set(pictures(out)) <= {Path(name).name for name in done}
    assert len(pictures(out)) >= 20, "what came after was not written"


# --- inputs ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inputs_that_go_while_it_runs_are_errors(folder: Path, tmp_path: Path) -> None:
    gone = [folder / f"{number:02}.png" for number in range(5, 30, 2)]
    changed = folder / "28.png"

    def change() -> None:
        for path in gone:
            path.unlink()
        changed.write_bytes(b"\x89PNG\r\n\x1a\n of another kind")

    code, events, _ = after_the_first(change, folder, tmp_path / "out")
    done, failed = outcomes(events)
    assert code == 1
    assert {name for name, reason in failed.items() if "No such file or directory" in reason} >= {
        path.name for path in gone[5:]
    }
    assert "cannot be decoded" in failed[changed.name]
    assert pictures(tmp_path / "out") == sorted(Path(name).name for name in done)


@pytest.mark.slow
@pytest.mark.skipif(ROOT and sys.platform != "linux", reason="root may read and write anything")
def test_files_that_may_not_be_read_or_written_are_named(photo: np.ndarray, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("good.png", "forbidden.png", "closed/inside.png", "below/held.png"):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[:20, :30]).save(path)
    (out / "below").mkdir(parents=True)
    closed = {source / "forbidden.png": 0, source / "closed": 0, out / "below": 0o500}
    for path, mode in closed.items():
        path.chmod(mode)
    ran = in_a_process("upscale", source, out, preexec_fn=obey_modes)
    for path in closed:
        path.chmod(0o700)
    text = ran.stderr.decode()
    assert ran.returncode == 1, text
    assert "Traceback" not in text
    assert f"{source}/forbidden.png: cannot be read: Permission denied" in text
    assert f"{out}/below/held.png: cannot be written: Permission denied" in text
    assert pictures(out) == ["good.png"]
    assert "closed" in text
