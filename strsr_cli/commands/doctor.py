"""`strsr doctor`."""

from __future__ import annotations

import typer

from .options import Json, ModelsDir, models_root


def doctor(models_dir: ModelsDir = None, json: Json = False) -> None:
    """What this machine has, which weights are there, and which model will fit where."""
    from ..setup.doctor import examine, show

    show(examine(models_root(models_dir)), json, typer.echo)
