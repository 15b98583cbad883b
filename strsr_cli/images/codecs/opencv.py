"""OpenCV, loaded when it is needed: JPEG files are encoded by it, and deep PNG files decoded."""

from __future__ import annotations

from typing import Any

from strsr_models.errors import ImageError, first_line


def load_opencv() -> Any:
    """Return the module cv2. Raises ImageError, with the command that mends it, where it cannot be loaded.

    strsr asks for OpenCV's build without windows, but another package may have brought the other one, which wants
    the libraries of a desktop.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImageError(
            f"OpenCV cannot be loaded ({first_line(error)}); mend it by: pip uninstall -y opencv-python "
            "opencv-contrib-python; pip install --force-reinstall --no-deps opencv-python-headless"
        ) from error
    return cv2
