"""OpenCV, loaded when it is needed: JPEG files are encoded by it, and deep PNG files decoded."""

from __future__ import annotations

from typing import Any

from strsr_models.errors import ImageError, first_line
from strsr_models.packages import reinstall_command


def load_opencv() -> Any:
    """Return the module cv2. Raises ImageError, with the command that mends it, where it cannot be loaded.

    strsr asks for OpenCV's build without windows, but another package may have brought the other one, which wants
    the libraries of a desktop.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImageError(
            f"OpenCV cannot be loaded ({first_line(error)}); to mend it: "
            f"{reinstall_command('opencv-python-headless')}"
        ) from error
    return cv2
