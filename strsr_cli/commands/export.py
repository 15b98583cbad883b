"""`strsr export`."""

from __future__ import annotations

import typer

from .options import ExportFolder, Faithful, Run


def export(run: Run, out: ExportFolder, faithful: Faithful = None) -> None:
    """Make a run's averaged weights a folder for `strsr upscale --weights`."""
    from ..training.export import export as export_run

    folder = export_run(run, out, faithful)
    typer.echo(f"weights in {folder}; try them: strsr upscale INPUT OUTPUT --weights {folder}")
