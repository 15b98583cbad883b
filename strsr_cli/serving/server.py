"""The server itself: a port of this machine alone, a folder that goes with it, and an end at the first ^C."""

from __future__ import annotations

import contextlib
import errno
import shutil
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from strsr_models.errors import UsageError

from ..system.console import Tell
from ..system.signals import OUR_THREADS
from .tasks import Enlarge, TaskQueue
from .web import make_app

HOST = "127.0.0.1"  # never any other: whoever reaches the port may use the machine's power and memory
FORM_BYTES = 1 << 16  # of a request, beside its picture


@dataclass(frozen=True)
class ServeOptions:
    """port: 0 takes any that is free. open_browser: whether the page is shown at once."""

    port: int
    most_bytes: int  # of a picture
    max_pixels: int  # of a picture
    model: str
    open_browser: bool


def listen(port: int) -> socket.socket:
    """Take a port of this machine. Raises UsageError if that cannot be had."""
    taken = socket.socket()
    if sys.platform != "win32":
        # Connections of a server that has just ended do not keep the port.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((HOST, port))
        taken.listen(64)
    except OSError as error:
        taken.close()
        reason = {
            errno.EADDRINUSE: "another program has it; name another one, or 0 for any that is free",
            errno.EACCES: "may not be taken by this user; name one above 1023",
        }.get(error.errno or 0, error.strerror)
        raise UsageError(f"--port {port}: {reason}") from error
    return taken


class Server(uvicorn.Server):
    """uvicorn's server, which the first SIGINT or SIGTERM ends at once."""

    received = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals over, and give them back at the end without sending them again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {
            number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _frame: object) -> None:
        self.received = number
        self.should_exit = self.force_exit = True


def serve(load: Callable[[], Enlarge], options: ServeOptions, report: Tell) -> int:
    """Serve the page until a signal; return the exit code: 0, or 128 + signal if pictures are lost by it.

    load: loads the model, once the port is taken. Raises UsageError for a port that cannot be had, and whatever
    loading raises. What was sent and made lies in a folder of its own, which goes at the end.
    """
    with contextlib.closing(listen(options.port)) as taken:
        port = taken.getsockname()[1]
        report(f"loading {options.model} ...")
        enlarge = load()
        folder = Path(tempfile.mkdtemp(prefix="strsr-serve-"))
        try:
            return run(enlarge, folder, taken, port, options, report)
        finally:
            # A thread that still writes may put a file there meanwhile.
            for _ in range(3):
                shutil.rmtree(folder, ignore_errors=True)


def run(
    enlarge: Enlarge, folder: Path, taken: socket.socket, port: int, options: ServeOptions, report: Tell
) -> int:
    """Answer requests on a socket until a signal; return the exit code."""
    queue = TaskQueue(enlarge, folder, options.max_pixels, OUR_THREADS + "serve")
    app = make_app(queue, port, options.most_bytes + FORM_BYTES, options.model)
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, access_log=False, server_header=False, limit_concurrency=64
    )
    server = Server(config)
    address = f"http://localhost:{port}/"
    report(f"open {address} in a browser of this machine; ^C ends it")
    if options.open_browser:
        # Some browsers keep the call until they are closed.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    server.run(sockets=[taken])
    lost = queue.busy
    queue.close()
    if not lost:
        return 0
    report(f"ended; {lost} {'picture was' if lost == 1 else 'pictures were'} not done")
    return 128 + server.received
