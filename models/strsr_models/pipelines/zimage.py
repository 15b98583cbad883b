"""Z-Image-Turbo as a one-step restorer (StrSR, arXiv 2603.06275).

Its conventions: latents go into the transformer as the VAE gives them, neither shifted nor scaled;
time runs from noise at 0 to image at 1; the output is the velocity with the opposite sign; the
decoder's latents are divided by the VAE's scaling factor and shifted.

Letters: b batch, c latent channels, H W pixels, h w latent pixels (H/8, W/8), m tokens, d width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..compute.half_precision import input_dtype
from ..encoders.text import TextConvention
from ..errors import WeightsError
from .pretrained import PretrainedPipeline


class ZImagePipeline(PretrainedPipeline):
    """The one-step restorer on diffusers' ZImageTransformer2DModel (6 B) and AutoencoderKL (16 channels)."""

    name = "zimage"
    base_folder = "Z-Image-Turbo"
    adapter_folder = "StrSR-zimage"
    lora_targets = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "feed_forward.w1",
        "feed_forward.w2",
        "feed_forward.w3",
    )
    text_convention = TextConvention(thinking=True, layers=(-2,), keep_padding=False)
    width_key = "cap_feat_dim"

    @staticmethod
    def classes() -> tuple[Any, Any]:
        """The classes (ZImageTransformer2DModel, AutoencoderKL)."""
        from diffusers import AutoencoderKL, ZImageTransformer2DModel

        return ZImageTransformer2DModel, AutoencoderKL

    def encode_latents(self, lq_up: Tensor) -> Tensor:
        """Return latents (b, c, h, w) of (b, 3, H, W) in [0, 1], unscaled."""
        return self.encode_posterior(lq_up)  # (b, c, h, w)

    def velocity(self, latents: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """Return the velocity (b, c, h, w) of latents at sigma (b,) in [0, 1]."""
        # The family's time runs the other way: 0.2 for the one step.
        time = 1 - sigma  # (b,)
        dtype = input_dtype(self.dit)
        images = list(latents.to(dtype).unsqueeze(2).unbind(0))  # b times (c, 1, h, w)
        captions = list(cond.to(dtype).unbind(0))  # b times (m, d)
        output = self.dit(images, time, captions)[0]  # b times (c, 1, h, w)
        return -torch.stack(output).squeeze(2).float()  # (b, c, h, w)

    def decode_latents(self, latents: Tensor, lq_up: Tensor) -> Tensor:
        """Return the image (b, 3, H, W) near [0, 1] of latents (b, c, h, w); lq_up is not used."""
        config: Any = self.vae.config
        if not config.scaling_factor:
            raise WeightsError(
                f"{self.base_folder}/vae/config.json: scaling_factor is {config.scaling_factor}, expected a number but 0"
            )
        # A null in the file, which is diffusers' own default, means no shift.
        shift = config.shift_factor or 0
        return self.decode_image(latents / config.scaling_factor + shift)  # (b, 3, H, W)
