"""The base of all frozen networks: they never train, and they are filled strictly from local files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..checkpoints.files import mismatches, shorten
from ..errors import WeightsError

if TYPE_CHECKING:
    # The module typing has it from Python 3.11 on.
    from typing_extensions import Self


class FrozenNetwork(nn.Module):
    """A network whose weights and BatchNorm statistics stay as loaded; gradients pass to its input."""

    def freeze(self) -> Self:
        """Take gradients from all parameters and stay in eval mode; to be called when all parts are there."""
        self.requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever `mode` is, also when a parent module is set to train."""
        return super().train(False)


def fill(module: nn.Module, tensors: dict[str, Any], path: Path, what: str) -> None:
    """Fill all of a module's tensors in float32, or raise one WeightsError that names every mismatch.

    Tensors that the module does not have are left alone: files hold whole networks of which only
    some layers are wanted. The module may be on the meta device. what: its name, for the message.
    """
    # The count of batches that BatchNorm keeps serves training only, and files do without it.
    state = module.state_dict()
    counts = {name: torch.tensor(0) for name in state if name.endswith("num_batches_tracked")}
    shapes = {name: tuple(value.shape) for name, value in state.items() if name not in counts}
    known = {name: tensors[name] for name in shapes.keys() & tensors.keys()}
    problems = mismatches(known, shapes)
    if problems:
        raise WeightsError(f"{path}: not the {what} expected: {shorten(problems)}")
    # Tensors are copied: the file's own memory may be a read-only map, and in float16.
    copies = {name: tensors[name].to(torch.float32, copy=True) for name in shapes}
    module.load_state_dict({**copies, **counts}, assign=True)
