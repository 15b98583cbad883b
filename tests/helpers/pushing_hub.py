"""A hub of our own that can be written to: repositories made, large files by LFS, commits."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from .fake_hub import COMMIT, LARGE, FakeHub, reply


class PushingHub(FakeHub):
    """tokens: those that may write. commits: the messages that came. stored: large files by their hashes."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = {"writer"}
        self.commits: list[str] = []
        self.stored: dict[str, bytes] = {}

    def take(self, request: BaseHTTPRequestHandler) -> None:
        body = body_of(request)
        path = request.path.partition("?")[0].strip("/")
        if path.startswith("store/"):
            self.stored[path.removeprefix("store/")] = body
            reply(request, 200, b"", {})
            return
        if (request.headers.get("Authorization") or "").removeprefix("Bearer ") not in self.tokens:
            reply(request, 403, b"{}", {})
            return
        reply(
            request, 200, json.dumps(self.changed(path, body)).encode(), {"Content-Type": "application/json"}
        )

    def changed(self, path: str, body: bytes) -> dict[str, Any]:
        """Do what a request asks for, and return the answer."""
        if path == "api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            self.repositories[name] = {".gitattributes": b""}
            return {"url": f"{self.url}/{name}", "name": name, "id": "1"}
        if path == "api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {"path": file["path"], "uploadMode": mode(file["path"]), "shouldIgnore": False}
                for file in files
            ]
            return {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{self.url}/store/{each['oid']}"}}
            return {"transfer": "basic", "objects": objects}
        name = path.removeprefix("api/models/").partition("/commit/")[0]
        for line in body.splitlines():
            self.commit(name, json.loads(line))
        return {"commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT}

    def commit(self, name: str, entry: dict[str, Any]) -> None:
        """Heed one line of a commit."""
        value = entry["value"]
        if entry["key"] == "header":
            self.commits.append(value["summary"])
        elif entry["key"] == "file":
            self.repositories[name][value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            data = self.stored[value["oid"]]
            assert hashlib.sha256(data).hexdigest() == value["oid"]
            self.repositories[name][value["path"]] = data


def body_of(request: BaseHTTPRequestHandler) -> bytes:
    """The body of a request, which may come in chunks."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    body = b""
    while size := int(request.rfile.readline().strip() or b"0", 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


def mode(path: str) -> str:
    return "lfs" if path.endswith(LARGE) else "regular"
