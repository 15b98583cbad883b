"""`strsr upscale --watch`: processes that go on with what arrives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.batch.journal_files import JOURNAL

from ..helpers.upscale_runs import left_over

Run = Callable[..., Result]
PATIENCE = 120  # s that a test waits for what should come at once


class Watcher:
    """A process that watches; its events are read from a file as they come."""

    def __init__(self, arguments: list[object], events: Path, before: list[str] | None = None) -> None:
        self.events_file, self.errors = events, events.with_suffix(".err")
        command = [*(before or []), sys.executable, "-m", "strsr_cli", "upscale", "--watch", "--json"]
        with open(events, "wb") as out, open(self.errors, "wb") as err:
            self.process = subprocess.Popen([*command, *map(str, arguments)], stdout=out, stderr=err)

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        lines = self.events_file.read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if not kind or event["event"] == kind]

    def wait_for(self, condition: Callable[[], object]) -> None:
        begun = time.monotonic()
        while not condition():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() - begun < PATIENCE, self.events()
            time.sleep(0.05)

    def ready(self) -> Watcher:
        self.wait_for(lambda: any(e.get("text", "").startswith("watching") for e in self.events()))
        return self

    def made(self) -> list[str]:
        return [Path(event["output"]).name for event in self.events("done")]

    def stop(self, number: signal.Signals = signal.SIGINT) -> dict[str, Any]:
        self.process.send_signal(number)
        self.process.wait(timeout=PATIENCE)
        assert "Traceback" not in self.errors.read_text()
        return self.events()[-1]


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo[:20, :25]).save(tmp_path / "photos" / "first.png")
    Image.fromarray(photo[:20, :25]).save(tmp_path / "one.png")
    return tmp_path / "photos"


@pytest.fixture
def watch(tmp_path: Path, photos: Path, tiny_weights: Path) -> Iterator[Callable[..., Watcher]]:
    running: list[Watcher] = []

    def begin(*options: object, paths: tuple[Path, ...] = (), before: list[str] | None = None) -> Watcher:
        arguments = [
            *(paths or (photos, tmp_path / "out")),
            "--scale",
            2,
            "--weights",
            tiny_weights,
            *options,
        ]
        running.append(Watcher(arguments, tmp_path / f"events{len(running)}.json", before))
        return running[-1]

    yield begin
    for watcher in running:
        watcher.process.kill()
        watcher.process.wait()


def test_files_are_made_as_they_arrive_until_an_interrupt(
    watch: Callable[..., Watcher], photos: Path, tmp_path: Path
) -> None:
    watcher = watch().ready()
    data = (tmp_path / "one.png").read_bytes()
    (photos / "half.png").write_bytes(data[:100])
    (photos / "new" / "deep").mkdir(parents=True)
    shutil.copy(tmp_path / "one.png", photos / "new" / "deep" / "copied.png")
    (photos / "broken.dat").write_text("no image")
    watcher.wait_for(lambda: sorted(watcher.made()) == ["copied.png", "first.png"])
    # Half of it is there since before, and is no failure.
    (photos / "half.png").write_bytes(data)
    watcher.wait_for(lambda: "half.png" in watcher.made())
    Image.new("RGB", (30, 30)).save(photos / "half.png")
    watcher.wait_for(lambda: watcher.made().count("half.png") == 2)
    with Image.open(tmp_path / "out" / "half.png") as image:
        assert image.size == (60, 60)
    last = watcher.stop()
    assert watcher.process.returncode == 130
    assert last["event"] == "summary"
    assert (last["found"], last["done"], last["failed"], last["unreached"]) == (4, 4, 0, 0)
    assert watcher.errors.read_text() == ""
    assert left_over(tmp_path / "out") == [JOURNAL]


@pytest.mark.slow
def test_a_watcher_and_a_run_without_know_each_other(
    watch: Callable[..., Watcher], photos: Path, tmp_path: Path, strsr: Run, tiny_weights: Path
) -> None:
    args = (photos, tmp_path / "out", "--scale", 2, "--weights", tiny_weights)
    assert strsr("upscale", *args).exit_code == 0
    watcher = watch().ready()
    # It is waited for, as it is only just there.
    watcher.wait_for(lambda: [event["reason"] for event in watcher.events("skipped")] == ["done before"])
    shutil.copy(tmp_path / "one.png", photos / "two.png")
    watcher.wait_for(lambda: watcher.made() == ["two.png"])
    watcher.stop()
    assert "2 skipped" in strsr("upscale", *args).stderr


@pytest.mark.slow
def test_two_watchers_make_each_image_once(
    watch: Callable[..., Watcher], photos: Path, tmp_path: Path
) -> None:
    both = [watch(), watch()]
    for watcher in both:
        watcher.ready()
    for number in range(12):
        shutil.copy(tmp_path / "one.png", photos / f"{number}.png")
    names = sorted(["first.png", *(f"{number}.png" for number in range(12))])
    both[0].wait_for(lambda: sorted(both[0].made() + both[1].made()) == names)
    for watcher in both:
        last = watcher.stop()
        assert last["found"] == sum(last[key] for key in ("done", "skipped", "failed", "left", "unreached"))
    assert sorted(both[0].made() + both[1].made()) == names


@pytest.mark.slow
def test_what_a_killed_watcher_was_at_is_made_by_the_other(
    watch: Callable[..., Watcher], photos: Path, tmp_path: Path, photo: np.ndarray
) -> None:
    both = [watch().ready(), watch().ready()]
    Image.fromarray(np.tile(photo, (6, 6, 1))).save(tmp_path / "large.png")
    (tmp_path / "large.png").replace(photos / "large.png")
    claims = tmp_path / "out" / ".strsr-locks"

    def holder() -> int | None:
        for claim in claims.glob("[0-9a-f]*") if claims.exists() else ():
            session = json.loads((claims / claim.read_text()).read_text())
            return int(session["pid"])
        return None

    both[0].wait_for(holder)
    dead = both[0] if both[0].process.pid == holder() else both[1]
    alive = both[1] if dead is both[0] else both[0]
    # It must not be done before the other has found it at work.
    dead.process.send_signal(signal.SIGSTOP)
    alive.wait_for(lambda: alive.events("left"))
    dead.process.kill()
    alive.wait_for(lambda: "large.png" in alive.made())
    last = alive.stop()
    assert (last["left"], last["failed"], last["unreached"]) == (0, 0, 0)


@pytest.mark.slow
def test_files_are_seen_without_events_too(
    watch: Callable[..., Watcher], photos: Path, tmp_path: Path
) -> None:
    # The system gives out no inotify instances in there.
    inside = [
        "unshare",
        "-Ur",
        "sh",
        "-c",
        'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"',
        "sh",
    ]
    probe = subprocess.run([*inside, "true"], check=False, capture_output=True)
    if probe.returncode:
        pytest.skip("user namespaces are closed to us")
    watcher = watch(before=inside).ready()
    watcher.wait_for(lambda: any("inotify" in event.get("text", "") for event in watcher.events()))
    shutil.copy(tmp_path / "one.png", photos / "two.png")
    watcher.wait_for(lambda: "two.png" in watcher.made())
    watcher.stop()


@pytest.mark.slow
def test_several_folders_are_watched_and_one_may_go(
    watch: Callable[..., Watcher], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    watcher = watch(paths=(photos, tmp_path / "more", tmp_path / "out")).ready()
    shutil.copy(tmp_path / "one.png", tmp_path / "more" / "a.png")
    watcher.wait_for(lambda: "a.png" in watcher.made())
    shutil.rmtree(tmp_path / "more")
    watcher.wait_for(lambda: any("is not there; waiting" in e.get("text", "") for e in watcher.events()))
    shutil.copy(tmp_path / "one.png", photos / "b.png")
    watcher.wait_for(lambda: "b.png" in watcher.made())
    (tmp_path / "more").mkdir()
    shutil.copy(tmp_path / "one.png", tmp_path / "more" / "c.png")
    watcher.wait_for(lambda: "c.png" in watcher.made())
    watcher.stop()
    assert (tmp_path / "out" / "more" / "c.png").exists()
    assert (tmp_path / "out" / "photos" / "b.png").exists()


@pytest.mark.slow
def test_output_within_input_is_not_watched(
    watch: Callable[..., Watcher], photos: Path, tmp_path: Path
) -> None:
    watcher = watch("--report", tmp_path / "page.html", paths=(photos, photos / "out")).ready()
    shutil.copy(tmp_path / "one.png", photos / "two.png")
    watcher.wait_for(lambda: "two.png" in watcher.made())
    last = watcher.stop()
    assert (last["done"], last["found"], last["passed_over"]) == (2, 2, {"output": 1})
    page = (tmp_path / "page.html").read_text()
    assert "two.png" in page


@pytest.mark.slow
def test_a_termination_ends_a_watcher_at_once(watch: Callable[..., Watcher], tmp_path: Path) -> None:
    watcher = watch().ready()
    watcher.wait_for(lambda: watcher.made() == ["first.png"])
    watcher.stop(signal.SIGTERM)
    assert watcher.process.returncode == 143
    assert left_over(tmp_path / "out") == [JOURNAL]


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (("one.png", "out"), (), "one.png is no folder, in which something could arrive"),
        (("-", "out/"), (), "- is no folder of this machine"),
        (("s3://bucket/in", "out"), (), "s3://bucket/in is no folder of this machine"),
        (("photos", "s3://bucket/out"), (), "s3://bucket/out is no folder of this machine"),
        (("nothing", "out"), (), "nothing is no folder"),
        (("photos", "-"), (), "- is no folder of this machine"),
        (("photos", "out"), ("--dry-run",), "not with --dry-run"),
        (("photos", "out"), ("--retry-failed",), "not with --retry-failed"),
        (("photos", "out"), ("--shard", "1/2"), "drop the part 1 of 2"),
        (("photos", "out"), ("--engine", "ray"), "not with --engine ray"),
        (("photos", "out"), ("--files-from", "one.png"), "not with --files-from"),
        (("photos", "out"), ("--replace",), "not with --replace"),
    ],
)
def test_watching_what_cannot_grow_is_refused(
    paths: tuple[str, ...],
    options: tuple[str, ...],
    message: str,
    photos: Path,
    tmp_path: Path,
    strsr: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = strsr("upscale", *paths, "--watch", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not os.path.lexists("out")
