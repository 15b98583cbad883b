"""The command line: signatures and help, and the one place where errors become exit codes.

Imports nothing heavy, so that --help and completion answer at once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from strsr_models.errors import DeviceError, StrsrError, UsageError, WeightsError

from . import __version__
from .bench_app import bench
from .fft_inspect_app import fft_inspect
from .models_app import ModelsDir, models_app, models_root
from .signals import (
    EXIT_INTERRUPTED,
    EXIT_PIPE,
    EndedBySignal,
    leave_at_once,
    open_closed_streams,
    quiet_pipes,
)
from .upscale_app import EXIT_SOME_FAILED, upscale

EXIT_USAGE, EXIT_NOT_AVAILABLE = 2, 3


def exit_code(error: StrsrError) -> int:
    """The exit code that an error stands for."""
    if isinstance(error, UsageError):
        return EXIT_USAGE
    return EXIT_NOT_AVAILABLE if isinstance(error, WeightsError | DeviceError) else EXIT_SOME_FAILED


class Commands(TyperGroup):
    """Turns our errors into one line on stderr and an exit code, wherever they were raised."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Names that standard output cannot write are escaped there, as on standard error."""
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
        except BrokenPipeError as error:  # whoever read our output has enough: `... | head`
            quiet_pipes()
            raise typer.Exit(EXIT_PIPE) from error
        except PermissionError as error:  # any file or folder that the user may not touch
            tell(f"{error.filename}: {error.strerror}")
            raise typer.Exit(EXIT_NOT_AVAILABLE) from error
        except KeyboardInterrupt as error:
            tell("interrupted")
            code = error.exit_code if isinstance(error, EndedBySignal) else EXIT_INTERRUPTED
            leave_at_once(code)
            raise typer.Exit(code) from error


def tell(reason: str) -> None:
    """Why the command ends, in one line on stderr."""
    from .report import visible

    typer.secho(f"strsr: {visible(reason)}", err=True, fg="red")


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """--version: print and leave."""
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

Data = Annotated[list[Path], typer.Option(help="Folder of good photos; may be given several times.")]
RunFolder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Folder of the run; the same command resumes what is there."),
]
ConfigFile = Annotated[Optional[Path], typer.Option(help="TOML file with settings.")]  # noqa: UP045
Settings = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(metavar="KEY=VALUE", help="One setting; may be repeated; --dry-run lists them all."),
]
Preview = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(metavar="SHEET.png", help="Only draw what the network would see: rows of hq | lq."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print resolved settings, sizes and memory; write nothing.")
]


@app.command()
def train(
    data: Data,
    out: RunFolder = None,
    config: ConfigFile = None,
    set: Settings = None,
    preview: Preview = None,
    dry_run: DryRun = False,
) -> None:
    """Teach lite to restore photos, from a folder of good ones.

    --set stage=autoencoder, flow or pixel (the default) says what is learnt.
    """
    from . import train as loop

    with_warnings()
    if preview is not None:
        loop.preview(data, config, set or [], preview)
        typer.echo(f"look at {preview}")
    elif dry_run:
        loop.dry_run(data, config, set or [], typer.echo)
    else:
        with stopped_by_signal():
            loop.train(data, need_out(out), config, set or [], typer.echo)


@app.command()
def distill(
    data: Data,
    out: RunFolder = None,
    student: Annotated[
        str,
        typer.Option(metavar="RUN|lite|zimage|flux2", help="What is taught: a run's weights, or a model."),
    ] = "lite",
    config: ConfigFile = None,
    set: Settings = None,
    make_pairs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="N", help="Only make N pairs with teachers' outputs, in the folder of setting pairs."
        ),
    ] = None,
    preview: Preview = None,
    dry_run: DryRun = False,
) -> None:
    """Teach one-step restoration by teachers, a coach and, in a second stage, a frequency loss (StrSR)."""
    from . import distill as loop

    with_warnings()
    if make_pairs is not None:
        typer.echo(f"pairs in {loop.make_teachers_pairs(data, make_pairs, config, set or [], typer.echo)}")
    elif preview is not None:
        loop.preview(student, data, config, set or [], preview)
        typer.echo(f"look at {preview}")
    elif dry_run:
        loop.dry_run(student, data, config, set or [], typer.echo)
    else:
        with stopped_by_signal():
            loop.distill(student, data, need_out(out), config, set or [], typer.echo)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run of train or distill.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for its weights.")],
) -> None:
    """Make a run's averaged weights a folder for `strsr upscale --weights`."""
    from .export import export as export_run

    tell_weights(export_run(run, out))


app.command("fft-inspect")(fft_inspect)
app.command()(bench)
app.add_typer(models_app, name="models")


@app.command()
def doctor(
    models_dir: ModelsDir = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """What this machine has, which weights are there, and which model will fit where."""
    from .doctor import examine, show

    show(examine(models_root(models_dir)), json, typer.echo)


def need_out(out: Path | None) -> Path:
    """--out, which only previews and dry runs do without."""
    if out is None:
        raise UsageError("--out is missing: the folder of the run")
    return out


@contextlib.contextmanager
def stopped_by_signal() -> Iterator[None]:
    """A run that a signal has ended exits as the signal's: what follows it with && must not start."""
    from .logbook import Stopped

    try:
        yield
    except Stopped as stopped:
        raise typer.Exit(stopped.exit_code) from stopped


def with_warnings() -> None:
    """What modules log while they train, such as photos that are skipped, goes to stderr."""
    import logging

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


def tell_weights(folder: Path) -> None:
    """Where weights are, and what to do with them."""
    typer.echo(f"weights in {folder}; try them: strsr upscale INPUT OUTPUT --weights {folder}")
