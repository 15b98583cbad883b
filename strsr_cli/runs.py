"""A training run's folder: resolved configuration, log, checkpoints, exported weights.

config.toml        the configuration, every value resolved
metrics.jsonl      one line per log interval
checkpoint.pt      everything needed to go on; replaced whole, never in place
samples/           sheets of lq_up | restored | hq
model/             the averaged weights, for `strsr upscale --weights`
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any, TypeVar

import torch

from strsr_models.config import from_dict
from strsr_models.errors import StrsrError, UsageError
from strsr_models.load import save_lite
from strsr_models.pipelines.lite import LitePipeline

from .journal import whole_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def read_config(cls: type[T], path: Path | None, settings: list[str]) -> T:
    """The dataclass `cls` from defaults, then a TOML file, then `key=value` settings."""
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"--config {path}: {error}") from error
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: expected key=value")
        *tables, last = key.strip().split(".")
        table = data
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = _parse_value(value.strip())
    return from_dict(cls, data, str(path or "--set"))


def _parse_value(text: str) -> Any:
    """A TOML value; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def to_toml(config: Any) -> str:
    """A (nested) dataclass as TOML; keys whose value is None are left out."""

    def table(data: dict[str, Any], path: tuple[str, ...]) -> list[str]:
        plain = [(k, v) for k, v in data.items() if not isinstance(v, dict) and v is not None]
        lines = [f"[{'.'.join(path)}]"] if path else []
        lines += [f"{key} = {json.dumps(value, default=str)}" for key, value in plain]
        for key, value in data.items():
            if isinstance(value, dict):
                lines += ["", *table(value, (*path, key))]
        return lines

    return "\n".join(table(dataclasses.asdict(config), ())) + "\n"


class Run:
    """The files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pt"
        try:
            (folder / "samples").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {folder}: cannot be made: {error.strerror}") from error

    def write_config(self, config: Any) -> None:
        """Save the resolved configuration."""
        with whole_file(self.folder / "config.toml") as file:
            file.write(to_toml(config).encode())

    def log(self, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(values) + "\n")

    def trim_log(self, step: int) -> None:
        """Forget logged lines after `step`, which a resumed run makes again."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
            with whole_file(path) as file:
                file.write("".join(line + "\n" for line in lines).encode())

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint once the new one is whole."""
        with whole_file(self.checkpoint) as file:
            torch.save(state, file)

    def load(self) -> dict[str, Any] | None:
        """The checkpoint's state on the CPU, or None in a new run."""
        if not self.checkpoint.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds; each means an unusable file
            raise StrsrError(
                f"{self.checkpoint}: cannot be read ({error}); move it away to start over"
            ) from error
        return state

    def export(self, pipeline: LitePipeline, metadata: dict[str, str]) -> Path:
        """Write model/ beside the run, whole; returns the folder."""
        fresh, target = self.folder / "model.new", self.folder / "model"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        save_lite(pipeline, fresh, metadata)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
        return target
