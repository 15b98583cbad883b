"""Spectra of images and feature maps: what the frequency loss compares and what shows a lattice.

A lattice of period p is energy at multiples of 1/p cycles per pixel: a transformer on patches of
16 px prints one of period 16, a pixel shuffle one of period 2, 4 or 8. Photos have a spectrum that
falls smoothly, so a lattice shows as bins that stand above their neighbours.
"""

from __future__ import annotations

from .blocks import BLOCK, ROUNDING, block_spectra, luma
from .fourier import amplitude_and_phase, power_spectrum, radial_profile
from .report import LatticeReport, Peak, inspect_lattice, main_period, verdict
from .score import lattice_excess

__all__ = [
    "BLOCK",
    "ROUNDING",
    "LatticeReport",
    "Peak",
    "amplitude_and_phase",
    "block_spectra",
    "inspect_lattice",
    "lattice_excess",
    "luma",
    "main_period",
    "power_spectrum",
    "radial_profile",
    "verdict",
]
