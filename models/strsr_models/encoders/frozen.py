"""What all frozen networks share: they never train, and they are filled strictly from local files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..checkpoints import mismatches, shorten
from ..errors import WeightsError

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


class FrozenNetwork(nn.Module):
    """A network whose weights and BatchNorm statistics stay as loaded; gradients pass to its input."""

    def freeze(self) -> Self:
        """To be called when all parts are there: no parameter wants a gradient, eval mode for good."""
        self.requires_grad_(False)
        return self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode whatever is asked, also when a parent module is set to train."""
        return super().train(False)


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of a safetensors file or of a torch checkpoint, by name; floating point as it is.

    prefix: only names that start with it are read, and are returned without it.
    A training checkpoint's `state_dict` is opened, and DDP's `module.` dropped.
    Raises WeightsError if the file cannot be read or holds anything but tensors.
    """
    tensors = _read_safetensors(path, prefix) if path.suffix == ".safetensors" else _read_torch(path)
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read_safetensors(path: Path, prefix: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error})") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        # Mapped, so that the parts which are not wanted (a text tower) take no memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged pickles raise nearly anything
        reason = str(error).strip().split("\n")[0]
        raise WeightsError(f"{path}: cannot be read as a torch checkpoint ({reason})") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected a dict of tensors")
    found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    return found


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path, what: str) -> None:
    """Fill all of a module's tensors in float32, or raise one WeightsError that names every mismatch.

    Tensors that the module does not have are left alone: files hold whole networks of which only
    some layers are wanted. The module may be on the meta device. what: its name, for the message.
    """
    # BatchNorm's count of batches serves training only, and files do without it.
    state = module.state_dict()
    counts = {name: torch.tensor(0) for name in state if name.endswith("num_batches_tracked")}
    wanted = {name: value for name, value in state.items() if name not in counts}
    found = {name: tensors[name] for name in wanted.keys() & tensors.keys()}
    problems = mismatches(found, {name: tuple(value.shape) for name, value in wanted.items()})
    if problems:
        raise WeightsError(f"{path}: not the {what} expected: {shorten(problems)}")
    # A copy: the file's own memory may be a read-only map, and in float16.
    filled = {name: tensors[name].to(torch.float32, copy=True) for name in wanted}
    module.load_state_dict({**filled, **counts}, assign=True)
