"""Frozen dataclasses from plain dicts, strictly: an unknown key is an error, never a silent default."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from .errors import UsageError, nearest

T = TypeVar("T")


def from_dict(cls: type[T], data: dict[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `data`; nested dataclasses from nested dicts.

    where: the file or option that `data` came from, for messages.
    Raises UsageError for an unknown key or a value of the wrong type, naming both.
    """
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            raise UsageError(f"{where}: unknown key {key!r}; {nearest(key, hints)}")
        values[key] = _convert(hints[key], value, f"{where}: {key}")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """The nested dict that `from_dict` turns back into `config`."""
    return dataclasses.asdict(config)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: expected a table, got {value!r}")
        return from_dict(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        return None if value is None else _convert(args[0], value, where)
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (hint is not bool and isinstance(value, bool))
    ):
        raise UsageError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    repeated = len(args) == 2 and args[1] is Ellipsis
    if not isinstance(value, list | tuple) or (not repeated and len(value) != len(args)):
        count = "" if repeated else f" of {len(args)}"
        raise UsageError(f"{where}: expected a list{count}, got {value!r}")
    each = [args[0]] * len(value) if repeated else list(args)
    return tuple(_convert(hint, item, where) for hint, item in zip(each, value, strict=True))
