"""A real `strsr serve` in a process of its own, and requests to it that are made by hand."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

BOUNDARY = "0123456789"


def png(pixels: np.ndarray) -> bytes:
    """An image as the bytes of a PNG file."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def form(image: bytes | None, name: str = "a.png", **fields: str) -> bytes:
    """A body of multipart/form-data."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    if image is not None:
        head = f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        parts.append(f"--{BOUNDARY}\r\n{head}".encode() + image + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@dataclass
class Served:
    """A server that answers, and the folder in which it may write."""

    process: subprocess.Popen[str]
    port: int
    temporary: Path

    def ask(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a request; names of headers have _ for -. Returns status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None:
                named.setdefault("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
            connection.request(method, path, body, named, encode_chunked=isinstance(body, Iterator))
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def upscale(
        self, image: bytes | None, name: str = "a.png", **fields: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Send a picture as curl does."""
        return self.ask("POST", "/upscale", form(image, name, **fields))


@contextmanager
def serving(temporary: Path, *options: object) -> Iterator[Served]:
    """Start a server that writes into a folder, and end it if it still runs."""
    temporary.mkdir(exist_ok=True)
    program = [sys.executable, "-m", "strsr_cli", "serve", "--port", "0", *map(str, options)]
    process = subprocess.Popen(
        program, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if match := re.search(r"http://localhost:(\d+)/", line):
                yield Served(process, int(match[1]), temporary)
                return
        raise AssertionError(f"the server ended with {process.wait()}")
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
