"""The files of a one-step adapter: LoRA and projector, as published or as training writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import WeightsError

# The two forms of an adapter's files: as training writes them, and as published.
SAVED = ("lora.safetensors", "projector.safetensors")
PUBLISHED = ("state_dict.pth", "projector.pth")


def adapter_files(folder: Path) -> tuple[Path, Path]:
    """The files (LoRA, projector) of a folder that training wrote, or of a published one."""
    for lora, projector in (SAVED, PUBLISHED):
        # Unlike Path, it answers no to a name that is too long.
        if os.path.isfile(folder / lora):  # noqa: PTH113
            return folder / lora, folder / projector
    raise WeightsError(f"{folder}: no adapter there; expected {SAVED[0]} or {PUBLISHED[0]}")


def check_family(folder: Path, family: str) -> None:
    """Raise WeightsError if the folder's config.json (published ones have none) names another family."""
    path = folder / "config.json"
    if not os.path.exists(path):  # noqa: PTH110
        return
    try:
        owner = json.loads(path.read_text())["family"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not the configuration of an adapter ({error})") from error
    if owner != family:
        raise WeightsError(f"{folder}: an adapter for --model {owner}, not {family}")
