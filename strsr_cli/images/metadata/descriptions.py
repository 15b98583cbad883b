"""Descriptions that programs read, and that state how the old file's pixels lie: told apart, brought up to date."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

# How they begin -> what they are called. OME's is a document in XML, of which other descriptions are, too.
PROGRAMS = {
    b"ImageJ=": "ImageJ",
    b"SCIFIO=": "SCIFIO",
    b"Aperio": "Aperio",
    b"<MetaData>": "MetaMorph",
}
OME = re.compile(
    rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:\w+:)?OME[\s>]", re.DOTALL
)
LARGEST_JSON = 2**16


def layout_program(description: bytes) -> str | None:
    """Name the program whose description of pages, planes and sizes this is; None for other descriptions."""
    if OME.match(description[:4096]):
        return "OME-TIFF"
    return next((name for start, name in PROGRAMS.items() if description.startswith(start)), None)


def is_shape(description: bytes) -> bool:
    """Whether a description is in JSON and has a shape, as tifffile writes it."""
    return _read_shape(description) is not None


def update_shape(description: bytes, old: tuple[int, int], new: tuple[int, int]) -> bytes | None:
    """Return such a description with the enlarged picture's shape; None where it is of other pages, too.

    old, new: (height, width).
    """
    content = _read_shape(description)
    if content is None:
        return None
    shape = content["shape"]
    for at in range(len(shape) - 1):
        rest = [*shape[:at], *shape[at + 2 :]]
        # Besides the sides there may be the channels, before or behind them.
        if tuple(shape[at : at + 2]) == old and all(side == 1 for side in rest[:-1]) and _few(rest):
            content["shape"] = [*shape[:at], *new, *shape[at + 2 :]]
            return json.dumps(content).encode()
    return None


def _few(rest: Sequence[int]) -> bool:
    """Whether what is left of a shape can be channels."""
    return not rest or rest[-1] <= 4


def _read_shape(description: bytes) -> dict[str, Any] | None:
    """Read a description as JSON; None unless it is an object with a shape."""
    if not description.startswith(b"{") or len(description) > LARGEST_JSON:
        return None
    try:
        content = json.loads(description)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    shape = content.get("shape")
    has_shape = isinstance(shape, list) and all(type(side) is int for side in shape)
    return content if has_shape else None
