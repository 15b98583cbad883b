"""Text for terminals: characters that are safe to show, errors, sizes, durations, tables."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Written once, in the models, which may not import this module.
from strsr_models.errors import first_line as first_line  # noqa: PLC0414

from .terminal import is_terminal, takes_colors

# What takes a line for people.
Tell = Callable[[str], None]

# Control characters, and those that break lines or turn the direction of text around.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Return a text as one line for a terminal.

    Names of files must not move its cursor, colour it or fake a second line.
    """
    return UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def make_console(stderr: bool = False) -> Console:
    """Return a console for standard output or error that sends no colours where no escape codes are wanted.

    Bars that move are up to whoever draws them: a terminal stays one, for its tables.
    """
    stream = sys.stderr if stderr else sys.stdout
    if takes_colors(stream):
        return Console(stderr=stderr, highlight=False)
    return Console(stderr=stderr, highlight=False, color_system=None, force_terminal=is_terminal(stream))


def show_warnings() -> None:
    """Send what modules log while they train, such as photos that are skipped, to stderr."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


def size_text(size: float) -> str:
    """Return a number of bytes in the unit that suits it, such as 12.3 GB (decimal)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout: drawn on a terminal wide enough, elsewhere a line per row, padded to columns."""
    console = make_console()
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    # The first column is never folded, the others not to less than a word, and each has a frame.
    least = widths[0] + sum(min(width, 8) for width in widths[1:]) + 3 * len(widths) + 1
    if not console.is_terminal or console.width < least:
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())
        return
    table = Table()
    for number, heading in enumerate(headings):
        # The first column is for copying, so it stays in one piece.
        table.add_column(heading, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def duration_text(seconds: float) -> str:
    """Return a number of seconds in the unit that suits it: h, min or s."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
