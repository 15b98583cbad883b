"""The student's own kind of network as a trunk: the baseline that the asymmetric coach improves on."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..errors import UsageError
from ..networks.autoencoder import QuarterEncoder, StructuralEncoder
from ..networks.dit import DiT
from .frozen import FrozenNetwork


class DiTTrunk(FrozenNetwork):
    """The trunk from images to the hidden states of a frozen copy of lite's structural encoder and DiT.

    It sees an image as the student does, on the same patches, and so shares its blind spot.
    """

    embedding_channels = 0

    def __init__(
        self,
        structural_encoder: QuarterEncoder | StructuralEncoder,
        dit: DiT,
        maps: int = 4,
        timestep: float = 800.0,
    ) -> None:
        """Copy the networks, so that training the student does not move its judge.

        maps: how many blocks are tapped, evenly spaced, the last one among them.
        timestep: in [0, 1000], the same for every image; the one-step student is trained at 800.
        """
        super().__init__()
        depth = dit.config.depth
        if not 1 <= maps <= depth:
            raise UsageError(f"DiT trunk: {maps} maps of {depth} blocks; must lie between 1 and {depth}")
        self.structural_encoder = copy.deepcopy(structural_encoder)
        self.dit = copy.deepcopy(dit)
        self.blocks = [(number + 1) * depth // maps - 1 for number in range(maps)]
        self.timestep = timestep
        self.channels: tuple[int, ...] = (dit.config.width,) * maps
        self.multiple_of = structural_encoder.downscale * dit.config.patch_size
        self.freeze()

    def forward(self, image: Tensor) -> tuple[list[Tensor], None]:
        """Return maps (b, d, h/p, w/p), and None, of an image (b, 3, h, w) in [0, 1] with patches of p px.

        Sides are multiples of p. The DiT gets no semantic tokens: it does not learn what the picture shows.
        """
        b, _, h, w = image.shape
        if h % self.multiple_of or w % self.multiple_of:
            raise UsageError(f"DiT trunk: sides {h} x {w} must be multiples of {self.multiple_of} px")
        latents = self.structural_encoder(2 * image - 1)  # (b, c, h/4, w/4), or of 1/8
        timestep = torch.full((b,), self.timestep, device=image.device)  # (b,)
        tokens = latents.new_zeros(b, 0, self.dit.config.width)  # (b, 0, d)
        rows, columns = h // self.multiple_of, w // self.multiple_of
        states = self.dit.hidden_states(latents, timestep, tokens, self.blocks)  # each (b, n, d)
        maps = [
            state.transpose(1, 2).reshape(b, -1, rows, columns) for state in states
        ]  # each (b, d, h/p, w/p)
        return maps, None
