"""Signatures and help of `strsr models`. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

models_app = typer.Typer(no_args_is_help=True, help="Get, check and find the big models' published weights.")

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="zimage, flux2 (all that they need), or one name of `strsr models list`."
    ),
]
ModelsDir = Annotated[
    Optional[Path],  # noqa: UP045  (typer reads annotations of 3.10)
    typer.Option(metavar="DIR", help="The models folder; default: STRSR_MODELS_DIR, else the user's cache."),
]


def models_root(models_dir: Path | None) -> Path:
    """The folder that --models-dir means."""
    from strsr_models.published import default_models_dir

    return models_dir.expanduser() if models_dir is not None else default_models_dir()


@models_app.command("list")
def list_models(
    models_dir: ModelsDir = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """What exists, what of it is here, sizes and licences."""
    from . import models_command

    models_command.list_models(models_root(models_dir), json, typer.echo)


@models_app.command()
def pull(
    name: Name,
    models_dir: ModelsDir = None,
    revision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="COMMIT|TAG", help="Of the repository; default: its newest."),
    ] = None,
    text_encoder: Annotated[
        bool,
        typer.Option(
            "--text-encoder", help="The base model's text encoder too (8 GB), for conditioning by text."
        ),
    ] = False,
) -> None:
    """Fetch weights from huggingface.co; the same command goes on after an interruption.

    HF_ENDPOINT names a mirror, HF_TOKEN a token; HF_HUB_OFFLINE is obeyed.
    """
    from . import models_command

    models_command.pull(name, models_root(models_dir), revision, text_encoder, typer.echo)


@models_app.command()
def verify(name: Name, models_dir: ModelsDir = None) -> None:
    """Read all files again and compare them with what was pulled."""
    from . import models_command

    models_command.verify(name, models_root(models_dir), typer.echo)


@models_app.command()
def path(name: Name, models_dir: ModelsDir = None) -> None:
    """Print where a model is."""
    from . import models_command

    models_command.path(name, models_root(models_dir), typer.echo)
