"""Colours that a file states by numbers (PNG's cICP, gAMA, cHRM, sRGB; AVIF's and HEIC's nclx) as profiles.

The numbers of cICP and nclx are those of ITU-T H.273. Pixels stay as they are: a profile that means the
same goes along with them, and PNG outputs keep the chunks themselves.
"""

from __future__ import annotations

import logging
import struct
from typing import NamedTuple

import numpy as np

from .icc import (
    D65,
    SRGB_CURVE,
    SRGB_PRIMARIES,
    Point,
    broken_curve,
    power_curve,
    sampled_curve,
    write_gray_profile,
    write_rgb_profile,
)

log = logging.getLogger(__name__)

Chunks = tuple[tuple[bytes, bytes], ...]  # (type, body) of PNG's chunks

C_WHITE, DCI_WHITE = (0.310, 0.316), (0.314, 0.351)
# Primaries of H.273 -> red, green, blue, white.
PRIMARIES: dict[int, tuple[Point, Point, Point, Point]] = {
    1: (*SRGB_PRIMARIES, D65),
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), C_WHITE),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), C_WHITE),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), DCI_WHITE),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), D65),
}
PQ, HLG = 16, 18
HDR = {PQ: "PQ", HLG: "HLG"}
# Viewers show video's curves as sRGB's, which lies between those of cameras and of television sets.
LIKE_SRGB = (1, 6, 11, 12, 13, 14, 15)
POWERS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
LOGARITHMS = {9: 2.0, 10: 2.5}  # decades
SMPTE_240 = 7
SAMPLES = 4096  # of curves that no formula of ICC holds
REFERENCE_WHITE = 203  # nits of paper in HDR pictures (ITU-R BT.2408)
KNEE = 0.5  # of reference white, from which on brighter lights are pressed together
SRGB_GAMMA, GAMMA_STEP = 45_455, 1_000  # of gAMA, in 100,000ths: so near, viewers take it for sRGB
CHROMATICITY_STEP = 150  # of cHRM, in 100,000ths
SRGB_CHROMATICITIES = (31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
GOES_ALONG = {b"cICP": (b"cICP", b"mDCV", b"cLLI"), b"sRGB": (b"sRGB",), b"gAMA": (b"gAMA", b"cHRM")}


class Stated(NamedTuple):
    """The colours of a file: a profile, or None for sRGB, and the chunks that PNG outputs keep beside it."""

    icc: bytes | None
    chunks: Chunks = ()


def stated_colors(icc: bytes | None, chunks: Chunks, gray: bool, name: str) -> Stated:
    """Decide between a file's profile and its chunks as PNG's standard does: cICP, iCCP, sRGB, gAMA and cHRM.

    gray: whether the pixels have no colours. name: the file's, for the warnings of numbers that are no use.
    """
    bodies = dict(chunks)
    if b"cICP" in bodies:
        try:
            made = _of_code_points(bodies[b"cICP"], gray, name)
            return Stated(made, _kept(bodies, b"cICP"))
        except ValueError as error:
            log.warning("%s: its colours by number (cICP) are not used: %s", name, error)
    if icc is not None:
        return Stated(icc)
    if b"sRGB" in bodies:
        return Stated(None, _kept(bodies, b"sRGB"))
    try:
        return Stated(
            _of_chromaticities(bodies.get(b"gAMA"), bodies.get(b"cHRM"), gray), _kept(bodies, b"gAMA")
        )
    except (ValueError, struct.error) as error:
        log.warning("%s: its colours by number (gAMA, cHRM) are not used: %s", name, error)
        return Stated(None)


def _kept(bodies: dict[bytes, bytes], decisive: bytes) -> Chunks:
    """Return the chunks that go along with the one that decides, in the order of PNG's standard."""
    return tuple((kind, bodies[kind]) for kind in GOES_ALONG[decisive] if kind in bodies)


# --- cICP and nclx -----------------------------------------------------------------------------------


def _of_code_points(body: bytes, gray: bool, name: str) -> bytes | None:
    """Return a profile of cICP's four bytes, or None for sRGB. ValueError: they are unknown."""
    if len(body) != 4:
        raise ValueError(f"{len(body)} bytes in place of 4")
    primaries, transfer, matrix, full = body
    if matrix != 0:
        raise ValueError(f"pixels of a PNG cannot be YCbCr (matrix {matrix})")
    if primaries not in PRIMARIES:
        raise ValueError(f"primaries {primaries} are not known here")
    if transfer in LIKE_SRGB and full and (primaries == 1 or gray):
        return None
    curve = _curve(transfer, bool(full))
    if transfer in HDR:
        log.warning(
            "%s: HDR (%s): kept as it is, and stated in the output; the network sees it toned down to SDR",
            name,
            HDR[transfer],
        )
    title = f"Colours {primaries}, {transfer} of H.273"
    if gray:
        return write_gray_profile(curve, title, body)
    *points, white = PRIMARIES[primaries]
    return write_rgb_profile(curve, title, (points[0], points[1], points[2]), white, body)


def _curve(transfer: int, full: bool) -> bytes:
    """Return the element of a transfer's curve, from numbers to light. full: whether 0 and 1 are black and white."""
    if full:
        if transfer in LIKE_SRGB:
            return SRGB_CURVE
        if transfer == SMPTE_240:
            return broken_curve(1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0912)
        if transfer in POWERS:
            return power_curve(POWERS[transfer])
    values = np.linspace(0, 1, SAMPLES)
    if not full:
        # Black is 16 of 255, white is 235.
        values = ((values * 255 - 16) / 219).clip(0, 1)
    return sampled_curve(_light(values, transfer))


def _light(values: np.ndarray, transfer: int) -> np.ndarray:
    """Return the light in [0, 1] of numbers in [0, 1]; of HDR, as it is toned down to SDR."""
    if transfer == PQ:
        return _tone_down(_pq_nits(values))
    if transfer == HLG:
        return _tone_down(_hlg_nits(values))
    if transfer in LOGARITHMS:
        return np.where(values > 0, 10 ** (LOGARITHMS[transfer] * (values - 1)), 0)
    if transfer in LIKE_SRGB:
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if transfer == SMPTE_240:
        return np.where(values < 0.0912, values / 4, ((values + 0.1115) / 1.1115) ** (1 / 0.45))
    if transfer in POWERS:
        return np.asarray(values ** POWERS[transfer])
    raise ValueError(f"transfer {transfer} is not known here")


def _pq_nits(values: np.ndarray) -> np.ndarray:
    """Return the nits, 0 to 10,000, of numbers by SMPTE ST 2084."""
    root = values ** (1 / 78.84375)
    share = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return np.asarray(10_000 * share ** (1 / 0.1593017578125))


def _hlg_nits(values: np.ndarray) -> np.ndarray:
    """Return the nits, 0 to 1,000, of numbers by ITU-R BT.2100's hybrid log-gamma, channel by channel."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12)
    return np.asarray(1_000 * scene**1.2)


def _tone_down(nits: np.ndarray) -> np.ndarray:
    """Return light in [0, 1] of rising nits: up to half of paper's as it is, the brightest 1, between them smooth."""
    light = nits / REFERENCE_WHITE
    over = np.maximum(light - KNEE, 0) / (1 - KNEE)
    most = over.max()
    pressed = over * (1 + over / most**2) / (1 + over)
    return np.asarray(np.minimum(light, KNEE) + (1 - KNEE) * pressed)


# --- gAMA and cHRM -----------------------------------------------------------------------------------


def _of_chromaticities(gamma: bytes | None, chromaticities: bytes | None, gray: bool) -> bytes | None:
    """Return a profile of the bodies of gAMA and cHRM; None for sRGB, or where there are none.

    Without gAMA the curve is sRGB's, without cHRM the primaries are, as in browsers.
    """
    power = None if gamma is None else struct.unpack(">I", gamma)[0]
    if power is not None and not 1_000 <= power <= 1_000_000:
        raise ValueError(f"a gamma of {power / 100_000:g}")
    points = SRGB_CHROMATICITIES if chromaticities is None else struct.unpack(">8I", chromaticities)
    near = all(
        abs(one - two) <= CHROMATICITY_STEP for one, two in zip(points, SRGB_CHROMATICITIES, strict=True)
    )
    plain = power is None or abs(power - SRGB_GAMMA) <= GAMMA_STEP
    if plain and (near or gray):
        return None
    curve = SRGB_CURVE if power is None else power_curve(100_000 / power)
    title = "Colours of gAMA and cHRM"
    if gray:
        return write_gray_profile(curve, title)
    white, red, green, blue = ((points[at] / 1e5, points[at + 1] / 1e5) for at in (0, 2, 4, 6))
    return write_rgb_profile(curve, title, (red, green, blue), white)
