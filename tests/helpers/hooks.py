"""Hooks on networks: to see what goes into one, and to fail in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook


@contextlib.contextmanager
def before_forward(kind: type[nn.Module], call: Callable[[Tensor], None]) -> Iterator[None]:
    """Inside, `call` gets the first input of every network of this kind, in the thread that computes."""

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, kind):
            call(inputs[0])

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
