"""How often a JPEG file goes over its pixels: each scan of a few bytes costs its reader a whole picture."""

from __future__ import annotations

import re

MOST_SCANS = 100  # progressive files have about ten
MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd8])")  # not those that stand within pixels
START_OF_SCAN, END = b"\xda", b"\xd9"


def check_scans(data: bytes) -> None:
    """Raise ValueError for a JPEG file of more than MOST_SCANS scans."""
    at, scans = 2, 0
    while (found := MARKER.search(data, at)) and found[1] != END:
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
        scans += found[1] == START_OF_SCAN
        if scans > MOST_SCANS:
            raise ValueError(f"damaged: more than {MOST_SCANS} scans")
