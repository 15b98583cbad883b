"""What a caller has set for all tensors of a thread or a process, kept from what is computed here.

A network must give the same numbers inside somebody's training loop as in a script of three lines, and leave no trace
in either.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_)


@contextlib.contextmanager
def own_surroundings(device: torch.device) -> Iterator[None]:
    """A context without gradients in which the caller's autocast, inference mode and default device do not count.

    device: where the networks are. Tensors that are made inside are ordinary ones: they can be changed and
    differentiated later, which those of an inference mode cannot. All of it is of this thread alone.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # get_default_device fails in torch before 2.7 after set_default_device(None), and is blind to contexts.
        if torch.empty(0).device.type != "cpu":
            # Where tensors are made without a device, the code means the CPU.
            stack.enter_context(torch.device("cpu"))
        yield


@contextlib.contextmanager
def own_start(device: torch.device) -> Iterator[None]:
    """A context to build networks in: `own_surroundings`, float32 by default, and random numbers put back after.

    New networks draw weights that the loaded ones replace, and libraries draw when they are imported; the numbers that
    the caller draws next, of torch, NumPy or Python, are those that would have come without that.
    """
    pythons, numpys = random.getstate(), np.random.get_state()
    with own_surroundings(device), float32_by_default(), torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)


class Unfilled(TorchFunctionMode):
    """A context in which layers draw no random weights, for networks that a file fills, each tensor of them.

    To draw lite's takes as long as all else of loading it. torch's meta device, made for this, loads what takes a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the tensor as it is where it is to be drawn; call anything else."""
        kwargs = kwargs or {}
        if func in DRAWS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextlib.contextmanager
def float32_by_default() -> Iterator[None]:
    """A context in which numbers without a type are float32. It is of the whole process, so for libraries alone."""
    dtype = torch.get_default_dtype()
    if dtype == torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
