"""The measurements of `strsr fft-inspect` on one image: its lattice, its spectrum, and how it differs from a reference.

Letters: h w pixels, s side of a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from strsr_models.errors import ImageError
from strsr_models.losses.fdl import FrequencyDistributionLoss
from strsr_models.spectrum import (
    ROUNDING,
    LatticeReport,
    Peak,
    inspect_lattice,
    power_spectrum,
    radial_profile,
    verdict,
)
from strsr_models.spectrum.blocks import one_channel, starts
from strsr_models.spectrum.sample import finite
from strsr_models.spectrum.survey import LEAST_PERIODS

from .notes import lattice_note

SIDE = 256  # px: of the blocks that the drawn spectrum is averaged over, at most
BLOCKS = 16  # in a row and in a column, at most: enough to draw from, however large the image
SLOPE_RANGE = (0.02, 0.2)  # cycles per pixel in which the fall of the spectrum is fitted
NATURAL_SLOPE = -2.0  # of photos: power falls as frequency to this power, 6 dB an octave
FDL_SIDE, FDL_PROJECTIONS = 256, 32  # px of the crop that is compared, and directions
HIGH = 0.25  # cycles per pixel above which the energy is called high-frequency
CHANNELS = {"luma": "luma", "r": "red", "g": "green", "b": "blue"}  # by the names of --channel
SEAMS_ONLY = "none: seams only"  # jumps at the borders of cells, with nothing in the spectrum


@dataclass(frozen=True)
class Comparison:
    """The comparison of an image with its reference."""

    name: str
    resized_from: tuple[int, int] | None  # (w, h) of the reference, where it had another size
    excess: tuple[float, ...]  # dB per period, of the reference
    profile_db: np.ndarray  # radial profile of the reference, at the image's frequencies
    fdl: float  # of the pixels themselves, without a feature network
    high_energy: float  # power above HIGH, image over reference; nan where the reference has none


@dataclass(frozen=True)
class Inspection:
    """The measurements of one image."""

    name: str
    width: int
    height: int
    crop: tuple[int, int, int, int] | None
    channel: str
    report: LatticeReport  # its region counts from the whole image's corner
    verdict: str
    frequency: np.ndarray  # cycles per pixel, of profile_db
    profile_db: np.ndarray
    slope: float  # of the power, as a power of the frequency; nan where it cannot be fitted
    spectrum: np.ndarray  # (s, s) dB, centred: mean log-power of blocks
    against: Comparison | None = None

    @property
    def score(self) -> float:
        """The largest excess of all periods in dB."""
        return max(finite(self.report.excess))

    @property
    def strongest(self) -> Peak | None:
        """The peak that stands out most."""
        return max(self.report.peaks, key=lambda peak: peak.excess, default=None)

    @property
    def note(self) -> str:
        """A note on where else the lattice may come from, or on what is none; empty without one."""
        return lattice_note(self.report)


@torch.inference_mode()
def inspect_image(
    name: str,
    image: Tensor,
    periods: Sequence[int],
    channel: str = "luma",
    crop: tuple[int, int, int, int] | None = None,
) -> Inspection:
    """Measure one image (1, 3 or 1, h, w) in [0, 1]; crop: x, y, w, h in px. Raises ImageError."""
    part = cropped(name, image, crop)
    plane = one_channel(part, CHANNELS[channel])[:, None]
    report = inspect_lattice(part, tuple(periods), CHANNELS[channel])
    if not finite(report.excess):
        least, size = LEAST_PERIODS * min(periods), f"{part.shape[-1]}x{part.shape[-2]} px"
        # An image of that size has scores, unless its powers overflow.
        if min(part.shape[-2:]) >= least:
            raise ImageError(f"{name}: pixels of up to {float(part.abs().max()):.3g} are too large to judge")
        raise ImageError(
            f"{name}: {size} is too small to judge; at least {least} px a side for these periods"
        )
    if crop is not None and report.region is not None:
        x, y, w, h = report.region
        report = replace(report, region=(x + crop[0], y + crop[1], w, h))
    frequencies, profiles = radial_profile(plane)
    frequency, profile_db = frequencies.numpy(), profiles[0].numpy()
    return Inspection(
        name=name,
        width=image.shape[-1],
        height=image.shape[-2],
        crop=crop,
        channel=channel,
        report=report,
        verdict=verdict(report),
        frequency=frequency,
        profile_db=profile_db,
        slope=fitted_slope(frequency, profile_db),
        spectrum=log_spectrum(plane, periods),
    )


@torch.inference_mode()
def compare(inspection: Inspection, image: Tensor, name: str, reference: Tensor) -> Inspection:
    """The inspection of an image with a reference beside it, which is resized to the image's size."""
    height, width = image.shape[-2:]
    own_height, own_width = reference.shape[-2:]
    rounding = max(0.01, 1 / min(height, width, own_height, own_width))
    if abs(math.log(own_height * width / (own_width * height))) > rounding:
        raise ImageError(
            f"{inspection.name}: {width}x{height} px has another shape than {name}, {own_width}x{own_height} px"
        )
    resized_from = None
    if (own_height, own_width) != (height, width):
        resized_from = (own_width, own_height)
        reference = resized(reference, height, width)

    def plane_of(picture: Tensor) -> Tensor:
        part = cropped(inspection.name, picture, inspection.crop)
        return one_channel(part, CHANNELS[inspection.channel])[:, None]

    plane, reference_plane = plane_of(image), plane_of(reference)
    comparison = Comparison(
        name=name,
        resized_from=resized_from,
        excess=inspect_lattice(reference_plane, inspection.report.periods).excess,
        profile_db=radial_profile(reference_plane)[1][0].numpy(),
        fdl=pixel_fdl(plane, reference_plane),
        high_energy=high_energy(plane) / (high_energy(reference_plane) or math.nan),
    )
    return replace(inspection, against=comparison)


def cropped(name: str, image: Tensor, crop: tuple[int, int, int, int] | None) -> Tensor:
    """The part of an image (1, c, h, w) that --crop x,y,w,h means."""
    if crop is None:
        return image
    x, y, w, h = crop
    if x + w > image.shape[-1] or y + h > image.shape[-2]:
        raise ImageError(
            f"{name}: --crop {x},{y},{w},{h} reaches beyond its {image.shape[-1]}x{image.shape[-2]} px"
        )
    return image[..., y : y + h, x : x + w]


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """The image resized bicubically, as `strsr upscale` enlarges; with antialias where it shrinks."""
    shrinks = height < image.shape[-2]
    return F.interpolate(
        image, (height, width), mode="bicubic", align_corners=False, antialias=shrinks
    ).clamp(0, 1)


def fitted_slope(frequency: np.ndarray, profile_db: np.ndarray) -> float:
    """The exponent with which the power falls with the frequency: about -2 in photos; nan where it cannot be fitted."""
    inside = (frequency >= SLOPE_RANGE[0]) & (frequency <= SLOPE_RANGE[1])
    if inside.sum() < 3:
        return math.nan
    return float(np.polyfit(np.log10(frequency[inside]), profile_db[inside], 1)[0] / 10)


def natural_profile(frequency: np.ndarray, profile_db: np.ndarray) -> np.ndarray:
    """The profile that a photo would have: it falls by NATURAL_SLOPE, and is as high in SLOPE_RANGE as this one."""
    line = 10 * NATURAL_SLOPE * np.log10(frequency)
    inside = (frequency >= SLOPE_RANGE[0]) & (frequency <= SLOPE_RANGE[1])
    level = (profile_db - line)[inside]
    curve: np.ndarray = line + (np.median(level) if inside.any() else math.nan)
    return curve


def block_side(shorter: int, periods: Sequence[int]) -> int:
    """The side in px of the drawn spectrum's blocks: periods divide it where they can, so harmonics fall on bins."""
    side = min(SIDE, shorter, max(shorter // 2, 64))
    common = math.lcm(*periods)
    return side // common * common or side


def log_spectrum(plane: Tensor, periods: Sequence[int]) -> np.ndarray:
    """The centred mean log-power (s, s) in dB of a channel (1, 1, h, w), by blocks of s px spread over the image.

    Logarithms are averaged and not powers, as in the score: a smooth sky counts beside a loud lawn.
    """
    height, width = plane.shape[-2:]
    side = block_side(min(height, width), periods)
    rows, columns = (starts(length, side, BLOCKS) for length in (height, width))
    total = torch.zeros(side, side // 2 + 1)
    for top in rows:
        strip = [plane[0, :, top : top + side, left : left + side] for left in columns]
        power = power_spectrum(torch.stack(strip), side)  # (columns, s, s/2 + 1)
        total += (10 * torch.log10(power + ROUNDING)).mean(0)
    half = (total / len(rows)).numpy()
    # A real image's spectrum is the same at f and -f: the other half is this one, turned.
    index = -np.arange(side) % side
    whole = np.concatenate([half, half[index][:, 1 : (side + 1) // 2][:, ::-1]], axis=1)
    centred: np.ndarray = np.fft.fftshift(whole)
    return centred


def high_energy(plane: Tensor) -> float:
    """The mean power above HIGH cycles per pixel of a channel (1, 1, h, w), the corners of the spectrum included."""
    power = power_spectrum(plane)[0]
    side = power.shape[0]
    fy, fx = torch.fft.fftfreq(side), torch.fft.rfftfreq(side)
    # Columns between the first and the last stand for their mirror image too.
    weight = 1 + ((fx > 0) & (fx < 0.5)).to(power)
    high = torch.hypot(fy[:, None], fx) > HIGH
    return float((power * weight * high).sum() / side**2)


def pixel_fdl(plane: Tensor, reference: Tensor) -> float:
    """The FDL of the pixels of the middle, at most FDL_SIDE px a side; nan where the image is smaller than its kernel.

    There is no feature network: the pyramid is one map, the channel itself, so that the value tells less than the
    loss of training. plane, reference: (1, 1, h, w).
    """
    height, width = plane.shape[-2:]
    h, w = min(height, FDL_SIDE), min(width, FDL_SIDE)
    if min(h, w) < 5:
        return math.nan
    top, left = (height - h) // 2, (width - w) // 2
    loss = FrequencyDistributionLoss([1], projections=FDL_PROJECTIONS)
    middle = (..., slice(top, top + h), slice(left, left + w))
    return float(loss([plane[middle].contiguous()], [reference[middle].contiguous()]))


def printable(name: str) -> str:
    """A file's name as terminals and sheets may show it, on one line: unprintable letters become question marks."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def decibel(value: float) -> str:
    """A number of dB with one decimal; a dash for what could not be measured."""
    return f"{value:.1f}" if math.isfinite(value) else "-"


def score_text(period: int, excess: float) -> str:
    """A period and its score."""
    return f"{period} px {excess:.1f} dB" if math.isfinite(excess) else f"{period} px: image too small"


def period_text(peak: Peak) -> str:
    """The wave's length in px, as a fraction of the lattice's period: 16, 16/3, 16/5; for a cross-point the period."""
    order = 1 if peak.axis == "xy" else round((abs(peak.fx) + abs(peak.fy)) * peak.period)
    return f"{peak.period}" if order == 1 else f"{peak.period}/{order}"


def peak_text(inspection: Inspection) -> str:
    """The strongest peak, and how high it stands: `16/3 px, 12.1 dB on x`."""
    peak = inspection.strongest
    if peak is None:
        return "-" if inspection.verdict == "clean" else SEAMS_ONLY
    return f"{period_text(peak)} px, {peak.excess:.1f} dB on {peak.axis}"
