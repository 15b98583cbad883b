"""Small lites of random weights that change a picture well, without a training."""

from __future__ import annotations

import torch

from strsr_models.encoders.lite import SemanticConfig
from strsr_models.networks.autoencoder import QuarterConfig
from strsr_models.networks.dit import DiTConfig
from strsr_models.pipelines.lite import LiteConfig, LitePipeline


def quarter(decoder_blocks: int = 1) -> LiteConfig:
    """The embedded shape in tiny: tiles are multiples of 16 px, cells are larger, so that most are padded inside."""
    return LiteConfig(
        autoencoder=QuarterConfig(
            8, encoder_blocks=1, decoder_blocks=decoder_blocks, level_cell=32, grain_maps=4
        ),
        semantic=SemanticConfig(short_side=32, channels=(8, 8, 16, 16), grid=2),
        dit=DiTConfig(8, patch_size=4, width=32, depth=1, heads=2, hidden=32, unpatchify="smooth"),
    )


def made(config: LiteConfig, noise: float = 0.05) -> LitePipeline:
    """A pipeline whose random start is moved by `noise`."""
    torch.manual_seed(0)
    pipeline = LitePipeline(config).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in pipeline.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    pipeline.fold()
    return pipeline
