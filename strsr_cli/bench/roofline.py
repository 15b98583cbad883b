"""The most that a machine can do, measured, and how near a network comes to it.

Ceilings: the fastest of several products of large square matrices, and of several copies of a large tensor.
Work: FLOP (floating-point operations) by PyTorch's counter, where a multiply-add is 2; bytes as the operators ask
for them, each reading its inputs and writing its outputs once. Caches and fused kernels move less, so that bytes
are an upper bound.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from strsr_models import OneStepPipeline
from strsr_models.compute.devices import DTYPES

from ..system.machine import computes

REPEATS = 5
LONG_ENOUGH = 0.05  # seconds of one product, at which launches no longer count
LARGEST_SIDE = 8192  # of a matrix
BY_BACKEND = "whole_tile_by_the_backend"
COPY = {"cpu": 2**28, "cuda": 2**31, "mps": 2**29}  # bytes


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """The seconds of run(), until the device has done it."""
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.inference_mode()
def ceilings(device: torch.device) -> dict[str, Any]:
    """The ceilings: GFLOP/s of products by precision (None: does not work), GB/s of copies (bytes read and written)."""
    rates = {
        precision: matmul_rate(device, precision) if computes(str(device), precision) else None
        for precision in DTYPES
    }
    return {"matmul_gflop_per_s": rates, "copy_gb_per_s": copy_rate(device)}


def matmul_rate(device: torch.device, precision: str) -> float:
    """The GFLOP/s of products of square matrices, whose side is doubled until a product takes long enough."""
    side = 256
    while True:
        left, right = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
        # The first product is the warm-up as well.
        product = left @ right

        def multiply(left: Tensor = left, right: Tensor = right, out: Tensor = product) -> Tensor:
            return torch.mm(left, right, out=out)

        if side == LARGEST_SIDE or timed(multiply, device) > LONG_ENOUGH:
            break
        side *= 2
    return 2 * side**3 / min(timed(multiply, device) for _ in range(REPEATS)) / 1e9


def copy_rate(device: torch.device) -> float:
    """The GB/s of a copy that no cache holds, bytes read and written together."""
    source = torch.ones(COPY[device.type], dtype=torch.uint8, device=device)
    target = source.clone()
    return 2 * len(source) / min(timed(lambda: target.copy_(source), device) for _ in range(REPEATS)) / 1e9


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A counter of the bytes that operators read and write, each input and output once; views move nothing."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {id(value): value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        outputs = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        addresses = {value.untyped_storage().data_ptr() for value in inputs.values()}
        new_tensors = [value for value in outputs if value.untyped_storage().data_ptr() not in addresses]
        if new_tensors or func._schema.is_mutable:
            self.bytes += sum(map(size_of, inputs.values())) + sum(map(size_of, new_tensors))
            # An input that was changed in place was written as well.
            if not new_tensors:
                self.bytes += sum(map(size_of, outputs))
        return result


def size_of(tensor: Tensor) -> int:
    """The bytes of the elements that a tensor shows, however large its storage."""
    return tensor.numel() * tensor.element_size()


def attention_on_cpu(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """The FLOP of the CPU's fused attention, of which PyTorch's counter knows nothing."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_on_cpu}


@torch.no_grad()
def work(run: Callable[[], Any]) -> tuple[int, int]:
    """The work of run(): (FLOP, bytes of traffic)."""
    flops = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with Traffic() as traffic:  # type: ignore[no-untyped-call]
        run()
    with flops:
        run()
    return flops.get_total_flops(), traffic.bytes


def parts(
    pipeline: OneStepPipeline, view: Tensor, cond: Tensor, picture: Tensor | None, precision: str
) -> dict[str, Callable[[], Tensor]]:
    """The pipeline's verbs by name, on tiles `view` (b, 3, H, W) and, where it is given, a picture (1, 3, h, w)."""
    with torch.no_grad(), pipeline.computing(precision):
        latents = pipeline.encode_latents(view)
        restored = pipeline.denoise(latents, cond)
    verbs: dict[str, Callable[[], Tensor]] = {
        "structural_encoder": lambda: pipeline.encode_latents(view),
        "transformer": lambda: pipeline.denoise(latents, cond),
        "decoder": lambda: pipeline.decode_latents(restored, view),
        "whole_tile": lambda: pipeline.restore(view, cond),
    }
    if (backend := pipeline.backend) is not None:
        verbs[BY_BACKEND] = lambda: backend.restore(view, cond)
    if picture is not None:
        verbs["semantic_encoder"] = lambda: pipeline.encode_condition(picture)
    return verbs


def roofline(
    pipeline: OneStepPipeline,
    views: list[Tensor],
    conds: list[Tensor],
    picture: Tensor | None,
    precision: str,
    runs: int,
) -> dict[str, Any]:
    """The ceilings of the pipeline's device, and how near each part comes to them on a batch of tiles.

    views, conds: those of the tiles, (1, 3, H, W) and (1, m, d) each. picture: (1, 3, h, w), None where its
    condition comes from elsewhere. Figures are those of one tile.
    """
    device = pipeline.device
    top = ceilings(device)
    view, cond = torch.cat(views), torch.cat([cond.to(device) for cond in conds])
    if picture is not None:
        picture = picture.to(device)
    view = pipeline.placed(view)
    rows: dict[str, Any] = {}
    done: dict[str, tuple[int, int]] = {}
    for name, verb in parts(pipeline, view, cond, picture, precision).items():
        count = 1 if name == "semantic_encoder" else len(views)

        def run(verb: Callable[[], Tensor] = verb) -> None:
            with pipeline.computing(precision):
                verb()

        # What the backend does is not seen, but is the same.
        flop, traffic = done["whole_tile"] if name == BY_BACKEND else work(run)
        done[name] = flop, traffic
        with torch.inference_mode():
            seconds = median(timed(run, device) for _ in range(runs + 1))
        rows[name] = share(flop / count, traffic / count, seconds / count, top, precision)
    return {
        **top,
        "batch": len(views),
        "parameters": sum(value.numel() for value in pipeline.parameters()),
        "parameter_bytes": sum(size_of(value) for value in pipeline.parameters()),
        "parts": rows,
    }


def median(seconds: Iterable[float]) -> float:
    """The median of all but the first, which was the warm-up."""
    return statistics.median(list(seconds)[1:])


def share(flop: float, traffic: float, seconds: float, top: dict[str, Any], precision: str) -> dict[str, Any]:
    """The row of one part: achieved rates, their shares of the ceilings, and which ceiling is the nearer limit."""
    matmul_rate = top["matmul_gflop_per_s"][precision] or float("nan")
    # The least seconds that arithmetic, and traffic, would take at the ceilings.
    computing, moving = flop / 1e9 / matmul_rate, traffic / 1e9 / top["copy_gb_per_s"]
    return {
        "gflop": flop / 1e9,
        "traffic_bytes": round(traffic),
        "seconds": seconds,
        "gflop_per_s": flop / 1e9 / seconds,
        "share_of_matmul": computing / seconds,
        "share_of_copy": moving / seconds,
        "limit": "arithmetic" if computing >= moving else "memory",
    }
