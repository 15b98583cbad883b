"""The base of all pipelines: four verbs, their order, and the walk over tiles.

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
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..compute.devices import SAFER, autocast, check_precision, native_precision
from ..compute.surroundings import own_surroundings
from ..errors import ImageError, UsageError, WeightsError
from ..tiling import tiles
from ..tiling.enlargement import ReadRectangle, rectangles_of
from ..tiling.memory import MemoryBudget, release
from ..tiling.sizes import output_size
from ..tiling.walk import TiledPicture
from .inputs import NOT_FINITE, check_cond, check_image, check_steps, check_tile, is_finite

log = logging.getLogger(__name__)

TileCallback = Callable[[int, int], None]  # takes (tiles done, tiles in all)


class TileBackend(Protocol):
    """What computes `restore` in place of PyTorch."""

    def restore(self, lq_up: Tensor, cond: Tensor, steps: int = 1) -> Tensor:
        """Restore tiles as the pipeline's own `restore` does, in the precision that autocast says."""


class OneStepPipeline(nn.Module, ABC):
    """A one-step restorer. A family implements the four verbs and states its sizes."""

    multiple_of: int  # output px: sides of what encode_latents takes are multiples of this
    largest_tile: int  # output px: tile side when the caller names none
    overlap: int  # output px: overlap of neighbouring tiles when the caller names none
    sigma: float  # where the one step starts
    # Networks make pictures as many times larger, at least; what is to be smaller is reduced from that.
    least_scale: float = 1.0
    backend: TileBackend | None = None  # what restores tiles; None: PyTorch
    smooth_feathers: bool = False  # whether tiles cross-fade smoothly; linearly, as the released method does
    exact_tiles: bool = False  # whether tiles are always of the size asked for, or may be fitted to a picture

    @abstractmethod
    def encode_condition(self, image: Tensor) -> Tensor:
        """Return semantic tokens (b, m, d) of a whole low-quality image (b, 3, h, w) in [0, 1]."""

    @abstractmethod
    def encode_latents(self, lq_up: Tensor) -> Tensor:
        """Return latents (b, c, h', w'), smaller by a factor of the family, of an image (b, 3, H, W) in [0, 1]."""

    @abstractmethod
    def velocity(self, latents: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        """Return the velocity of latents at sigma (b,) in [0, 1], shaped as they are: one call of the DiT."""

    def denoise(self, latents: Tensor, cond: Tensor, steps: int = 1) -> Tensor:
        """Return restored latents, by equal Euler steps from `self.sigma` to 0.

        One step, latents - sigma * velocity, is what one-step students are taught. More are for
        weights that have learnt the velocity at every sigma (`strsr train`, stage flow). Raises UsageError
        for less than one.
        """
        steps = check_steps(steps)
        for number in range(steps):
            sigma = torch.full(
                (len(latents),),
                self.sigma * (1 - number / steps),
                device=latents.device,
                dtype=torch.float32,
            )
            latents = latents - self.sigma / steps * self.velocity(latents, sigma, cond)
        return latents

    @abstractmethod
    def decode_latents(self, latents: Tensor, lq_up: Tensor) -> Tensor:
        """Return the image (b, 3, H, W), near [0, 1] but not clamped, of restored latents.

        lq_up: what the latents came from, for families whose decoder adds detail to it.
        """

    def restore(self, lq_up: Tensor, cond: Tensor, steps: int = 1) -> Tensor:
        """Restore one enlarged image or tile (b, 3, H, W) in [0, 1]; the result has the same shape."""
        network = self.rounded()
        latents = network.encode_latents(lq_up)  # (b, c, h', w')
        latents = network.denoise(latents, cond, steps)  # (b, c, h', w')
        return network.decode_latents(latents, lq_up)  # (b, 3, H, W)

    def forward(self, lq_up: Tensor, picture: Tensor) -> Tensor:
        """Apply all four verbs to crops (b, 3, H, W) in [0, 1] of pictures, as training does; keeps the shape.

        picture (b, 3, h, w): what each crop is part of, low-quality as the crop is.
        """
        return self.restore(lq_up, self.encode_condition(picture))

    def attainable(self, target: Tensor, lq_up: Tensor) -> Tensor:
        """The part of a target (b, 3, H, W) in [0, 1] that can be made from an enlarged image; here: all."""
        return target

    @property
    def device(self) -> torch.device:
        """The device on which the parameters are."""
        return next(self.parameters()).device

    @property
    def native_precision(self) -> str:
        """The name of the parameters' precision: fp32 (float64 as well), bf16 or fp16.

        Raises WeightsError for parameters that nothing is computed in, such as whole numbers.
        """
        if self.device.type == "meta":
            raise WeightsError("the weights are on the meta device, which holds no values")
        return native_precision(self.parameters())

    @property
    @abstractmethod
    def token_width(self) -> int:
        """The width d of the tokens of a condition."""

    def computing(self, precision: str) -> contextlib.AbstractContextManager[None]:
        """A context in which the verbs compute in `precision`; parameters in float32 are autocast.

        Raises UsageError for a precision that is unknown.
        """
        return autocast(self.device, precision)

    @property
    def tile_networks(self) -> list[nn.Module]:
        """The networks that see tiles, whose shape may always be the same: worth compiling."""
        return list(self.children())

    def compile(self, *args: object, **options: object) -> None:
        """Compile the networks that see tiles by torch.compile; their first tile then takes a minute."""
        for network in self.tile_networks:
            network.compile(*args, **{"dynamic": False, **options})

    def prepare_training(self, rank: int = 256) -> None:
        """Let everything train that this family trains, and freeze the rest; here: train all of it.

        rank: of the adapter, in families that train one.
        """
        # It knows the weights as they were.
        self.backend = None
        self.requires_grad_(True).train()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that an optimiser of this pipeline steps on."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def training_condition(self, lq_up: Tensor, picture: Tensor) -> Tensor:
        """The images (b, 3, h, w) that `encode_condition` sees in training: crops lq_up or pictures around them.

        Here they are the pictures, as when whole pictures are restored.
        """
        return picture

    def coach_trunk(self, maps: int) -> nn.Module:
        """Return a frozen copy of the pipeline's own networks, to judge it by; it has at most `maps` maps.

        Raises UsageError in families without one.
        """
        raise UsageError("coach=dit: a copy of the student as its own judge is made for lite only")

    def silence_semantics(self) -> None:
        """Do without semantic tokens for good, an ablation. Raises UsageError in families that cannot."""
        raise UsageError("semantic_tokens=false: is an ablation of lite only")

    def train_decoder_alone(self) -> None:
        """Let nothing but the decoder train from now on. Raises UsageError in families that do not train theirs."""
        raise UsageError("trains=decoder: is for lite only, which trains its own")

    @abstractmethod
    def save(self, folder: Path, metadata: dict[str, str]) -> None:
        """Write what `load_pipeline(..., weights=folder)` takes into an existing folder."""

    @abstractmethod
    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Compute activations of large parts again in the backward pass, or not: less memory, more time."""

    def trainable_state(self) -> dict[str, Tensor]:
        """The trainable parameters by name, detached but not copied."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

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
        None: the parameters' own. steps: see `denoise`. on_tile: called with (done, all) after each tile.
        cond: what `encode_condition(lq)` gave, where that was done before.

        The result is an ordinary tensor without a gradient, on the device and of the type of `lq`. What the
        caller has set for this thread, such as autocast or inference mode, does not count. Raises UsageError
        for arguments that make no sense, ImageError for pixels that are not finite, WeightsError for weights
        that give no picture.
        """
        check_image(lq)
        check_steps(steps)
        check_tile(tile, overlap)
        native = self.native_precision
        precision = native if precision is None else precision
        check_precision(precision)
        if cond is not None:
            check_cond(cond, len(lq), self.token_width)
        size = lq.shape[-2], lq.shape[-1]
        with own_surroundings(self.device):
            lq = lq.detach()
            network = self.widened()
            tiled = self.tiled(rectangles_of(lq), size, scale, tile=tile, overlap=overlap)
            cond = network.condition(lq, precision) if cond is None else cond.detach().float()
            budget = MemoryBudget(self.tiles_at_once)
            hq = lq.new_empty((*lq.shape[:-2], tiled.height, tiled.width))
        redone = 0
        for start in range(0, len(tiled.tiles), budget.batch):
            numbers = range(start, min(start + budget.batch, len(tiled.tiles)))
            with own_surroundings(self.device):
                views = [tiled.view(number) for number in numbers]
                restorations = network.restore_tiles(
                    views, [cond] * len(views), precision=precision, steps=steps, budget=budget
                )
                for number, (pixels, tile_precision) in zip(numbers, restorations, strict=True):
                    redone += tile_precision != precision
                    tiles.paste(hq, tiled.add(number, pixels))
            # The callback has the surroundings that it was given with.
            if on_tile is not None:
                for number in numbers:
                    on_tile(number + 1, len(tiled.tiles))
        if redone:
            log.warning(
                "%d of %d tiles were not finite in %s: computed again", redone, len(tiled.tiles), precision
            )
        return hq

    def tiled(
        self,
        read: ReadRectangle,
        size: tuple[int, int],
        scale: float,
        tile: int | None = None,
        overlap: int | None = None,
        *,
        one_shape: bool = False,
    ) -> TiledPicture:
        """The tiles of a picture of `size` = (h, w) px, whose rectangles `read` gives; see `upscale`.

        one_shape: tiles of all pictures have the same, square shape, so that they can share batches and what
        was compiled; else each picture has tiles that waste least of it. Where tiles are exact they have one
        shape anyhow, but for pictures with a shorter side, which is taken whole.
        """
        target = output_size(*size, scale)
        made = target if scale >= self.least_scale else output_size(*size, self.least_scale)
        height, width = (-(-side // self.multiple_of) * self.multiple_of for side in made)
        if one_shape and not self.exact_tiles:
            side, overlap = self.square_tile(tile, overlap)
            canvas, shape = (max(height, side), max(width, side)), (side, side)
        else:
            canvas = height, width
            shape, overlap = self.tile_shape(height, width, tile, overlap)
        return TiledPicture(
            read=read,
            size=size,
            made=made,
            target=target,
            canvas=canvas,
            shape=shape,
            overlap=overlap,
            device=self.device,
            smooth=self.smooth_feathers,
        )

    def widened(self) -> OneStepPipeline:
        """The pipeline that computes: itself, or a copy with wider parameters where a family needs them so."""
        return self

    def rounded(self) -> OneStepPipeline:
        """The pipeline that restores tiles: itself, or a copy whose weights are autocast's already."""
        return self

    def condition(self, lq: Tensor, precision: str) -> Tensor:
        """Apply `encode_condition` to (b, 3, h, w) of any floats, wherever that is, in `precision` or a safer one."""
        return self.until_finite(self.encode_condition, precision, lq.to(self.device, torch.float32))[0]

    @property
    def tiles_at_once(self) -> int:
        """The number of tiles that `restore_tiles` is given at once when nobody says."""
        return 1

    def restore_tiles(
        self, views: list[Tensor], conds: list[Tensor], precision: str, steps: int, budget: MemoryBudget
    ) -> list[tuple[Tensor, str]]:
        """Restore each tile, and tell the precision that made it finite.

        views: tiles (b, 3, H, W) of one shape, wherever they are, of the same or of different pictures. conds:
        the condition of each, all of one shape. budget: how many are computed at once; where memory does not
        suffice, fewer are, and then smaller ones, without losing what is done. On a CPU tiles are computed one
        by one: it costs no time there, and keeps float32 the same to the last bit.
        """
        restorations: list[tuple[Tensor, str]] = []
        while len(restorations) < len(views):
            first = len(restorations)
            if budget.too_large(views[first]):
                restorations.append(
                    self.restore_cut(
                        views[first], conds[first], precision=precision, steps=steps, budget=budget
                    )
                )
                continue
            batch = slice(first, first + budget.batch)
            with budget.shrinking(views[batch], self.multiple_of):
                restorations += self.restore_together(views[batch], conds[batch], precision, steps)
            if len(restorations) == first:
                release()
        return restorations

    def restore_cut(
        self, view: Tensor, cond: Tensor, precision: str, steps: int, budget: MemoryBudget
    ) -> tuple[Tensor, str]:
        """Restore one tile (b, 3, H, W) by smaller ones that the budget allows; see `restore_tiles`."""
        assert budget.tile is not None
        height, width = view.shape[-2:]
        overlap = min(self.overlap, budget.tile // 2)
        shape = min(budget.tile, height), min(budget.tile, width)
        whole, used = torch.empty_like(view), precision
        blender = tiles.Blender(height, width, shape, overlap)
        for number, tile in enumerate(tiles.plan(height, width, shape, overlap)):
            part = view[(..., *tile.slices)]
            ((restored, part_precision),) = self.restore_tiles(
                [part], [cond], precision=precision, steps=steps, budget=budget
            )
            if part_precision != precision:
                used = part_precision
            tiles.paste(whole, blender.add(number, restored))
        return whole, used

    def restore_together(
        self, views: list[Tensor], conds: list[Tensor], precision: str, steps: int
    ) -> list[tuple[Tensor, str]]:
        """Restore tiles as `restore_tiles` does, in one batch."""
        step = partial((self.backend or self).restore, steps=steps)
        if len(views) > 1 and self.device.type != "cpu":
            sizes = [len(view) for view in views]
            with self.computing(precision):
                batch = torch.cat([self.placed(view) for view in views])  # (b, 3, H, W)
                cond_batch = torch.cat([cond.to(self.device) for cond in conds])  # (b, m, d)
                together = step(batch, cond_batch).float()  # (b, 3, H, W)
            if bool(torch.isfinite(together).all()):
                return [(restored, precision) for restored in torch.split(together, sizes)]
        return [
            self.until_finite(step, precision, self.placed(view), cond.to(self.device))
            for view, cond in zip(views, conds, strict=True)
        ]

    def placed(self, view: Tensor) -> Tensor:
        """Return a tile on the device where the networks compute, laid out as they want it."""
        if self.backend is not None:
            return view.to(self.device)
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
        """The largest side of tiles and their overlap, in output px, from what the caller names."""
        side = -(-(tile or self.largest_tile) // self.multiple_of) * self.multiple_of
        if overlap is None:
            return side, min(self.overlap, side // 2)
        if not 0 <= overlap <= side // 2:
            raise UsageError(f"--overlap {overlap}: must be between 0 and half of the tile, {side // 2} px")
        return side, overlap

    def until_finite(
        self, step: Callable[..., Tensor], precision: str, *inputs: Tensor
    ) -> tuple[Tensor, str]:
        """Compute step(*inputs) in `precision` or the first safer one that is finite; returns also which.

        inputs: an image, and what else the step takes. Raises ImageError where the image is not finite itself.
        """
        while True:
            with self.computing(precision):
                result = step(*inputs).float()
            if is_finite(result):
                return result, precision
            if not is_finite(inputs[0]):
                raise ImageError(f"the image: {NOT_FINITE}")
            if not all(map(is_finite, inputs)):
                raise UsageError("cond: some of its numbers are not finite")
            if precision not in SAFER:
                raise WeightsError(
                    "the network's output is not finite even in float32: its weights are damaged"
                )
            precision = SAFER[precision]
