"""The work of `strsr evaluate`: outputs held against their references, as a table or as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from strsr_models.errors import ImageError, UsageError
from strsr_models.losses.perceptual import Lpips
from strsr_models.packages import install_command

from ..images.formats import MAX_PIXELS
from ..images.read import read_image
from ..system.console import Tell, first_line, make_console, visible
from .inspect import plain, with_bar
from .pairs import Pairs, pair
from .quality import Quality, has_ssim, load_lpips, measure

# Keys of a Quality that are averaged, with their headings and digits.
COLUMNS = {
    "psnr_y": ("PSNR-Y dB", 2),
    "psnr_rgb": ("PSNR-RGB dB", 2),
    "ssim_y": ("SSIM-Y", 4),
    "lpips": ("LPIPS", 4),
    "grid_db": ("grid dB", 1),
}
DIGITS = 6  # of numbers in JSON
DEFINITIONS = (
    "PSNR-Y, SSIM-Y: luma of BT.601, 16 to 235, peak 255, as in papers; PSNR-RGB: over R, G and B; "
    "SSIM: Gaussian window, sigma 1.5"
)


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of the command. lpips: auto, none or a network; lpips_weights: its file."""

    against: Path
    border: int = 0  # px
    lpips: str = "auto"
    lpips_weights: Path | None = None
    json: bool = False
    max_pixels: int = MAX_PIXELS  # of an image


@dataclass(frozen=True)
class Row:
    """One pair: its quality, or why it has none."""

    output: Path
    reference: Path | None
    quality: Quality | None = None
    error: str = ""


def evaluate_folder(out: Path, options: EvaluateOptions, report: Tell, remark: Tell) -> bool:
    """Measure all pairs and report them. Returns False when any output has no quality.

    report: takes lines for standard output, remark those for standard error. Raises UsageError, WeightsError.
    """
    if options.lpips_weights is not None and options.lpips in ("auto", "none"):
        raise UsageError(
            f"--lpips-weights: say of which network by --lpips alex, vgg or squeeze, not {options.lpips}"
        )
    pairs = pair(out, options.against)
    lpips = load_lpips(options.lpips, options.lpips_weights)
    rows = [Row(output, None, error=f"{output}: {reason}") for output, reason in pairs.lonely]
    rows += [evaluate_pair(*paths, options, lpips) for paths in with_bar(pairs.pairs, "comparing")]
    rows.sort(key=lambda row: row.output)
    net = "" if lpips is None else lpips_name(lpips, options)
    if options.json:
        report(json.dumps(as_json(rows, pairs, net, options)))
    else:
        for line in table(rows, net, out, terminal_width()):
            report(line)
        for line in remarks(rows, pairs, net, options):
            remark(line)
    return all(row.quality is not None for row in rows)


def evaluate_pair(output: Path, reference: Path, options: EvaluateOptions, lpips: Lpips | None) -> Row:
    """Measure one pair; what goes wrong becomes its error."""
    try:
        first, second = (read_image(path, options.max_pixels) for path in (output, reference))
        quality = measure(first, second, (str(output), str(reference)), options.border, lpips)
    except ImageError as error:
        return Row(output, reference, error=str(error))
    except (MemoryError, RuntimeError) as error:
        reason = "out of memory" if isinstance(error, MemoryError) else first_line(error)
        return Row(output, reference, error=f"{output}: {reason}")
    return Row(output, reference, quality)


def lpips_name(lpips: Lpips, options: EvaluateOptions) -> str:
    """Return which network LPIPS has: numbers of different ones cannot be compared."""
    return str(lpips.model.pnet_type) if options.lpips == "auto" else options.lpips


def means(rows: list[Row]) -> dict[str, float | None]:
    """Return the means of all columns over the pairs that have a number; equal pictures have no finite PSNR."""
    columns: dict[str, float | None] = {}
    for key in COLUMNS:
        values = [getattr(row.quality, key) for row in rows if row.quality is not None]
        numbers = [value for value in values if value is not None and math.isfinite(value)]
        columns[key] = fmean(numbers) if numbers else None
    return columns


# --- for people --------------------------------------------------------------------------------------


def terminal_width() -> int | None:
    """Return the columns of the terminal on standard output; None where it is none."""
    console = make_console()
    return console.width if console.is_terminal else None


def table(rows: list[Row], net: str, top: Path, width: int | None) -> list[str]:
    """Return the table as lines: a heading, a line for each pair with a quality, and the means of several.

    width: columns that there are, in which the middle of long names is left out; None: any number.
    """
    measured = [row for row in rows if row.quality is not None]
    if not measured:
        return []
    keys = [key for key in COLUMNS if means(measured)[key] is not None or key.startswith("psnr")]
    headings = [f"LPIPS {net}" if key == "lpips" else COLUMNS[key][0] for key in keys]
    lines = [
        (short_name(row.output, top), [cell(key, getattr(row.quality, key)) for key in keys])
        for row in measured
    ]
    if len(measured) > 1:
        lines.append((f"mean of {len(measured)}", [cell(key, means(measured)[key]) for key in keys]))
    lines.insert(0, ("output", headings))
    widths = [max(len(cells[number]) for _, cells in lines) for number in range(len(keys))]
    longest = max(len(name) for name, _ in lines)
    if width is not None:
        longest = min(longest, max(12, width - sum(widths) - 2 * len(widths)))
    return [
        "  ".join([middle_out(name, longest).ljust(longest), *map(str.rjust, cells, widths)])
        for name, cells in lines
    ]


def short_name(path: Path, top: Path) -> str:
    """Return the name of an output within its folder, safe to show."""
    return visible(str(path.relative_to(top)) if path != top else path.name)


def middle_out(text: str, most: int) -> str:
    """Return a text with its middle left out where it has more than so many letters."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def cell(key: str, value: float | None) -> str:
    """Return a number with the digits of its column; - where there is none."""
    if value is None:
        return "-"
    return f"{value:.{COLUMNS[key][1]}f}" if math.isfinite(value) else "equal"


def remarks(rows: list[Row], pairs: Pairs, net: str, options: EvaluateOptions) -> list[str]:
    """Return what a person should know beside the table: failures, what is missing, what the numbers mean."""
    lines = [f"failed {row.error}" for row in rows if row.quality is None]
    if pairs.unused:
        others = f" and {len(pairs.unused) - 1} more" if len(pairs.unused) > 1 else ""
        lines.append(f"references without an output: {pairs.unused[0]}{others}")
    equal = sum(row.quality is not None and row.quality.psnr_rgb == math.inf for row in rows)
    if equal and len(rows) > 1:
        lines.append(f"equal to the reference, and left out of the mean of PSNR: {equal}")
    if not has_ssim():
        lines.append(f"SSIM needs scikit-image: {install_command('strsr[evaluate]')}")
    if not net and options.lpips == "auto":
        lines.append("LPIPS is left out, as its weights are not here: --lpips alex says where they come from")
    border = f"; {options.border} px at each edge left out" if options.border else ""
    lines.append(DEFINITIONS + border)
    return lines


# --- for programs ------------------------------------------------------------------------------------


def as_json(rows: list[Row], pairs: Pairs, net: str, options: EvaluateOptions) -> dict[str, Any]:
    """Return everything as one object; numbers that are not finite become None."""
    return {
        "pairs": [
            {
                "output": str(row.output),
                "reference": str(row.reference),
                # Their PSNR would be infinite.
                "equal": row.quality.psnr_rgb == math.inf,
                **plain(asdict(row.quality), DIGITS),
            }
            for row in rows
            if row.quality is not None
        ],
        "failed": [
            {
                "output": str(row.output),
                "reference": None if row.reference is None else str(row.reference),
                "error": row.error,
            }
            for row in rows
            if row.quality is None
        ],
        "unused": [str(path) for path in pairs.unused],
        "mean": plain(means(rows), DIGITS),
        "border": options.border,
        "lpips_net": net or None,
        "definitions": DEFINITIONS,
    }
