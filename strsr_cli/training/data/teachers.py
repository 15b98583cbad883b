"""Teachers: pretrained x4 restorers, whose outputs a student learns to give.

A restorer that was trained against a discriminator for weeks is a deterministic function of its input.
L1 towards *its* output converges to that output, where L1 towards the photo averages over all details that the
input leaves possible. Files are read by spandrel (https://github.com/chaiNNer-org/spandrel), which knows some
forty architectures by their tensors' names.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from strsr_models.checkpoints.files import read_tensors
from strsr_models.compute.devices import autocast
from strsr_models.errors import UsageError, WeightsError, first_line
from strsr_models.packages import install_command

from ...system.atomic import sha256_of
from .degrade import KINDS

SCALE = 4  # of every teacher


@dataclass(frozen=True)
class TeacherConfig:
    """Files of the teachers for each kind of degradation; where there are several, the mean of their outputs is learnt.

    A kind without a teacher learns from the photo, except lens and medium, which take the teachers of severe.
    """

    clean: tuple[str, ...] = ()
    mild: tuple[str, ...] = ()
    lens: tuple[str, ...] = ()
    medium: tuple[str, ...] = ()
    severe: tuple[str, ...] = ()


def teacher_files(teacher: str | TeacherConfig) -> dict[str, tuple[Path, ...]]:
    """The files for each kind of degradation; one name stands for all kinds, an empty one for no teacher."""
    if isinstance(teacher, str):
        return {kind: (Path(teacher),) if teacher else () for kind in KINDS}
    named = {field.name: getattr(teacher, field.name) for field in fields(teacher)}
    for kind in ("lens", "medium"):
        named[kind] = named[kind] or named["severe"]
    return {kind: tuple(Path(name) for name in named[kind]) for kind in KINDS}


def teacher_hashes(teacher: str | TeacherConfig) -> dict[str, list[str]]:
    """SHA-256 of the files for each kind, in hex. Raises WeightsError for one that cannot be read."""
    files = teacher_files(teacher)
    try:
        paths = set(itertools.chain.from_iterable(files.values()))
        hashes = {path: sha256_of(path) for path in paths}
    except OSError as error:
        raise WeightsError(f"teacher {error.filename}: cannot be read: {error.strerror}") from error
    return {kind: [hashes[path] for path in files[kind]] for kind in files}


class Teachers:
    """All teachers of a run, on its device."""

    def __init__(self, teacher: str | TeacherConfig, device: torch.device, precision: str) -> None:
        """precision: fp32, bf16 or fp16, which they compute in. Raises the errors of `load_teacher`."""
        self.device, self.precision = device, precision
        self._files = teacher_files(teacher)
        paths = set(itertools.chain.from_iterable(self._files.values()))
        self._models = {path: load_teacher(path, device) for path in sorted(paths)}

    def __call__(self, lq: Tensor, kind: str, size: tuple[int, int]) -> Tensor | None:
        """The mean output of a kind's teachers for (b, 3, h, w) in [0, 1], brought to `size` = (H, W) px; None without one.

        They enlarge four times, whatever the size, and the result is reduced to what is asked for. It may hold NaN.
        """
        paths = self._files[kind]
        if not paths:
            return None
        with torch.inference_mode():
            outputs = [self._restore(path, lq, size) for path in paths]
            return torch.stack(outputs).mean(0)

    def _restore(self, path: Path, lq: Tensor, size: tuple[int, int]) -> Tensor:
        """The output of one teacher, brought to `size`. Raises WeightsError when it cannot compute it."""
        with autocast(self.device, self.precision):
            try:
                restored: Tensor = self._models[path](
                    lq.to(self.device, memory_format=torch.channels_last)
                ).float()
            except (RuntimeError, ValueError, AssertionError) as error:
                reason = first_line(error)
                raise WeightsError(
                    f"teacher {path}: cannot restore {lq.shape[-2]}x{lq.shape[-1]} px: {reason}"
                ) from error
        if restored.shape[-2:] != size:
            restored = F.interpolate(restored, size, mode="bicubic", align_corners=False, antialias=True)
        # Clamping leaves NaN as it is.
        return restored.clamp(0, 1)


def load_teacher(path: Path, device: torch.device) -> Any:
    """An x4 restorer of three channels from a file, as spandrel's callable descriptor, in float32.

    Raises UsageError where spandrel is not installed; WeightsError for a file that cannot be read, is of no
    architecture that spandrel knows, has other channels or another scale, or takes only pictures of certain sizes.
    """
    try:
        import spandrel
    except ImportError as error:
        raise UsageError(
            f"a teacher needs the package spandrel: {install_command('strsr[train]')}"
        ) from error
    if not path.is_file():
        raise WeightsError(f"teacher {path}: no such file")
    # Pickled files are opened with weights_only.
    tensors = read_tensors(path)
    try:
        model = spandrel.ModelLoader(device).load_from_state_dict(tensors)
    except Exception as error:
        # An architecture that almost fits raises whatever its code does.
        raise WeightsError(
            f"teacher {path}: of no architecture that spandrel {spandrel.__version__} knows, or damaged"
        ) from error
    problems = []
    if not isinstance(model, spandrel.ImageModelDescriptor):
        problems.append("does not make one picture of one picture")
    if (model.input_channels, model.output_channels) != (3, 3):
        problems.append(f"has {model.input_channels} channels in and {model.output_channels} out, not 3")
    if model.scale != SCALE:
        problems.append(f"enlarges {model.scale} times, not {SCALE}")
    needs = model.size_requirements
    if needs.square or needs.minimum > 16 or needs.multiple_of > 16:
        problems.append(f"takes only pictures of certain sizes ({needs})")
    if problems:
        raise WeightsError(f"teacher {path}: a {model.architecture.name} that {', and '.join(problems)}")
    model.model.float().to(memory_format=torch.channels_last).requires_grad_(False)
    return model.eval()
