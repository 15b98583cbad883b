"""URLs as INPUT and OUTPUT: stores and websites on loopback, and what is said where they are not there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.images.places import Place, RemoteFile

from ..helpers.object_store import BUCKET, Store, encoded, forget_file_systems, go, object_store

pytest.importorskip("s3fs")
pytest.importorskip("moto")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with object_store(monkeypatch) as running:
        yield running


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def website(tmp_path: Path, photo: np.ndarray) -> Iterator[str]:
    """Two pictures and a page on loopback; the address of their folder."""
    folder = tmp_path / "web" / "photos"
    folder.mkdir(parents=True)
    Image.fromarray(photo[:16, :20]).save(folder / "a b.png")
    Image.fromarray(photo[:20, :16]).save(folder / "c.jpg")
    (folder / "page.txt").write_text("no picture")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/photos"
    server.shutdown()
    thread.join()
    server.server_close()
    forget_file_systems()


@pytest.fixture
def upscale(tiny_weights: Path) -> Callable[..., dict]:
    def run(*arguments: object, code: int = 0) -> dict:
        return go(["upscale", *arguments, "--scale", 2, "--weights", tiny_weights, "--json"], code)

    return run


@pytest.mark.slow
def test_local_images_become_objects_and_come_back(
    store: Store, upscale: Callable[..., dict], tmp_path: Path, photo: np.ndarray
) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    Image.fromarray(photo[:16, :20]).save(tmp_path / "in" / "sub" / "a.png")
    (tmp_path / "in" / "broken.png").write_text("no")
    run = upscale(tmp_path / "in", f"s3://{BUCKET}/out/", code=1)
    assert (run["done"], run["failed"]) == (1, 1)
    assert list(store.outputs("out")) == ["out/sub/a.png"]
    run = upscale(tmp_path / "in", f"s3://{BUCKET}/out/", "--retry-failed", code=1)
    assert (run["done"], run["failed"], run["skipped"]) == (0, 1, 1)
    # Outputs below INPUT are no inputs, as their journal says.
    store.put("in.png", encoded(photo[:12, :12]))
    run = upscale(f"s3://{BUCKET}", tmp_path / "back")
    assert (run["done"], run["passed_over"]["output"]) == (1, 1)
    assert upscale(f"s3://{BUCKET}", tmp_path / "back")["skipped"] == 1
    assert [path.name for path in (tmp_path / "back").glob("*.png")] == ["in.png"]


@pytest.mark.slow
def test_a_single_object_of_somebody_is_not_replaced(
    store: Store, upscale: Callable[..., dict], tmp_path: Path, photo: np.ndarray
) -> None:
    source, target = f"s3://{BUCKET}/a.png", f"s3://{BUCKET}/b.jpg"
    store.put("a.png", encoded(photo[:16, :20]))
    store.put("b.jpg", b"somebody's")
    run = upscale(source, target, "--overwrite", code=2)
    assert f"{target} exists and was not made by strsr" in run["stderr"]
    assert upscale(source, target, "--replace")["done"] == 1
    assert store.get("b.jpg")[:2] == b"\xff\xd8"
    assert upscale(source, target)["skipped"] == 1
    assert upscale(source, target, "--overwrite")["done"] == 1
    assert upscale(source, tmp_path)["done"] == 1
    assert (tmp_path / "a.png").exists()
    assert "would replace its own input" in upscale(source, source, "--replace", code=2)["stderr"]


@pytest.mark.slow
def test_names_that_lead_out_of_a_folder_fail(
    store: Store, upscale: Callable[..., dict], tmp_path: Path, photo: np.ndarray
) -> None:
    for key in ("in/a/../../../evil.png", "in/good.png", "in//double.png"):
        store.put(key, encoded(photo[:16, :20]))
    run = upscale(f"s3://{BUCKET}/in", tmp_path / "deep" / "out", code=1)
    assert (run["done"], run["failed"]) == (2, 1)
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.slow
def test_an_object_that_is_gone_or_too_large_fails_alone(
    store: Store, upscale: Callable[..., dict], tmp_path: Path, photo: np.ndarray
) -> None:
    for name in ("a", "b"):
        store.put(f"in/{name}.png", encoded(photo[:16, :20]))
    store.put("in/large.png", b"x" * 9000)
    listing = tmp_path / "names.txt"
    listing.write_text("a.png\ngone.png\nlarge.png\n")
    run = upscale(
        f"s3://{BUCKET}/in", tmp_path / "out", "--files-from", listing, "--max-pixels", 1000, code=1
    )
    assert (run["done"], run["failed"]) == (1, 2)
    reasons = [event["reason"] for event in run["events"] if event["event"] == "failed"]
    assert any("gone.png: no such object" in reason for reason in reasons)
    assert any("9000 bytes are more than --max-pixels allows to read (8000)" in reason for reason in reasons)


@pytest.mark.slow
def test_a_dry_run_knows_bytes_and_writes_nothing(
    store: Store, upscale: Callable[..., dict], photo: np.ndarray
) -> None:
    store.put("in/a.png", encoded(photo[:16, :20]))
    run = upscale(f"s3://{BUCKET}/in", f"s3://{BUCKET}/out", "--dry-run")
    assert run["to_make"] == 1
    assert run["events"][0]["bytes"] == len(store.get("in/a.png"))
    assert store.keys() == ["in/a.png"]


def test_pages_of_the_web_are_inputs(
    website: str, upscale: Callable[..., dict], tmp_path: Path, photo: np.ndarray
) -> None:
    assert upscale(f"{website}/a%20b.png?size=full", tmp_path / "one")["done"] == 1
    assert (tmp_path / "one" / "a b.png").exists()
    assert upscale(f"{website}/c.jpg", tmp_path / "large.webp")["done"] == 1
    run = upscale(f"{website}/", tmp_path / "all")
    assert (run["done"], run["passed_over"]) == (2, {"other": 1})
    assert sorted(path.name for path in (tmp_path / "all").glob("[a-z]*")) == ["a b.png", "c.jpg"]
    assert upscale(f"{website}/", tmp_path / "all")["skipped"] == 2


def test_a_page_that_is_gone_fails_alone(website: str, upscale: Callable[..., dict], tmp_path: Path) -> None:
    listing = tmp_path / "names.txt"
    listing.write_text("c.jpg\ngone.png\n")
    run = upscale(website, tmp_path / "out", "--files-from", listing, code=1)
    assert (run["done"], run["failed"]) == (1, 1)
    assert "no such page" in upscale(f"{website}/gone.png", tmp_path / "out", code=2)["stderr"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["s3://b/in", "s3://b/out", "--keep-times"], "--keep-times: not for URLs"),
        (["s3://b/in", "--in-place-suffix", "_x4"], "--in-place-suffix: not for URLs"),
        (["s3://b/in", "out", "--frames", "all"], "--frames all needs a local file"),
        (["s3://b/in", "https://host/out"], "outputs go to s3:// and gs://"),
        (["ftp://host/in", "out"], "unknown kind of place"),
        (["s3://", "out"], "names no bucket"),
    ],
)
def test_what_urls_cannot_do_is_said(strsr: Callable[..., Result], arguments: list[str], words: str) -> None:
    result = strsr("upscale", *arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert words in line


def test_a_missing_package_is_named(
    strsr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forget_file_systems()
    monkeypatch.setitem(sys.modules, "s3fs", None)
    result = strsr("upscale", "s3://somewhere/in", tmp_path)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert "pip install 'strsr[remote]'" in line


@pytest.mark.slow
def test_places_that_are_not_there_are_said_in_one_line(
    store: Store,
    strsr: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    photo: np.ndarray,
) -> None:
    store.put("in/a.png", encoded(photo[:16, :20]))
    missing = [("s3://not-there/in", str(tmp_path)), (f"s3://{BUCKET}/in", "s3://not-there/out")]
    for source, target in missing:
        result = strsr("upscale", source, target)
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.splitlines()
        assert "s3://not-there" in line
        assert "no such object or bucket" in line
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    forget_file_systems()
    result = strsr("upscale", f"s3://{BUCKET}/in", tmp_path)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "no credentials" in result.stderr
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    forget_file_systems()
    result = strsr("upscale", f"s3://{BUCKET}/in", tmp_path)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "cannot be reached" in result.stderr


def test_names_of_objects_have_the_parts_of_paths() -> None:
    file = RemoteFile(Place("s3://b/in"), "sub/photo.2024.JPG")
    assert (file.name, file.stem, file.suffix) == ("photo.2024.JPG", "photo.2024", ".JPG")
    page = RemoteFile(Place("https://host/in"), "my%20photo.png?v=1.2/3")
    assert (page.name, page.suffix) == ("my photo.png", ".png")
    assert RemoteFile(Place("s3://b/in"), "sub/.png").suffix == ""


@pytest.mark.slow
def test_urls_and_files_are_inputs_of_one_command(
    store: Store, website: str, upscale: Callable[..., dict], tmp_path: Path, photo: np.ndarray
) -> None:
    for name in ("shots/one.png", "shots/deep/two.png", "single.png"):
        store.put(name, encoded(photo[:12, :16]))
    Image.fromarray(photo[:16, :20]).save(tmp_path / "local.jpg")
    inputs = (f"s3://{BUCKET}/shots", f"{website}/c.jpg", f"s3://{BUCKET}/single.png", tmp_path / "local.jpg")
    assert upscale(*inputs, tmp_path / "out")["done"] == 5
    names = ["c.jpg", "local.jpg", "shots/deep/two.png", "shots/one.png", "single.png"]
    made = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*g")]
    assert sorted(made) == names
    assert upscale(*inputs, tmp_path / "out")["skipped"] == 5
    assert upscale(*inputs[2:], f"s3://{BUCKET}/out")["done"] == 2
    assert sorted(store.outputs("out")) == ["out/local.jpg", "out/single.png"]
    clash = (f"s3://{BUCKET}/single.png", f"s3://{BUCKET}/shots/single.png", tmp_path / "out")
    store.put("shots/single.png", encoded(photo[:12, :16]))
    upscale(*clash, code=2)
