"""A hub on loopback with one dataset, for what huggingface_hub's file system asks: trees, paths, files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .fake_hub import COMMIT, git_blob, reply

DATASET = "somebody/photos"
TOKEN = "hf_of_the_owner"


@contextmanager
def dataset_hub(files: dict[str, bytes], private: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serve files by their names; yields the hub's address, and the list that what was asked for goes to.

    private: only who sends TOKEN sees anything.
    """
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, files, private, requests)

        do_HEAD = do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    thread.join()
    server.server_close()


def answer(
    request: BaseHTTPRequestHandler, files: dict[str, bytes], private: bool, requests: list[str]
) -> None:
    """Answer one request as the hub does."""
    path = unquote(urlsplit(request.path).path)
    requests.append(f"{request.command} {path}")
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    if private and request.headers.get("Authorization") != f"Bearer {TOKEN}":
        reply(request, 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        return
    api, there = f"/api/datasets/{DATASET}", f"/datasets/{DATASET}/resolve/"
    if path.startswith(there):
        data = files.get(path.removeprefix(there).partition("/")[2])
        if data is None:
            reply(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            reply(request, 200, data, {"X-Repo-Commit": COMMIT, "ETag": f'"{git_blob(data)}"'})
    elif path.startswith(f"{api}/tree/"):
        above = path.removeprefix(f"{api}/tree/").partition("/")[2]
        is_deep = parse_qs(urlsplit(request.path).query).get("recursive") in (["true"], ["True"])
        entries = tree(files, above, is_deep)
        code = {} if entries else {"X-Error-Code": "EntryNotFound"}
        reply(request, 200 if entries else 404, json.dumps(entries or {}).encode(), code)
    elif path.startswith(f"{api}/paths-info/"):
        asked = parse_qs(body.decode())["paths"]
        entries = [entry for entry in tree(files, "", True) if entry["path"] in asked]
        reply(request, 200, json.dumps(entries).encode(), {})
    elif path == api or path.startswith(f"{api}/revision/"):
        reply(request, 200, json.dumps({"id": DATASET, "sha": COMMIT, "siblings": []}).encode(), {})
    else:
        reply(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})


def tree(files: dict[str, bytes], above: str, is_deep: bool) -> list[dict[str, Any]]:
    """The entries below a folder: files, and the folders that they are in."""
    start = f"{above}/" if above else ""
    entries: dict[str, dict[str, Any]] = {}
    for name, data in files.items():
        if not name.startswith(start):
            continue
        parts = name.removeprefix(start).split("/")
        for depth in range(1, len(parts)):
            folder = start + "/".join(parts[:depth])
            entries[folder] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
        entries[name] = {"type": "file", "oid": git_blob(data), "size": len(data), "path": name}
    return [entry for path, entry in entries.items() if is_deep or "/" not in path.removeprefix(start)]
