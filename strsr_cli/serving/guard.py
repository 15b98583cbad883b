"""Who may talk to the server: programs on this machine, and the page that it has sent itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Every answer carries these: nothing is stored, framed, or taken for what it is not.
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """A wall around an application.

    Host must be a name of this machine's own: a page whose name was turned to 127.0.0.1 (DNS rebinding) sends its
    own name. Origin and Sec-Fetch-Site, where a browser sends them, must be of the served page. Bodies of more than
    `most_bytes` are not read.
    """

    def __init__(self, app: ASGIApp, port: int, most_bytes: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")}
        if port == 80:
            self._hosts |= {"localhost", "127.0.0.1", "[::1]"}
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        if refusal := self.refusal(headers, scope["method"], scope["path"]):
            code, reason = refusal
            await said(code, reason)(scope, receive, send)
            return
        await self._bounded(scope, receive, send)

    def refusal(self, headers: Headers, method: str, path: str) -> tuple[int, str] | None:
        """Return status and reason for a request that is not answered; None for one that is."""
        if headers.getlist("host") == [] or not set(lowered(headers.getlist("host"))) <= self._hosts:
            return 421, "this server answers to localhost alone"
        origins = lowered(headers.getlist("origin"))
        if any(origin.removeprefix("http://") not in self._hosts for origin in origins):
            return 403, "requests of other pages are refused"
        # A link to the page itself harms nobody.
        is_visit = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_visit:
            return 403, "requests of other pages are refused"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._most_bytes:
            return 413, self._too_large()
        return None

    def _too_large(self) -> str:
        return f"the picture has more than {self._most_bytes // 10**6} MB; start strsr serve with a larger --max-upload"

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through; count its body, whose length need not have been said."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most_bytes:
                raise HTTPException(413, self._too_large())
            return message

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        await self._app(scope, counted, dressed)


def lowered(values: Iterable[str]) -> list[str]:
    """Return texts in small letters: names of hosts have no others."""
    return [value.lower() for value in values]


def said(code: int, reason: str) -> PlainTextResponse:
    """Return an answer that says in one line why there is no picture; the connection ends with it."""
    return PlainTextResponse(f"strsr: {reason}\n", code, {"Connection": "close"})
