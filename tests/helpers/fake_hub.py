"""A hub of our own: a real HTTP server that answers what huggingface_hub asks for.

    hub = FakeHub(); hub.repositories["owner/name"] = {"path": b"..."}; HF_ENDPOINT = hub.url

Listings with git and LFS hashes, files with HEAD and Range; and the ways in which a hub fails.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORTAL = b"<html><body>Please log in to this network.</body></html>"
LARGE = (".safetensors", ".pth", ".bin")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """repositories: their files by name. requests: (path, Range header) of every file asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.cut: dict[str, int] = {}  # path in a repository -> bytes after which the line breaks
        self.comes_back = False  # whether a line that broke serves again at once
        self.broken = False  # every file is answered with status 503
        self.oversize = 0  # bytes that the first file of a listing is said to have on top
        self.damaged: set[str] = set()  # paths whose bytes come wrong
        self.bare = False  # whether listings have neither sizes nor hashes, as some mirrors'
        self.nameless = False  # whether files come without ETag
        self.portal = ""  # "files" or "all": what is answered by a page to log in on
        self.requests: list[tuple[str, str | None]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_POST(self) -> None:
                hub.take(self)

            def do_PUT(self) -> None:
                hub.take(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def take(self, request: BaseHTTPRequestHandler) -> None:
        """Answer what writes; this hub lets nobody."""
        reply(request, 403, b"{}", {})

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0].strip("/")
        if self.portal == "all" or (
            self.portal == "files" and request.command == "GET" and "/resolve/" in path
        ):
            self.requests.append((path, request.headers.get("Range")))
            reply(request, 200, PORTAL, {"Content-Type": "text/html"})
            return
        if path.startswith("api/models/"):
            name, _, revision = path.removeprefix("api/models/").partition("/revision/")
            if name not in self.repositories:
                reply(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif revision not in ("", "main", COMMIT):
                reply(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                reply(request, 200, json.dumps(self.listing(name)).encode(), {})
            return
        name, _, rest = path.partition("/resolve/")
        if name not in self.repositories:  # the library asks for more than models
            reply(request, 404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        revision, _, file = rest.partition("/")
        if revision not in ("main", COMMIT):
            reply(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        if request.command == "GET":
            self.requests.append((file, request.headers.get("Range")))
        if name in self.gated:
            reply(request, 403, b"", {"X-Error-Code": "GatedRepo"})
        elif self.broken:
            reply(request, 503, b"", {})
        else:
            self.send_file(request, name, file)

    def send_file(self, request: BaseHTTPRequestHandler, name: str, file: str) -> None:
        if file not in self.repositories[name]:
            reply(request, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        data = self.repositories[name][file]
        if file in self.damaged:
            data = bytes(len(data))
        headers = {"X-Repo-Commit": COMMIT}
        if not self.nameless:
            headers["ETag"] = f'"{hash_of(file, self.repositories[name][file])}"'
        if request.command == "HEAD":
            reply(request, 200, data, headers)
            return
        begin = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        most = self.cut.pop(file, None)
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        reply(request, 206 if begin else 200, data[begin:], headers, most)
        if most is not None:
            self.broken = not self.comes_back

    def listing(self, name: str) -> dict[str, Any]:
        siblings = []
        for path, data in self.repositories[name].items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_blob(data)}
            if path.endswith(LARGE):
                size = len(data) + self.oversize
                entry["lfs"] = {"sha256": hash_of(path, data), "size": size, "pointerSize": 130}
            siblings.append({"rfilename": path} if self.bare else entry)
        card = {"license": "test-licence"}
        return {
            "id": name,
            "modelId": name,
            "sha": COMMIT,
            "siblings": siblings,
            "cardData": card,
            "tags": [],
        }


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def hash_of(path: str, data: bytes) -> str:
    """The hash by which the hub, and the library's cache, call a file."""
    return hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else git_blob(data)


def reply(
    request: BaseHTTPRequestHandler,
    status: int,
    data: bytes,
    headers: dict[str, str],
    most: int | None = None,
) -> None:
    """Answer; `most`: break the line after so many bytes."""
    request.send_response(status)
    for key, value in {"Content-Length": str(len(data)), **headers}.items():
        request.send_header(key, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data[:most])
    if most is not None:
        request.close_connection = True
