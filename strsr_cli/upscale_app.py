"""Signature and help of `strsr upscale`, and the order in which a batch is planned and done.

Imports nothing heavy.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from strsr_models.errors import UsageError

EXIT_SOME_FAILED = 1


def auto_or_number(option: str, text: str, least: int, unit: str) -> int | None:
    """`auto` -> None, a number of at least `least` -> itself."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{option} {text}: use auto or a number of {unit}, at least {least}")
    return int(text)


MODEL, TILES, WHERE, OUTPUT, TALK = "Model", "Tiles", "Where and how precisely", "Output", "Messages"
INPUT, RUNS = "Input", "Runs on one folder"
BIG = "Only for zimage and flux2"


def upscale(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="An image, a folder (with all below it), or - for standard input."
        ),
    ],
    target: Annotated[
        Optional[str],  # noqa: UP045  (typer reads annotations of 3.10)
        typer.Argument(
            metavar="OUTPUT",
            help="A folder; an image file, when INPUT is one image; or - for standard output.",
        ),
    ] = None,
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
        str,
        typer.Option(
            metavar="auto|cpu|cuda[:N]|mps",
            help="Where to compute; several share the work: cuda:0,cuda:1.",
            rich_help_panel=WHERE,
        ),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "fp16", "bf16", "fp32"],
        typer.Option(
            help="auto: fp16 on CUDA, bf16 on CPUs made for it, else fp32; zimage, flux2: bf16 (older GPUs: fp16) on CUDA, else fp32.",
            rich_help_panel=WHERE,
        ),
    ] = "auto",
    batch: Annotated[
        str,
        typer.Option(
            metavar="auto|N",
            help="Tiles computed at once, of one or several images; auto: what fits a GPU's memory, one on a CPU.",
            rich_help_panel=WHERE,
        ),
    ] = "auto",
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="N",
            min=1,
            help="Images read, and written, at a time beside the network; default: half of the cores.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the network first: takes minutes the first time, pays for long batches.",
            rich_help_panel=WHERE,
        ),
    ] = False,
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
    png_compression: Annotated[
        int,
        typer.Option(
            metavar="0..5", min=0, max=5, help="0: none, fastest; 5: smallest, slow.", rich_help_panel=OUTPUT
        ),
    ] = 1,
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
    frames: Annotated[
        Literal["first", "all"],
        typer.Option(
            help="Of animations and TIFFs of several pages; all: each becomes an output, clip_0001.png and so on.",
            rich_help_panel=INPUT,
        ),
    ] = "first",
    files_from: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="FILE|-",
            help="Only the images of this list, one a line, relative to the folder INPUT.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    files0_from: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="FILE|-", help="The same, each ended by NUL: for find -print0.", rich_help_panel=INPUT
        ),
    ] = None,
    in_place_suffix: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="TEXT",
            help="Write beside the inputs, with this at the end of names (_x4: photo_x4.jpg); no OUTPUT is needed.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Make outputs that exist again, not skip them.", rich_help_panel=OUTPUT
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what would be made, how large and how long.", rich_help_panel=OUTPUT
        ),
    ] = False,
    no_space_check: Annotated[
        bool,
        typer.Option(
            "--no-space-check",
            help="Begin even if the disk looks too small for all.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Only the images that failed the last time.", rich_help_panel=RUNS
        ),
    ] = False,
    no_journal: Annotated[
        bool,
        typer.Option(
            "--no-journal",
            help="Keep no record of what was made; skip all outputs that exist.",
            rich_help_panel=RUNS,
        ),
    ] = False,
    shard: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="K/N",
            help="Only part K of N; default: as torchrun, accelerate launch or srun say, else all.",
            rich_help_panel=RUNS,
        ),
    ] = None,
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

    What was made before with the same settings is skipped; one bad file does not stop the rest.
    ^C ends after the images under way, twice at once.

    Exit code: 0 all done, 1 some failed or the disk is too small, 2 wrong usage or nothing to do,
    3 weights or device not available, 130 interrupted, 141 reader of a pipe gone, 143 terminated.
    """
    from strsr_models.sizes import check_scale

    from .big_models import resolve_options
    from .forecast import check_space
    from .journal import drop_unfinished
    from .ledger import Ledger, job_settings
    from .outlook import (
        is_whole_image,
        listed_names,
        look_ahead,
        require_journal,
        tell_forecast,
        weights_hash,
    )
    from .plan import STREAM, make_plan
    from .report import make_reporter, visible
    from .shards import resolve_shard
    from .signals import EXIT_INTERRUPTED, EndedBySignal, Stop

    check_scale(scale)
    if json and target == STREAM:
        raise UsageError("--json and OUTPUT - both want standard output; drop one of them")
    if target == STREAM and sys.stdout.name == os.devnull:
        raise UsageError("OUTPUT -: standard output is closed; redirect it: > image.png")
    if target == STREAM and sys.stdout.isatty() and not dry_run:
        raise UsageError("OUTPUT - would write an image to the terminal; redirect it: > image.png")
    tile_size = auto_or_number("--tile", tile, 64, "output pixels")
    batch_size = auto_or_number("--batch", batch, 1, "tiles")
    if grid_limit is not None and not (check_grid and math.isfinite(grid_limit)):
        raise UsageError(f"--grid-limit {grid_limit}: use a number of dB, together with --check-grid")
    part = resolve_shard(shard, os.environ)
    names = listed_names(files_from, files0_from)
    whole_plan = make_plan(source, target, format, names, in_place_suffix, frames == "all")
    plan = whole_plan.shard(part)
    if retry_failed:
        require_journal(plan.root, no_journal)
    big = resolve_options(
        model,
        plan.jobs,
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
    stop = Stop(quiet)
    # All that decides an output's content, but not where it is computed: a folder may be begun on one
    # machine and ended on another.
    settings = job_settings(
        big,
        scale=scale,
        model=model,
        tile=tile,
        overlap=overlap,
        precision=precision,
        quality=quality,
        steps=steps,
        strip=strip,
        provenance=provenance,
        png_compression=png_compression,
        compile=compile,
    )
    ledger = Ledger(
        plan.root,
        settings,
        weights_hash(model, weights, big) if plan.root else "",
        overwrite,
        retry_failed,
        remember=not no_journal,
        silent=dry_run,
        is_whole=is_whole_image,
        reporter=reporter,
        stop=stop,
    )
    reporter.on_failed = ledger.failed
    reporter.passed_over = plan.passed_over
    try:
        with stop.watching():
            if part.count > 1:
                reporter.note(f"part {part.number} of {part.count} (by {part.source})")
                reporter.elsewhere(whole_plan.count - plan.count)
            show = (lambda line: typer.echo(visible(line))) if dry_run and not (json or verbose) else None
            outlook = look_ahead(plan, scale, max_pixels, ledger, reporter, dry_run, show)
            if dry_run:
                text = tell_forecast(outlook, reporter, model, weights, device, precision)
                if not json:
                    typer.echo(visible(text))
                return
            ledger.sweep(plan.jobs)
            if outlook.pending:
                if not no_space_check:
                    check_space(outlook.sizes)
                from .stages import UpscaleOptions
                from .upscale import upscale_batch

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
                    jobs=jobs,
                    batch=batch_size,
                    compile=compile,
                    png_compression=png_compression,
                    local=part.local,
                )
                upscale_batch(outlook.pending, options, reporter, ledger)
            reporter.summary()
        if stop.requested:
            raise typer.Exit(EXIT_INTERRUPTED)
        if reporter.counts["failed"]:
            raise typer.Exit(EXIT_SOME_FAILED)
    except EndedBySignal:
        drop_unfinished()
        raise
    finally:
        ledger.close()
        reporter.close()
