"""`strsr fft-inspect`."""

from __future__ import annotations

import math

import typer

from strsr_models.errors import UsageError

from ..images.formats import MAX_PIXELS
from .options import (
    Against,
    Channel,
    Crop,
    FailAbove,
    InspectMaxPixels,
    JsonPerImage,
    Lattice,
    Paths,
    SheetPath,
)

LONGEST_PERIOD = 512  # px: of a period that can be asked for


def fft_inspect(
    paths: Paths,
    against: Against = None,
    lattice: Lattice = "4,8,16",
    out: SheetPath = None,
    json: JsonPerImage = False,
    fail_above: FailAbove = None,
    channel: Channel = "luma",
    crop: Crop = None,
    max_pixels: InspectMaxPixels = MAX_PIXELS,
) -> None:
    """Show and measure the periodic grid ("screen door") that upscalers print.

    The score of a period is how far its harmonics stand out of the spectrum, in dB: 0 is none.
    Colours under full transparency are not judged; other transparency is ignored. Pixels count as they
    are stored, whatever the colour profile.

    Exit code: 0 all looked at, 1 a score above --fail-above or some files failed, 2 wrong usage.
    """
    periods, part = parse_lattice(lattice), parse_crop(crop)
    if fail_above is not None and not math.isfinite(fail_above):
        raise UsageError(f"--fail-above {fail_above}: use a number of dB, such as 3")
    from ..inspection.inspect import InspectOptions, inspect_paths

    options = InspectOptions(periods, against, out, json, fail_above, channel, part, max_pixels)
    if not inspect_paths(paths, options, typer.echo):
        raise typer.Exit(1)


def parse_lattice(text: str) -> tuple[int, ...]:
    """`4,8,16` -> (4, 8, 16). Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdecimal() and 2 <= int(part) <= LONGEST_PERIOD for part in parts):
        periods = tuple(int(part) for part in parts)
        if len(set(periods)) == len(periods):
            return periods
    raise UsageError(
        f"--lattice {text}: use whole periods in pixels, 2 to {LONGEST_PERIOD}, each once, such as 4,8,16"
    )


def parse_crop(text: str | None) -> tuple[int, int, int, int] | None:
    """`x,y,w,h` -> four numbers. Raises UsageError."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 4 and all(part.isdecimal() for part in parts):
        x, y, w, h = map(int, parts)
        if w and h:
            return x, y, w, h
    raise UsageError(f"--crop {text}: use x,y,w,h in pixels, w and h at least 1, such as 0,0,512,512")
