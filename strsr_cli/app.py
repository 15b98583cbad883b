"""The command line: which commands there are, and the one place where errors become exit codes.

This module imports nothing heavy, so that --help and completion answer at once.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any

import typer

from strsr_models.errors import DeviceError, StrsrError, UsageError, WeightsError

from . import __version__
from .commands.bench import bench
from .commands.distill import distill
from .commands.doctor import doctor
from .commands.evaluate import evaluate
from .commands.export import export
from .commands.fft_inspect import fft_inspect
from .commands.models import models_app
from .commands.pages import WIDEST, PagedCommand, PagedGroup
from .commands.serve import serve
from .commands.train import train
from .commands.upscale import upscale
from .system.limits import scarcity, spare_threads
from .system.machine import cores
from .system.paths import NAME_REFUSED
from .system.signals import (
    EXIT_INTERRUPTED,
    EXIT_NOT_AVAILABLE,
    EXIT_PIPE,
    EXIT_SOME_FAILED,
    EXIT_USAGE,
    EndedBySignal,
    Stopped,
    leave_at_once,
    quiet_pipes,
)
from .system.streams import MessageStream, message_streams
from .system.terminal import plain_pages, takes_escapes


def exit_code(error: StrsrError) -> int:
    """Return the exit code that an error stands for."""
    if isinstance(error, UsageError):
        return EXIT_USAGE
    return EXIT_NOT_AVAILABLE if isinstance(error, WeightsError | DeviceError) else EXIT_SOME_FAILED


class Commands(PagedGroup):
    """The group of all commands, which turns our errors into one line on stderr and an exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; words that cannot be written stop nothing, and end in exit code 1."""
        with message_streams() as streams:
            plain_pages(list(streams))
            try:
                result = super().main(*args, **options)
                code = 0
            except SystemExit as leaving:
                result, code = (
                    None,
                    leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code)),
                )
            code = code_of_streams(streams, code)
        if code or options.get("standalone_mode", True):
            sys.exit(code)
        return result

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Names that standard output cannot write are escaped there, as they are on standard error.
        """
        with contextlib.suppress(AttributeError):
            if sys.stdout.errors == "strict":
                sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            spare_threads(cores())
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
        # The user may not touch some file or folder; of those that inspect and enlarge, it is an argument.
        except PermissionError as error:
            tell(described(error))
            of_arguments = ctx.invoked_subcommand in ("upscale", "fft-inspect", "evaluate")
            raise typer.Exit(EXIT_USAGE if of_arguments else EXIT_NOT_AVAILABLE) from error
        # A signal has ended a run of training, whose checkpoint is written: what follows with && must not start.
        except Stopped as stopped:
            raise typer.Exit(stopped.exit_code) from stopped
        except KeyboardInterrupt as error:
            tell("interrupted")
            code = error.exit_code if isinstance(error, EndedBySignal) else EXIT_INTERRUPTED
            leave_at_once(code)
            raise typer.Exit(code) from error
        except (ImportError, MemoryError, RuntimeError, OSError) as error:
            raise typer.Exit(tell_of_system(error)) from error


def tell_of_system(error: Exception) -> int:
    """Say in one line what the system has refused, and return the exit code; other errors are raised again."""
    reason = scarcity(error)
    if reason is not None:
        tell(reason)
        leave_at_once(EXIT_NOT_AVAILABLE)
        return EXIT_NOT_AVAILABLE
    if isinstance(error, OSError) and error.errno is not None:
        tell(described(error))
        # No file can have the name of an argument.
        return EXIT_USAGE if error.filename and error.errno in NAME_REFUSED else EXIT_SOME_FAILED
    raise error


def described(error: OSError) -> str:
    """Return an error of the system with the file that it is about, where there is one."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def code_of_streams(streams: tuple[MessageStream, MessageStream], code: int) -> int:
    """Return the exit code of a command whose words may be lost: 1 where it would be 0; say so where that is possible."""
    out, err = streams
    with contextlib.suppress(BrokenPipeError):
        out.flush()
    if out.failure is not None:
        tell(f"standard output cannot be written: {out.failure.strerror or out.failure}")
    with contextlib.suppress(BrokenPipeError):
        err.flush()
    if out.failure is None and err.failure is None:
        return code
    return code or EXIT_SOME_FAILED


def tell(reason: str) -> None:
    """Say in one line on stderr why the command ends."""
    # Imported here because that module loads rich, which help does without.
    from .system.console import visible

    line = f"strsr: {visible(reason)}"
    typer.echo(typer.style(line, fg="red") if takes_escapes(sys.stderr) else line, err=True)


app = typer.Typer(
    name="strsr",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
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


app.command(cls=PagedCommand)(upscale)
app.command(cls=PagedCommand)(train)
app.command(cls=PagedCommand)(distill)
app.command(cls=PagedCommand)(export)
app.command("fft-inspect", cls=PagedCommand)(fft_inspect)
app.command(cls=PagedCommand)(evaluate)
app.command(cls=PagedCommand)(bench)
app.command(cls=PagedCommand)(serve)
app.add_typer(models_app, name="models")
app.command(cls=PagedCommand)(doctor)
