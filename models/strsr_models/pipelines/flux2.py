"""FLUX.2-klein as a one-step restorer (StrSR, arXiv 2603.06275).

Its conventions: 2x2 latent pixels are packed into channels and normalised by the running statistics
of the VAE's batch norm; each packed pixel is a token with a position (0, row, column, 0), each token
of the condition has (0, 0, 0, index); time is sigma, there is no guidance, and the output is the velocity.

Letters: b batch, c latent channels, H W pixels, p q packed latent pixels (H/16, W/16), n = p * q image
tokens, m tokens of the condition, d width.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..compute.half_precision import input_dtype
from ..encoders.text import MOST_TOKENS, TextConvention
from .pretrained import PretrainedPipeline


class Flux2Pipeline(PretrainedPipeline):
    """The one-step restorer on diffusers' Flux2Transformer2DModel (4 B) and AutoencoderKLFlux2 (32 channels)."""

    name = "flux2"
    base_folder = "FLUX.2-klein-base-4B"
    adapter_folder = "StrSR-flux"
    lora_targets = (
        "to_q",
        "to_k",
        "to_v",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "to_out",
        "to_out.0",
        "to_qkv_mlp_proj",
    )
    text_convention = TextConvention(thinking=False, layers=(9, 18, 27), keep_padding=True)
    width_key = "joint_attention_dim"
    most_tokens = MOST_TOKENS

    @staticmethod
    def classes() -> tuple[Any, Any]:
        """The classes (Flux2Transformer2DModel, AutoencoderKLFlux2)."""
        from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

        return Flux2Transformer2DModel, AutoencoderKLFlux2

    def encode_latents(self, lq_up: Tensor) -> Tensor:
        """Return packed, normalised latents (b, 4c, p, q) of (b, 3, H, W) in [0, 1]."""
        latents = self.encode_posterior(lq_up)  # (b, c, H/8, W/8)
        latents = F.pixel_unshuffle(latents, 2)  # (b, 4c, p, q): c, row, column
        mean, std = self.statistics()  # each (1, 4c, 1, 1)
        return (latents - mean) / std

    def velocity(self, latents: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """Return the velocity (b, 4c, p, q) of packed latents at sigma (b,) in [0, 1]."""
        rows, columns = latents.shape[-2:]
        dtype = input_dtype(self.dit)
        image_tokens = latents.flatten(2).transpose(1, 2)  # (b, n, 4c)
        with warnings.catch_warnings():
            # With float32 parameters under autocast torch remarks that its RMSNorm takes the slower kernel.
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
            velocity = self.dit(
                hidden_states=image_tokens.to(dtype),
                encoder_hidden_states=cond.to(dtype),
                timestep=sigma,
                img_ids=image_positions(rows, columns, latents.device),
                txt_ids=text_positions(cond.shape[1], latents.device),
                guidance=None,
                return_dict=False,
            )[0]  # (b, n, 4c)
        velocity = velocity.float().transpose(1, 2)  # (b, 4c, n)
        return velocity.unflatten(2, (rows, columns))  # type: ignore[no-any-return]  # (b, 4c, p, q)

    def decode_latents(self, latents: Tensor, lq_up: Tensor) -> Tensor:
        """Return the image (b, 3, H, W) near [0, 1] of latents (b, 4c, p, q); lq_up is not used."""
        mean, std = self.statistics()  # each (1, 4c, 1, 1)
        latents = F.pixel_shuffle(latents * std + mean, 2)  # (b, c, H/8, W/8)
        return self.decode_image(latents)  # (b, 3, H, W)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """The mean and standard deviation (1, 4c, 1, 1) of packed latents that the VAE's batch norm keeps."""
        norm: Any = self.vae.bn
        epsilon: float = self.vae.config.batch_norm_eps  # type: ignore[union-attr,assignment]
        # The device is not the VAE's: that may be waiting in main memory.
        mean, variance = (
            value.to(self.device, torch.float32).view(1, -1, 1, 1)
            for value in (norm.running_mean, norm.running_var)
        )
        return mean, torch.sqrt(variance + epsilon)


def image_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """The positions (rows * columns, 4) of image tokens: (0, row, column, 0), row by row."""
    row = torch.arange(rows, device=device).repeat_interleave(columns)  # (n,)
    column = torch.arange(columns, device=device).repeat(rows)  # (n,)
    zero = torch.zeros_like(row)  # (n,)
    return torch.stack([zero, row, column, zero], dim=1)  # (n, 4)


def text_positions(count: int, device: torch.device) -> Tensor:
    """The positions (count, 4) of the condition's tokens: (0, 0, 0, index)."""
    index = torch.arange(count, device=device)  # (count,)
    return F.pad(index[:, None], (3, 0))  # (count, 4)
