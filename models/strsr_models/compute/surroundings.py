"""What a caller has set for all tensors of a thread or a process, kept from what is computed here.

A network must give the same numbers inside somebody's training loop as in a script of three lines, and leave no trace
in either.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


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
