"""Signature and help of `strsr bench`. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from strsr_models.errors import UsageError

from .models_app import ModelsDir

LARGEST_BATCH = 1024
SIDE = 256  # px of pictures that are made
PARTS = ("start-up", "batches", "stages", "roofline")


def parse_batches(text: str) -> tuple[int, ...] | None:
    """`auto` -> None, `1,2,8` -> numbers of tiles."""
    if text == "auto":
        return None
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdecimal() and 1 <= int(part) <= LARGEST_BATCH for part in parts):
        return tuple(map(int, parts))
    raise UsageError(f"--batch {text}: use auto or numbers of tiles, 1 to {LARGEST_BATCH}, such as 1,2,4,8")


def parse_parts(text: str) -> frozenset[str]:
    """`start-up,roofline` -> the two; of PARTS."""
    parts = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not parts <= set(PARTS):
        raise UsageError(f"--skip {text}: use some of {', '.join(PARTS)}")
    return parts


def bench(
    model: Annotated[str, typer.Option(help="Which model: lite, zimage or flux2.")] = "lite",
    weights: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads annotations of 3.10)
        typer.Option(help="Folder of weights in place of the model's own."),
    ] = None,
    models_dir: ModelsDir = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]|mps", help="Where to compute.")] = "auto",
    precision: Annotated[
        Literal["auto", "fp16", "bf16", "fp32"], typer.Option(help="As of `strsr upscale`.")
    ] = "auto",
    scale: Annotated[float, typer.Option("--scale", "-s", help="How many times larger, 1 to 16.")] = 4,
    runs: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="Runs of each measurement.")] = 3,
    images: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="How many pictures.")] = 60,
    size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            metavar="PX",
            min=16,
            max=4096,
            help=f"Side of the pictures that are made (default: {SIDE}).",
        ),
    ] = None,
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Own pictures, the first --images of them, in place of made ones."),
    ] = None,
    batch: Annotated[
        str,
        typer.Option(
            metavar="auto|N,N,...",
            help="Tiles at once, to time one after the other; auto: 1 on CPUs, where tiles of a batch come in turn, else 1 to 32.",
        ),
    ] = "auto",
    skip: Annotated[
        str, typer.Option(metavar="PART,...", help=f"Leave out some of {', '.join(PARTS)}.")
    ] = "",
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object with all raw figures on standard output.")
    ] = False,
) -> None:
    """Measure start-up, speed, memory and what the machine could do at most, by a fixed protocol.

    JPEG files are made (photo-like, the same each time) or taken from --folder, and their outputs
    written as PNG to a temporary folder, by what `strsr upscale` runs. After a warm-up each run
    times the batch from file to file, and the network alone on the very same tiles; their ratio is
    the pipeline's efficiency. Medians of all runs. Tell other programs to be quiet meanwhile.

    Exit code: 0 measured, 1 a picture failed, 2 wrong usage, 3 weights or device not available,
    130 interrupted.
    """
    from strsr_models.sizes import check_scale

    check_scale(scale)
    if folder is not None and size is not None:
        raise UsageError("--size: is of pictures that are made; --folder brings its own")
    batches, skipped = parse_batches(batch), parse_parts(skip)
    from .bench import BenchOptions, measure
    from .bench_text import show

    options = BenchOptions(
        model=model,
        weights=weights,
        models_dir=models_dir,
        device=device,
        precision=precision,
        scale=scale,
        runs=runs,
        images=images,
        size=size or SIDE,
        folder=folder,
        batches=batches,
        skip=skipped,
    )
    show(measure(options, lambda text: typer.echo(text, err=True)), json, typer.echo)
