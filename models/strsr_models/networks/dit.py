"""The diffusion transformer: latents and semantic tokens in, velocity out.

What is special about it: one modulation network for all blocks (adaLN-single, PixArt-alpha,
arXiv 2310.00426, section 2.3), RMS-normalised queries and keys (arXiv 2302.05442), SwiGLU
feed-forwards with a depthwise convolution (arXiv 2002.05202, 2410.10629), and 2-D rotary positions
(arXiv 2104.09864) on half of each head, so that the network runs on any tile size and the other
half of the head matches by content alone.

The step from tokens to a velocity map is the screen door's origin. `unpatchify = "patch"` is the usual way: a
linear layer with weights of its own for each place in a patch, which prints the grid of the patches.
"smooth" gives one vector per token, enlarged bilinearly and mixed by one convolution, which has
no places in a patch to tell apart.

Letters: b batch, c latent channels, h w latent pixels, p patch size, n image tokens,
m semantic tokens, d width, k heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..errors import nearest
from .autoencoder import enlarge, wide

TIME_CHANNELS = 256  # of the sinusoids
MOST_SCORES = 2**20  # of queries and keys at once: what a CPU's cache holds, without new memory
UNPATCHIFY = ("patch", "smooth")
GATE = 0.25  # how far the gates of a new network are open


@dataclass(frozen=True)
class DiTConfig:
    """The shape of the transformer."""

    latent_channels: int = 32
    patch_size: int = 2  # latent pixels per token side
    width: int = 256
    depth: int = 8
    heads: int = 4
    hidden: int = 512  # of each SwiGLU feed-forward
    unpatchify: str = "patch"  # or smooth: tokens to velocity, see above

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "unpatchify" and value < 1:
                raise ValueError(f"{name} {value}: must be at least 1")
        if self.unpatchify not in UNPATCHIFY:
            raise ValueError(
                f"unpatchify {self.unpatchify!r}: unknown; {nearest(self.unpatchify, UNPATCHIFY)}"
            )
        if self.width % (8 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of 8 x heads ({self.heads})")


def timestep_embedding(timestep: Tensor, channels: int) -> Tensor:
    """Return sinusoidal features (b, channels) of timesteps (b,) in [0, 1000]."""
    half = channels // 2
    steps = torch.arange(half, device=timestep.device, dtype=torch.float32)  # (channels/2,)
    angles = timestep.float()[:, None] * torch.exp(-math.log(10_000) * steps / half)  # (b, channels/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # (b, channels)


def rotary_angles(rows: int, columns: int, channels: int, device: torch.device) -> Tensor:
    """Return angles (rows * columns, channels / 2): half of them turn with the row, half with the column.

    Frequencies fall from 1 to 1/32 radian per token: positions a few hundred tokens apart stay
    distinct, and no frequency is so slow that a larger tile than any seen in training is far
    outside of what was learnt.
    """
    per_axis = channels // 4
    exponent = torch.arange(per_axis, device=device, dtype=torch.float32) / max(per_axis - 1, 1)
    frequency = 32.0**-exponent  # (channels/4,)
    row = torch.arange(rows, device=device, dtype=torch.float32)[:, None] * frequency
    column = torch.arange(columns, device=device, dtype=torch.float32)[:, None] * frequency
    # Each is (rows, columns, channels/4).
    grid = [row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)]
    return torch.cat(grid, dim=-1).flatten(0, 1)  # (rows*columns, channels/2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first channels of x (b, k, n, d/k) by angles, given as cos and sin (n, a); 2a channels turn."""
    turning = 2 * cos.shape[-1]
    even, odd = x[..., :turning:2], x[..., 1:turning:2]  # each (b, k, n, a)
    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)  # (b, k, n, a, 2)
    return torch.cat([pairs.flatten(-2), x[..., turning:]], dim=-1)  # (b, k, n, d/k)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax attention of q, k, v, each (b, k, n, d/k), scaled by the root of the last size.

    PyTorch's fused kernel for CPUs takes more than twice as long in bfloat16 as the products it is made of.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v)  # (b, k, n, d/k)
    step = max(1, MOST_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    keys = k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (b, k, d/k, n)
    parts = [(queries @ keys).softmax(-1) @ v for queries in torch.split(q, step, dim=2)]
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]  # (b, k, n, d/k)


def is_recorded() -> bool:
    """Whether what is computed here is recorded, for sizes of all kinds and for whoever knows how to do it fast."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def cut_patches(latents: Tensor, side: int) -> Tensor:
    """Return the patches of `side` px of latents (b, c, h, w), row by row, (b, n, c*side*side).

    Where no gradient is wanted of latents that are channels_last, by one copy, in two fifths of PyTorch's time.
    """
    is_placed = latents.is_contiguous(memory_format=torch.channels_last)
    if torch.is_grad_enabled() or is_recorded() or not is_placed:
        return F.pixel_unshuffle(latents, side).flatten(2).transpose(1, 2)
    b, c, h, w = latents.shape
    cells = latents.permute(0, 2, 3, 1).reshape(b, h // side, side, w // side, side, c)
    return cells.permute(0, 1, 3, 5, 2, 4).reshape(b, -1, c * side**2)


class Attention(nn.Module):
    """Self-attention over image and semantic tokens together."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        head = config.width // config.heads
        self.to_qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_norm = nn.RMSNorm(head, eps=1e-6)
        self.k_norm = nn.RMSNorm(head, eps=1e-6)
        self.to_out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Let tokens x (b, n+m, d) see each other, at rotary cos and sin (n+m, a); returns (b, n+m, d)."""
        b, n, d = x.shape
        qkv = self.to_qkv(x).view(b, n, 3, self.heads, d // self.heads)  # (b, n+m, 3, k, d/k)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (b, k, n+m, d/k)
        q = rotate(self.q_norm(wide(q)), cos, sin).to(v.dtype)  # (b, k, n+m, d/k)
        k = rotate(self.k_norm(wide(k)), cos, sin).to(v.dtype)  # (b, k, n+m, d/k)
        out = attend(q, k, v)  # (b, k, n+m, d/k)
        out = out.transpose(1, 2).reshape(b, n, d)  # (b, n+m, d)
        return self.to_out(out)  # type: ignore[no-any-return]  # (b, n+m, d)


class FeedForward(nn.Module):
    """A SwiGLU on features that have seen their neighbours: the Mix-FFN of SANA (arXiv 2410.10629).

    Attention alone learns slowly what a convolution knows from the start, that near tokens matter most.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.w_in = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.near = nn.Conv2d(2 * config.hidden, 2 * config.hidden, 3, padding=1, groups=2 * config.hidden)
        self.w_out = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Map tokens x (b, n+m, d), the first n = rows * columns of them in a grid, to the same shape."""
        b, n = len(x), rows * columns
        x = self.w_in(x)  # (b, n+m, 2 hidden)
        # The grid is channels_last, without a copy.
        grid = x[:, :n].transpose(1, 2).reshape(b, -1, rows, columns)  # (b, 2 hidden, rows, columns)
        grid = self.near(grid).flatten(2).transpose(1, 2)  # (b, n, 2 hidden)
        gate, value = torch.cat([grid, x[:, n:]], dim=1).chunk(2, dim=-1)  # each (b, n+m, hidden)
        return self.w_out(F.silu(gate) * value)  # type: ignore[no-any-return]  # (b, n+m, d)


@dataclass(frozen=True)
class Place:
    """The place of image tokens in a tile: the grid's shape, and rotary cos and sin (n+m, head/4)."""

    rows: int
    columns: int
    cos: Tensor
    sin: Tensor


class Block(nn.Module):
    """A block of attention and feed-forward, each scaled and gated by the timestep.

    No biases and no shifts: they all add one vector to every token, which grew until the
    normalisations left nothing of what distinguishes tokens.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(config)
        self.norm2 = nn.RMSNorm(config.width, eps=1e-6, elementwise_affine=False)
        self.feed_forward = FeedForward(config)
        # This block's own offset to the modulation that all blocks share (adaLN-single).
        self.modulation = nn.Parameter(torch.zeros(4, config.width))

    def forward(self, x: Tensor, shared: Tensor, place: Place) -> Tensor:
        """Map tokens x (b, n+m, d), float32, to the same shape under the modulation shared (b, 4, d)."""
        scale1, gate1, scale2, gate2 = (shared + self.modulation).chunk(4, dim=1)  # each (b, 1, d)
        # The residual sum stays in float32 under autocast: float16 would overflow first here.
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1), place.cos, place.sin)
        near = self.feed_forward(self.norm2(x) * (1 + scale2), place.rows, place.columns)  # (b, n+m, d)
        return x + gate2 * near  # type: ignore[no-any-return]  # (b, n+m, d)


class DiT(nn.Module):
    """The network that predicts the velocity of latents at a timestep, given semantic tokens."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        # Whether blocks are computed again in the backward pass instead of kept.
        self.checkpointing = False
        patch_channels = config.latent_channels * config.patch_size**2
        self.patch_in = nn.Linear(patch_channels, config.width)
        self.time_in = nn.Sequential(nn.Linear(TIME_CHANNELS, config.width), nn.SiLU())
        self.time_out = nn.Linear(config.width, 4 * config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm_out = nn.RMSNorm(config.width, eps=1e-6)
        smooth = config.unpatchify == "smooth"
        self.patch_out = nn.Linear(config.width, config.latent_channels if smooth else patch_channels)
        self.mix = nn.Conv2d(config.latent_channels, config.latent_channels, 3, padding=1) if smooth else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw Xavier weights; velocity starts at zero, branches start small, neighbours nearly unseen."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)
                with torch.no_grad():
                    module.weight[:, :, 1, 1] += 1
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.time_out.weight)
        with torch.no_grad():
            self.time_out.bias.view(4, -1)[[1, 3]] = GATE
        nn.init.zeros_(self.patch_out.weight)
        if self.mix is not None:
            # The convolution starts as nearly the identity.
            nn.init.normal_(self.mix.weight, std=0.1 / (9 * self.mix.in_channels) ** 0.5)
            with torch.no_grad():
                self.mix.weight[:, :, 1, 1] += torch.eye(self.mix.in_channels)

    def forward(self, latents: Tensor, timestep: Tensor, tokens: Tensor) -> Tensor:
        """Return the velocity (b, c, h, w) of latents (b, c, h, w) at timestep (b,) in [0, 1000].

        tokens: semantic tokens (b, m, d). h and w are multiples of the patch size.
        """
        p = self.config.patch_size
        h, w = latents.shape[-2:]
        (x,) = self.hidden_states(latents, timestep, tokens, [len(self.blocks) - 1])  # (b, n, d)
        velocity = self.patch_out(self.norm_out(x))  # (b, n, c*p*p), or (b, n, c) if smooth
        velocity = wide(velocity).transpose(1, 2)  # (b, c*p*p or c, n)
        velocity = velocity.unflatten(2, (h // p, w // p))  # type: ignore[no-untyped-call]  # (b, c*p*p or c, h/p, w/p)
        if self.mix is None:
            return F.pixel_shuffle(velocity, p)  # (b, c, h, w)
        velocity = enlarge(velocity, p)  # (b, c, h, w)
        return self.mix(velocity)  # type: ignore[no-any-return]  # (b, c, h, w)

    def hidden_states(
        self, latents: Tensor, timestep: Tensor, tokens: Tensor, blocks: list[int]
    ) -> list[Tensor]:
        """Return image tokens (b, n, d), row by row, behind each of `blocks`, ascending indices.

        Blocks behind the last of them do not run. The other arguments are those of `forward`.
        """
        p = self.config.patch_size
        rows, columns = latents.shape[-2] // p, latents.shape[-1] // p
        patches = cut_patches(latents, p)  # (b, n, c*p*p)
        x = wide(torch.cat([self.patch_in(patches), tokens], dim=1))  # (b, n+m, d)

        head = self.config.width // self.config.heads
        angles = rotary_angles(rows, columns, head // 2, latents.device)  # (n, head/4)
        # Semantic tokens have no place in the tile: angle 0, and positions of their own inside.
        angles = F.pad(angles, (0, 0, 0, tokens.shape[1]))  # (n+m, head/4)
        place = Place(rows, columns, angles.cos(), angles.sin())
        # One-step training shows one timestep only, so that all weights of these layers move together.
        # Divided by their widths, a step of Adam moves a gate as far as any weight; undivided, gates ran
        # away by a twentieth per step, and blocks came to add one vector to every token.
        embedding = timestep_embedding(timestep, TIME_CHANNELS) / TIME_CHANNELS**0.5  # (b, TIME_CHANNELS)
        if x.dtype == torch.float64:
            embedding = embedding.double()
        time = self.time_in(embedding) / self.config.width**0.5  # (b, d)
        shared = wide(self.time_out(time)).unflatten(-1, (4, -1))  # type: ignore[no-untyped-call]  # (b, 4, d)
        states = []
        for number, block in enumerate(self.blocks[: blocks[-1] + 1]):
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, shared, place, use_reentrant=False)  # (b, n+m, d)
            else:
                x = block(x, shared, place)  # (b, n+m, d)
            if number in blocks:
                states.append(x[:, : rows * columns])  # (b, n, d)
        return states
