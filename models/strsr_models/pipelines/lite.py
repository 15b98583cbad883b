"""Lite: StrSR in small, with all its organs, made to run on a laptop.

Its conventions: latents come unscaled from its own structural encoder; the decoder gives detail
that is added to the bicubic enlargement, so that low frequencies cannot drift.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ..checkpoints.locations import CONFIG_NAME, WEIGHTS_NAME
from ..compute.devices import DTYPES
from ..config import to_dict
from ..encoders.lite import SemanticConfig, SemanticEncoder
from ..errors import UsageError
from ..networks.autoencoder import (
    BalancedShuffle,
    PyramidConfig,
    QuarterConfig,
    QuarterEncoder,
    StructuralEncoder,
    level,
    wide,
)
from ..networks.dit import DiT, DiTConfig
from ..networks.grain import grain
from ..networks.projector import Projector
from ..tiling.sizes import LARGEST_SCALE, LEAST_SCALE, SMALLEST_SCALE
from .base import OneStepPipeline

LARGEST_DETAIL = 1.5  # of an image in [0, 1]: 1, and room for what overshoots


def lite_dit() -> DiTConfig:
    """The DiT of the quarter shape: tokens of 32 output px, and no places in a patch to print."""
    return DiTConfig(64, patch_size=8, width=256, depth=6, heads=4, hidden=512, unpatchify="smooth")


@dataclass(frozen=True)
class LiteConfig:
    """The shape of the whole; the defaults are those of the embedded weights, but for grain."""

    sigma: float = 0.8  # where the one step starts; timestep = 1000 * sigma
    # The smallest enlargement that is made; a picture that is to be smaller is reduced from it.
    least_scale: float = LEAST_SCALE
    autoencoder: QuarterConfig | PyramidConfig = field(default_factory=QuarterConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    dit: DiTConfig = field(default_factory=lite_dit)

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 1:
            raise ValueError(f"sigma {self.sigma}: must lie in (0, 1]")
        if not SMALLEST_SCALE <= self.least_scale <= LARGEST_SCALE:
            raise ValueError(
                f"least_scale {self.least_scale}: must lie between {SMALLEST_SCALE} and {LARGEST_SCALE}"
            )
        if self.autoencoder.latent_channels != self.dit.latent_channels:
            raise UsageError(
                f"latent_channels differ: autoencoder {self.autoencoder.latent_channels}, "
                f"dit {self.dit.latent_channels}"
            )


def sound(detail: Tensor) -> Tensor:
    """Detail (b, 3, H, W) of images in [0, 1], none for those of which some is larger than any two pixels differ.

    A network can be unsteady on pictures unlike all that it has seen, and then one of them is better without detail.
    What is not finite stays so: it may be had in another precision.
    """
    largest = detail.abs().amax((1, 2, 3), keepdim=True)  # (b, 1, 1, 1)
    # Not by isfinite: OpenVINO 2025.2 cannot read again what it has compiled of that.
    is_unsound = (largest > LARGEST_DETAIL) & (largest < torch.inf)
    return torch.where(is_unsound, torch.zeros_like(detail), detail)


class LitePipeline(OneStepPipeline):
    """The embedded one-step diffusion transformer."""

    largest_tile = 544  # 1024 px in two tiles
    # Of what zero padding changes at tiles' borders two thirds are left, at no cost.
    smooth_feathers = True
    overlap = 64  # with 32 the tiles' zero padding showed as 0.18/255 at borders, with 64 as 0.07/255

    def __init__(self, config: LiteConfig) -> None:
        """Build all organs with random weights."""
        super().__init__()
        self.config = config
        self.sigma, self.least_scale = config.sigma, config.least_scale
        self.multiple_of = config.autoencoder.downscale * config.dit.patch_size
        organs: tuple[QuarterEncoder | StructuralEncoder, nn.Module] = config.autoencoder.build()
        self.structural_encoder, self.decoder = organs
        self.semantic_encoder = SemanticEncoder(config.semantic)
        self.projector = Projector(config.semantic.channels[-1], config.dit.width)
        self.dit = DiT(config.dit)
        # Copies with narrow weights by their precision; a dict, because they are no part of this module.
        self.narrow: dict[torch.dtype, LitePipeline] = {}

    def encode_condition(self, image: Tensor) -> Tensor:
        """Return semantic tokens (b, m, d) of the whole image (b, 3, h, w) in [0, 1]."""
        tokens = self.semantic_encoder(2 * self._fitted(image) - 1)  # (b, m, e)
        return self.projector(tokens)  # type: ignore[no-any-return]  # (b, m, d)

    def encode_latents(self, lq_up: Tensor) -> Tensor:
        """Return latents (b, c, H/4, W/4), in the pyramid's shape H/8 and W/8, of (b, 3, H, W) in [0, 1]."""
        return self.structural_encoder(2 * self._fitted(lq_up) - 1)  # type: ignore[no-any-return]  # (b, c, H/4, W/4)

    def velocity(self, latents: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """Return the velocity (b, c, h, w) of latents at sigma (b,) in [0, 1]."""
        return self.dit(self._fitted(latents), 1000 * sigma, self._fitted(cond))  # type: ignore[no-any-return]  # (b, c, h, w)

    def decode_latents(self, latents: Tensor, lq_up: Tensor) -> Tensor:
        """Return the enlarged image plus the decoder's detail, (b, 3, H, W)."""
        autoencoder = self.config.autoencoder
        inputs = [latents]
        if autoencoder.grain_maps:
            inputs.append(grain(lq_up, autoencoder.grain_maps, autoencoder.downscale))
        # The detail is halved: the decoder's range is 2 wide, the image's 1.
        detail: Tensor = wide(self.decoder(*map(self._fitted, inputs))) / 2  # (b, 3, H, W)
        return lq_up + (detail if self.training else sound(detail))

    def rounded(self) -> LitePipeline:
        """The copy that `settle` has made for the precision of autocast, or the pipeline itself."""
        kind = self.device.type
        narrow = self.narrow.get(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
        return narrow or self

    def settle(self, precision: str) -> None:
        """Round once the weights of layers that multiply, which autocast rounds to `precision` for each tile.

        Tiles take up to an eighth less on a CPU, and are the same. For weights in float32 that stay as they are.
        """
        dtype = DTYPES[precision]
        if dtype == torch.float32:
            return
        narrow = self.sharing_copy()
        for module in narrow.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | BalancedShuffle):
                for name, tensor in module.named_parameters(recurse=False):
                    setattr(module, name, nn.Parameter(tensor.to(dtype), requires_grad=False))
        self.narrow = {dtype: narrow}

    def sharing_copy(self) -> LitePipeline:
        """A copy whose modules are its own and whose parameters are the pipeline's; it computes by PyTorch."""
        shared: dict[int, Any] = {id(tensor): tensor for tensor in self.parameters()}
        return copy.deepcopy(self, shared | {id(self.backend): None, id(self.narrow): {}})

    def _fitted(self, tensor: Tensor) -> Tensor:
        """Return what goes into a network: float64 if its parameters are, else as it is."""
        return tensor.double() if next(self.parameters()).dtype == torch.float64 else tensor

    def widened(self) -> LitePipeline:
        """The pipeline itself, or a copy with parameters in float32 where some are of half precision.

        What keeps its precision under autocast (norms, residual sums) needs them so; it loses nothing.
        """
        halves = (torch.float16, torch.bfloat16)
        if all(parameter.dtype not in halves for parameter in self.parameters()):
            return self
        return copy.deepcopy(self).float()

    def condition(self, lq: Tensor, precision: str) -> Tensor:
        """Apply `encode_condition` as the base class does, also with parameters in half precision."""
        return OneStepPipeline.condition(self.widened(), lq, precision)

    @property
    def token_width(self) -> int:
        """The width d of the tokens of a condition."""
        return self.config.dit.width

    def attainable(self, target: Tensor, lq_up: Tensor) -> Tensor:
        """The target on the enlarged image's own level, where the decoder keeps to that."""
        cell = self.config.autoencoder.level_cell
        if not cell:
            return target
        return target - level(target - lq_up, cell)  # (b, 3, H, W)

    @property
    def tile_networks(self) -> list[nn.Module]:
        """The networks that see tiles: all but the semantic encoder, which sees whole pictures."""
        return [self.structural_encoder, self.dit, self.decoder]

    def fold(self) -> None:
        """Do once what does not depend on the picture; training undoes it."""
        for module in self.modules():
            if isinstance(module, BalancedShuffle):
                module.fold()

    def silence_semantics(self) -> None:
        """Make all semantic tokens zero from now on, in weights that are saved too; neither organ trains."""
        for parameter in self.projector[-1].parameters():
            nn.init.zeros_(parameter)
        self.projector.requires_grad_(False)
        self.semantic_encoder.requires_grad_(False)

    def train_decoder_alone(self) -> None:
        """Let nothing but the decoder train from now on: encoders and transformer keep what they know."""
        self.requires_grad_(False)
        self.decoder.requires_grad_(True)

    def coach_trunk(self, maps: int) -> nn.Module:
        """Return a frozen copy of structural encoder and DiT, tapped behind at most `maps` of its blocks."""
        from ..encoders.dit_trunk import DiTTrunk

        maps = min(maps, self.config.dit.depth)
        return DiTTrunk(self.structural_encoder, self.dit, maps, 1000 * self.sigma)

    def save(self, folder: Path, metadata: dict[str, str]) -> None:
        """Write config.json and model.safetensors (float16) into an existing folder."""
        config = {"family": "lite", **to_dict(self.config)}
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
        tensors = {
            name: value.detach().to("cpu", torch.float16).contiguous()
            for name, value in self.state_dict().items()
        }
        # The function save_file is not used: its files can be read by their owner alone.
        data = safetensors.torch.save(tensors, metadata={"format": "pt", **metadata})
        (folder / WEIGHTS_NAME).write_bytes(data)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Let the DiT's blocks compute their activations again in the backward pass, or not."""
        self.dit.checkpointing = enabled
