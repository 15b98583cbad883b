"""`strsr models list | pull | verify | path`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from .options import Json, ModelsDir, PublishedName, Revision, TextEncoder, models_root
from .pages import PagedCommand, PagedGroup

models_app = typer.Typer(
    cls=PagedGroup,
    no_args_is_help=True,
    help="Get, check and find the big models' published weights.",
)


def _root(models: Any, name: str, models_dir: Path | None) -> Path:
    """The models folder, where the name is of something that lies there; judges lie elsewhere."""
    return Path() if models.lies_elsewhere(name) else models_root(models_dir)


@models_app.command("list", cls=PagedCommand)
def list_models(models_dir: ModelsDir = None, json: Json = False) -> None:
    """What exists, what of it is here, sizes and licences."""
    from ..setup import models

    models.list_models(models_root(models_dir), json, typer.echo)


@models_app.command(cls=PagedCommand)
def pull(
    name: PublishedName,
    models_dir: ModelsDir = None,
    revision: Revision = None,
    text_encoder: TextEncoder = False,
) -> None:
    """Fetch weights from huggingface.co; the same command goes on after an interruption.

    HF_ENDPOINT names a mirror, HF_TOKEN a token; HF_HUB_OFFLINE is obeyed.
    """
    from ..setup import models

    models.pull(name, _root(models, name, models_dir), revision, text_encoder, typer.echo)


@models_app.command(cls=PagedCommand)
def verify(name: PublishedName, models_dir: ModelsDir = None) -> None:
    """Read all files again and compare them with what was pulled."""
    from ..setup import models

    models.verify(name, _root(models, name, models_dir), typer.echo)


@models_app.command(cls=PagedCommand)
def path(name: PublishedName, models_dir: ModelsDir = None) -> None:
    """Print where a model is."""
    from ..setup import models

    models.path(name, _root(models, name, models_dir), typer.echo)
