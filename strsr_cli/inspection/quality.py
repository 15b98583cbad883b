"""What papers measure of an output by its reference: PSNR, SSIM and LPIPS.

Everything but LPIPS goes band by band, so that a picture of any size fits the memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from strsr_models.errors import ImageError, WeightsError
from strsr_models.losses.perceptual import Lpips, hub_path
from strsr_models.spectrum.sample import report_by_bands, verdict_and_score

from ..images.color.restorer import network_input, to_tensor
from ..images.picture import Picture, visible_color

log = logging.getLogger(__name__)

LUMA, BLACK = (65.481, 128.553, 24.966), 16.0  # of BT.601, for colours in [0, 1]: 16 to 235
BAND = 512  # rows at a time
WINDOW = 11  # px: of SSIM
IN_ORDER = ("alex", "vgg", "squeeze")  # of networks of LPIPS, where none is asked for
SMALLEST_LPIPS = 32  # px a side that its networks can see


@dataclass(frozen=True)
class Quality:
    """How near an output is to its reference. None: not measured."""

    width: int
    height: int
    psnr_y: float  # dB; infinite for equal pictures
    psnr_rgb: float
    ssim_y: float | None
    lpips: float | None
    verdict: str | None  # on the grid of the output
    grid_db: float | None
    reference_grid_db: float | None


def measure(
    output: Picture, reference: Picture, names: tuple[str, str], border: int, lpips: Lpips | None
) -> Quality:
    """Compare two pictures of one size. border: px at each edge that do not count.

    Transparency is ignored. Raises ImageError for sizes that differ, and for a border that leaves nothing.
    """
    height, width = output.color.shape[:2]
    if reference.color.shape[:2] != (height, width):
        other = f"{reference.color.shape[1]}x{reference.color.shape[0]}"
        raise ImageError(
            f"{names[0]}: has {width}x{height} px, its reference {names[1]} {other}; nothing is resized"
        )
    if min(height, width) <= 2 * border:
        raise ImageError(f"{names[0]}: {width}x{height} px are too small for --border {border}")
    read = readers(output, reference)
    columns = slice(border, width - border)
    edges = (border, height - border)
    rgb, luma = squared_errors(read, edges, columns)
    word, score = grid_of(output)
    return Quality(
        width=width,
        height=height,
        psnr_y=psnr(luma),
        psnr_rgb=psnr(rgb),
        ssim_y=ssim(read, edges, columns) if has_ssim() else None,
        lpips=None if lpips is None else distance(lpips, read, edges, columns, names[0]),
        verdict=word,
        grid_db=score,
        reference_grid_db=grid_of(reference)[1],
    )


# Two rectangles of the same place, (1, 3, h, w) in [0, 1]: of the output, and of the reference.
Read = Callable[[slice, slice], tuple[Tensor, Tensor]]


def readers(output: Picture, reference: Picture) -> Read:
    """Return what reads both pictures: their own numbers where their profiles are the same, else both in sRGB."""
    if output.icc == reference.icc:
        return lambda rows, columns: (
            own_numbers(output, rows, columns),
            own_numbers(reference, rows, columns),
        )
    return lambda rows, columns: (
        network_input(output, rows, columns),
        network_input(reference, rows, columns),
    )


def own_numbers(picture: Picture, rows: slice, columns: slice) -> Tensor:
    """Return a rectangle of a picture as it is stored; gray as three equal channels."""
    return to_tensor(picture.color[rows, columns]).clamp(0, 1).expand(-1, 3, -1, -1)


def bands(edges: tuple[int, int], around: int = 0) -> Iterator[slice]:
    """Yield the rows between two edges in bands that overlap by twice `around` rows."""
    top, bottom = edges
    while top + 2 * around < bottom:
        end = min(bottom, top + BAND + 2 * around)
        yield slice(top, end)
        top = end - 2 * around


def to_luma(image: Tensor) -> Tensor:
    """Return the luma of BT.601 (1, h, w), 16 to 235, of (1, 3, h, w) in [0, 1]."""
    return BLACK + (image.double() * torch.tensor(LUMA, dtype=torch.float64).view(1, 3, 1, 1)).sum(1)


def squared_errors(read: Read, edges: tuple[int, int], columns: slice) -> tuple[float, float]:
    """Return the mean squared error over R, G and B, and that of luma, both of numbers up to 255."""
    rgb = luma = 0.0
    pixels = 0
    for rows in bands(edges):
        first, second = read(rows, columns)
        rgb += float((255 * (first.double() - second.double())).square().mean(1).sum())
        luma += float((to_luma(first) - to_luma(second)).square().sum())
        pixels += first.shape[-1] * first.shape[-2]
    return rgb / pixels, luma / pixels


def psnr(error: float) -> float:
    """Return the peak signal-to-noise ratio in dB of a mean squared error, with a peak of 255."""
    return 10 * math.log10(255**2 / error) if error else math.inf


def has_ssim() -> bool:
    """Whether scikit-image is installed."""
    return find_spec("skimage") is not None


def ssim(read: Read, edges: tuple[int, int], columns: slice) -> float | None:
    """Return the SSIM of luma with a Gaussian window of sigma 1.5 (Wang et al. 2004); None below its 11 px."""
    from skimage.metrics import structural_similarity

    width = columns.stop - columns.start
    if min(width, edges[1] - edges[0]) < WINDOW:
        return None
    total, rows_seen = 0.0, 0
    # Windows reach no further than a band, so that the bands' means make up that of the whole.
    for rows in bands(edges, around=WINDOW // 2):
        first, second = (to_luma(image)[0].numpy() for image in read(rows, columns))
        value = structural_similarity(
            first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        inner = first.shape[0] - WINDOW + 1
        total += float(value) * inner
        rows_seen += inner
    return total / rows_seen


def load_lpips(net: str, weights: Path | None) -> Lpips | None:
    """Load LPIPS by the name of its network; "none": None; "auto": the first whose weights are there, else None.

    weights: a file with torchvision's weights of that network. Raises WeightsError where a network that was named
    lacks its weights or its package. Nothing is downloaded.
    """
    if net == "none":
        return None
    if net != "auto":
        return Lpips(net, weights)
    if find_spec("lpips") is None:
        return None
    for name in IN_ORDER:
        if hub_path(name).is_file():
            try:
                return Lpips(name)
            except WeightsError as error:
                log.warning("%s", error)
    return None


@torch.inference_mode()
def distance(lpips: Lpips, read: Read, edges: tuple[int, int], columns: slice, name: str) -> float | None:
    """Return the LPIPS of two whole pictures; None where they are too small for its network, or for the memory."""
    rows = slice(*edges)
    if min(edges[1] - edges[0], columns.stop - columns.start) < SMALLEST_LPIPS:
        return None
    try:
        return float(lpips(*read(rows, columns)))
    except (MemoryError, torch.OutOfMemoryError):
        log.warning("%s: too large for LPIPS in the memory of this machine", name)
        return None


def grid_of(picture: Picture) -> tuple[str | None, float | None]:
    """Return the verdict on a picture's grid and its score in dB, as `strsr upscale --check-grid` has them."""
    color = visible_color(picture.color, picture.alpha)
    report = report_by_bands(
        (color.shape[0], color.shape[1]), lambda rows, columns: to_tensor(np.asarray(color[rows, columns]))
    )
    return verdict_and_score(report)
