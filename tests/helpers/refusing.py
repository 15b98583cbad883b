"""Disks that refuse: calls of the system that raise the error that such a disk gives."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

# The fields of stat_result that its sequence holds by these names.
IN_ORDER = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size")


def refuse(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    when: Callable[..., bool] = lambda *args, **named: True,
    module: Any = os,
) -> None:
    """Let a function of `module` raise OSError of that number where `when` is true of its arguments."""
    real = getattr(module, name)

    def refusing(*args: Any, **named: Any) -> Any:
        if when(*args, **named):
            raise OSError(number, os.strerror(number))
        return real(*args, **named)

    monkeypatch.setattr(module, name, refusing)
    # pathlib of Python 3.10 took functions of os for its own when it was imported.
    taken = getattr(pathlib, "_NormalAccessor", None)
    if getattr(taken, name, None) is real:
        monkeypatch.setattr(taken, name, staticmethod(refusing))


def same_inodes(monkeypatch: pytest.MonkeyPatch, inode: int, device: int | None = None) -> None:
    """Let all files and folders have one inode and, where given, one device."""
    for name in ("stat", "lstat", "fstat"):
        real = getattr(os, name)

        def alike(*args: Any, real: Callable[..., os.stat_result] = real, **named: Any) -> os.stat_result:
            state = real(*args, **named)
            values = list(state)
            values[1] = inode
            if device is not None:
                values[2] = device
            extra = {
                field: getattr(state, field)
                for field in dir(state)
                if field.startswith("st_") and field not in IN_ORDER
            }
            return os.stat_result(values, extra)

        monkeypatch.setattr(os, name, alike)
