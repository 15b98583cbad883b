"""The large families at their published sizes, as configurations of the real classes; no weights.

zimage: the default configuration of diffusers' class. flux2: FLUX.2-klein's 4 B as its published code
has it (5 double and 20 single blocks, 24 heads, conditions of three layers of 2,560). The VAEs: FLUX's
shape. qwen: Qwen3-VL-4B-Instruct's. `tiny`: the same classes, small enough for any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, Flux2Transformer2DModel, ZImageTransformer2DModel
from diffusers.utils import logging
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLModel

from strsr_models.pipelines.flux2 import Flux2Pipeline
from strsr_models.pipelines.pretrained import PretrainedPipeline
from strsr_models.pipelines.zimage import ZImagePipeline

# diffusers makes a remark at each change of precision.
logging.set_verbosity_error()
CONDITION_TOKENS = 72  # of the released prompt in the chat template, about; it makes no difference
TINY_VAE = {"block_out_channels": (8, 8, 8, 16), "layers_per_block": 1, "norm_num_groups": 4}
FLUX_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


@dataclass(frozen=True)
class Family:
    """The parts that a pipeline is built from."""

    pipeline: type[PretrainedPipeline]
    dit: tuple[Any, dict[str, Any], dict[str, Any]]  # class, full configuration, tiny one
    vae: tuple[Any, dict[str, Any], dict[str, Any]]


FAMILIES = {
    "zimage": Family(
        ZImagePipeline,
        (
            ZImageTransformer2DModel,
            {},
            {"in_channels": 4, "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
            | {"cap_feat_dim": 32, "axes_dims": [8, 12, 12]},
        ),
        (
            AutoencoderKL,
            FLUX_VAE
            | {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
            | {"use_quant_conv": False, "use_post_quant_conv": False},
            FLUX_VAE
            | TINY_VAE
            | {"latent_channels": 4, "shift_factor": 0.1}
            | {"use_quant_conv": False, "use_post_quant_conv": False},
        ),
    ),
    "flux2": Family(
        Flux2Pipeline,
        (
            Flux2Transformer2DModel,
            {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24}
            | {"joint_attention_dim": 7680, "guidance_embeds": False},
            {"in_channels": 16, "num_layers": 2, "num_single_layers": 2, "num_attention_heads": 2}
            | {"attention_head_dim": 16, "joint_attention_dim": 96, "axes_dims_rope": (4, 4, 4, 4)}
            | {"timestep_guidance_channels": 32, "guidance_embeds": False},
        ),
        (AutoencoderKLFlux2, FLUX_VAE, FLUX_VAE | TINY_VAE | {"latent_channels": 4}),
    ),
}
QWEN = {
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
    },
    "vision_config": {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2560,
        "deepstack_visual_indexes": [5, 11, 17],
    },
    "tie_word_embeddings": True,
}
TINY_QWEN = {
    "text_config": {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2]},
    },
    "vision_config": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    },
    "tie_word_embeddings": True,
}


def build(part: tuple[Any, dict[str, Any], dict[str, Any]], dtype: torch.dtype, tiny: bool = False) -> Any:
    """Build a network with new weights of `dtype`, on torch's default device."""
    cls, full, small = part
    return in_dtype(lambda: cls(**(small if tiny else full)), dtype)


def build_qwen(dtype: torch.dtype, tiny: bool = False) -> Any:
    """Build Qwen3-VL without its language-model head, which shares the embeddings' weights."""
    config = Qwen3VLConfig(**(TINY_QWEN if tiny else QWEN))
    return in_dtype(lambda: Qwen3VLModel(config), dtype)


def in_dtype(make: Any, dtype: torch.dtype) -> nn.Module:
    """Call make() with each tensor in `dtype` from the start, since float32 first would take twice the memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return make().to(dtype).eval().requires_grad_(False)  # type: ignore[no-any-return]
    finally:
        torch.set_default_dtype(before)
