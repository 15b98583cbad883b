"""The configuration of a folder of lite's weights, as far as it can be judged without a network. Light to import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from .locations import CONFIG_NAME
from .published import MODELS


def read_lite_config(path: Path) -> dict[str, Any]:
    """Return the settings in the config.json of a lite folder, its family left out. Raises WeightsError."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise WeightsError(
            f"{path}: no such weights ({error.strerror}); give a folder with {CONFIG_NAME}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not valid JSON ({error})") from error
    family = data.pop("family", None) if isinstance(data, dict) else None
    if family != "lite" and family in MODELS:
        raise WeightsError(f"{path}: of --model {family}, not lite")
    if family != "lite":
        raise WeightsError(f"{path}: not the configuration of a lite model")
    settings: dict[str, Any] = data
    return settings
