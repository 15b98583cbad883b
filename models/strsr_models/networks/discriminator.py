"""The coach: a frozen trunk that the student does not resemble, with small trainable heads.

A discriminator of the student's own kind shares its blind spots, its patch lattice among them. The
trunk is therefore another network's (encoders/convnext.py, encoders/features.py), and only heads on
its maps and its embedding learn to tell real from restored.

Letters: b batch, c channels of a map, h w its size, e channels of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import UsageError

if TYPE_CHECKING:
    # The module typing has it from Python 3.11 on.
    from typing_extensions import Self


SLOPE = 0.2  # of every LeakyReLU

Trunk = Callable[[Tensor], tuple[list[Tensor], Tensor | None]]  # image in [0, 1] -> maps, embedding


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The shape of the heads, by what trunks state as `channels` and `embedding_channels`."""

    channels: tuple[int, ...]  # of each map, one head for each
    embedding_channels: int = 0  # 0: no embedding, no head on it
    hidden: int = 512  # width of every head

    def __post_init__(self) -> None:
        if min(self.hidden, *self.channels, 1) < 1 or self.embedding_channels < 0:
            raise ValueError(f"channels {self.channels}, hidden {self.hidden}: must be at least 1")
        if not self.channels and not self.embedding_channels:
            raise ValueError("neither a map nor an embedding to put a head on")


class BlurPool(nn.Module):
    """The filter [1, 2, 1] x [1, 2, 1] / 16 in front of a convolution with stride 2 (arXiv 1904.11486).

    It does not subsample by itself: the stride is the convolution's. Borders are repeated, which
    works down to one pixel, where a reflection would not.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", line[:, None] * line, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Blur a map (b, c, h, w); the result has the same shape."""
        channels = x.shape[1]
        weights = self.kernel.to(x).expand(channels, 1, 3, 3)  # (c, 1, 3, 3)
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")  # (b, c, h+2, w+2)
        return F.conv2d(x, weights, groups=channels)  # (b, c, h, w)


def map_head(channels: int, hidden: int) -> nn.Sequential:
    """Make a head on a map: (b, c, h, w) -> logits (b, 1, h/4, w/4), rounded up."""
    return nn.Sequential(
        BlurPool(),
        spectral_norm(nn.Conv2d(channels, hidden, 3, stride=2, padding=1)),
        nn.LeakyReLU(SLOPE),
        BlurPool(),
        spectral_norm(nn.Conv2d(hidden, 1, 1, stride=2)),
    )


def embedding_head(channels: int, hidden: int) -> nn.Sequential:
    """Make a head on the pooled embedding: (b, e) -> logits (b, 1)."""
    return nn.Sequential(
        spectral_norm(nn.Linear(channels, hidden)),
        nn.LeakyReLU(SLOPE),
        spectral_norm(nn.Linear(hidden, 1)),
    )


class Discriminator(nn.Module):
    """The heads: all that is trained of a coach, and all that a checkpoint has to keep.

    Spectral norms are estimated by one power iteration in each forward pass in train mode; the
    vectors are buffers, saved with the weights, so that a resumed run repeats a straight one.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.on_maps = nn.ModuleList(map_head(channels, config.hidden) for channels in config.channels)
        self.on_embedding = (
            embedding_head(config.embedding_channels, config.hidden) if config.embedding_channels else None
        )

    def forward(self, maps: Sequence[Tensor], embedding: Tensor | None = None) -> list[Tensor]:
        """Return a list of logits: (b, 1, h_i/4, w_i/4) per map, rounded up, then (b, 1) of the embedding.

        maps: (b, c_i, h_i, w_i), any size from 1 x 1. embedding: (b, e) if the config has one.
        Float32 inside autocast: a bfloat16 power iteration would not settle.
        Raises UsageError for maps or an embedding that the heads were not built for.
        """
        self._check(maps, embedding)
        device = maps[0].device if maps else embedding.device  # type: ignore[union-attr]
        with torch.autocast(device.type, enabled=False):
            # Each is (b, 1, h_i/4, w_i/4).
            logits: list[Tensor] = [head(x.float()) for head, x in zip(self.on_maps, maps, strict=True)]
            if self.on_embedding is not None and embedding is not None:
                logits.append(self.on_embedding(embedding.float()))  # (b, 1)
        return logits

    def _check(self, maps: Sequence[Tensor], embedding: Tensor | None) -> None:
        """Raise UsageError unless maps and embedding have the channels that the heads were built for."""
        shapes = [tuple(x.shape) for x in maps]
        if tuple(shape[1] for shape in shapes if len(shape) == 4 and 0 not in shape) != self.config.channels:
            raise UsageError(
                f"discriminator: its heads are on maps of {self.config.channels} channels, got {shapes}; "
                "a map without pixels means that the crop is too small for the trunk"
            )
        channels = 0 if embedding is None else embedding.shape[-1]
        if channels != self.config.embedding_channels:
            raise UsageError(
                f"discriminator: expected an embedding of {self.config.embedding_channels} channels, "
                f"got {channels}"
            )


class Coach(nn.Module):
    """A frozen trunk with trainable heads: images to logits.

    Save `coach.heads.state_dict()`: the trunk is rebuilt from its own file. Train
    `coach.heads.parameters()`. The gradient of a fake's logits passes through the trunk to the image.
    """

    def __init__(self, trunk: nn.Module, heads: Discriminator) -> None:
        """Freeze the trunk: image (b, 3, h, w) in [0, 1] -> (maps, embedding or None)."""
        super().__init__()
        self.trunk = trunk.requires_grad_(False).eval()
        self.heads = heads

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the logits of an image (b, 3, h, w) in [0, 1], one tensor per head."""
        maps, embedding = self.trunk(image)  # each (b, c_i, h_i, w_i), and (b, e) or None
        return self.heads(maps, embedding)  # type: ignore[no-any-return]  # (b, 1, h_i/4, w_i/4), (b, 1)

    def train(self, mode: bool = True) -> Self:
        """Set the heads' mode; the trunk, with its BatchNorm statistics, stays in eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self
