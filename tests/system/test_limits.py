"""Machines that allow little: few threads, little memory; one line in place of a traceback."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import Result

from strsr_cli.system import limits
from strsr_cli.system.limits import FEW_THREADS, require_threads, scarcity, spare_threads, startable_threads
from strsr_models.errors import DeviceError

from ..hostile.batch import command, environment

Run = Callable[..., Result]
ROOT = os.geteuid() == 0
# A user of its own for each process that runs tests: the limit counts all processes of a user.
NOBODY = 60_000 + os.getpid() % 5_000


@pytest.fixture
def folder(tmp_path: Path, photo: object) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    for number in range(3):
        Image.fromarray(photo[:20, number : 25 + number]).save(root / f"{number}.png")  # type: ignore[index]
    return root


def no_thread_beyond(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let as many threads start as that, and no more."""
    real, left = threading.Thread.start, [count]

    def start(self: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        real(self)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_threads_are_counted_by_starting_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert startable_threads(5) == 5
    before = threading.active_count()
    no_thread_beyond(monkeypatch, 3)
    assert startable_threads(5) == 3
    assert threading.active_count() == before


def test_libraries_get_one_thread_where_few_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setattr(limits, "_limit_of_threads", lambda: FEW_THREADS)
    no_thread_beyond(monkeypatch, 0)
    spare_threads(4)
    require_threads(4)
    assert os.environ["OMP_NUM_THREADS"] == "4"
    monkeypatch.setattr(limits, "_limit_of_threads", lambda: 100)
    spare_threads(4)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "1"
    with pytest.raises(DeviceError, match="4 more threads cannot be started; allow more"):
        require_threads(4)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_batch_without_threads_is_one_line(
    strsr: Run,
    folder: Path,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    no_thread_beyond(monkeypatch, count)
    result = strsr("upscale", folder, tmp_path / "out", "--weights", tiny_weights, "--scale", 2)
    assert result.exit_code == 3, result.output
    assert result.stderr.splitlines() == [f"strsr: no more threads can be started; {limits.THREAD_ADVICE}"]
    assert list((tmp_path / "out").glob("**/.strsr-part-*")) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("x.so: failed to map segment from shared object"), "out of memory (x.so: failed to map"),
        (ImportError("long\n\nOriginal error was: y.so: cannot allocate memory in static TLS block"), "y.so"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            "(CUDA out of memory); end what",
        ),
        (MemoryError(), "out of memory; allow more"),
        (OSError(12, "Cannot allocate memory"), "out of memory; allow more"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "out of memory",
        ),
        (
            ModuleNotFoundError("No module named 'numpy'", name="numpy"),
            "No module named 'numpy'); install strsr",
        ),
    ],
    ids=str,
)
def test_what_the_system_lacks_is_one_line(error: Exception, words: str) -> None:
    line = scarcity(error) or ""
    assert words in line
    assert len(line.splitlines()) == 1
    assert len(line) < 400


def test_other_errors_are_not_explained_away() -> None:
    for error in (RuntimeError("shape mismatch"), ValueError("x"), OSError(2, "No such file")):
        assert scarcity(error) is None


def test_a_package_that_is_gone_is_one_line(folder: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['numpy'] = None; from strsr_cli.app import app; app(prog_name='strsr')"
    ran = subprocess.run(
        [sys.executable, "-c", code, "upscale", folder, tmp_path / "out"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert ran.returncode == 3
    assert len(ran.stderr.splitlines()) == 1
    assert "numpy" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [60, 300, 1000, 2000])
def test_too_little_memory_to_load_is_one_line(folder: Path, tmp_path: Path, megabytes: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))

    ran = subprocess.run(
        command("upscale", folder, tmp_path / "out", "--scale", 2),
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=limit,
        check=False,
    )
    # A processor's build of PyTorch may fit.
    if ran.returncode:
        assert len(ran.stderr.splitlines()) == 1, ran.stderr
        assert "emory" in ran.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    not ROOT or shutil.which("setpriv") is None or shutil.which("prlimit") is None,
    reason="the limit is for a user, who may have other processes",
)
@pytest.mark.parametrize("count", [1, 2, 4, 8, 20])
def test_few_processes_make_all_or_say_one_line(
    folder: Path, tiny_weights: Path, tmp_path: Path, count: int
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for path in (out, *tmp_path.parents[:2], tmp_path):
        path.chmod(0o777)

    limited = ["prlimit", f"--nproc={count}", "setpriv", f"--reuid={NOBODY}", "--clear-groups"]
    limited += ["--inh-caps=-all", "--bounding-set=-all"]
    ran = subprocess.run(
        [*limited, *command("upscale", folder, out, "--scale", 2, "--weights", tiny_weights)],
        capture_output=True,
        text=True,
        env={**environment(), "XDG_CACHE_HOME": str(out)},
        check=False,
    )
    made = len(list(out.glob("*.png")))
    assert (ran.returncode, made) in ((0, 3), (3, 0)), ran.stderr
    if ran.returncode:
        assert len(ran.stderr.splitlines()) == 1, ran.stderr
        assert "threads cannot be started" in ran.stderr or "no more threads" in ran.stderr
