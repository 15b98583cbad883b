"""Text for terminals: characters that are safe to show, errors, sizes, durations, tables."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Callable
from itertools import zip_longest
from typing import TYPE_CHECKING

# Written once, in the models, which may not import this module.
from strsr_models.errors import first_line as first_line  # noqa: PLC0414

from .terminal import is_terminal, takes_colors, wrapped

if TYPE_CHECKING:
    from rich.console import Console

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
    from rich.console import Console

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


GAP = "  "  # between the columns of a table


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Print a table on stdout, its headings above.

    On a terminal cells are folded between words, where that makes the table fit; else each row becomes a block
    of lines. Elsewhere a row is one line of any length, for other programs to read.
    """
    strong = _bold if is_terminal(sys.stdout) and takes_colors(sys.stdout) else str
    for line in table_lines(headings, rows, terminal_width(), strong):
        print(line)


def print_folded(text: str) -> None:
    """Print a text on stdout, on a terminal in lines that are broken between words."""
    print("\n".join(fold(visible(text), terminal_width())))


def terminal_width() -> int:
    """Return the columns of the terminal that stdout is; of anything else, more than any line has."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else sys.maxsize


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m"


def table_lines(
    headings: list[str], rows: list[list[str]], width: int, strong: Callable[[str], str] = str
) -> list[str]:
    """Return the lines of a table, of at most `width` columns where words allow it; strong: draws headings."""
    table = [headings, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    # The first column is for copying, so it stays in one piece.
    least = widths[:1] + [
        max(len(word) for row in table for word in fold(row[i], 1)) for i in range(1, len(headings))
    ]
    room = width - len(GAP) * (len(headings) - 1)
    if sum(least) > room:
        return block_lines(headings, rows, width, strong)
    while sum(widths) > room:
        widest = max((size, i) for i, size in enumerate(widths) if size > least[i])[1]
        widths[widest] -= 1
    lines = []
    for number, row in enumerate(table):
        cells = [fold(cell, size) for cell, size in zip(row, widths, strict=True)]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = [part.ljust(size) for part, size in zip(parts, widths, strict=True)]
            line = GAP.join(padded).rstrip()
            lines.append(line if number else strong(line))
    return lines


def block_lines(
    headings: list[str], rows: list[list[str]], width: int, strong: Callable[[str], str]
) -> list[str]:
    """Return rows as blocks of lines: the first cell, then a line for each other cell behind its heading."""
    size = max(map(len, headings[1:]), default=0)
    column = size + 2 * len(GAP)
    lines = []
    for row in rows:
        lines.append(strong(row[0]))
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            folds = fold(cell, max(width - column, 1))
            lines.append(f"{GAP}{heading:<{size}}{GAP}{folds[0]}".rstrip())
            lines += [" " * column + line for line in folds[1:]]
    return lines


def fold(text: str, width: int) -> list[str]:
    """Return a text in lines of at most that many columns, none broken inside a word or before a unit."""
    return wrapped(text, width, r"(?<=\d) (?=[^\W\d])")


def duration_text(seconds: float) -> str:
    """Return a number of seconds in the unit that suits it: h, min or s."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
