"""Batches on Ray whose INPUT or OUTPUT is a store or a website on loopback; nodes know neither before the driver comes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strsr_cli.batch.journal_files import JOURNAL

from ..helpers.object_store import BUCKET, Store, encoded, object_store
from ..helpers.ray_runs import ends, finish, rest, until_done
from .test_crash import outputs

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
pytest.importorskip("s3fs")
pytest.importorskip("moto")

COUNT = 40
BROKEN = ("06.png", "23.jpg", "32.png")
IN, OUT = f"s3://{BUCKET}/in", f"s3://{BUCKET}/out"


@pytest.fixture
def store(
    nodes: Callable[[], None], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A store of which the command's environment says where it is; the nodes are there already, and have no word of it."""
    with object_store(monkeypatch) as running:
        environment.update({name: value for name, value in os.environ.items() if name.startswith("AWS_")})
        yield running


@pytest.fixture
def pictures(photo: np.ndarray) -> dict[str, bytes]:
    """Forty pictures in two folders, three of them broken, by their names."""
    files = {}
    for number in range(COUNT):
        name = f"{number:02}.{'jpg' if number % 4 == 3 else 'png'}"
        kind = "jpeg" if name.endswith("jpg") else "png"
        data = b"no image" if name in BROKEN else encoded(photo[number:, number:][:48, :64], kind)
        files[f"below/{name}" if number % 2 else name] = data
    return files


@pytest.fixture
def begin(
    start: Callable[..., subprocess.Popen], store: Store, pictures: dict[str, bytes]
) -> Callable[..., subprocess.Popen]:
    """Begin a run on Ray over the pictures, which are in the store."""
    for name, data in pictures.items():
        store.put(f"in/{name}", data)
    return partial(start, IN, OUT, "--engine", "ray")


@pytest.fixture
def local(
    start: Callable[..., subprocess.Popen], pictures: dict[str, bytes], tmp_path: Path
) -> Callable[[], tuple[dict[str, str], dict[str, bytes]]]:
    """Make the pictures without Ray, as files; returns what became of each, and the outputs."""

    def run() -> tuple[dict[str, str], dict[str, bytes]]:
        for name, data in pictures.items():
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        became = ends(finish(start(tmp_path / "in", tmp_path / "local"), 1))
        return became, {f"out/{name}": data for name, data in outputs(tmp_path / "local").items()}

    return run


def own(store: Store) -> set[str]:
    """The names below OUTPUT of what is ours and no output: that of the journal alone, if all is well."""
    return {key.split("/")[1] for key in store.keys("out") if ".strsr" in key}


def test_a_lost_node_costs_a_store_nothing_but_time(
    store: Store,
    nodes: Callable[[], None],
    begin: Callable[..., subprocess.Popen],
    local: Callable[[], tuple[dict[str, str], dict[str, bytes]]],
) -> None:
    process = begin()
    lines = until_done(process, 10)
    nodes()
    events = finish(process, 1, lines)
    became, files = local()
    assert ends(events) == became
    assert {name for name, event in became.items() if event == "failed"} == set(BROKEN)
    assert store.outputs("out") == files
    assert len(files) == events[-1]["done"] == COUNT - len(BROKEN)
    assert own(store) == {JOURNAL}
    again = finish(begin(), 1)
    assert (again[-1]["done"], again[-1]["skipped"]) == (0, COUNT - len(BROKEN))


def test_a_killed_driver_of_a_store_is_started_again(
    store: Store,
    begin: Callable[..., subprocess.Popen],
    local: Callable[[], tuple[dict[str, str], dict[str, bytes]]],
) -> None:
    process = begin()
    until_done(process, 8)
    process.kill()
    process.communicate()
    there = store.outputs("out")
    assert 8 <= len(there) < COUNT - len(BROKEN)
    events = finish(begin(), 1)
    assert events[-1]["skipped"] >= len(there)
    # Workers of the dead one may put what they had begun.
    assert events[-1]["done"] + events[-1]["skipped"] + events[-1]["left"] == COUNT - len(BROKEN)
    made = {Path(event["output"]).name for event in events if event["event"] == "done"}
    assert not made & {Path(key).name for key in there}
    assert store.outputs("out") == local()[1]
    assert own(store) == {JOURNAL}


def test_two_drivers_on_ray_put_each_object_once(
    store: Store, begin: Callable[..., subprocess.Popen]
) -> None:
    for name in BROKEN:
        # Which of the two would fail is not known.
        store.files.rm(store.files.glob(f"{BUCKET}/in/**/{name}"))
    # Else the second one would wait until the first one's workers have gone.
    both = [begin("--workers", "1"), begin("--workers", "1")]
    runs = [finish(process, 0) for process in both]
    done = [event["output"] for run in runs for event in run if event["event"] == "done"]
    assert len(done) == len(set(done)) == len(store.outputs("out")) == COUNT - len(BROKEN)
    assert store.count("PUT", "out/", without=".strsr-") == COUNT - len(BROKEN)
    assert own(store) == {JOURNAL}


@pytest.mark.parametrize(("signals", "code"), [(1, 130), (2, 130)])
def test_signals_leave_no_claims_in_a_store(
    signals: int, code: int, store: Store, begin: Callable[..., subprocess.Popen]
) -> None:
    process = begin()
    lines = until_done(process, 4)
    for place in range(signals):
        if place:
            assert process.stderr is not None
            while "^C again" not in process.stderr.readline():
                assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = rest(process)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    done = sum('"event": "done"' in line for line in [*lines, *stdout.splitlines()])
    assert 4 <= done < COUNT - len(BROKEN)
    assert own(store) == {JOURNAL}


def test_an_output_of_a_worker_that_died_counts_as_made(
    store: Store, begin: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    """A worker puts an object, and dies before it says so."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if any('default_worker' in word for word in sys.argv + sys.orig_argv):\n"
        "    from strsr_cli.images.places import Place\n"
        "    put_file = Place.put_file\n"
        "    def put_and_die(self, key, *more):\n"
        "        put = put_file(self, key, *more)\n"
        "        if key.endswith('13.png'):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return put\n"
        "    Place.put_file = put_and_die\n"
    )
    events = finish(begin(), 1)
    assert events[-1]["done"] == COUNT - len(BROKEN)
    (late,) = [event for event in events if event["event"] == "done" and event["input"].endswith("13.png")]
    assert (late["width"], late["height"]) == (4 * 64, 4 * 48)
    assert store.count("PUT", "out/below/13.png") == 1
    assert own(store) == {JOURNAL}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("to_store", [False, True])
def test_pages_of_a_website_are_made_on_ray(
    to_store: bool, store: Store, start: Callable[..., subprocess.Popen], tmp_path: Path, photo: np.ndarray
) -> None:
    (tmp_path / "web").mkdir()
    for number in range(5):
        Image.fromarray(photo[number : number + 16, :20]).save(tmp_path / "web" / f"{number}.png")
    # The first one of the list is not there, which is no fault of a node.
    names = ["gone.png", *(f"{number}.png" for number in range(5))]
    (tmp_path / "list.txt").write_text("\n".join(names))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        run = start(
            f"http://127.0.0.1:{server.server_port}",
            OUT if to_store else tmp_path / "out",
            "--files-from",
            tmp_path / "list.txt",
            "--engine",
            "ray",
        )
        events = finish(run, 1)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert (events[-1]["done"], events[-1]["failed"]) == (5, 1)
    files = store.outputs("out") if to_store else outputs(tmp_path / "out")
    assert {Path(name).name for name in files} == set(names[1:])
