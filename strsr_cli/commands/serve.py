"""`strsr serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from strsr_models.errors import UsageError
from strsr_models.packages import install_command

from .options import (
    BenchDevice,
    BenchModel,
    BenchPrecision,
    BenchWeights,
    MaxUpload,
    ModelsDir,
    OpenBrowser,
    Port,
    ServeBackend,
    ServeMaxPixels,
)

if TYPE_CHECKING:
    from ..serving.tasks import Enlarge

PORT = 8377
MAX_UPLOAD = 100  # MB
MAX_PIXELS = 50_000_000


def serve(
    port: Port = PORT,
    open_browser: OpenBrowser = False,
    model: BenchModel = "lite",
    weights: BenchWeights = None,
    models_dir: ModelsDir = None,
    device: BenchDevice = "auto",
    precision: BenchPrecision = "auto",
    backend: ServeBackend = "auto",
    max_upload: MaxUpload = MAX_UPLOAD,
    max_pixels: ServeMaxPixels = MAX_PIXELS,
) -> None:
    """Enlarge pictures on a page in your browser, served to this machine alone.

    One picture is enlarged at a time, others wait. Nothing leaves this machine, and nothing is left on its
    disk at the end. ^C ends it at once.

    Exit code: 0 ended while nothing was under way, 2 wrong usage or no such port, 3 weights or device not
    available, 130 interrupted while pictures were under way, 143 terminated then.
    """
    from ..system.signals import leave_at_once

    try:
        from ..serving.server import ServeOptions
        from ..serving.server import serve as serve_page
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in ("starlette", "uvicorn", "python_multipart"):
            raise
        raise UsageError(f"strsr serve needs more packages: {install_command('strsr[serve]')}") from error

    def load() -> Enlarge:
        from strsr import Upscaler

        return Upscaler(
            model,
            weights=weights,
            models_dir=models_dir,
            device=device,
            precision=precision,
            backend=backend,
            max_pixels=max_pixels,
        ).upscale

    options = ServeOptions(port, max_upload * 10**6, max_pixels, model, open_browser)
    code = serve_page(load, options, lambda line: typer.echo(line, err=True))
    leave_at_once(code)
    raise typer.Exit(code)
