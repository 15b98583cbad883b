"""Safe float16 for GPUs that do not multiply bfloat16, on networks that overflow float16 (65504).

In Z-Image and FLUX.2 the feed-forwards' products, what comes out of the attentions' and feed-forwards'
last linear layers, and the residual sum of it all leave float16's range. Here these are float32, and the
large products of matrices are still float16's:

    residual, norms, gates, modulation            float32
    q, k, v and a feed-forward's first layers     float16 (their input is normalised)
    a feed-forward's product silu(a) * b          float32
    every other linear layer                      float16 between a division and a multiplication, see `rescaled`

A loaded transformer is changed from outside, by what its modules take and give; diffusers' own
code runs. Parameters stay as they are. Widened to float32 (`network.float()`), all of it computes in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.files import shorten
from ..errors import WeightsError
from .devices import multiplies_bf16

LARGEST = 65504.0 / 2  # of float16, with room for the order of summation
# The norm assumed of quantised weights, which cannot always be measured: a row of 10,240 weights of 0.6.
LONGEST_ROW = 64.0


@dataclass(frozen=True)
class Layout:
    """The layers of a family that need care, by names below a block."""

    stacks: dict[str, tuple[str, ...]]  # lists of blocks, and what each of their blocks must have
    narrow: tuple[str, ...]  # linear layers that take normalised values and give float16
    widened_outputs: tuple[str, ...] = ()  # those of them that give float32: a factor of a product
    widened_inputs: tuple[str, ...] = ()  # activations that compute a product
    norms: tuple[str, ...] = ()  # with weights, on the residual


_ZIMAGE_NORMS = ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")
_ZIMAGE_NARROW = ("attention.to_q", "attention.to_k", "attention.to_v", "feed_forward.w1", "feed_forward.w3")
_ZIMAGE_BLOCK = (*_ZIMAGE_NARROW, *_ZIMAGE_NORMS, "attention.to_out.0", "feed_forward.w2")
_FLUX2_DOUBLE = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "ff.linear_in",
    "ff_context.linear_in",
)
LAYOUTS = {
    "ZImageTransformer2DModel": Layout(
        stacks={"noise_refiner": _ZIMAGE_BLOCK, "context_refiner": _ZIMAGE_BLOCK, "layers": _ZIMAGE_BLOCK},
        narrow=_ZIMAGE_NARROW,
        widened_outputs=("feed_forward.w3",),
        norms=(*_ZIMAGE_NORMS, "cap_embedder.0"),
    ),
    "Flux2Transformer2DModel": Layout(
        stacks={
            "transformer_blocks": (
                *_FLUX2_DOUBLE,
                "attn.to_out.0",
                "attn.to_add_out",
                "ff.linear_out",
                "ff_context.linear_out",
                "ff.act_fn",
                "ff_context.act_fn",
                "norm1",
                "norm2",
                "norm1_context",
                "norm2_context",
            ),
            "single_transformer_blocks": ("norm", "attn.to_qkv_mlp_proj", "attn.mlp_act_fn", "attn.to_out"),
        },
        narrow=(*_FLUX2_DOUBLE, "attn.to_qkv_mlp_proj"),
        widened_inputs=("ff.act_fn", "ff_context.act_fn", "attn.mlp_act_fn"),
    ),
}


def companion_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The precision of VAE and language model beside a transformer in `dtype`: the same, but never float16.

    Both overflow it, and neither can be mended at a few seams: a VAE sums convolutions over its whole
    depth, a language model has single activations past 65504. bfloat16 has float32's range at
    float16's size; where the device does not multiply it, float32.
    """
    if dtype != torch.float16:
        return dtype
    return torch.bfloat16 if multiplies_bf16(device) else torch.float32


def input_dtype(dit: nn.Module) -> torch.dtype:
    """The precision that a transformer takes: float32 behind `make_float16_safe`, else its parameters' own."""
    own = next(dit.parameters()).dtype
    return torch.float32 if getattr(dit, "float16_is_safe", False) else own


def make_float16_safe(dit: nn.Module) -> None:
    """Make a transformer with float16 parameters compute without overflow; it then takes and gives float32.

    It is applied once, after adapters are merged. Raises WeightsError for weights that float16 cannot
    hold, and for a layout that this module does not know (another version of diffusers).
    """
    layout = LAYOUTS.get(type(dit).__name__)
    if layout is None:
        raise WeightsError(f"{type(dit).__name__}: no float16 for this transformer; use bf16 or fp32")
    check_layout(dit, layout)
    check_weights(dit)
    for name, module in dit.named_modules():
        if _ends_with(name, layout.norms):
            module.forward = partial(wide_norm, module)
        elif _ends_with(name, layout.narrow):
            module.register_forward_pre_hook(_narrow_input)
            if _ends_with(name, layout.widened_outputs):
                module.register_forward_hook(_widen_output)
        elif _ends_with(name, layout.widened_inputs):
            module.register_forward_pre_hook(_widen_input)
        elif _is_linear(module):
            module.forward = partial(rescaled, module, module.forward)
    for stack in layout.stacks:
        for block in dit.get_submodule(stack).children():
            block.register_forward_hook(_check_residual)
    dit.float16_is_safe = True  # type: ignore[assignment]


def check_layout(dit: nn.Module, layout: Layout) -> None:
    """Raise one WeightsError that names every module that should be there, or is of another kind."""
    modules = dict(dit.named_modules())
    problems = []
    for stack, wanted in layout.stacks.items():
        blocks = [name for name in modules if name.rpartition(".")[0] == stack] or [f"{stack}.0"]
        for name in (f"{block}.{part}" for block in blocks for part in wanted):
            module = modules.get(name)
            if module is None:
                problems.append(name)
            elif _ends_with(name, layout.norms):
                if not _is_rms_norm(module):
                    problems.append(f"{name} as an RMSNorm")
            elif isinstance(module, nn.LayerNorm):
                if module.elementwise_affine:
                    problems.append(f"{name} without weights")
            elif not _ends_with(name, layout.widened_inputs) and not _is_linear(module):
                problems.append(f"{name} as a linear layer")
    if problems:
        raise _other_version(f"{type(dit).__name__} lacks {shorten(problems, 5)}")


def check_weights(dit: nn.Module) -> None:
    """Raise one WeightsError that names every parameter that is not finite, as casting to float16 leaves it."""
    overflows = [
        name
        for name, value in dit.named_parameters()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]
    if overflows:
        raise WeightsError(
            f"{type(dit).__name__}: weights beyond float16's 65504: {shorten(overflows, 5)}; use bf16 or fp32"
        )


def rescaled(module: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a linear layer to (.., c), any values, in float32; its product in float16 cannot overflow.

    Each token is divided by the power of two that brings |x| and |x| * max |row of the weights| under
    LARGEST; by Cauchy and Schwarz that bounds every output and every partial sum. Powers of two
    cost no precision, and most tokens' is 1.
    """
    x = x.float()
    dtype = weight_dtype(module)
    if dtype == torch.float32:
        return forward(x)
    length = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True)  # (.., 1)
    excess = (length * longest_row(module) / LARGEST).clamp(min=1)  # (.., 1)
    scale = torch.exp2(torch.ceil(torch.log2(excess)))  # (.., 1)
    result = forward((x / scale).to(dtype)).float() * scale  # (.., c')
    bias = getattr(module, "bias", None)
    return result if bias is None else result - (scale - 1) * bias


def longest_row(module: nn.Module) -> Tensor | float:
    """The largest 2-norm of a row of a linear layer's weights, at least 1, as a float32 scalar."""
    weight: Any = module.weight
    if type(weight) not in (Tensor, nn.Parameter) or not weight.is_floating_point():
        return LONGEST_ROW
    rows: Tensor = torch.linalg.vector_norm(weight.detach(), dim=1, dtype=torch.float32)  # (c',)
    return rows.max().clamp(min=1)


def wide_norm(module: nn.Module, x: Tensor) -> Tensor:
    """Apply an RMSNorm to (.., c) in float32, weights and result included."""
    weight: Any = module.weight
    eps: Any = module.eps
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps)


def weight_dtype(module: nn.Module) -> torch.dtype:
    """The precision that a linear layer multiplies in: its weights' own, float16 for quantised ones."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.dtype if weight.is_floating_point() else torch.float16


def _is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, or a quantising library's, all of which call their weights so."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def _is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is an RMSNorm that `wide_norm` can replace."""
    plain = hasattr(module, "eps") and getattr(module, "bias", None) is None
    return plain and "RMSNorm" in type(module).__name__


def _narrow_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cast the first argument to what a linear layer multiplies in."""
    return (args[0].to(weight_dtype(module)), *args[1:])


def _widen_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cast the first argument to float32."""
    return (args[0].float(), *args[1:])


def _widen_output(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Cast the result to float32."""
    return output.float()


def _check_residual(module: nn.Module, args: Any, output: Tensor | tuple[Tensor, ...]) -> None:
    """Raise WeightsError unless a block gives float32: names may stay while arithmetic between them changes."""
    streams = (output,) if isinstance(output, Tensor) else output
    if any(stream.dtype != torch.float32 for stream in streams):
        raise _other_version(f"{type(module).__name__} gives {streams[0].dtype}, not float32")


def _other_version(problem: str) -> WeightsError:
    """The error about a layout that this module does not know, which names the version of diffusers."""
    import diffusers

    return WeightsError(
        f"diffusers {diffusers.__version__}: float16 cannot be made safe ({problem}); use bf16 or fp32"
    )


def _ends_with(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a dotted name ends with one of `endings`, whole parts of a name."""
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)
