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
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import tiles
from ..devices import DTYPES, SAFER, autocast
from ..errors import UsageError, WeightsError
from ..sizes import output_size

log = logging.getLogger(__name__)

TileCallback = Callable[[int, int], None]  # (tiles done, tiles in all)


class OneStepPipeline(nn.Module, ABC):
    """A one-step restorer. A family implements the four verbs and states its sizes."""

    multiple_of: int  # output px: sides of what encode_latents takes are multiples of this
    largest_tile: int  # output px: tile side when the caller names none
    overlap: int  # output px: overlap of neighbouring tiles when the caller names none
    sigma: float  # where the one step starts

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
        height, width = output_size(lq.shape[-2], lq.shape[-1], scale)
        lq_up = enlarge(lq, height, width)
        lq_up = reflect_pad(lq_up, self.multiple_of)
        shape, overlap = self.tile_shape(lq_up.shape[-2], lq_up.shape[-1], tile, overlap)

        precision = precision or self.native_precision
        if cond is None:
            cond, _ = self._finite(self.encode_condition, precision, lq.to(self.device))
        cond = cond.to(self.device)
        plan = tiles.plan(lq_up.shape[-2], lq_up.shape[-1], shape, overlap)
        blender = tiles.Blender(lq_up, shape, overlap)
        redone = 0
        views = [lq_up[(..., *rectangle.slices)] for rectangle in plan]
        for done, (restored, used) in enumerate(self.restore_tiles(views, cond, precision, steps), start=1):
            redone += used != precision
            blender.add(plan[done - 1], restored.clamp(0, 1))
            if on_tile is not None:
                on_tile(done, len(plan))
        if redone:
            log.warning("%d of %d tiles were not finite in %s: computed again", redone, len(plan), precision)
        return blender.image[..., :height, :width].clamp(0, 1)

    def restore_tiles(
        self, views: list[Tensor], cond: Tensor, precision: str, steps: int
    ) -> Iterator[tuple[Tensor, str]]:
        """Each tile restored, in order, and the precision that made it finite.

        views: of the enlarged image (b, 3, H, W), wherever it is.
        """
        for view in views:
            yield self._finite(partial(self.restore, steps=steps), precision, self.placed(view), cond)

    def placed(self, view: Tensor) -> Tensor:
        """A tile where the networks compute."""
        return view.to(self.device, memory_format=torch.channels_last)

    def tile_shape(
        self, height: int, width: int, tile: int | None, overlap: int | None
    ) -> tuple[tuple[int, int], int]:
        """The shape (height, width) of all tiles of a padded image, and their overlap."""
        if tile is not None:
            tile = -(-tile // self.multiple_of) * self.multiple_of
            overlap = min(self.overlap, tile // 2) if overlap is None else overlap
            if not 0 <= overlap <= tile // 2:
                raise UsageError(
                    f"--overlap {overlap}: must be between 0 and half of the tile, {tile // 2} px"
                )
            return (min(tile, height), min(tile, width)), overlap
        overlap = self.overlap if overlap is None else overlap
        if not 0 <= overlap <= self.largest_tile // 2:
            raise UsageError(f"--overlap {overlap}: must be between 0 and {self.largest_tile // 2} px")
        h, w = (
            tiles.fit_tile(side, self.largest_tile, overlap, self.multiple_of) for side in (height, width)
        )
        return (h, w), overlap

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


def enlarge(image: Tensor, height: int, width: int) -> Tensor:
    """Bicubic enlargement without antialias, clamped to [0, 1]: the step that does the scaling."""
    enlarged = F.interpolate(image, (height, width), mode="bicubic", align_corners=False)
    return enlarged.clamp(0, 1)


def reflect_pad(image: Tensor, multiple_of: int) -> Tensor:
    """Extend (b, c, h, w) to the right and below to multiples, by reflection, again if too small."""
    h, w = image.shape[-2:]
    if h % multiple_of == 0 and w % multiple_of == 0:
        return image
    rows = _reflection(h, -(-h // multiple_of) * multiple_of).to(image.device)
    columns = _reflection(w, -(-w // multiple_of) * multiple_of).to(image.device)
    return image[..., rows, :][..., columns]


def _reflection(length: int, total: int) -> Tensor:
    """Indices 0..length-1, length-2..0, 1.. and so on, `total` of them."""
    period = max(2 * (length - 1), 1)
    index = torch.arange(total) % period
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)
