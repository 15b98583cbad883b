"""Frozen dataclasses made from plain dicts, strictly: an unknown key is an error, never a silent default."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from datetime import date, time
from typing import Any, TypeVar

from .errors import UsageError, nearest

T = TypeVar("T")


def from_dict(cls: type[T], data: dict[str, Any], where: str) -> T:
    """Build the dataclass `cls` from `data`; nested dataclasses from nested dicts, over their defaults.

    where: the file or option that `data` came from, for messages.
    Raises UsageError for an unknown key or a value of the wrong type, naming both.
    """
    hints = typing.get_type_hints(cls)
    defaults = _table_defaults(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            raise UsageError(f"{where}: unknown key {key!r}; {nearest(key, hints)}")
        if key in defaults and _fits(value, defaults[key]):
            value = _merged(defaults[key], value)
        values[key] = _convert(hints[key], value, f"{where}: {key}")
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """The nested dict that `from_dict` turns back into `config`."""
    return dataclasses.asdict(config)


def _table_defaults(cls: Any) -> dict[str, dict[str, Any]]:
    """The defaults of fields that are dataclasses themselves: a table may name some of its keys only."""
    tables = {}
    for field in dataclasses.fields(cls):
        default = field.default_factory() if callable(field.default_factory) else None
        if dataclasses.is_dataclass(default):
            tables[field.name] = to_dict(default)
    return tables


def _fits(table: Any, default: Any) -> bool:
    """Whether a table only changes keys of its default; else it is a shape of its own, or a mistake."""
    return isinstance(table, dict) and isinstance(default, dict) and table.keys() <= default.keys()


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`, table by table where these fit."""
    nested = {key: _merged(base[key], value) for key, value in over.items() if _fits(value, base.get(key))}
    return base | over | nested


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type that `hint` asks for. Raises UsageError where it is of another one."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: expected a table, got {value!r}")
        return from_dict(hint, value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in args:
            return None
        return _convert(_member(args, value), value, where)
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise UsageError(f"{where}: must be a number that fits a float") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: must be a finite number, got {value}")
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (hint is not bool and isinstance(value, bool))
    ):
        # TOML has dates of its own, as no setting has.
        given = value if isinstance(value, date | time) else repr(value)
        advice = "; put a text in quotes" if hint is str and not isinstance(value, dict) else ""
        raise UsageError(f"{where}: expected {hint.__name__}, got {given}{advice}")
    return value


def _member(hints: tuple[Any, ...], value: Any) -> Any:
    """The type of a union that a value is meant for: the first of its tables that has most of its keys."""
    if isinstance(value, dict):
        tables = [hint for hint in hints if dataclasses.is_dataclass(hint)]
        return max(tables, key=lambda table: _known_keys(table, value)) if tables else hints[0]
    kind = tuple if isinstance(value, list) else type(value)
    return next((hint for hint in hints if (typing.get_origin(hint) or hint) is kind), hints[0])


def _known_keys(table: Any, value: dict[str, Any]) -> int:
    """The number of keys of `value` that are fields of the dataclass `table`."""
    return len(value.keys() & {field.name for field in dataclasses.fields(table)})


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """Return a list or tuple as a tuple of the types `args`. Raises UsageError where it does not fit."""
    repeated = len(args) == 2 and args[1] is Ellipsis
    if not isinstance(value, list | tuple) or (not repeated and len(value) != len(args)):
        count = "" if repeated else f" of {len(args)}"
        raise UsageError(f"{where}: expected a list{count}, got {value!r}")
    hints = [args[0]] * len(value) if repeated else list(args)
    return tuple(_convert(hint, item, where) for hint, item in zip(hints, value, strict=True))


def as_tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return one or several names, as a setting has them, as a tuple."""
    return (value,) if isinstance(value, str) else value
