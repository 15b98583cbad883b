"""A small HTTP server of files, and the ways in which one fails."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORTAL = b"<html><body>Please log in to this network.</body></html>"


class FileServer:
    """files: contents by path. requests: paths asked for. mode: "", "portal", "cut" or "broken"."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.mode = ""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.strip("/")
        self.requests.append(path)
        data = PORTAL if self.mode == "portal" else self.files.get(path)
        if data is None or self.mode == "broken":
            request.send_error(404 if data is None else 503)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) // 2] if self.mode == "cut" else data)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
