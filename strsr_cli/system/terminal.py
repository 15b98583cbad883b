"""Whether a stream may be sent escape codes, for colours and bars; and text in lines. Imports nothing heavy."""

from __future__ import annotations

import os
import re
import textwrap
from typing import Any

# Asks typer to draw its pages and errors without codes, whatever it thinks of the terminal.
TYPER_PLAIN = "_TYPER_FORCE_DISABLE_TERMINAL"
# What makes typer believe that any stream is a terminal, though nobody has asked for colours by it.
MISLEADING = ("PY_COLORS", "GITHUB_ACTIONS")


def takes_escapes(stream: Any) -> bool:
    """Whether a stream is a terminal that understands escape codes, and the user has not asked for none.

    NO_COLOR means none at all here: bold type and bars that move are codes too.
    """
    return wants_escapes() and is_terminal(stream)


def takes_colors(stream: Any) -> bool:
    """Whether pages and tables on a stream may have colours: FORCE_COLOR asks for them where no terminal is."""
    return takes_escapes(stream) or (wants_escapes() and bool(os.environ.get("FORCE_COLOR")))


def wants_escapes() -> bool:
    """Whether nothing in the environment asks for no escape codes."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal, of whatever kind."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        # It is none of Python's streams, or closed.
        return False


def plain_pages(streams: list[Any]) -> None:
    """Let typer write its help pages and errors without escape codes where they are not wanted.

    A stream that is no terminal gets none from typer anyhow, as long as nothing in the environment misleads it.
    """
    misled = any(os.environ.get(name) for name in MISLEADING)
    if not wants_escapes() or (misled and not all(map(takes_colors, streams))):
        os.environ[TYPER_PLAIN] = "1"


def wrapped(text: str, width: int, kept: str) -> list[str]:
    """Return a text in lines of at most that many columns, broken between words, and not in what `kept` finds."""
    joined = re.sub(kept, lambda match: match[0].replace(" ", "\u2007"), text)
    lines = textwrap.wrap(joined, width, break_on_hyphens=False, break_long_words=False)
    return [line.replace("\u2007", " ") for line in lines] or [""]
