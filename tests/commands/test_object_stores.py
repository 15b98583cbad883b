"""INPUT and OUTPUT on a store: an S3 server on loopback, and real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ..helpers.object_store import BUCKET, Store, encoded, go, object_store

pytestmark = pytest.mark.slow
pytest.importorskip("s3fs")
pytest.importorskip("moto")

# The command, killed when it puts its second output: the journal's line is there, the object is not.
KILLED_AT_PUT = """
import os, signal, sys
from strsr_cli.images.places import Place
put, count = Place.put_file, []
def put_file(self, *args):
    count.append(args)
    if len(count) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, *args)
Place.put_file = put_file
from strsr_cli.app import app
app(args=sys.argv[1:], prog_name="strsr")
"""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with object_store(monkeypatch) as running:
        yield running


@pytest.fixture
def pictures(store: Store, photo: np.ndarray) -> dict[str, bytes]:
    """Eight small pictures below in/, and what is no picture."""
    files = {f"in/{'sub/' if n % 2 else ''}{n}.png": encoded(photo[n : n + 16, n : n + 20]) for n in range(8)}
    for key, data in files.items():
        store.put(key, data)
    store.put("in/notes.txt", b"no picture")
    store.put("in/.hidden.png", b"no picture")
    return files


@pytest.fixture
def arguments(tiny_weights: Path) -> list[str]:
    return [
        "upscale",
        f"s3://{BUCKET}/in",
        f"s3://{BUCKET}/out",
        "--scale",
        "2",
        "--json",
        "--weights",
        str(tiny_weights),
    ]


def begin(arguments: list[str], code: str | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, *(["-m", "strsr_cli"] if code is None else ["-c", code]), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_objects_become_what_files_become(
    store: Store, pictures: dict[str, bytes], arguments: list[str], tmp_path: Path
) -> None:
    run = go(arguments)
    assert (run["done"], run["found"]) == (8, 8)
    assert run["passed_over"] == {"hidden": 1, "other": 1}
    for key, data in pictures.items():
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    go(["upscale", tmp_path / "in", tmp_path / "out", *arguments[3:]])
    local = {
        str(path.relative_to(tmp_path)): path.read_bytes() for path in (tmp_path / "out").rglob("[0-9].png")
    }
    assert store.outputs("out") == local
    # Claims are given back, and nothing but the journal is left.
    assert {key.split("/")[1] for key in store.keys("out") if ".strsr" in key} == {".strsr-journal"}


def test_a_run_killed_before_a_put_is_resumed(
    store: Store, pictures: dict[str, bytes], arguments: list[str]
) -> None:
    first = begin([*arguments, "--jobs", "1"], KILLED_AT_PUT)
    first.communicate(timeout=200)
    assert first.returncode == -9
    there = store.outputs("out")
    assert len(there) == 1
    journal = b"".join(store.get(key) for key in store.keys("out/.strsr-journal"))
    assert journal.count(b'"done"') >= 2, "the line comes before the object"
    store.requests.clear()
    run = go(arguments)
    assert (run["skipped"], run["done"], run["left"], run["failed"]) == (1, 7, 0, 0)
    outputs = store.outputs("out")
    assert there.items() <= outputs.items()
    assert len(outputs) == 8
    assert not [key for key in store.keys("out") if ".strsr-locks" in key]


def test_a_second_run_skips_all_and_downloads_nothing(
    store: Store, pictures: dict[str, bytes], arguments: list[str]
) -> None:
    go(arguments)
    store.requests.clear()
    run = go(arguments)
    assert (run["skipped"], run["done"]) == (8, 0)
    assert {event["reason"] for event in run["events"] if event["event"] == "skipped"} == {"done before"}
    assert store.count("GET", "in/") == store.count("GET", "out/", without=".strsr-") == 0
    # Their ETags are in the listing, so that they are not even asked for.
    assert store.count("HEAD", "out/", without=".strsr-") == 0


def test_objects_without_an_md5_are_known_by_their_metadata(
    store: Store, pictures: dict[str, bytes], arguments: list[str]
) -> None:
    go(arguments)
    key = "out/0.png"
    own = store.files.metadata(f"{BUCKET}/{key}")
    # As an object of several parts: its ETag is no MD5.
    parts = store.files.call_s3("create_multipart_upload", Bucket=BUCKET, Key=key, Metadata=own)
    where = {"Bucket": BUCKET, "Key": key, "UploadId": parts["UploadId"]}
    part = store.files.call_s3("upload_part", Body=store.get(key), PartNumber=1, **where)
    whole = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    store.files.call_s3("complete_multipart_upload", MultipartUpload=whole, **where)
    assert store.files.info(f"{BUCKET}/{key}")["ETag"].endswith('-1"')
    store.requests.clear()
    run = go(arguments)
    assert (run["skipped"], run["done"]) == (8, 0)
    assert store.count("GET", "out/", without=".strsr-") == 0
    assert store.count("HEAD", "out/", without=".strsr-") == 1


def test_objects_of_somebody_are_left_alone(
    store: Store, pictures: dict[str, bytes], arguments: list[str]
) -> None:
    store.put("out/0.png", b"somebody's")
    run = go(arguments)
    assert (run["skipped"], run["done"]) == (1, 7)
    store.put("out/2.png", b"changed since")
    reasons = {e["output"]: e["reason"] for e in go(arguments)["events"] if e["event"] == "skipped"}
    assert reasons[f"s3://{BUCKET}/out/0.png"].startswith("exists, not made by strsr")
    assert "changed since strsr made it" in reasons[f"s3://{BUCKET}/out/2.png"]
    assert go([*arguments, "--overwrite"])["done"] == 8
    assert store.get("out/0.png")[:4] == b"\x89PNG"
    assert go(arguments)["skipped"] == 8


def test_inputs_are_known_by_their_etags(
    store: Store, pictures: dict[str, bytes], arguments: list[str]
) -> None:
    go(arguments)
    store.put("in/0.png", pictures["in/0.png"])
    store.put("in/2.png", pictures["in/1.png".replace("1", "4")])
    run = go(arguments)
    assert (run["skipped"], run["done"]) == (7, 1)
    assert go([*arguments, "--quality", "50"])["done"] == 8


def test_two_drivers_on_one_place_make_each_image_once(
    store: Store, pictures: dict[str, bytes], arguments: list[str], photo: np.ndarray
) -> None:
    for number in range(8, 40):
        store.put(f"in/{number}.png", encoded(photo[number : number + 16, number : number + 20]))
    store.requests.clear()
    both = [begin(arguments), begin(arguments)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    runs = [[json.loads(line) for line in output.splitlines()] for output, _ in outputs]
    done = [event["output"] for run in runs for event in run if event["event"] == "done"]
    assert len(done) == len(set(done)) == 40
    for run in runs:
        last = run[-1]
        assert last["found"] == last["done"] + last["skipped"] + last["left"] == 40
    assert store.count("PUT", "out/", without=".strsr-") == 40
    assert len(store.outputs("out")) == 40
    assert not [key for key in store.keys("out") if ".strsr-locks" in key]


def test_a_driver_that_lost_its_claim_replaces_nothing(
    store: Store, pictures: dict[str, bytes], arguments: list[str]
) -> None:
    code = KILLED_AT_PUT.replace(
        "os.kill(os.getpid(), signal.SIGKILL)", "self.put(args[0], b'of another process', new=True)"
    )
    run = begin(arguments, code)
    output, _ = run.communicate(timeout=200)
    assert run.returncode == 0
    events = [json.loads(line) for line in output.splitlines()]
    (left,) = [event for event in events if event["event"] == "left"]
    assert left["reason"] == "another process has taken it over"
    assert store.get(left["output"].removeprefix(f"s3://{BUCKET}/")) == b"of another process"
    assert (events[-1]["done"], events[-1]["left"]) == (7, 1)


def test_reports_name_objects_without_reading_them_back(
    store: Store, pictures: dict[str, bytes], arguments: list[str], tmp_path: Path
) -> None:
    assert go([*arguments, "--report", str(tmp_path / "page.html")])["done"] == 8
    assert store.count("GET", "out/", without=".strsr-") == 0
    page = (tmp_path / "page.html").read_text()
    assert "Traceback" not in page
    assert "remote place" in page


def test_parts_steal_from_each_other_on_a_store(
    store: Store, pictures: dict[str, bytes], arguments: list[str]
) -> None:
    run = go([*arguments, "--shard", "1/2", "--steal"])
    assert (run["done"], run["left"]) == (8, 0)
    assert len(store.outputs("out")) == 8
