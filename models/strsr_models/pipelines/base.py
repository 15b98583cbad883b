"""OneStepPipeline: four verbs, their order, and the walk over tiles.

    cond    = encode_condition(lq)            once per picture, from the original low-quality image
    latents = encode_latents(lq_up)           then, tile by tile of the enlarged image:
    latents = denoise(latents, cond)          one call of the DiT
    hq      = decode_latents(latents, lq_up)

Images are (b, 3, h, w) in [0, 1] everywhere outside a family's own file.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .. import tiles
from ..devices import DTYPES, SAFER, autocast
from ..enlargement import See, within
from ..errors import UsageError, WeightsError
from ..memory import Room, within_memory
from ..sizes import output_size
from ..walk import Walk

log = logging.getLogger(__name__)

TileCallback = Callable[[int, int], None]  # (tiles done, tiles in all)


class OneStepPipeline(nn.Module, ABC):
    """A one-step restorer. A family implements the four verbs and states its sizes."""

    multiple_of: int  # output px: sides of what encode_latents takes are multiples of this
    largest_tile: int  # output px: tile side when the caller names none
    overlap: int  # output px: overlap of neighbouring tiles when the caller names none
    sigma: float  # where the one step starts
    exact_tiles: bool = False  # whether tiles are always of the size asked for, or may be fitted to a picture

    @abstractmethod
    def encode_condition(self, image: Tensor) -> Tensor:
        """Semantic tokens (b, m, d) of a whole low-quality image (b, 3, h, w) in [0, 1]."""

    @abstractmethod
    def encode_latents(self, lq_up: Tensor) -> Tensor:
        """Latents (b, c, H/8, W/8), in some families packed smaller, of an enlarged image (b, 3, H, W)."""

    @abstractmethod
    def velocity(self, latents: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """Velocity of latents at sigma (b,) in [0, 1], shaped as the latents: one call of the DiT."""

    def denoise(self, latents: Tensor, cond: Tensor, steps: int = 1) -> Tensor:
        """Restored latents, by equal Euler steps from `self.sigma` to 0.

        One step, latents - sigma * velocity, is what one-step students are taught. More are for
        weights that have learnt the velocity at every sigma (`strsr train`, stage flow).
        """
        for number in range(steps):
            sigma = torch.full((len(latents),), self.sigma * (1 - number / steps), device=latents.device)
            latents = latents - self.sigma / steps * self.velocity(latents, sigma, cond)
        return latents

    @abstractmethod
    def decode_latents(self, latents: Tensor, lq_up: Tensor) -> Tensor:
        """Image (b, 3, H, W), near [0, 1] but not clamped, of restored latents.

        lq_up: what the latents came from, for families whose decoder adds detail to it.
        """

    def restore(self, lq_up: Tensor, cond: Tensor, steps: int = 1) -> Tensor:
        """One enlarged image or tile (b, 3, H, W) in [0, 1] to its restored counterpart."""
        latents = self.encode_latents(lq_up)
        latents = self.denoise(latents, cond, steps)
        return self.decode_latents(latents, lq_up)

    def forward(self, lq_up: Tensor, picture: Tensor) -> Tensor:
        """All four verbs on crops of pictures, as training calls them: (b, 3, H, W) in [0, 1] to the same.

        picture (b, 3, h, w): what each crop is part of, low-quality as the crop is.
        """
        return self.restore(lq_up, self.encode_condition(picture))

    def attainable(self, target: Tensor, lq_up: Tensor) -> Tensor:
        """What of a target (b, 3, H, W) in [0, 1] the pipeline can give from an enlarged image; here: all of it."""
        return target

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def native_precision(self) -> str:
        """Name of the parameters' precision: fp32, bf16 or fp16."""
        dtype = next(self.parameters()).dtype
        return next(name for name, known in DTYPES.items() if known == dtype)

    def computing(self, precision: str) -> contextlib.AbstractContextManager[None]:
        """A context in which the verbs compute in `precision`; parameters in float32 are autocast."""
        return autocast(self.device, precision)

    @property
    def tile_networks(self) -> list[nn.Module]:
        """The networks that see tiles, whose shape may always be the same: worth compiling."""
        return list(self.children())

    def compile(self, *args: object, **options: object) -> None:
        """Compile the networks that see tiles, by torch.compile; done at their first tile, which takes a minute."""
        for network in self.tile_networks:
            network.compile(*args, **{"dynamic": False, **options})

    def prepare_training(self, rank: int = 256) -> None:
        """Let everything train that this family trains, and freeze the rest; here: train all of it.

        rank: of the adapter, in families that train one.
        """
        self.requires_grad_(True).train()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimiser of this pipeline steps on."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @abstractmethod
    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Whether large parts compute their activations again in the backward pass: less memory, more time."""

    def trainable_state(self) -> dict[str, Tensor]:
        """Every trainable parameter by name, detached but not copied."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    @torch.inference_mode()
    def upscale(
        self,
        lq: Tensor,
        scale: float = 4,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        precision: str | None = None,
        steps: int = 1,
        on_tile: TileCallback | None = None,
        cond: Tensor | None = None,
    ) -> Tensor:
        """Enlarge images (b, 3, h, w) in [0, 1] to (b, 3, round(h * scale), round(w * scale)).

        tile: largest side of a tile in output px, rounded up to `multiple_of`; None: `largest_tile`
        or less, such that tiles fit the image. overlap: of neighbouring tiles in output px.
        precision: "fp32", "bf16" or "fp16"; a tile that is not finite is done again in a safer one.
        None: the parameters' own. steps: see `denoise`. on_tile: called with (done, all) after each tile. cond: what
        `encode_condition(lq)` gave, where that was done before. The result is on the device of `lq`.
        """
        check_image(lq)
        precision = precision or self.native_precision
        walk = self.walk(within(lq), (lq.shape[-2], lq.shape[-1]), scale, tile, overlap)
        if cond is None:
            cond = self.look(lq, precision)
        room = Room(self.tiles_at_once)
        hq = lq.new_empty((*lq.shape[:-2], walk.height, walk.width))
        redone = 0
        for start in range(0, len(walk.tiles), room.batch):
            numbers = range(start, min(start + room.batch, len(walk.tiles)))
            views = [walk.view(number) for number in numbers]
            restored = self.restore_tiles(views, [cond] * len(views), precision, steps, room)
            for number, (pixels, used) in zip(numbers, restored, strict=True):
                redone += used != precision
                for top, left, final in walk.add(number, pixels):
                    n, m = final.shape[-2:]
                    hq[..., top : top + n, left : left + m] = final
                if on_tile is not None:
                    on_tile(number + 1, len(walk.tiles))
        if redone:
            log.warning(
                "%d of %d tiles were not finite in %s: computed again", redone, len(walk.tiles), precision
            )
        return hq

    def walk(
        self,
        see: See,
        size: tuple[int, int],
        scale: float,
        tile: int | None = None,
        overlap: int | None = None,
        *,
        one_shape: bool = False,
    ) -> Walk:
        """The tiles of a picture of `size` = (h, w) px, whose rectangles `see` gives; see `upscale`.

        one_shape: tiles of all pictures have the same, square shape, so that they can share batches and what
        was compiled; else each picture has tiles that waste least of it. Where tiles are exact they have one shape
        anyhow, but for pictures with a shorter side, which is taken whole.
        """
        target = output_size(*size, scale)
        height, width = (-(-side // self.multiple_of) * self.multiple_of for side in target)
        if one_shape and not self.exact_tiles:
            side, overlap = self.square_tile(tile, overlap)
            canvas, shape = (max(height, side), max(width, side)), (side, side)
        else:
            canvas = height, width
            shape, overlap = self.tile_shape(height, width, tile, overlap)
        return Walk(see, size, target, canvas, shape, overlap, self.device)

    def look(self, lq: Tensor, precision: str) -> Tensor:
        """`encode_condition` of (b, 3, h, w), wherever that is, in `precision` or a safer one."""
        return self._finite(self.encode_condition, precision, lq.to(self.device))[0]

    @property
    def tiles_at_once(self) -> int:
        """How many tiles `restore_tiles` is given at once when nobody says."""
        return 1

    def restore_tiles(
        self, views: list[Tensor], conds: list[Tensor], precision: str, steps: int, room: Room
    ) -> list[tuple[Tensor, str]]:
        """Each tile restored, and the precision that made it finite.

        views: tiles (b, 3, H, W) of one shape, wherever they are, of the same or of different pictures. conds:
        of each, all of one shape. room: how many are computed at once; made smaller where memory does not suffice.
        On a CPU tiles are computed one by one: it costs no time there, and keeps float32 the same to the last bit.
        """

        def restore(some_views: list[Tensor], some_conds: list[Tensor]) -> list[tuple[Tensor, str]]:
            return self.restore_together(some_views, some_conds, precision, steps)

        return within_memory(restore, views, conds, room, self.multiple_of, self.overlap)

    def restore_together(
        self, views: list[Tensor], conds: list[Tensor], precision: str, steps: int
    ) -> list[tuple[Tensor, str]]:
        """As `restore_tiles`, in one batch."""
        step = partial(self.restore, steps=steps)
        if len(views) > 1 and self.device.type != "cpu":
            sizes = [len(view) for view in views]
            with self.computing(precision):
                batch = torch.cat([self.placed(view) for view in views])
                together = step(batch, torch.cat([cond.to(self.device) for cond in conds])).float()
            if bool(torch.isfinite(together).all()):
                return [(restored, precision) for restored in torch.split(together, sizes)]
        return [
            self._finite(step, precision, self.placed(view), cond.to(self.device))
            for view, cond in zip(views, conds, strict=True)
        ]

    def placed(self, view: Tensor) -> Tensor:
        """A tile where the networks compute."""
        return view.to(self.device, memory_format=torch.channels_last)

    def tile_shape(
        self, height: int, width: int, tile: int | None, overlap: int | None
    ) -> tuple[tuple[int, int], int]:
        """The shape (height, width) of all tiles of a padded image, and their overlap."""
        side, overlap = self.square_tile(tile, overlap)
        if tile is not None or self.exact_tiles:
            return (min(side, height), min(side, width)), overlap
        h, w = (tiles.fit_tile(length, side, overlap, self.multiple_of) for length in (height, width))
        return (h, w), overlap

    def square_tile(self, tile: int | None, overlap: int | None) -> tuple[int, int]:
        """The largest side of tiles and their overlap, from what the caller names."""
        side = -(-(tile or self.largest_tile) // self.multiple_of) * self.multiple_of
        if overlap is None:
            return side, min(self.overlap, side // 2)
        if not 0 <= overlap <= side // 2:
            raise UsageError(f"--overlap {overlap}: must be between 0 and half of the tile, {side // 2} px")
        return side, overlap

    def _finite(self, step: Callable[..., Tensor], precision: str, *inputs: Tensor) -> tuple[Tensor, str]:
        """step(*inputs) in `precision` or the first safer one whose result is finite, and which."""
        while True:
            with self.computing(precision):
                result = step(*inputs).float()
            if bool(torch.isfinite(result).all()):
                return result, precision
            if precision not in SAFER:
                raise WeightsError(
                    "the network's output is not finite even in float32: its weights are damaged"
                )
            precision = SAFER[precision]


def check_image(lq: Tensor) -> None:
    """Raise UsageError unless lq is a float (b, 3, h, w) with at least one pixel."""
    if lq.ndim != 4 or lq.shape[1] != 3 or 0 in lq.shape or not lq.is_floating_point():
        raise UsageError(f"expected a float tensor (b, 3, h, w) in [0, 1], got {lq.dtype} {tuple(lq.shape)}")
