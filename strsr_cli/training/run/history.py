"""Which photos a run has learnt from, and from which step on: data.json in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from strsr_models.checkpoints.locations import WEIGHTS_NAME

HISTORY_NAME = "data.json"


@dataclass(frozen=True)
class Data:
    """The photos that a run had from one of its steps on."""

    from_step: int
    data: str  # see `data_hash`; "" where nobody knows
    photos: int  # how many; 0 where nobody knows


def read_history(run: Path) -> list[Data]:
    """The data that a run has had so far, in order; of a run by an earlier version what its weights say, if anything."""
    try:
        return [_entry_of(entry) for entry in json.loads((run / HISTORY_NAME).read_text())]
    except (OSError, ValueError, TypeError, KeyError):
        before = _data_of_weights(run / "model" / WEIGHTS_NAME)
        return [Data(0, before, 0)] if before else []


def _entry_of(entry: dict[str, Any]) -> Data:
    """An entry of the file. Raises KeyError, TypeError or ValueError."""
    return Data(int(entry["from_step"]), str(entry["data"]), int(entry["photos"]))


def _data_of_weights(path: Path) -> str:
    """The hash of the data that exported weights were trained on; "" where they do not say."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return str((file.metadata() or {}).get("data", ""))
    except (OSError, SafetensorError):
        return ""


def continued(history: list[Data], now: Data) -> list[Data]:
    """The history of a run that goes on at `now.from_step` with the data of now; what came after that step is undone."""
    if now.from_step == 0:
        return [now]
    before = [entry for entry in history if entry.from_step < now.from_step]
    if not before:
        before = [Data(0, "", 0)]
    return before if before[-1].data == now.data else [*before, now]


def change_text(history: list[Data]) -> str:
    """Say that the last data of a history are others than those before."""
    before, now = history[-2:]
    count = f"{before.photos} photos" if before.photos else "others"
    return (
        f"other data from step {now.from_step} on: {now.photos} photos, before: {count}; "
        f"{HISTORY_NAME} and the weights say so"
    )


def history_text(history: list[Data]) -> str:
    """A history as JSON."""
    return json.dumps([asdict(entry) for entry in history])
