"""Memory and arithmetic of Z-Image and FLUX.2 at full size, counted without a GPU: python scripts/count_memory.py [--tile 1024].

Nothing is measured. The real classes are built on PyTorch's meta device, which keeps shapes and no
data. Weights: parameters times bytes. Activations: a forward pass on shapes alone, in which each
storage counts from its making to its freeing, by Python's own references; the peak of the sum.
Attention counts as a fused kernel (its output alone). Left out: the CUDA context (about 0.5 GiB), the
allocator's gaps, workspaces of cuDNN and cuBLAS.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from full_size import CONDITION_TOKENS, FAMILIES, build, build_qwen
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from strsr_models.compute import half_precision

GIB = 2**30
# Bytes of a weight of a linear layer: int8 with a scale per row, int4 with scale and zero point per 128.
LINEAR_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.53}


class LiveBytes(TorchDispatchMode):
    """A mode that counts the bytes of storages made within it: those alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation of torch and count the storages that come out."""
        result = func(*args, **(kwargs or {}))
        inputs = {id_of(value) for value in torch.utils._pytree.tree_leaves((args, kwargs)) if is_meta(value)}
        for value in torch.utils._pytree.tree_leaves(result):
            if is_meta(value) and id_of(value) not in inputs | self.known:
                self.add(value.untyped_storage())
        return result

    def add(self, storage: Any) -> None:
        """Count a storage until it is freed."""
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.free, key, size)

    def free(self, key: int, size: int) -> None:
        """Take off a storage that `add` counted."""
        self.known.discard(key)
        self.live -= size


class FusedAttention(TorchFunctionMode):
    """A mode with scaled_dot_product_attention as a fused kernel: its output and its FLOP, no matrix of scores."""

    flop = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, or stand in for attention."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        names = ("query", "key", "value")
        query, key, value = (kwargs[name] if name in kwargs else args[i] for i, name in enumerate(names))
        pairs = query.shape[:-1].numel() * key.shape[-2]
        self.flop += 2 * pairs * (query.shape[-1] + value.shape[-1])
        return torch.empty_like(query)


def id_of(value: Tensor) -> int:
    """The id of a tensor's storage."""
    return int(value.untyped_storage()._cdata)


def is_meta(value: Any) -> bool:
    """Whether a value is a tensor on the meta device."""
    return isinstance(value, Tensor) and value.device.type == "meta"


@torch.inference_mode(False)
@torch.no_grad()
def count(run: Callable[[], Any]) -> tuple[float, float]:
    """Run on meta tensors; returns GiB of the largest sum of live activations, and TFLOP (a multiply-add is 2)."""
    flops = FlopCounterMode(display=False)
    with FusedAttention() as attention, flops, LiveBytes() as memory:
        run()
    return memory.peak / GIB, (flops.get_total_flops() + attention.flop) / 1e12


def weights(network: nn.Module, kind: str) -> float:
    """The GiB of the parameters, with linear layers in `kind` and the rest in bfloat16 (float32 for fp32)."""
    linear = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear))
    rest = parameters(network) - linear
    return (linear * LINEAR_BYTES[kind] + rest * (4 if kind == "fp32" else 2)) / GIB


def parameters(network: nn.Module) -> int:
    """The number of a network's parameters."""
    return sum(value.numel() for value in network.parameters())


@dataclass(frozen=True)
class Counted:
    """The counts of one family for one tile; activations in GiB."""

    pipeline: Any
    encode: tuple[float, float]  # (GiB, TFLOP)
    denoise: tuple[float, float]
    decode: tuple[float, float]


def count_family(name: str, tile: int, dtype: torch.dtype, vae_dtype: torch.dtype, safe: bool) -> Counted:
    """Count the three verbs on one tile of `tile` px."""
    family = FAMILIES[name]
    with torch.device("meta"):
        dit, vae = build(family.dit, dtype), build(family.vae, vae_dtype)
        if safe:
            # There are no values to look at.
            half_precision.check_weights = lambda dit: None
            half_precision.make_float16_safe(dit)
        pipeline = family.pipeline(dit, vae)
        image = torch.empty(1, 3, tile, tile)
        cond = torch.empty(1, CONDITION_TOKENS, pipeline.condition_width(dit))
        side = tile // (16 if name == "flux2" else 8)
        latents = torch.empty(1, dit.config.in_channels, side, side)
        return Counted(
            pipeline,
            count(lambda: pipeline.encode_latents(image)),
            count(lambda: pipeline.denoise(latents, cond)),
            count(lambda: pipeline.decode_latents(latents, image)),
        )


def print_networks(counted: dict[str, Counted], qwen: nn.Module) -> None:
    """Print parameters, and GiB of weights in four precisions."""
    print("| network | parameters | fp32 | bf16, fp16 | int8 | int4 |\n|---|---|---|---|---|---|")
    rows = [("Qwen3-VL", qwen)]
    for name, family in counted.items():
        rows += [(f"{name}: transformer", family.pipeline.dit), (f"{name}: VAE", family.pipeline.vae)]
    for title, network in rows:
        sizes = " | ".join(f"{weights(network, kind):.2f}" for kind in LINEAR_BYTES)
        print(f"| {title} | {parameters(network) / 1e9:.3f} B | {sizes} |")


def print_peaks(
    title: str, family: Counted, language: tuple[nn.Module, float], kind: str, beside: str
) -> None:
    """Print what is needed at once, by how networks share the device.

    language: the language model, and GiB of its activations. kind: precision of the transformer's weights.
    beside: precision of the VAE's and the language model's.
    """
    dit, vae = weights(family.pipeline.dit, kind), weights(family.pipeline.vae, beside)
    qwen = weights(language[0], beside)
    condition = qwen + language[1] * (2 if beside == "fp32" else 1)
    verbs = max(family.encode[0], family.decode[0])
    most = max(verbs, family.denoise[0])
    turns = max(dit + family.denoise[0], vae + verbs)
    peaks = (dit + vae + qwen + most, max(condition, dit + vae + most), max(condition, turns), turns)
    row = " | ".join(f"{peak:.1f}" for peak in peaks)
    print(f"| {title} | {row} |")


def count_look(qwen: Any, image_tokens: int) -> float:
    """The GiB of activations of the language model on a message with that many tokens of an image.

    Its eyes have four patches per token and no widths beyond the language model's.
    """
    tokens = image_tokens + CONDITION_TOKENS
    with torch.device("meta"):
        states = torch.empty(1, tokens, qwen.config.text_config.hidden_size, dtype=torch.bfloat16)
        # The mask is given, since the model would make it from values, which are not there.
        mask = torch.empty(1, 1, tokens, tokens, dtype=torch.bool)
        memory, _ = count(
            lambda: qwen.language_model(inputs_embeds=states, attention_mask=mask, use_cache=False)
        )
        return memory


def main() -> None:
    """Print the tables of docs/developing/big-models-memory.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tile", type=int, default=1024, help="output px")
    tile = parser.parse_args().tile
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    with torch.device("meta"):
        qwen = build_qwen(bf16)
    counted = {name: count_family(name, tile, bf16, bf16, safe=False) for name in FAMILIES}
    safe = {name: count_family(name, tile, fp16, fp32, safe=True) for name in FAMILIES}
    language = (qwen, count_look(qwen, image_tokens=1024))
    print("Weights in GiB, counted\n")
    print_networks(counted, qwen)
    print(f"\nOne tile of {tile} px: GiB of activations, and TFLOP, counted\n")
    print("| family | precision | VAE encodes | transformer | VAE decodes |\n|---|---|---|---|---|")
    for name in FAMILIES:
        for title, family in (("bf16", counted[name]), ("fp16 made safe, VAE fp32", safe[name])):
            verbs = (family.encode, family.denoise, family.decode)
            cells = " | ".join(f"{gib:.2f} GiB, {tflop:.1f} TFLOP" for gib, tflop in verbs)
            print(f"| {name} | {title} | {cells} |")
    print(f"\nQwen3-VL's language model, picture of 1024 px: {language[1]:.2f} GiB of activations, counted")
    print(f"\nPeaks in GiB at tiles of {tile} px, weights and activations, counted\n")
    print("| | all resident | two phases | model offload | without Qwen3-VL |\n|---|---|---|---|---|")
    for name in FAMILIES:
        for kind in ("bf16", "int8", "int4"):
            print_peaks(f"{name}, transformer {kind}", counted[name], language, kind, "bf16")
        print_peaks(f"{name}, fp16, GPU without bf16", safe[name], language, "bf16", "fp32")


if __name__ == "__main__":
    main()
