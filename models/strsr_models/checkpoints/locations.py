"""The places of weights: embedded, in a run, in the models folder, in the user's cache.

This file imports nothing heavy.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import WeightsError
from .adapter import adapter_files
from .homes import expand_home, home
from .published import adapter_folder

EMBEDDED = Path(__file__).parent.parent / "weights"  # a folder for each model that comes with the package
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"  # in a folder of lite's weights
FAITHFUL_NAME = "faithful.safetensors"  # beside them: the tensors in which the faithful end differs
RANGES_NAME = "ranges.json"  # beside them: what `--precision int8` has to know


def default_models_dir() -> Path:
    """The models folder when none is named: STRSR_MODELS_DIR, else strsr/models in the user's cache.

    Raises WeightsError where it depends on a home folder that is not known.
    """
    setting = os.environ.get("STRSR_MODELS_DIR")
    if setting:
        return expand_home(setting, "STRSR_MODELS_DIR")
    try:
        return cache_dir() / "models"
    except WeightsError as error:
        raise WeightsError(f"{error}: --models-dir or STRSR_MODELS_DIR for models") from error


def cache_dir() -> Path:
    """The folder of strsr in the user's cache, where the platform has it. Raises WeightsError where nothing says where."""
    if sys.platform == "darwin":
        cache = home() / "Library" / "Caches"
    elif sys.platform == "win32":
        setting = os.environ.get("LOCALAPPDATA")
        cache = Path(setting) if setting else home() / "AppData" / "Local"
    else:
        setting = os.environ.get("XDG_CACHE_HOME")
        cache = Path(setting) if setting else home() / ".cache"
    return cache / "strsr"


def weights_folder(folder: Path) -> Path:
    """The folder with the weights that a person means by `folder`: a run's model/, else itself."""
    # Unlike Path, it answers no to a name that is too long.
    return folder / "model" if os.path.isdir(folder / "model") else folder  # noqa: PTH112


def lite_folder(weights: Path | None) -> Path:
    """The folder of lite's weights that `weights` is; None: the embedded one."""
    return weights or EMBEDDED / "lite"


def require_faithful(folder: Path) -> Path:
    """The file of the faithful end in a folder of lite's weights. Raises WeightsError where there is none."""
    return _require(
        folder / FAITHFUL_NAME,
        "these weights have no faithful end; leave --fidelity out, or give them one by "
        "strsr export RUN FOLDER --faithful RUN2",
    )


def require_ranges(folder: Path) -> Path:
    """The file of ranges for int8 in a folder of lite's weights. Raises WeightsError where there is none."""
    return _require(
        folder / RANGES_NAME,
        "these weights have not been measured for --precision int8; leave it out, or measure them by "
        "strsr export RUN FOLDER --ranges PICTURES",
    )


def _require(path: Path, advice: str) -> Path:
    """The path of a file beside weights. Raises WeightsError where it is not there."""
    if not path.is_file():
        raise WeightsError(f"{path}: not there: {advice}")
    return path


def weights_file(model: str, weights: Path | None = None, models_dir: Path | None = None) -> Path:
    """The file that tells one training from another: lite's weights, the adapter of zimage and flux2.

    weights: a folder in place of the model's own. models_dir: where the published adapters are (None: the
    default). Raises UsageError for an unknown model, WeightsError for a folder without an adapter.
    """
    if model == "lite":
        return lite_folder(weights) / WEIGHTS_NAME
    if weights is None:
        weights = (models_dir or default_models_dir()) / adapter_folder(model)
    return adapter_files(weights)[0]
