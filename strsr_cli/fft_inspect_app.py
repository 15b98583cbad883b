"""Signature and help of `strsr fft-inspect`. Imports nothing heavy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from strsr_models.errors import UsageError

LONGEST = 512  # px: of a period that can be asked for


def parse_lattice(text: str) -> tuple[int, ...]:
    """`4,8,16` -> (4, 8, 16)."""
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdecimal() and 2 <= int(part) <= LONGEST for part in parts):
        periods = tuple(int(part) for part in parts)
        if len(set(periods)) == len(periods):
            return periods
    raise UsageError(
        f"--lattice {text}: use whole periods in pixels, 2 to {LONGEST}, each once, such as 4,8,16"
    )


def parse_crop(text: str | None) -> tuple[int, int, int, int] | None:
    """`x,y,w,h` -> four numbers."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 4 and all(part.isdecimal() for part in parts):
        x, y, w, h = map(int, parts)
        if w and h:
            return x, y, w, h
    raise UsageError(f"--crop {text}: use x,y,w,h in pixels, w and h at least 1, such as 0,0,512,512")


def fft_inspect(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, or folders with all below.")],
    against: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads annotations of 3.10)
        typer.Option(
            metavar="PATH",
            help="Reference or input to compare with: one image, or a folder of images of the same names.",
        ),
    ] = None,
    lattice: Annotated[
        str, typer.Option(metavar="N,N,...", help="Periods to look for, in pixels.")
    ] = "4,8,16",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE.png|FOLDER", help="Draw a sheet; of several images one each, and a summary."
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per image on standard output.")
    ] = False,
    fail_above: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="DB", help="Exit with 1 when a score is higher than this."),
    ] = None,
    channel: Annotated[
        Literal["luma", "r", "g", "b"], typer.Option(help="What of the colours is looked at.")
    ] = "luma",
    crop: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="X,Y,W,H", help="Look at this part of each image only, in pixels."),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(metavar="N", min=1, help="Refuse larger images unread.")
    ] = 268_435_456,
) -> None:
    """Show and measure the periodic grid ("screen door") that upscalers print.

    The score of a period is how far its harmonics stand out of the spectrum, in dB: 0 is none.
    Transparency is ignored. Pixels count as they are stored, whatever the colour profile.

    Exit code: 0 all looked at, 1 a score above --fail-above or some files failed, 2 wrong usage.
    """
    periods, part = parse_lattice(lattice), parse_crop(crop)
    if fail_above is not None and not math.isfinite(fail_above):
        raise UsageError(f"--fail-above {fail_above}: use a number of dB, such as 3")
    from .fft_inspect import InspectOptions, inspect_paths

    options = InspectOptions(periods, against, out, json, fail_above, channel, part, max_pixels)
    if not inspect_paths(paths, options, typer.echo):
        raise typer.Exit(1)
