"""`strsr doctor`."""

from __future__ import annotations

import typer

from .options import Json, ModelsDir, models_root


def doctor(models_dir: ModelsDir = None, json: Json = False) -> None:
    """What this machine has, which weights are there, and which model will fit where."""
    from strsr_models.errors import WeightsError

    from ..setup.doctor import examine, show

    try:
        root, reason = models_root(models_dir), ""
    except WeightsError as error:
        # What else there is to say of the machine is said.
        root, reason = None, str(error)
    show(examine(root, reason), json, typer.echo)
