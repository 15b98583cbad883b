"""`strsr serve` as programs on this machine, other pages and bad pictures meet it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from strsr_cli.serving.server import listen

from .server import BOUNDARY, Served, form, png, serving

MOST_PIXELS = 30_000
HOSTILE = '../../"><script>alert(1)</script>\u202egnp.exe'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(
        tmp_path_factory.mktemp("served"), "--max-upload", 1, "--max-pixels", MOST_PIXELS, "--device", "cpu"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def picture() -> bytes:
    return png(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))


@pytest.mark.parametrize(
    ("fields", "size", "kind"),
    [({}, (120, 80), "PNG"), ({"scale": "2", "format": "jpg"}, (60, 40), "JPEG"), ({"scale": "1.5", "format": "webp"}, (45, 30), "WEBP")],
)  # fmt: skip
def test_a_picture_comes_back_enlarged(
    fields: dict[str, str], size: tuple[int, int], kind: str, served: Served, picture: bytes
) -> None:
    status, headers, body = served.upscale(picture, **fields)
    assert status == 200
    with Image.open(BytesIO(body)) as image:
        assert (image.size, image.format) == (size, kind)
    assert headers["content-type"] == f"image/{kind.lower()}"
    assert f'filename="a_x{float(fields.get("scale", 4)):g}.' in headers["content-disposition"]


def test_a_picture_is_that_of_the_command(
    served: Served, picture: bytes, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    (tmp_path / "a.png").write_bytes(picture)
    assert strsr("upscale", tmp_path / "a.png", tmp_path / "b.png", "--device", "cpu").exit_code == 0
    body = served.upscale(picture)[2]
    with Image.open(BytesIO(body)) as image, Image.open(tmp_path / "b.png") as other:
        assert np.array_equal(np.asarray(image), np.asarray(other))


# --- who may talk to it ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{}", "localhost", "localhost:1", "127.0.0.1.evil.example:{}", "localhost:{}@evil.example", ""])  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/upscale"])
def test_other_names_of_the_machine_are_refused(host: str, path: str, served: Served) -> None:
    status, _, body = served.ask("GET", path, Host=host.format(served.port))
    assert (status, body) == (421, b"strsr: this server answers to localhost alone\n")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST", "[::1]"])
def test_names_of_this_machine_are_answered(host: str, served: Served) -> None:
    assert served.ask("GET", "/", Host=f"{host}:{served.port}")[0] == 200


def test_two_names_at_once_are_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), 30) as connection:
        hosts = f"Host: localhost:{served.port}\r\nHost: evil.example\r\n"
        connection.sendall(f"GET / HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
        assert connection.recv(100).split()[1] in (b"400", b"421")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://localhost:{}"},
        {"Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_pages_may_send_nothing(headers: dict[str, str], served: Served, picture: bytes) -> None:
    headers = {name: value.format(served.port) for name, value in headers.items()}
    for method, path in (("POST", "/upscale"), ("POST", "/tasks"), ("GET", "/tasks/x/output")):
        status, _, body = served.ask(method, path, form(picture), **headers)
        assert (status, body) == (403, b"strsr: requests of other pages are refused\n")


def test_the_page_itself_may_be_linked_to_but_not_framed(served: Served) -> None:
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    status, headers, _ = served.ask("GET", "/", **visit)
    assert status == 200
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "cross-origin-resource-policy" in headers
    # As a script or an image of another page it is refused.
    assert served.ask("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert served.ask("GET", "/tasks/x", **visit)[0] == 403


def test_only_this_machine_can_reach_the_port() -> None:
    with listen(0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"


# --- what is sent ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "fields", "status", "words"),
    [
        (None, {}, 400, "no picture came; send it as the file `image`: curl -F image=@photo.jpg"),
        (b"", {}, 400, "a.png: is empty"),
        (b"no picture", {}, 422, "a.png: not a PNG, JPEG, WebP"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, {}, 422, "a.png: "),
        (
            png(np.zeros((200, 200), np.uint8)),
            {},
            422,
            f"a.png: 200x200 px is more than --max-pixels {MOST_PIXELS}",
        ),
        (b"x", {"scale": "17"}, 400, "scale 17: must be between 1 and 16"),
        (b"x", {"scale": "nan"}, 400, "scale nan: must be between 1 and 16"),
        (b"x", {"scale": "two"}, 400, "scale"),
        (b"x", {"format": "exe"}, 400, "format exe: use png, jpg, webp"),
    ],
)
def test_what_cannot_be_enlarged_is_told_in_one_line(
    image: bytes | None, fields: dict[str, str], status: int, words: str, served: Served
) -> None:
    seen, headers, body = served.upscale(image, **fields)
    text = body.decode()
    assert seen == status
    assert text.count("\n") == 1
    assert text.startswith(f"strsr: {words}")
    assert headers["content-type"].startswith("text/plain")
    assert str(served.temporary) not in text


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "multipart/form-data"])
def test_bodies_that_are_no_form_are_refused(kind: str, served: Served) -> None:
    status, _, body = served.ask("POST", "/upscale", b"{}", Content_Type=kind)
    assert status == 400
    assert body.count(b"\n") == 1


def test_a_picture_of_too_many_bytes_is_not_read(served: Served) -> None:
    body = form(b"\0" * 1_500_000)
    status, _, words = served.ask("POST", "/upscale", body[:10], Content_Length=str(len(body)))
    assert status == 413
    assert b"--max-upload" in words


def test_bytes_are_counted_where_their_number_is_not_said(served: Served) -> None:
    body = form(b"\0" * 3_000_000)
    blocks = (body[start : start + 65536] for start in range(0, len(body), 65536))
    try:
        status, _, words = served.ask("POST", "/upscale", blocks)
    except (BrokenPipeError, ConnectionResetError):
        # It was refused before all was sent.
        return
    assert (status, b"--max-upload" in words) == (413, True)


def test_hostile_names_stay_names(served: Served, picture: bytes) -> None:
    name = HOSTILE.replace('"', "%22")
    status, headers, _ = served.upscale(picture, name, scale="1")
    assert status == 200
    sent = unquote(headers["content-disposition"])
    assert ".." not in sent
    assert "\u202e" not in sent
    assert not list(served.temporary.parent.glob("*script*"))
    failed = served.upscale(b"no picture", name)[2].decode()
    assert failed.count("\n") == 1
    assert "\u202e" not in failed


# --- as the page does ------------------------------------------------------------------------------


def task_of(served: Served, image: bytes, name: str = "a.png", **fields: str) -> str:
    status, _, body = served.ask("POST", "/tasks", form(image, name, **fields))
    assert status == 202
    return str(json.loads(body)["id"])


def ended(served: Served, task: str) -> dict[str, object]:
    while True:
        answer: dict[str, object] = json.loads(served.ask("GET", f"/tasks/{task}")[2])
        if answer["state"] in ("done", "failed"):
            return answer
        time.sleep(0.05)


def test_a_task_ends_in_a_card_and_a_file(served: Served, picture: bytes) -> None:
    task = task_of(served, picture, "<b>.png", scale="2")
    answer = ended(served, task)
    assert (answer["state"], answer["tilesDone"], answer["remark"]) == ("done", 1, "")
    card = str(answer["card"])
    assert "&lt;b&gt;.png" in card
    assert "<b>.png" not in card
    assert card.count("data:image/") >= 4
    status, _, body = served.ask("GET", f"/tasks/{task}/output")
    assert status == 200
    assert Image.open(BytesIO(body)).size == (60, 40)


def test_a_task_that_was_dropped_is_gone_with_its_files(served: Served, picture: bytes) -> None:
    task = task_of(served, picture)
    ended(served, task)
    assert list(served.temporary.glob(f"*/{task}/*"))
    assert served.ask("DELETE", f"/tasks/{task}")[0] == 204
    assert not list(served.temporary.glob(f"*/{task}"))
    for path in (f"/tasks/{task}", f"/tasks/{task}/output", "/tasks/..%2f..", "/tasks/nothing"):
        assert served.ask("GET", path)[0] == 404


def test_a_failed_task_says_why_and_has_no_file(served: Served) -> None:
    task = task_of(served, b"no picture", "x.jpg")
    answer = ended(served, task)
    assert answer["state"] == "failed"
    assert str(answer["reason"]).startswith("x.jpg: not a PNG")
    assert served.ask("GET", f"/tasks/{task}/output")[0] == 409


def test_the_page_runs_its_own_script_alone(served: Served) -> None:
    _, headers, body = served.ask("GET", "/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[^' ]+';", policy)
    assert body.count(b"<script>") == 1
    # Nothing of it comes from elsewhere.
    assert not re.search(rb"(src|href)=\"?(https?:)?//", body)


# --- beginning and end -----------------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_before_anything_is_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        program = [sys.executable, "-m", "strsr_cli", "serve", "--port", str(port)]
        result = subprocess.run(program, capture_output=True, text=True, check=False)
    reason = "another program has it; name another one, or 0 for any that is free"
    assert (result.returncode, result.stderr) == (2, f"strsr: --port {port}: {reason}\n")


def until_there_are(count: int, temporary: Path) -> None:
    """Wait until the server has the folders of so many pictures."""
    while len(list(temporary.glob("strsr-serve-*/*"))) != count:
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_idle_server_with_zero(number: int, tmp_path: Path, picture: bytes) -> None:
    with serving(tmp_path / "tmp", "--device", "cpu") as server:
        assert server.upscale(picture, scale="1")[0] == 200
        ended(server, task_of(server, picture, scale="1"))
        assert list(server.temporary.glob("strsr-serve-*/*"))
        # One sender goes away in the middle of a picture, one while it is made.
        body = form(picture * 1000, scale="16")
        head = f"POST /upscale HTTP/1.1\r\nHost: localhost:{server.port}\r\nContent-Length: {len(body)}\r\n"
        kind = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        kept = len(list(server.temporary.glob("strsr-serve-*/*")))
        for sent, more in ((body[:2000], 0), (body, 1)):
            with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
                connection.sendall(f"{head}{kind}".encode() + sent)
                until_there_are(kept + more, server.temporary)
        until_there_are(kept, server.temporary)
        ended(server, task_of(server, picture, scale="1"))
        server.process.send_signal(number)
        assert server.process.wait(60) == 0
        assert list(server.temporary.iterdir()) == []
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_signal_ends_a_busy_server_at_once(tmp_path: Path) -> None:
    noise = png(np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8))
    with serving(tmp_path / "tmp", "--device", "cpu") as server:
        task = task_of(server, noise, scale="8")
        other = task_of(server, noise)
        answer = json.loads(server.ask("GET", f"/tasks/{other}")[2])
        assert (answer["state"], answer["before"]) == ("waiting", 1)
        while not json.loads(server.ask("GET", f"/tasks/{task}")[2])["tilesDone"]:
            time.sleep(0.05)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 130
        assert list(server.temporary.iterdir()) == []
        assert server.process.stderr is not None
        assert server.process.stderr.read() == "ended; 2 pictures were not done\n"


def test_missing_packages_are_named_with_their_extra() -> None:
    hide = "import sys; sys.modules['starlette'] = None; sys.argv = ['strsr', 'serve']"
    code = f"{hide}\nfrom strsr_cli.app import app; app()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "strsr[serve]" in result.stderr
