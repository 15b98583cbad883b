"""Home folders, which a user of a container need not have. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from ..errors import WeightsError


def home() -> Path:
    """The user's home folder. Raises WeightsError where HOME is not set and the system does not know the user."""
    return expand_home("~", "the user's cache")


def expand_home(path: Path | str, source: str) -> Path:
    """A path with its ~ written out. source: what names it. Raises WeightsError where nothing says what ~ is."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        if str(path)[1:2] in ("", "/"):
            reason = "no home folder is known (HOME is not set, and the system does not know this user)"
        else:
            reason = f"{path}: the system knows no such user"
        raise WeightsError(f"{source}: {reason}; set HOME, or write the folder out") from error
