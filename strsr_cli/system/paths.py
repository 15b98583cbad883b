"""Questions about paths that are answered with no, and not with an error, where the system refuses a name.

Path's own methods raise for names that are too long or lie in a folder that is closed to us.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

# Errors by which a system refuses a name itself: too long, with a character that the disk does not know.
NAME_REFUSED = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def exists(path: Path) -> bool:
    """Whether there is a file or folder of that name, as far as we may know."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """Whether a path is that of a folder, as far as we may know."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether a path is that of a regular file, as far as we may know."""
    return os.path.isfile(path)  # noqa: PTH113


def nearest_folder(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    while not is_folder(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def is_url(text: str | None) -> bool:
    """Whether an argument names a remote place; a drive such as C:// has one letter, and is none."""
    return text is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None
