"""A store on loopback that speaks S3 (moto's server), and what tests ask of it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from strsr_cli.app import app

BUCKET = "pictures"


class Store:
    """A running store with one bucket."""

    def __init__(self, address: str, requests: list[tuple[str, str]]) -> None:
        self.address, self.requests = address, requests
        import fsspec

        self.files: Any = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
        self.files.mkdir(BUCKET)

    def put(self, key: str, data: bytes, **how: Any) -> None:
        self.files.pipe_file(f"{BUCKET}/{key}", data, **how)

    def get(self, key: str) -> bytes:
        return self.files.cat_file(f"{BUCKET}/{key}")

    def keys(self, prefix: str = "") -> list[str]:
        """All keys below a prefix, of ours too."""
        found = self.files.find(f"{BUCKET}/{prefix}".rstrip("/"))
        return sorted(key.removeprefix(f"{BUCKET}/") for key in found)

    def outputs(self, prefix: str) -> dict[str, bytes]:
        return {key: self.get(key) for key in self.keys(prefix) if ".strsr-" not in key}

    def count(self, method: str, beginning: str = "", without: str = "\0") -> int:
        """How many requests of a method there were for keys with that beginning."""
        return sum(
            own == method and path.startswith(f"/{BUCKET}/{beginning}") and without not in path
            for own, path in list(self.requests)
        )


@contextmanager
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store for this process and those that it starts; it is empty but for its bucket."""
    from moto.moto_api._internal.models import moto_api_backend
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    requests: list[tuple[str, str]] = []
    application = DomainDispatcherApplication(create_backend_app)

    def counted(environ: dict[str, Any], start: Any) -> Any:
        requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        return application(environ, start)

    moto_api_backend.reset()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, counted, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget_file_systems()
    try:
        yield Store(address, requests)
    finally:
        forget_file_systems()
        server.shutdown()
        thread.join()
        server.server_close()


def forget_file_systems() -> None:
    """File systems keep the address and the credentials of their first use."""
    from fsspec.spec import AbstractFileSystem

    from strsr_cli.images.places import _file_system

    _file_system.cache_clear()
    AbstractFileSystem.clear_instance_cache()
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    """A picture as a file's bytes."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def go(arguments: list[object], code: int = 0) -> dict:
    """Run a command with --json in this process; returns the last event, with the others as `events`."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    return {**(events[-1] if events else {}), "events": events, "stderr": result.stderr}
