"""An estimate of the memory that a run will take, before it begins.

Weights are counted. Activations are measured: one part of a batch goes forward and backward, as in the
run, on tensors that have sizes but no numbers (torch's FakeTensorMode), so that 6 B parameters take
seconds and no memory. Where a CPU trains, the program itself and the decoded photos count too, as they lie in the same
memory. What a device's allocator and convolutions need on top is not included.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from strsr_models.compute.devices import autocast, resolve_device, resolve_precision
from strsr_models.encoders.qwen import VisionLanguageEncoder
from strsr_models.pipelines.base import OneStepPipeline

from .data.crops import PICTURE_SIZE, Batch
from .data.photos import Photos
from .settings import LoopConfig

GIB = 2.0**30

Step = Callable[[Batch, list[int]], None]  # forward and backward of one part of a batch


@dataclass(frozen=True)
class Estimate:
    """Memory that a run will need on its device, in GiB."""

    weights: float  # of the pipeline
    judges: float  # weights of coach, perceptual network and frequency loss
    gradients_and_adam: float
    average: float
    activations: float  # at their height, for one part of a batch
    # Where a CPU trains, what its memory holds beside: decoded photos, teachers' weights, the program itself.
    photos: float = 0.0
    teachers: float = 0.0
    process: float = 0.0

    def __str__(self) -> str:
        values = {field.name.replace("_and_", " and "): getattr(self, field.name) for field in fields(self)}
        beside = ("photos", "teachers", "process")
        parts = ", ".join(f"{n} {value:.3g}" for n, value in values.items() if value or n not in beside)
        more = (
            "a step's kernels and each worker need some more" if self.process else "a device needs some more"
        )
        return f"about {sum(values.values()):.3g} GiB ({parts}); an estimate: {more}"


def estimate_memory(
    pipeline: OneStepPipeline,
    judges: Sequence[nn.Module],
    config: LoopConfig,
    processes: int,
    step: Step,
    *,
    photos: int = 0,
    teachers: int = 0,
    real: bool = False,
) -> Estimate:
    """Count the weights of a pipeline and of what judges it, and run `step`, which trains the former.

    photos, teachers: bytes of decoded photos and of weights. They count, as this process does, where a CPU trains.
    The modules have lost their numbers afterwards, unless `real`, which computes on the CPU in earnest.
    """
    modules = [pipeline, *judges]
    on_cpu = resolve_device(config.device).type == "cpu"
    # What the program itself takes: all that is there now, before the step, but for the networks.
    process = max(0, psutil.Process().memory_info().rss - _bytes(_tensors(modules))) if on_cpu else 0
    trained = 3 * sum(_bytes(p for p in module.parameters() if p.requires_grad) for module in modules)
    weights = _bytes(_tensors([pipeline]))
    average = weights if config.ema_decay else 0
    judging = _bytes(_tensors(modules)) - weights
    crops = config.batch_size // (processes * config.accumulate)
    activations = _activations(modules, config, crops, step, real)
    return Estimate(
        weights=weights / GIB,
        judges=judging / GIB,
        gradients_and_adam=trained / GIB,
        average=average / GIB,
        activations=activations / GIB,
        photos=photos / GIB if on_cpu else 0.0,
        teachers=teachers / GIB if on_cpu else 0.0,
        process=process / GIB,
    )


def decoded_bytes(photos: Photos, cache_gb: float) -> int:
    """The bytes of the decoded photos that a run keeps in memory."""
    return int(min(cache_gb * 1e9, sum(3 * file.pixels for file in photos.files)))


def _activations(modules: Sequence[nn.Module], config: LoopConfig, crops: int, step: Step, real: bool) -> int:
    """The bytes that are alive at the height of a step beside weights, gradients and the batch."""
    precision = resolve_precision(config.precision, resolve_device(config.device))
    fake = None if real else FakeTensorMode(allow_non_fake_inputs=True)
    with fake or contextlib.nullcontext(), autocast(torch.device("cpu"), precision):
        if fake is not None:
            for module in modules:
                _silence(module)
            _take_numbers_away(modules, fake)
        for parameter in _tensors(modules):
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        crop = torch.rand(crops, 3, config.crop_size, config.crop_size)
        batch = Batch(crop, crop.clone(), torch.rand(crops, 3, PICTURE_SIZE, PICTURE_SIZE))
        gradients = [tensor.grad for tensor in _tensors(modules) if tensor.grad is not None]
        known = [*_tensors(modules), *gradients, batch.hq, batch.lq_up, batch.picture]
        with _Height(known) as height:
            step(batch, list(range(crops)))
    return int(height.most)


class _Height(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that counts how many bytes of tensors made inside are alive; `most` is the largest number."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """known: tensors that are there before, and do not count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.most: int = 0
        self._alive = 0
        self._followed = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation of torch and follow the tensors that come out."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed."""
        # A view's storage counts already.
        if storage in self._followed:
            return
        self._followed.add(storage)
        size = storage.nbytes()
        self._alive += size
        self.most = max(self.most, self._alive)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        """Take the bytes of a freed storage off."""
        self._alive -= size


class _Silent(nn.Module):
    """A stand-in for a vision-language model: as many tokens, of zeros. It trains nothing and keeps nothing."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width

    def forward(self, image: Tensor) -> Tensor:
        """Return tokens (b, m, e) for an image (b, 3, h, w)."""
        return image.new_zeros(len(image), self.tokens, self.width)


def _silence(module: nn.Module) -> None:
    """Put a stand-in in the place of a vision-language model, whose processor wants bytes of a real picture."""
    encoder = getattr(module, "semantic_encoder", None)
    if isinstance(encoder, VisionLanguageEncoder):
        module.semantic_encoder = _Silent(encoder.count_tokens(), encoder.width)


def _take_numbers_away(modules: Iterable[nn.Module], mode: FakeTensorMode) -> None:
    """Replace all parameters and buffers by tensors of their sizes; what is shared stays shared."""
    # The originals are kept beside their replacements, so that no other tensor gets their id.
    replacements: dict[int, tuple[Tensor, Tensor]] = {}

    def replacement(tensor: Tensor) -> Tensor:
        if id(tensor) not in replacements:
            fake: Tensor = mode.from_tensor(tensor.detach())
            if isinstance(tensor, nn.Parameter):
                fake = nn.Parameter(fake, requires_grad=tensor.requires_grad)
            replacements[id(tensor)] = tensor, fake
        return replacements[id(tensor)][1]

    # A dict keeps the order, and each part once.
    parts = dict.fromkeys(part for module in modules for part in module.modules())
    for part in parts:
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        for name, tensor in own:
            setattr(part, name, replacement(tensor))


def _tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    """All parameters and buffers of the modules, each once."""
    tensors: dict[int, Tensor] = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            tensors[id(tensor)] = tensor
    return list(tensors.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    """The size of tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
