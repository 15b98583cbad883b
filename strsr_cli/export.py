"""`strsr export`: a run's averaged weights as a folder that stands for itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from strsr_models.errors import UsageError, WeightsError
from strsr_models.load import load_pipeline

from .runs import whole_folder


def export(run: Path, out: Path) -> Path:
    """Copy the weights of a run, once they have been loaded on trial, to `out`, which must be new or empty.

    Their metadata says which configuration, photos and steps made them.
    """
    source = run / "model"
    if not source.is_dir():
        hint = "has no weights yet" if (run / "config.toml").exists() else "is not the folder of a run"
        raise UsageError(f"{run}: {hint} (no {source})")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists and is not an empty folder; choose another")
    if _family(source) == "lite":
        load_pipeline("lite", source)
    whole_folder(out, lambda folder: _copy_files(source, folder))
    return out


def _family(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text())["family"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{folder / 'config.json'}: cannot be read ({error}); train a step more"
        ) from error


def _copy_files(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, folder / path.name)
