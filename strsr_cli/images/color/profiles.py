"""Profile and pixels of one kind: gray pixels with a profile of gray, colours with one of RGB, or with none."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from .icc import (
    COLUMNS,
    D50,
    GRAY_CURVE,
    RGB_CURVES,
    flaw_of,
    has_plain_curves,
    sampled_curve,
    space_name,
    tags_of,
    write_gray_profile,
    write_rgb_profile,
)

log = logging.getLogger(__name__)

MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
FAITHFUL = ImageCms.Intent.RELATIVE_COLORIMETRIC
# What LittleCMS's binding raises for profiles that it cannot use.
FAILURES = (ImageCms.PyCMSError, OSError, ValueError, TypeError)
SAME = 2  # of 255: a profile that differs less from sRGB's is sRGB's
NEUTRAL = 2  # of 255 in a and b of CIELAB: grays that differ less from gray are gray


def fit_profile(
    color: np.ndarray, icc: bytes | None, name: str, gray_inside: bool = False
) -> tuple[np.ndarray, bytes | None]:
    """Return colours (h, w, 1 or 3) and a profile that fit each other.

    A profile of RGB becomes one of gray for gray pixels, where its grays are gray; else these become RGB.
    One that cannot be used is dropped with a warning. name: the file's. gray_inside: whether equal channels
    are how the reader shows the gray pixels of this format.
    """
    if icc is None:
        return color, None
    space = space_name(icc)
    gray = color.shape[2] == 1
    problem = profile_problem(icc)
    if problem is None and gray and space == "RGB":
        if (fitting := gray_profile_of(icc)) is not None:
            return color, fitting
        return color.repeat(3, axis=2), icc
    if problem is None and not gray and space == "GRAY" and gray_inside and _all_gray(color):
        return np.ascontiguousarray(color[..., :1]), icc
    if problem is None and space != ("GRAY" if gray else "RGB"):
        problem = f"it is for {space}"
    if problem is None:
        return color, icc
    log.warning(
        "%s: its colour profile cannot be used and was dropped, its numbers are taken as sRGB's: %s",
        name,
        problem,
    )
    return color, None


def _all_gray(color: np.ndarray) -> bool:
    """Whether colours (h, w, 3) have equal channels everywhere."""
    return bool((color[..., 0] == color[..., 1]).all() and (color[..., 0] == color[..., 2]).all())


@functools.lru_cache(maxsize=8)
def profile_problem(icc: bytes) -> str | None:
    """Say why colours cannot be converted from a profile; None where they can be, and for other spaces."""
    if flaw := flaw_of(icc):
        return flaw
    mode = MODES.get(space_name(icc))
    if mode is None:
        return None
    try:
        _transform(icc, mode, "LAB")
    except FAILURES as error:
        return f"it is damaged ({error})"
    return None


def _transform(icc: bytes, mode: str, to: str) -> ImageCms.ImageCmsTransform:
    """Return a transform from a profile to sRGB (`to` is "RGB") or CIELAB ("LAB"). Raises FAILURES."""
    own = ImageCms.ImageCmsProfile(BytesIO(icc))
    other = ImageCms.createProfile("sRGB" if to == "RGB" else "LAB")
    # LittleCMS would put a curve of gray into a table of 33 nodes, two lightnesses off near black.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    return ImageCms.buildTransform(own, other, mode, to, FAITHFUL, flags)


@functools.lru_cache(maxsize=8)
def gray_profile_of(icc: bytes) -> bytes | None:
    """Return the profile of gray that means the same as one of RGB with equal channels; None: there is none."""
    lab = _grays(icc, "RGB")
    if np.abs(lab[:, 1:].astype(np.int16) - 128).max() > NEUTRAL:
        return None
    return write_gray_profile(_own_curve(icc, RGB_CURVES) or _curve_of(lab), "Gray of an RGB profile")


@functools.lru_cache(maxsize=8)
def rgb_profile_of(icc: bytes) -> bytes:
    """Return the profile of RGB whose equal channels mean the same as a profile of gray."""
    curve = _own_curve(icc, (GRAY_CURVE,)) or _curve_of(_grays(icc, "L"))
    return write_rgb_profile(curve, "RGB of a gray profile")


def _own_curve(icc: bytes, names: tuple[bytes, ...]) -> bytes | None:
    """Return the element of a profile's own curve, where all channels share one that leads to white."""
    tags = tags_of(icc)
    curves = {tags.get(name) for name in names}
    if not has_plain_curves(icc) or len(curves) != 1:
        return None
    if COLUMNS[0] in tags:
        columns = [np.frombuffer(tags[name][8:20], ">i4") / 65_536 for name in COLUMNS if name in tags]
        if len(columns) != 3 or np.abs(np.sum(columns, axis=0) - D50).max() > 0.002:
            return None
    return curves.pop()


def _grays(icc: bytes, mode: str) -> np.ndarray:
    """Return CIELAB (256, 3), as LittleCMS's 8 bits (neutral is 128), of the grays of a profile."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    image = ramp if mode == "L" else Image.merge("RGB", [ramp] * 3)
    lab = ImageCms.applyTransform(image, _transform(icc, mode, "LAB"))
    # Pillow stores a and b with their signs, as bytes.
    values = np.asarray(lab, np.uint8)[0]
    return np.stack([values[:, 0], values[:, 1] ^ 128, values[:, 2] ^ 128], axis=1)


def _curve_of(lab: np.ndarray) -> bytes:
    """Return the element of the curve of light of grays in CIELAB (256, 3)."""
    lightness = lab[:, 0] * (100 / 255)
    light = np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)
    return sampled_curve(np.maximum.accumulate(light))


def srgb_converter(icc: bytes, gray: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return what converts uint8 pixels (h, w, 1 or 3) from a profile to sRGB, where LittleCMS can.

    Pixels whose profile is sRGB's stay as they are, without a rounding.
    """
    try:
        transform = _transform(icc, "L" if gray else "RGB", "RGB")
    except FAILURES:
        return lambda pixels: pixels

    def convert(pixels: np.ndarray) -> np.ndarray:
        """Convert pixels of the profile to sRGB."""
        image = Image.fromarray(pixels[..., 0] if gray else np.ascontiguousarray(pixels))
        return np.asarray(ImageCms.applyTransform(image, transform))[..., : pixels.shape[2]]

    levels = np.linspace(0, 255, 16).astype(np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(16, 256, 3)
    if gray:
        probe = levels[None, :, None]
    same = np.abs(convert(probe).astype(np.int16) - probe).max() <= SAME
    return (lambda pixels: pixels) if same else convert
