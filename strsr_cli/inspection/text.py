"""Inspections as text: plain lines, or a table and a small spectrum in colour on a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from .measure import Inspection, decibel, peak_text, printable

VERDICT_STYLES = {"clean": "green", "suspect": "yellow", "grid": "bold red"}
SPECTRUM_COLUMNS = 64  # characters, and half as many lines of two cells each
CELL = 3  # characters of a table's cell beside its text
LEAST_NAME, LEAST_PEAK = 16, 20  # characters that these columns want
# Dark violet to pale yellow, even in lightness: dots of a lattice are bright.
RAMP = np.array([(0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191)])


def as_line(inspection: Inspection) -> str:
    """The line of one inspection, for logs."""
    scores = "  ".join(
        f"{period} px {decibel(value):>5} dB"
        for period, value in zip(inspection.report.periods, inspection.report.excess, strict=True)
    )
    line = f"{inspection.verdict:<7}  {scores}  peak {peak_text(inspection)}  {printable(inspection.name)}"
    return line + (f"  ({inspection.note})" if inspection.note else "") + compared(inspection)


def compared(inspection: Inspection) -> str:
    """The comparison with the reference, for the end of a line; empty without one."""
    reference = inspection.against
    if reference is None:
        return ""
    scores = ", ".join(
        f"{period} px {decibel(own - its)} dB"
        for period, own, its in zip(
            inspection.report.periods, inspection.report.excess, reference.excess, strict=True
        )
    )
    return (
        f"  over {printable(reference.name)}: {scores}; high-frequency energy x{reference.high_energy:.3g}, "
        f"FDL of pixels {reference.fdl:.4g}"
    )


def table_fits(console: Console, periods: Sequence[int]) -> bool:
    """Whether the table is readable in a terminal of this width; lines are readable in any."""
    columns = sum(max(len(f"{period} px"), len("-10.0")) + CELL for period in periods)
    return console.width > columns + LEAST_NAME + len("suspect") + LEAST_PEAK + 3 * CELL


def name_room(console: Console, inspections: Sequence[Inspection], periods: Sequence[int]) -> int:
    """The columns that names may take beside all that is not folded."""
    scores = sum(max(len(f"{period} px"), len("-10.0")) + CELL for period in periods)
    peaks = max(len(peak_text(inspection)) for inspection in inspections)
    notes = 2 * LEAST_NAME if any(inspection.note for inspection in inspections) else 0
    fixed = scores + len("suspect") + CELL + max(peaks, len("strongest peak")) + CELL + notes + CELL + 1
    return max(console.width - fixed, LEAST_NAME)


def folded_name(name: str, width: int) -> str:
    """A name in lines of at most that many columns, broken behind marks such as / and _; elsewhere if it has none."""
    lines, line = [], ""
    for piece in re.findall(r"[^/\\_\- .]*[/\\_\- .]+|[^/\\_\- .]+", name):
        if line and len(line) + len(piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return "\n".join([*lines, line])


def print_table(console: Console, inspections: Sequence[Inspection], periods: Sequence[int]) -> None:
    """Print the table of all images, and the spectrum of the one with the highest score where there is room."""
    table = Table(title="lattice excess in dB", title_justify="left")
    names = [
        folded_name(printable(inspection.name), name_room(console, inspections, periods))
        for inspection in inspections
    ]
    # What takes room from the others is a name, which is not broken anywhere but where it has a mark.
    least = max(len(line) for name in names for line in name.split("\n"))
    table.add_column("image", overflow="fold", min_width=least)
    for period in periods:
        table.add_column(f"{period} px", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("strongest peak")
    notes = any(inspection.note for inspection in inspections)
    if notes:
        table.add_column("note")
    for inspection, name in zip(inspections, names, strict=True):
        scores = [decibel(value) for value in inspection.report.excess]
        word = Text(inspection.verdict, VERDICT_STYLES.get(inspection.verdict, "dim"))
        cells: list[str | Text] = [Text(name), *scores, word, peak_text(inspection)]
        if notes:
            cells.append(inspection.note)
        table.add_row(*cells)
    console.print(table)
    for inspection in inspections:
        if inspection.against is not None:
            console.print(Text(f"{printable(inspection.name)}{compared(inspection)}"), soft_wrap=True)
    print_spectrum(console, inspections)


def print_spectrum(console: Console, inspections: Sequence[Inspection]) -> None:
    """Print the centred spectrum of the image with the highest score, where the terminal can show it."""
    if console.width < SPECTRUM_COLUMNS or console.no_color or console.color_system is None:
        return
    if not console.encoding.lower().startswith("utf"):
        return
    worst = max(inspections, key=lambda inspection: inspection.score)
    console.print(
        Text(
            f"spectrum of {printable(worst.name)}; frequency 0 in the middle, 1/2 cycle per pixel at the borders"
        )
    )
    for line in half_blocks(worst.spectrum):
        console.print(line)


def half_blocks(spectrum: np.ndarray, columns: int = SPECTRUM_COLUMNS) -> list[Text]:
    """The spectrum as lines of half-block characters, two cells each; a cell shows the loudest of its bins.

    spectrum: (s, s) dB, centred. What falls smoothly from the middle is taken away, so that dots show.
    """
    cells = shrunk(flattened(spectrum), columns)
    low, high = np.percentile(cells, (30, 99.8))
    level = np.clip((cells - low) / max(high - low, 1e-6), 0, 1)
    place = level * (len(RAMP) - 1)
    channels = [np.interp(place, range(len(RAMP)), channel) for channel in RAMP.T]
    rgb = np.stack(channels, -1).round().astype(int)
    lines = []
    for upper, lower in zip(rgb[::2], rgb[1::2], strict=True):
        line = Text()
        for top, bottom in zip(upper, lower, strict=True):
            color, bgcolor = (f"rgb({r},{g},{b})" for r, g, b in (top, bottom))
            line.append("\N{UPPER HALF BLOCK}", Style(color=color, bgcolor=bgcolor))
        lines.append(line)
    return lines


def flattened(spectrum: np.ndarray) -> np.ndarray:
    """The spectrum less the median of each ring of equal frequency."""
    side = len(spectrum)
    offset = np.arange(side) - side // 2
    ring = np.hypot(offset[:, None], offset).round().astype(int)
    medians = np.array([np.median(spectrum[ring == number]) for number in range(ring.max() + 1)])
    flat: np.ndarray = spectrum - medians[ring]
    return flat


def shrunk(values: np.ndarray, columns: int) -> np.ndarray:
    """The values (s, s) as (columns, columns): the largest of each cell, or repeated ones where s is less."""
    edges = np.arange(columns) * len(values) // columns
    if len(values) < columns:
        return values[edges][:, edges]
    return np.maximum.reduceat(np.maximum.reduceat(values, edges, axis=0), edges, axis=1)
