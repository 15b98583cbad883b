"""The Upscaler: a network loaded once, for many pictures, from as many threads as there are."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast, overload

import numpy as np
from PIL import Image
from torch import Tensor

from strsr_cli.batch.target_size import TargetSize
from strsr_cli.images.color.restorer import fill_transparent, network_input
from strsr_cli.images.formats import MAX_PIXELS, PNG_COMPRESSION, QUALITY, check_fits, check_pixels
from strsr_cli.images.picture import Picture
from strsr_cli.images.rows import RowLayout
from strsr_cli.images.write import EncodeSettings, write_image
from strsr_cli.setup.hub_weights import local_weights
from strsr_cli.system.atomic import whole_file
from strsr_cli.upscale.options import UpscaleOptions, resolve_options
from strsr_cli.upscale.request import check_request
from strsr_cli.upscale.restoration import (
    Reduction,
    Restoration,
    are_of_one_shape,
    begin,
    fit_batch,
    warn_of_redone,
)
from strsr_models.checkpoints.locations import weights_folder
from strsr_models.compute.surroundings import own_surroundings
from strsr_models.errors import ImageError, UsageError
from strsr_models.pipelines.inputs import check_image
from strsr_models.tiling.memory import MemoryBudget

from .loading import check_numbers, load
from .pictures import Given, layout_without_metadata, output_kind, picture_of
from .sizes import SIZE_NAMES, factor_of, reduced_tensor, resolve_size

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Settings, Size, SizeAndSettings

log = logging.getLogger(__name__)

Name = str | os.PathLike[str]
Pixels = TypeVar("Pixels", Image.Image, np.ndarray, Tensor)
OnTile = Callable[[int, int], None]  # takes (tiles done, tiles in all)


def _weights_folder(weights: Name | None) -> Path | None:
    """The folder that weights mean: one of weights or of a run, or `hf:owner/name[@revision]`."""
    folder = None if weights is None else local_weights(Path(weights))
    return None if folder is None else weights_folder(folder)


class Upscaler:
    """A model that has been loaded, to enlarge any number of images with.

    Several threads may use one Upscaler at a time. What it makes has the very pixels of the command
    `strsr upscale` with the options of the same names.
    """

    def __init__(
        self,
        model: str = "lite",
        *,
        weights: Name | None = None,
        device: str = "auto",
        precision: str = "auto",
        tile: int | None = None,
        overlap: int | None = None,
        steps: int = 1,
        fidelity: float = 0.0,
        draft: bool = False,
        batch: int | None = None,
        compile: bool = False,
        backend: str = "auto",
        quality: int = QUALITY,
        png_compression: int = PNG_COMPRESSION,
        strip: bool = False,
        max_pixels: int = MAX_PIXELS,
        models_dir: Name | None = None,
        conditioning: str | None = None,
        prompt: str | None = None,
        lora_scale: float | None = None,
        offload: str | None = None,
        quantize: str | None = None,
    ) -> None:
        """Load a model onto a device; for the arguments see `Settings`.

        Raises UsageError for settings that make no sense, WeightsError for weights that are missing or do
        not fit, DeviceError for a device that is not there.
        """
        big = resolve_options(
            model,
            [],
            models_dir=None if models_dir is None else Path(models_dir),
            conditioning=conditioning,
            prompt=prompt,
            lora_scale=lora_scale,
            offload=offload,
            quantize=quantize,
        )
        self.options = UpscaleOptions(
            size=TargetSize(),
            model=model,
            weights=_weights_folder(weights),
            tile=tile,
            overlap=overlap,
            device=device,
            precision=precision,
            quality=quality,
            steps=steps,
            fidelity=fidelity,
            draft=draft,
            strip=strip,
            max_pixels=max_pixels,
            batch=batch,
            compile=compile,
            backend=backend,
            png_compression=png_compression,
            big=big,
        )
        check_numbers(self.options)
        check_request(self.options)
        self.pipeline, self.precision = load(self.options)
        if compile:
            self.pipeline.compile()
        self.budget = MemoryBudget(batch or self.pipeline.tiles_at_once)
        self._fitting = threading.Lock()
        self._batches_fitted = batch is not None or self.pipeline.device.type != "cuda"

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or another process needs: all but the lock, of which each has its own."""
        return {name: value for name, value in vars(self).items() if name != "_fitting"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become what `__getstate__` gave."""
        vars(self).update(state, _fitting=threading.Lock())

    @overload
    def upscale(
        self,
        image: Pixels,
        scale: float | None = None,
        *,
        output: None = None,
        on_tile: OnTile | None = None,
        **size: Unpack[Size],
    ) -> Pixels: ...

    @overload
    def upscale(
        self,
        image: Name,
        scale: float | None = None,
        *,
        output: None = None,
        on_tile: OnTile | None = None,
        **size: Unpack[Size],
    ) -> Image.Image: ...

    @overload
    def upscale(
        self,
        image: Name | Image.Image | np.ndarray,
        scale: float | None = None,
        *,
        output: Name,
        on_tile: OnTile | None = None,
        **size: Unpack[Size],
    ) -> Path: ...

    def upscale(
        self,
        image: Any,
        scale: float | None = None,
        *,
        output: Name | None = None,
        on_tile: OnTile | None = None,
        **size: Unpack[Size],
    ) -> Any:
        """Enlarge an image `scale` times, 1 to 16, and return what was given: round(side * scale) px a side.

        Without `scale` it is four times, or the size that `size` asks for: longest, shortest, width, height
        or megapixels (see `Size`).

        image: the path of a file, for which a Pillow image is returned; a Pillow image; an array (h, w) or
        (h, w, 1 to 4) of uint8, uint16 or floats; a tensor (3, h, w) or (b, 3, h, w) of floats in [0, 1].
        output: a file to write instead, whose path is returned; its suffix says the format, and a file of
        that name is replaced once the new one is whole. on_tile: called with (tiles done, tiles in all)
        after each tile, in the calling thread; what it raises ends this image alone.
        Raises ImageError for an image that cannot be read, enlarged or written, or is larger already than
        its answer would be, UsageError for arguments that make no sense.
        """
        target_size = resolve_size(scale, size)
        if isinstance(image, Tensor):
            if output is not None:
                raise UsageError("output: a tensor has no place in a file; give an array (h, w, c) instead")
            return self._upscale_tensor(image, target_size, on_tile)
        target = None if output is None else Path(output)
        kind = None if target is None else output_kind(target, image)
        given = picture_of(image, self.options.max_pixels)
        picture = fill_transparent(given.picture)
        height, width = given.picture.color.shape[:2]
        check_pixels(height, width, self.options.max_pixels, given.name)
        factor = factor_of(target_size, height, width, given.name)
        if kind is not None:
            check_fits(kind, *target_size.output_size(height, width))
        work: Restoration | Reduction
        if factor < 1:
            work = Reduction(picture, target_size.output_size(height, width))
            bands = work.rows()
        else:
            with own_surroundings(self.pipeline.device):
                work = self._begin(picture, factor)
            bands = self._rows(work, on_tile, given.name)
        layout = work.layout(given.picture.metadata)
        if self.options.strip:
            layout = layout_without_metadata(layout)
        if target is None or kind is None:
            return given.give_back(layout, stacked(layout, bands))
        self._write(given, target, kind, layout, bands)
        return target

    def _upscale_tensor(self, image: Tensor, size: TargetSize, on_tile: OnTile | None) -> Tensor:
        """Enlarge (3, h, w) or (b, 3, h, w); the answer is on the device and of the type of the image."""
        images = image[None] if image.ndim == 3 else image
        check_image(images)
        height, width = images.shape[-2:]
        factor = factor_of(size, height, width, "the image")
        if factor < 1:
            smaller = reduced_tensor(images, size.output_size(height, width))
            return smaller[0] if image.ndim == 3 else smaller
        large = self.pipeline.upscale(
            images,
            factor,
            tile=self.options.tile,
            overlap=self.options.overlap,
            precision=self.precision,
            steps=self.options.steps,
            on_tile=on_tile,
        )
        return large[0] if image.ndim == 3 else large

    def _begin(self, picture: Picture, scale: float) -> Restoration:
        """Cut a picture into tiles, and let the networks see the whole of it."""
        # What the large models look at is never reduced.
        is_lite = self.options.big is None
        cond = None if is_lite else self.pipeline.condition(network_input(picture), self.precision)
        restoration = begin(
            self.pipeline,
            picture,
            scale,
            self.precision,
            tile=self.options.tile,
            overlap=self.options.overlap,
            one_shape=are_of_one_shape(self.options, self.pipeline.device),
            cond=cond,
        )
        with self._fitting:
            if not self._batches_fitted:
                self._batches_fitted = True
                fit_batch(
                    self.pipeline, self.budget, restoration, self.precision, self.options.steps, threads=1
                )
        return restoration

    def _rows(self, restoration: Restoration, on_tile: OnTile | None, name: str) -> Iterator[np.ndarray]:
        """Yield rows of the output (n, W, channels) from the top, as their tiles are computed."""
        done = redone = 0
        while done < restoration.tiles:
            numbers = range(done, min(done + self.budget.batch, restoration.tiles))
            # Not around the whole: a generator would leave its surroundings to whom it yields to.
            with own_surroundings(self.pipeline.device):
                views = [restoration.tiled.view(number) for number in numbers]
                conds = [restoration.cond] * len(views)
                tiles = self.pipeline.restore_tiles(
                    views, conds, self.precision, self.options.steps, self.budget
                )
            for number, (restored, precision) in zip(numbers, tiles, strict=True):
                redone += precision != self.precision
                with own_surroundings(self.pipeline.device):
                    rows = [
                        restoration.output_rows(top, part.cpu())
                        for top, part in restoration.add(number, restored)
                    ]
                yield from rows
                done += 1
                if on_tile is not None:
                    on_tile(done, restoration.tiles)
        warn_of_redone(name, redone, restoration.tiles, self.precision)

    def _write(
        self, given: Given, target: Path, kind: str, layout: RowLayout, bands: Iterator[np.ndarray]
    ) -> None:
        """Write rows into a file, whole or not at all. Raises ImageError, and whatever the rows raise."""
        settings = EncodeSettings(self.options.quality, self.options.png_compression)
        try:
            with whole_file(target) as file:
                write_image(cast(BinaryIO, file), kind, layout, bands, settings)
        except ImageError as error:
            raise ImageError(f"{given.name}: {error}") from error
        except OSError as error:
            raise ImageError(f"{target}: cannot be written: {error.strerror or error}") from error


@overload
def upscale(
    image: Pixels,
    scale: float | None = None,
    *,
    output: None = None,
    on_tile: OnTile | None = None,
    **settings: Unpack[SizeAndSettings],
) -> Pixels: ...


@overload
def upscale(
    image: Name,
    scale: float | None = None,
    *,
    output: None = None,
    on_tile: OnTile | None = None,
    **settings: Unpack[SizeAndSettings],
) -> Image.Image: ...


@overload
def upscale(
    image: Name | Image.Image | np.ndarray,
    scale: float | None = None,
    *,
    output: Name,
    on_tile: OnTile | None = None,
    **settings: Unpack[SizeAndSettings],
) -> Path: ...


def upscale(
    image: Any,
    scale: float | None = None,
    *,
    output: Name | None = None,
    on_tile: OnTile | None = None,
    **settings: Unpack[SizeAndSettings],
) -> Any:
    """Load a model and enlarge one image; see `Upscaler.upscale`, and for the settings `Upscaler`.

    The model is loaded at each call: to enlarge more than one image, make an Upscaler.
    """
    size = {name: value for name, value in settings.items() if name in SIZE_NAMES}
    own = {name: value for name, value in settings.items() if name not in SIZE_NAMES}
    # Sizes that make no sense are refused before the model is loaded.
    resolve_size(scale, cast("Size", size))
    upscaler = Upscaler(**cast("Settings", own))
    return upscaler.upscale(image, scale, output=output, on_tile=on_tile, **cast("Size", size))


def stacked(layout: RowLayout, bands: Iterator[np.ndarray]) -> np.ndarray:
    """Gather rows into an array (height, width, channels)."""
    pixels = np.empty((layout.height, layout.width, layout.channels), layout.dtype)
    top = 0
    for rows in bands:
        pixels[top : top + len(rows)] = rows
        top += len(rows)
    return pixels
