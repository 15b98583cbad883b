"""The safety of a run: averages, guards against steps that are not finite, and checkpoints.

The files of a checkpoint are Hugging Face accelerate's; beside them lie the average and the counts of
skipped steps.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from strsr_models.errors import StrsrError
from strsr_models.pipelines.base import OneStepPipeline

from ...system.atomic import cannot_write
from .folder import FRESH, MINUTES_NAME, Run

if TYPE_CHECKING:
    from accelerate import Accelerator


NON_FINITE_LIMIT = 10  # steps in a row
LOWEST_SCALE = 1.0  # of a loss in fp16: below it, gradients overflow by themselves
AVERAGE_NAME, COUNTS_NAME = "average.safetensors", "skipped.json"  # in a checkpoint


class Average:
    """Exponential moving average of a pipeline's trained parameters (EMA)."""

    def __init__(self, pipeline: OneStepPipeline, decay: float) -> None:
        self.decay = decay
        self.pipeline = copy.deepcopy(pipeline).requires_grad_(False).eval() if decay else pipeline
        averages, trained = dict(self.pipeline.named_parameters()), dict(pipeline.named_parameters())
        names = pipeline.trainable_state() if decay else ()
        self._pairs = [(name, averages[name], trained[name]) for name in names]

    def weights(self) -> list[Tensor]:
        """The averages; without any, the trained weights."""
        if self._pairs:
            return [average.detach() for _, average, _ in self._pairs]
        return [weight.detach() for weight in self.pipeline.parameters() if weight.requires_grad]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Set average = decay * average + (1 - decay) * trained, with a smaller decay in the first steps."""
        if self._pairs:
            decay = min(self.decay, step / (step + 10))
            _, averages, trained = zip(*self._pairs, strict=True)
            torch._foreach_lerp_(list(averages), list(trained), 1 - decay)

    def save(self, path: Path) -> None:
        """Write the averages to a safetensors file."""
        from safetensors.torch import save_file

        save_file({name: average.contiguous() for name, average, _ in self._pairs}, path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Fill the averages from a file of `save`. Raises an error when names or shapes are not the same."""
        from safetensors.torch import load_file

        saved = {plain_name(name): tensor for name, tensor in load_file(path).items()}
        if saved.keys() != {name for name, _, _ in self._pairs}:
            raise StrsrError(f"{path.name} holds other parameters than this configuration trains")
        for name, average, _ in self._pairs:
            average.copy_(saved[name])


class Guard:
    """A guard that skips optimiser steps whose gradients are not finite, and stops a run that has only such steps."""

    def __init__(self, run: Run) -> None:
        self.run = run
        # The count goes on over stops and resumes.
        self.skipped = 0
        self.in_a_row = 0

    @property
    def healthy(self) -> bool:
        """Whether the last step was taken, or left out as a matter of course (see `step`)."""
        return self.in_a_row == 0

    def step(
        self, accelerator: Accelerator, optimizer: Any, parameters: list[nn.Parameter], clip: float, step: int
    ) -> bool:
        """Clip and step, unless the gradient is not finite; returns whether it stepped. All processes agree.

        In fp16 the loss is scaled, and a gradient that overflows is how the scale is found: such steps
        are counted as skipped, but stop a run only once the scale has fallen below 1.
        """
        norm = accelerator.clip_grad_norm_(parameters, clip)
        finite = bool(torch.isfinite(torch.as_tensor(norm)))
        scaler = accelerator.scaler
        # A scaler skips such a step by itself, and lowers its scale.
        if finite or scaler is not None:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if finite:
            self.in_a_row = 0
            return True
        self.skipped += 1
        if scaler is not None and scaler.get_scale() >= LOWEST_SCALE:
            return False
        self.in_a_row += 1
        if self.in_a_row == NON_FINITE_LIMIT:
            raise StrsrError(
                f"step {step}: {self.in_a_row} steps in a row were not finite; {self.run.advice}; "
                "go on with a lower learning_rate or precision=fp32"
            )
        return False


def save_checkpoint(
    run: Run,
    accelerator: Accelerator,
    step: int,
    average: Average,
    guards: Sequence[Guard],
    minutes: float = 0.0,
) -> None:
    """Save a new checkpoint, whole: what accelerate prepared without its frozen parts, the average, and counts."""
    accelerator.wait_for_everyone()
    shared = run.checkpoints / f"parts{FRESH}"
    # Every process writes its part into one folder, which the main process then makes the newest.
    if accelerator.is_main_process:
        shutil.rmtree(shared, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(shared))
        if accelerator.is_main_process:
            average.save(shared / AVERAGE_NAME)
            counts = [[guard.skipped, guard.in_a_row] for guard in guards]
            (shared / COUNTS_NAME).write_text(json.dumps(counts))
            (shared / MINUTES_NAME).write_text(json.dumps(round(minutes, 4)))
    except Exception as error:
        # torch and safetensors have errors of their own for a full disk.
        shutil.rmtree(shared, ignore_errors=True)
        raise cannot_write(shared, error, run.advice) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        run.keep(step, shared)
    accelerator.wait_for_everyone()


def check_finite(run: Run, models: Sequence[nn.Module], average: Average, step: int) -> None:
    """Raise StrsrError, before anything is saved, where weights are NaN or infinite, or averages are so in float16."""
    if not _are_finite(_trained(models)):
        raise not_finite(run, step, "weights are")
    # Weights are exported in half precision.
    if not _are_finite([weight.half() for weight in average.weights()]):
        raise not_finite(run, step, "averaged weights, in float16, are")


def _trained(models: Iterable[nn.Module]) -> list[Tensor]:
    """All parameters that train."""
    return [weight.detach() for model in models for weight in model.parameters() if weight.requires_grad]


def _are_finite(tensors: list[Tensor]) -> bool:
    """Whether no number in any of the tensors is NaN or infinite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def not_finite(run: Run, step: int, what: str) -> StrsrError:
    """The error of a run whose result is of no use."""
    return StrsrError(
        f"step {step}: {what} not finite, and nothing of this step was saved; {run.advice}; "
        "go on with a lower learning_rate or precision=fp32"
    )


def load_checkpoint(
    run: Run,
    accelerator: Accelerator,
    models: Sequence[nn.Module],
    average: Average,
    guards: Sequence[Guard],
) -> int:
    """Fill everything from the newest checkpoint; returns the number of steps done, 0 in a new run.

    models: those that accelerate prepared, in that order.
    """
    latest = run.latest()
    if latest is None:
        return 0
    try:
        bare = [bare_module(model) for model in models]
        _check_names(bare, latest)
        # Frozen parts are not in the checkpoint.
        accelerator.load_state(str(latest), strict=False)
        _load_renamed(bare, latest)
        average.load(latest / AVERAGE_NAME)
        if not _are_finite([*_trained(bare), *average.weights()]):
            raise StrsrError("its weights are not finite")
        # Old checkpoints have no counts.
        if (latest / COUNTS_NAME).exists():
            counts = json.loads((latest / COUNTS_NAME).read_text())
            for guard, (skipped, in_a_row) in zip(guards, counts, strict=True):
                guard.skipped, guard.in_a_row = int(skipped), int(in_a_row)
    except Exception as error:
        # accelerate, torch and safetensors raise many kinds of errors, which all mean the same.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise StrsrError(
            f"{latest}: cannot be resumed ({reason}): it is damaged or of another configuration; "
            "move it away to go on from an older one or to start over"
        ) from error
    return int(latest.name)


def bare_module(model: nn.Module) -> nn.Module:
    """The module itself, without what torch.compile and distribution wrap it into.

    The function that accelerate has for this would take a compiled module's distribution away for good.
    """
    while True:
        inside = getattr(model, "_orig_mod", None)
        if inside is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inside = model.module
        if not isinstance(inside, nn.Module):
            return model
        model = inside


def plain_name(name: str) -> str:
    """A parameter's name without the marks that torch.compile leaves where it wraps modules."""
    return name.replace("_orig_mod.", "")


def _weights_path(folder: Path, number: int) -> Path:
    """The file of the model that accelerate prepared as number 0, 1 and so on."""
    return folder / (f"model_{number}.safetensors" if number else "model.safetensors")


def _load_renamed(models: Sequence[nn.Module], folder: Path) -> None:
    """Fill models from a checkpoint of compiled ones, whose names accelerate would pass over."""
    from safetensors import safe_open

    for number, model in enumerate(models):
        with safe_open(_weights_path(folder, number), "pt") as file:
            names = list(file.keys())
            # What has its plain names, accelerate has read already.
            if any(plain_name(name) != name for name in names):
                plain = {plain_name(name): file.get_tensor(name) for name in names}
                model.load_state_dict(plain, strict=False)


def _check_names(models: Sequence[nn.Module], folder: Path) -> None:
    """Make sure that all that trains is in the checkpoint, since loading without frozen parts is lenient."""
    from safetensors import safe_open

    for number, model in enumerate(models):
        wanted = {
            name: list(parameter.shape)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        with safe_open(_weights_path(folder, number), "pt") as file:
            saved = {plain_name(name): file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        missing = sorted(name for name in wanted if saved.get(name) != wanted[name])
        if missing:
            raise StrsrError(
                f"it has no {missing[0]} of shape {wanted[missing[0]]}, nor {len(missing) - 1} more"
            )


def keep_trained_only(accelerator: Accelerator) -> None:
    """Leave parameters that do not train out of checkpoints: a base of 6 B, a coach's trunk, features."""

    def drop_frozen(models: list[nn.Module], weights: list[dict[str, Tensor]], _folder: str) -> None:
        for model, state in zip(models, weights, strict=True):
            parameters = dict(model.named_parameters())
            trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
            # Buffers count where something trains beside them, as the vectors of spectral norms do.
            organs = {name.split(".")[0] for name in trained}
            for name in list(state):
                if name in parameters.keys() - trained or name.split(".")[0] not in organs:
                    del state[name]

    accelerator.register_save_state_pre_hook(drop_frozen)
