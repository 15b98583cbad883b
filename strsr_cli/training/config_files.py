"""Settings as text: TOML files, `--set key=value`, and what a run's own file says of settings that it is older than."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Collection
from datetime import date, time
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from strsr_models.config import from_dict
from strsr_models.errors import UsageError

from .settings import LATER

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
UNIONS = (UnionType, Union)

CONFIG_NAME = "config.toml"  # in a run's folder
# Two halves of one character, as JSON writes those beyond the first plane and TOML does not.
HALVES = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)
# An array of plain values, one a line, as tomli-w lays it out. No text has an end of line of its own in it.
ARRAY = re.compile(r" = \[\n((?:    [^\n]*,\n)+)\]$", re.MULTILINE)


def read_config(
    cls: type[T],
    path: Path | None,
    settings: list[str],
    preset: dict[str, Any] | None = None,
    *,
    fixed: dict[str, Any] | None = None,
    run: Path | None = None,
) -> T:
    """Read the dataclass `cls` from defaults, then a preset, a TOML file, and `key=value` settings.

    fixed: values that count more than all these. run: the folder of a run that may be gone on with; a setting that is
    younger than its config.toml, and named neither by the file nor by a setting, takes the value that it had before it
    existed. Raises UsageError, which names the file or the setting that is at fault.
    """
    stages = [("--set", _file_data(path) if path else {})]
    if path is not None:
        stages[0] = (f"--config {path}", stages[0][1])
    for setting in settings:
        stages.append((f"--set {setting}", _with_setting(cls, stages[-1][1], setting)))
    named = stages[-1][1]
    lacking = _younger_settings(cls, run, named) if run is not None else {}

    def built(data: dict[str, Any]) -> T:
        return from_dict(cls, (preset or {}) | _overlaid(lacking, data) | (fixed or {}), "")

    try:
        config = built(named)
    except UsageError as error:
        where = next((name for name, data in stages if _error_of(built, data) == str(error)), stages[-1][0])
        raise UsageError(f"{where}: {str(error).removeprefix(': ')}") from error
    check_text(config)
    return config


def _error_of(built: Any, data: dict[str, Any]) -> str | None:
    """The message of the error that `built` raises for some data; None where it raises none."""
    try:
        built(data)
    except UsageError as error:
        return str(error)
    return None


def _file_data(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises UsageError."""
    try:
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--config {path}: {error}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text; characters in two halves, which earlier versions wrote, are put together. ValueError."""
    return tomllib.loads(HALVES.sub(_whole_character, text))


def _whole_character(halves: re.Match[str]) -> str:
    """The escape of the one character that two halves stand for."""
    high, low = (int(half, 16) for half in halves.groups())
    return f"\\U{0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF):08x}"


def _with_setting(cls: type, data: dict[str, Any], setting: str) -> dict[str, Any]:
    """The data with one `key=value` more; what it was before stays as it is. Raises UsageError."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(f"--set {setting}: expected key=value")
    *tables, last = names = key.strip().split(".")
    data = dict(data)
    table = data
    for name in tables:
        inner = table.get(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {setting}: {name} is a value, not a table of values")
        table[name] = table = dict(inner)
    table[last] = _parse_value(text.strip(), _kinds(cls, names))
    return data


def _parse_value(text: str, kinds: tuple[Any, ...]) -> Any:
    """The value that a TOML text stands for; a bare word is a string, and so is a date where a text may stand.

    kinds: the types that the setting may have.
    """
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = table["value"]
    # A text of several lines may look like several settings.
    if len(table) > 1 or (str in kinds and isinstance(value, date | time)):
        return text
    return value


def _kinds(cls: Any, names: list[str]) -> tuple[Any, ...]:
    """The types that the setting of a dotted name may have; none where there is no such setting."""
    classes = [cls]
    hints: list[Any] = []
    for name in names:
        hints = [get_type_hints(own)[name] for own in classes if name in get_type_hints(own)]
        hints = [
            kind for hint in hints for kind in (get_args(hint) if get_origin(hint) in UNIONS else (hint,))
        ]
        classes = [kind for kind in hints if dataclasses.is_dataclass(kind)]
    return tuple(hints)


def check_text(config: Any, names: tuple[str, ...] = ()) -> None:
    """Raise UsageError for a text that no TOML file can hold: bytes that are not UTF-8, as names of files may have them."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_text(value, (*names, field.name))
        for text in value if isinstance(value, tuple) else (value,):
            try:
                str(text).encode()
            except UnicodeEncodeError as error:
                raise UsageError(
                    f"{'.'.join((*names, field.name))} {text!r}: is not UTF-8 text, as config.toml must be; "
                    "rename the file, or give a link to it"
                ) from error


def to_toml(config: Any, without: Collection[str] = ()) -> str:
    """A (nested) dataclass as TOML; keys whose value is None are left out, and those whose dotted names are in `without`."""

    def table(data: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        values = {
            key: table(value, (*names, key)) if isinstance(value, dict) else value
            for key, value in data.items()
        }
        return {
            key: value
            for key, value in values.items()
            if value is not None and ".".join((*names, key)) not in without
        }

    text = tomli_w.dumps(table(dataclasses.asdict(config), ()))
    return ARRAY.sub(_in_one_line, text)


def _in_one_line(array: re.Match[str]) -> str:
    """An array of plain values in one line."""
    return f" = [{', '.join(line.strip().removesuffix(',') for line in array[1].split(chr(10))[:-1])}]"


# --- runs ------------------------------------------------------------------------------------------


def run_settings(run: Path) -> dict[str, Any] | None:
    """The settings that a run was begun with, by their dotted names; None where its folder has no config.toml.

    Raises UsageError for a file that cannot be read.
    """
    path = run / CONFIG_NAME
    try:
        return flattened(parse_toml(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); the run cannot be resumed safely") from error


def still_older(run: Path, config: Any) -> set[str]:
    """The dotted names of settings that a run's config.toml lacks, and goes on lacking: those with the value of before."""
    before = run_settings(run)
    if before is None:
        return set()
    now = flattened(parse_toml(to_toml(config)))
    return {name for name, value in LATER.items() if name not in before and now.get(name) == value}


def flattened(data: dict[str, Any], names: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of nested tables by their dotted names."""
    values: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            values |= flattened(value, (*names, key))
        else:
            values[".".join((*names, key))] = value
    return values


def _younger_settings(cls: type, run: Path, named: dict[str, Any]) -> dict[str, Any]:
    """Tables of the settings that a run's config.toml lacks and that are not `named`, with the values of before."""
    # A folder without checkpoints is begun anew.
    if not any((run / "checkpoints").glob("[0-9]*")):
        return {}
    before = run_settings(run)
    if before is None:
        return {}
    lacking: dict[str, Any] = {}
    for name, value in LATER.items():
        *tables, last = names = name.split(".")
        if name in before or name in flattened(named) or not _has(cls, names, before):
            continue
        table = lacking
        for part in tables:
            table = table.setdefault(part, {})
        table[last] = value
    return lacking


def _has(cls: type, names: list[str], settings: dict[str, Any]) -> bool:
    """Whether settings by their dotted names are of a shape that has a setting: a table may be one of several."""
    *tables, last = names
    if not tables:
        return bool(_kinds(cls, names))
    beside = {name.rpartition(".")[2] for name in settings if name.rpartition(".")[0] == ".".join(tables)}
    shapes = [
        {field.name for field in dataclasses.fields(kind)}
        for kind in _kinds(cls, tables)
        if dataclasses.is_dataclass(kind)
    ]
    return any(last in shape and beside <= shape for shape in shapes)


def _overlaid(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Tables of `base` with the values of `over` in their places, table by table."""
    both = {
        key: _overlaid(base[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(base.get(key), dict)
    }
    return base | over | both
