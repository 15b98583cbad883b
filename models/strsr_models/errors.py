"""The one family of errors that strsr raises for its users.

StrsrError
├── ImageError      one image cannot be read, restored or written; a batch goes on without it
├── UsageError      an option, a config key or a combination of them makes no sense
├── WeightsError    weights are missing, damaged or belong to another network
└── DeviceError     the device or precision asked for does not exist here

A message is one line: what is wrong, in which file or key, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StrsrError(Exception):
    """The base of every error whose message is meant for the person at the terminal."""


class ImageError(StrsrError):
    """One image cannot be read, restored or written."""


class UsageError(StrsrError):
    """An option, a configuration key or their combination makes no sense."""


class WeightsError(StrsrError):
    """Weights are missing, damaged, or do not fit the network."""


class DeviceError(StrsrError):
    """The device or the precision asked for is not available."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" when some known name is close to `name`, else a list of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def first_line(error: BaseException, skip_blank: bool = False) -> str:
    """Return an error's message as far as its first line; the name of its type where it has no message.

    skip_blank: blank lines before the message are passed over, and only a newline ends the line.
    """
    if skip_blank:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    message = str(error)
    return message.splitlines()[0] if message else type(error).__name__
