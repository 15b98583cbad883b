"""What the server answers: the page, pictures for it in turn, and pictures for curl in one go."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

# Forms are read by it; starlette says so only once one comes.
import python_multipart  # noqa: F401
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from strsr_models.errors import UsageError
from strsr_models.tiling.sizes import check_scale

from .. import __version__
from ..gallery.page import HERE as GALLERY
from ..gallery.page import card, hash_of, templates
from ..system.console import size_text
from .guard import Guard, said
from .tasks import KINDS, MOST_KEPT, QueueFull, Task, TaskQueue

if TYPE_CHECKING:
    from starlette.requests import Request

HERE = Path(__file__).parent
SCALES = (2, 3, 4, 6, 8)  # on the page; curl may ask for any of 1 to 16
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{}'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LOOK = 0.2  # s between looks whether a sender is still there
SENDER_GONE = 499  # a status that nobody reads


def make_app(queue: TaskQueue, port: int, most_bytes: int, model: str) -> Guard:
    """Return the application, within its guard. most_bytes: of a request."""
    answers = Answers(queue, most_bytes, model)
    routes = [
        Route("/", answers.page),
        Route("/upscale", answers.upscale, methods=["POST"]),
        Route("/tasks", answers.add, methods=["POST"]),
        Route("/tasks/{id}", answers.state),
        Route("/tasks/{id}", answers.forget, methods=["DELETE"]),
        Route("/tasks/{id}/output", answers.output),
    ]
    handlers: dict[Any, Callable[..., Awaitable[Response]]] = {
        HTTPException: refused,
        UsageError: misused,
        QueueFull: full,
        ClientDisconnect: gone,
    }
    return Guard(Starlette(routes=routes, exception_handlers=cast(Any, handlers)), port, most_bytes)


async def refused(_: Request, error: HTTPException) -> Response:
    """Say why a request is refused."""
    return said(error.status_code, error.detail)


async def misused(_: Request, error: UsageError) -> Response:
    """Say what is wrong with a request's fields."""
    return said(400, str(error))


async def full(_: Request, __: QueueFull) -> Response:
    """Say that there is no room for one more picture."""
    return said(503, "too many pictures wait; send this one again when some are done")


async def gone(_: Request, __: ClientDisconnect) -> Response:
    """Answer nobody: the sender went away before all of the picture had come."""
    return Response(status_code=SENDER_GONE)


class Answers:
    """The answers to requests, of which any number may be under way."""

    def __init__(self, queue: TaskQueue, most_bytes: int, model: str) -> None:
        self._queue = queue
        self._most_bytes = most_bytes
        self._model = model
        self._templates = templates(HERE, GALLERY)

    async def page(self, _: Request) -> Response:
        """Send the page."""
        from markupsafe import Markup

        style, script = (
            "\n".join(
                (folder / name).read_text(encoding="utf-8")
                for folder, name in ((GALLERY, f"page.{suffix}"), (HERE, f"serve.{suffix}"))
            )
            for suffix in ("css", "js")
        )
        text = self._templates.get_template("serve.html").render(
            style=Markup(style),
            script=Markup(script),
            version=__version__,
            model=self._model,
            scales=SCALES,
            kinds={"png": "PNG", "jpg": "JPEG", "webp": "WebP"},
            most_kept=MOST_KEPT,
            most_bytes=self._most_bytes,
            most_megabytes=self._most_bytes // 10**6,
        )
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY.format(hash_of(script))})

    async def upscale(self, request: Request) -> Response:
        """Take a picture and send it back enlarged, once its turn has come; a sender that goes away ends it."""
        task = await self._taken(request)
        while not task.ended.is_set():
            if await request.is_disconnected():
                self._queue.forget(task)
                return Response(status_code=SENDER_GONE)
            await asyncio.sleep(LOOK)
        if task.state == "failed":
            self._queue.forget(task)
            return said(422, task.reason)
        return self._file(task, BackgroundTask(self._queue.forget, task))

    async def add(self, request: Request) -> Response:
        """Take a picture, and say by which name to ask for it."""
        task = await self._taken(request)
        return JSONResponse({"id": task.id}, 202)

    async def state(self, request: Request) -> Response:
        """Say how far a picture is; of one that is done, send the card that compares it."""
        task = self._task(request)
        answer: dict[str, Any] = {
            "state": task.state,
            "before": self._queue.before(task) if task.state == "waiting" else 0,
            "tiles": task.tiles,
            "tilesDone": task.tiles_done,
            "reason": task.reason,
        }
        if task.state == "done":
            answer |= {
                "file": task.download_name,
                "bytes": size_text(task.target.stat().st_size),
                "card": self._card(task),
                "remark": task.entry.remark,
            }
        return JSONResponse(answer)

    async def forget(self, request: Request) -> Response:
        """Drop a picture with all that was made of it."""
        self._queue.forget(self._task(request))
        return Response(status_code=204)

    async def output(self, request: Request) -> Response:
        """Send what was made of a picture."""
        task = self._task(request)
        if task.state != "done":
            raise HTTPException(409, f"{task.name}: is not done")
        return self._file(task, None)

    def _file(self, task: Task, after: BackgroundTask | None) -> Response:
        return FileResponse(
            task.target, media_type=KINDS[task.kind], filename=task.download_name, background=after
        )

    def _task(self, request: Request) -> Task:
        """Return the task that an address names. Raises HTTPException."""
        task = self._queue.find(request.path_params["id"])
        if task is None:
            raise HTTPException(404, "this picture is no longer here; send it again")
        return task

    def _card(self, task: Task) -> str:
        """Return the card of a picture that is done; empty where it could not be read back."""
        if task.entry.detail is None:
            return ""
        return self._templates.get_template("card.html").render(card=card(task.entry, "", HERE, {}))

    async def _taken(self, request: Request) -> Task:
        """Take the picture of a form, and let it wait. Raises HTTPException, UsageError, QueueFull."""
        async with request.form(max_files=1, max_fields=8, max_part_size=1024) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise HTTPException(
                    400, "no picture came; send it as the file `image`: curl -F image=@photo.jpg"
                )
            scale, kind = scale_of(form.get("scale", "4")), form.get("format", "png")
            if not isinstance(kind, str) or kind not in KINDS:
                raise HTTPException(400, f"format {kind}: use {', '.join(KINDS)}")
            if image.size == 0:
                raise HTTPException(400, f"{image.filename or 'the picture'}: is empty")
            task = self._queue.new(image.filename or "", scale, kind)
            try:
                with task.source.open("wb") as file:
                    while block := await image.read(1 << 20):
                        await asyncio.to_thread(file.write, block)
            except OSError as error:
                self._queue.forget(task)
                raise HTTPException(507, f"the picture cannot be stored: {error.strerror}") from error
        self._queue.add(task)
        return task


def scale_of(text: object) -> float:
    """Return the scale that a field asks for. Raises UsageError."""
    try:
        scale = float(str(text))
    except ValueError:
        scale = math.nan
    check_scale(scale)
    return scale
