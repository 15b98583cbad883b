"""The command line: which commands there are, and the one place where errors become exit codes.

This module imports nothing heavy, so that --help and completion answer at once.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from strsr_models.errors import DeviceError, StrsrError, UsageError, WeightsError

from . import __version__
from .commands.bench import bench
from .commands.distill import distill
from .commands.doctor import doctor
from .commands.export import export
from .commands.fft_inspect import fft_inspect
from .commands.models import models_app
from .commands.train import train
from .commands.upscale import upscale
from .system.signals import (
    EXIT_INTERRUPTED,
    EXIT_NOT_AVAILABLE,
    EXIT_PIPE,
    EXIT_SOME_FAILED,
    EXIT_USAGE,
    EndedBySignal,
    Stopped,
    leave_at_once,
    open_closed_streams,
    quiet_pipes,
)


def exit_code(error: StrsrError) -> int:
    """Return the exit code that an error stands for."""
    if isinstance(error, UsageError):
        return EXIT_USAGE
    return EXIT_NOT_AVAILABLE if isinstance(error, WeightsError | DeviceError) else EXIT_SOME_FAILED


class Commands(TyperGroup):
    """The group of all commands, which turns our errors into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Names that standard output cannot write are escaped there, as they are on standard error.
        """
        open_closed_streams()
        if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except StrsrError as error:
            tell(str(error))
            raise typer.Exit(exit_code(error)) from error
        # Whoever reads our output has enough of it, as in `... | head`.
        except BrokenPipeError as error:
            quiet_pipes()
            raise typer.Exit(EXIT_PIPE) from error
        # The user may not touch some file or folder.
        except PermissionError as error:
            tell(f"{error.filename}: {error.strerror}")
            raise typer.Exit(EXIT_NOT_AVAILABLE) from error
        # A signal has ended a run of training, whose checkpoint is written: what follows with && must not start.
        except Stopped as stopped:
            raise typer.Exit(stopped.exit_code) from stopped
        except KeyboardInterrupt as error:
            tell("interrupted")
            code = error.exit_code if isinstance(error, EndedBySignal) else EXIT_INTERRUPTED
            leave_at_once(code)
            raise typer.Exit(code) from error


def tell(reason: str) -> None:
    """Say in one line on stderr why the command ends."""
    # Imported here because that module loads rich, which help does without.
    from .system.console import visible

    typer.secho(f"strsr: {visible(reason)}", err=True, fg="red")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Print the version and leave, where --version asks for it."""
    if wanted:
        typer.echo(f"strsr {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Make old, small or damaged photos large and sharp, in one step of a diffusion transformer."""


app.command()(upscale)
app.command()(train)
app.command()(distill)
app.command()(export)
app.command("fft-inspect")(fft_inspect)
app.command()(bench)
app.add_typer(models_app, name="models")
app.command()(doctor)
