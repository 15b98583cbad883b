"""`strsr distill`."""

from __future__ import annotations

from pathlib import Path

import typer

from .options import (
    ConfigFile,
    Data,
    DryRun,
    MakePairs,
    Preview,
    RunFolder,
    Settings,
    Student,
    need_out,
)


def distill(
    data: Data,
    out: RunFolder = None,
    student: Student = "lite",
    config: ConfigFile = None,
    set: Settings = None,
    make_pairs: MakePairs = None,
    preview: Preview = None,
    dry_run: DryRun = False,
) -> None:
    """Teach one-step restoration by teachers, a coach and, in a second stage, a frequency loss (StrSR)."""
    from ..setup.hub_weights import local_weights
    from ..system.console import show_warnings
    from ..system.machine import advice_on_cuda
    from ..training import distill as loop

    show_warnings()
    student = student if not student.startswith("hf:") else str(local_weights(Path(student)))
    if advice := advice_on_cuda():
        typer.echo(advice, err=True)
    if make_pairs is not None:
        typer.echo(f"pairs in {loop.make_teachers_pairs(data, make_pairs, config, set or [], typer.echo)}")
    elif preview is not None:
        loop.preview(student, data, config, set or [], preview)
        typer.echo(f"look at {preview}")
    elif dry_run:
        loop.dry_run(student, data, config, set or [], typer.echo)
    else:
        loop.distill(student, data, need_out(out), config, set or [], typer.echo)
