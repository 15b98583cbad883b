"""The command line: signatures and help, and the one place where errors become exit codes.

Imports nothing heavy, so that --help and completion answer at once.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer
from typer.core import TyperGroup

from strsr_models.errors import DeviceError, StrsrError, UsageError, WeightsError

from . import __version__
from .bench_app import bench
from .fft_inspect_app import fft_inspect
from .models_app import ModelsDir, models_app, models_root

EXIT_SOME_FAILED, EXIT_USAGE, EXIT_NOT_AVAILABLE, EXIT_INTERRUPTED = 1, 2, 3, 130


def exit_code(error: StrsrError) -> int:
    """The exit code that an error stands for."""
    if isinstance(error, UsageError):
        return EXIT_USAGE
    return EXIT_NOT_AVAILABLE if isinstance(error, WeightsError | DeviceError) else EXIT_SOME_FAILED


class Commands(TyperGroup):
    """Turns our errors into one line on stderr and an exit code, wherever they were raised."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Names that standard output cannot write are escaped there, as on standard error."""
        if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except StrsrError as error:
            typer.secho(f"strsr: {error}", err=True, fg="red")
            raise typer.Exit(exit_code(error)) from error
        except PermissionError as error:  # any file or folder that the user may not touch
            typer.secho(f"strsr: {error.filename}: {error.strerror}", err=True, fg="red")
            raise typer.Exit(EXIT_NOT_AVAILABLE) from error
        except KeyboardInterrupt as error:
            typer.secho("strsr: interrupted", err=True, fg="red")
            raise typer.Exit(EXIT_INTERRUPTED) from error


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


def parse_tile(text: str) -> Optional[int]:  # noqa: UP045  (typer reads annotations of 3.10)
    """`auto` -> None, a number of at least 64 -> itself."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 64:
        raise UsageError(f"--tile {text}: use auto or a number of output pixels, at least 64")
    return int(text)


MODEL, TILES, WHERE, OUTPUT, TALK = "Model", "Tiles", "Where and how precisely", "Output", "Messages"
INPUT = "Input"
BIG = "Only for zimage and flux2"


@app.command()
def upscale(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="An image, a folder (with all below it), or - for standard input."
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUT",
            help="A folder; an image file, when INPUT is one image; or - for standard output.",
        ),
    ],
    scale: Annotated[float, typer.Option("--scale", "-s", help="How many times larger, 1 to 16.")] = 4,
    model: Annotated[
        str, typer.Option(help="Which model restores: lite, zimage or flux2.", rich_help_panel=MODEL)
    ] = "lite",
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder of weights, or of a run, to use in place of the model's own (zimage, flux2: of an adapter).",
            rich_help_panel=MODEL,
        ),
    ] = None,
    models_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="DIR",
            help="Folder of the published checkpoints; default: STRSR_MODELS_DIR, else in the user's cache.",
            rich_help_panel=BIG,
        ),
    ] = None,
    conditioning: Annotated[
        Optional[Literal["vlm", "text", "none"]],  # noqa: UP045
        typer.Option(
            help="What tells the model what it sees: a vision-language model, a prompt, or nothing (default: vlm).",
            rich_help_panel=BIG,
        ),
    ] = None,
    prompt: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="TEXT",
            help="What is in the images, in words; implies --conditioning text.",
            rich_help_panel=BIG,
        ),
    ] = None,
    prompt_from: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FOLDER",
            help="Folder with a prompt for each image, photo.txt for photo.jpg; an image without one gets that of --prompt, or fails.",
            rich_help_panel=BIG,
        ),
    ] = None,
    lora_scale: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="0..1.5",
            help="Fidelity against generation: 0 is the base model, 1 as trained (the default).",
            rich_help_panel=BIG,
        ),
    ] = None,
    offload: Annotated[
        Optional[Literal["auto", "none", "model", "sequential"]],  # noqa: UP045
        typer.Option(
            help="What waits in main memory: networks in turn, or each layer; auto: by free GPU memory (the default).",
            rich_help_panel=BIG,
        ),
    ] = None,
    quantize: Annotated[
        Optional[Literal["none", "int8", "int4"]],  # noqa: UP045
        typer.Option(
            help="Round the transformer's weights; needs torchao (default: none).", rich_help_panel=BIG
        ),
    ] = None,
    no_token_cache: Annotated[
        bool,
        typer.Option(
            "--no-token-cache",
            help="Neither use nor keep what was understood of images.",
            rich_help_panel=BIG,
        ),
    ] = False,
    tile: Annotated[
        str, typer.Option(metavar="auto|N", help="Largest tile side in output pixels.", rich_help_panel=TILES)
    ] = "auto",
    steps: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=100,
            help="Euler steps of the network; more than 1 is for weights trained by stage flow.",
            rich_help_panel=MODEL,
        ),
    ] = 1,
    overlap: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="N",
            help="Overlap of tiles in output pixels; default: the model's.",
            rich_help_panel=TILES,
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda[:N]|mps", help="Where to compute.", rich_help_panel=WHERE)
    ] = "auto",
    precision: Annotated[
        Literal["auto", "fp16", "bf16", "fp32"],
        typer.Option(
            help="auto: fp16 on CUDA, bf16 on CPUs made for it, else fp32; zimage, flux2: bf16 (older GPUs: fp16) on CUDA, else fp32.",
            rich_help_panel=WHERE,
        ),
    ] = "auto",
    format: Annotated[
        Literal["keep", "png", "jpg", "webp", "tif", "bmp", "avif"],
        typer.Option(
            help="keep: the input's format (GIF, HEIC, JPEG XL: png); png on standard output.",
            rich_help_panel=OUTPUT,
        ),
    ] = "keep",
    quality: Annotated[
        int,
        typer.Option(
            min=1, max=100, help="Of JPEG, AVIF (both always 4:4:4) and WebP.", rich_help_panel=OUTPUT
        ),
    ] = 95,
    strip: Annotated[
        bool,
        typer.Option(
            "--strip", help="Drop EXIF, XMP and resolution; keep the colour profile.", rich_help_panel=OUTPUT
        ),
    ] = False,
    provenance: Annotated[
        bool,
        typer.Option(
            "--provenance",
            help="Say in the output's EXIF (Software) what made it: version, model, hash of its weights, scale.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    max_pixels: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Refuse larger inputs unread.", rich_help_panel=INPUT),
    ] = 268_435_456,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Make outputs that exist again, not skip them.", rich_help_panel=OUTPUT
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be made.", rich_help_panel=OUTPUT)
    ] = False,
    check_grid: Annotated[
        bool,
        typer.Option(
            "--check-grid", help="Look for a printed grid in each output, and warn.", rich_help_panel=OUTPUT
        ),
    ] = False,
    grid_limit: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="DB",
            help="Warn above this score, with --check-grid; default: as `strsr fft-inspect` judges.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="One JSON object per event on standard output.", rich_help_panel=TALK),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only failures.", rich_help_panel=TALK)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every step.", rich_help_panel=TALK)
    ] = False,
) -> None:
    """Enlarge and restore an image, a folder of images, or a stream.

    Outputs that exist are skipped; one bad file does not stop the rest.

    Exit code: 0 all done, 1 some failed, 2 wrong usage or nothing to do, 3 weights or device not
    available, 130 interrupted.
    """
    from strsr_models.sizes import check_scale

    from .big_models import resolve_options
    from .plan import STREAM, plan_jobs, planned_sizes
    from .report import describe_plan, make_reporter

    check_scale(scale)
    if json and target == STREAM:
        raise UsageError("--json and OUTPUT - both want standard output; drop one of them")
    if target == STREAM and sys.stdout.isatty() and not dry_run:
        raise UsageError("OUTPUT - would write an image to the terminal; redirect it: > image.png")
    tile_size = parse_tile(tile)
    if grid_limit is not None and not (check_grid and math.isfinite(grid_limit)):
        raise UsageError(f"--grid-limit {grid_limit}: use a number of dB, together with --check-grid")
    jobs = plan_jobs(source, target, format)
    big = resolve_options(
        model,
        jobs,
        models_dir=models_dir,
        conditioning=conditioning,
        prompt=prompt,
        prompt_from=prompt_from,
        lora_scale=lora_scale,
        offload=offload,
        quantize=quantize,
        token_cache=False if no_token_cache else None,
    )
    reporter = make_reporter(json, quiet, verbose)
    try:
        pending = []
        for job, sizes in planned_sizes(jobs, scale, max_pixels):
            skip = job.finished and not overwrite
            reporter.planned(job.name, job.target_name, **sizes, **({"skip": True} if skip else {}))
            if dry_run and not json and not verbose:
                fields = {"input": job.name, "output": job.target_name, **sizes, "skip": skip}
                typer.echo(describe_plan(fields))
            if skip and not dry_run:
                reporter.skipped(job.name, job.target_name)
            elif "error" in sizes and not dry_run:
                reporter.failed(job.name, str(sizes["error"]))
            elif not skip:
                pending.append(job)
        if dry_run:
            if not json:
                typer.echo(f"{len(pending)} to make, {len(jobs) - len(pending)} skipped; nothing was written")
            return
        if pending:
            from .upscale import UpscaleOptions, upscale_batch

            options = UpscaleOptions(
                scale,
                model,
                weights,
                tile_size,
                overlap,
                device,
                precision,
                quality,
                steps,
                big,
                check_grid,
                grid_limit,
                max_pixels,
                strip,
                provenance,
            )
            upscale_batch(pending, options, reporter)
        reporter.summary()
        if reporter.counts["failed"]:
            raise typer.Exit(EXIT_SOME_FAILED)
    finally:
        reporter.close()


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
    preview: Preview = None,
    dry_run: DryRun = False,
) -> None:
    """Teach one-step restoration by a coach and, in a second stage, a frequency loss (StrSR)."""
    from . import distill as loop

    with_warnings()
    if preview is not None:
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
