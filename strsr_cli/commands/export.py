"""`strsr export`."""

from __future__ import annotations

import typer

from .options import ExportFolder, Run


def export(run: Run, out: ExportFolder) -> None:
    """Make a run's averaged weights a folder for `strsr upscale --weights`."""
    from ..training.export import export as export_run

    folder = export_run(run, out)
    typer.echo(f"weights in {folder}; try them: strsr upscale INPUT OUTPUT --weights {folder}")
