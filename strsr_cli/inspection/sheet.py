"""The sheets of `strsr fft-inspect`: one per image, and a summary. No other module knows matplotlib.

A sheet is 1200 px wide: image, the lattice's place enlarged, spectrum; below, radial and axis profiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from strsr_models.spectrum import Peak

from ..images.color.restorer import to_pixels
from .measure import (
    HIGH,
    NATURAL_SLOPE,
    Inspection,
    decibel,
    natural_profile,
    period_text,
    printable,
    score_text,
)

INK, FAINT, PALE = "#222222", "#767676", "#d5d5d5"
# Colours of Okabe and Ito, told apart by all kinds of colour vision: 16 px, 8 px, 4 px, then others.
PERIOD_COLORS = {16: "#D55E00", 8: "#0072B2", 4: "#009E73"}
OTHER_COLORS = ("#CC79A7", "#E69F00", "#56B4E9")
REFERENCE = "#0072B2"
VERDICT_COLORS = {"clean": "#009E73", "suspect": "#B07400", "grid": "#D55E00"}
WIDTH, HEIGHT, SQUARE = 1200, 950, 331  # px of a sheet, and of the panels of its upper row
ENLARGED = 96  # px of the image in the enlarged square
SHOWN = 1000  # px of the longer side of the image as it is drawn
LABEL_ROOM = 0.045  # cycles per pixel: as wide as a label of a peak
FINE = 192  # bins of a spectrum from which a dot would be too small to see, and is drawn 2 bins wide
ROWS = 40  # of a summary
OCTAVES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.parse_math": False,  # names of files may hold dollars
    "figure.facecolor": "white",
}


def color_of(period: int, periods: Sequence[int]) -> str:
    """The colour of a period: the same on every sheet where it is one of the usual three."""
    if period in PERIOD_COLORS:
        return PERIOD_COLORS[period]
    unusual = [unusual_period for unusual_period in periods if unusual_period not in PERIOD_COLORS]
    return OTHER_COLORS[unusual.index(period) % len(OTHER_COLORS)]


def draw_sheet(image: Tensor, inspection: Inspection) -> Figure:
    """Draw one image's sheet. image: (1, 3 or 1, h, w) in [0, 1]."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
        columns = {"left": 62 / WIDTH, "right": 1 - 20 / WIDTH, "wspace": 62 / SQUARE}
        below_heading = 1 - 130 / HEIGHT
        squares = GridSpec(1, 3, figure, top=below_heading, bottom=below_heading - SQUARE / HEIGHT, **columns)
        curves = GridSpec(1, 3, figure, top=(HEIGHT - SQUARE - 222) / HEIGHT, bottom=52 / HEIGHT, **columns)
        draw_heading(figure, inspection)
        square = enlarged_square(inspection)
        draw_image(figure.add_subplot(squares[0]), image, inspection, square)
        draw_enlarged(figure.add_subplot(squares[1]), image, square)
        draw_spectrum(figure.add_subplot(squares[2]), inspection)
        draw_profiles(figure, curves[0], inspection)
        draw_axes(figure, curves[1:], inspection)
    return figure


def draw_heading(figure: Figure, inspection: Inspection) -> None:
    """Write name, verdict and scores, and the numbers of the comparison below."""
    left, right, periods = 0.02, 0.985, inspection.report.periods
    figure.text(
        left, 0.965, shortened(inspection.name, 70), fontsize=15, weight="bold", color=INK, va="center"
    )
    word = inspection.verdict + (f" ({inspection.note})" if inspection.note else "")
    color = VERDICT_COLORS.get(inspection.verdict, FAINT)
    figure.text(right, 0.965, word, fontsize=15, weight="bold", color=color, ha="right", va="center")
    scores = zip(periods, inspection.report.excess, strict=True)
    parts = [f"{inspection.width}x{inspection.height} px, {inspection.channel}", "lattice excess"]
    parts += [score_text(period, excess) for period, excess in scores]
    figure.text(left, 0.932, "   ".join(parts), fontsize=10.5, color=INK, va="center")
    reference = inspection.against
    if reference is None and inspection.strongest is None and inspection.verdict != "clean":
        text = "seams only: neighbouring pixels differ more across the borders of cells than inside them"
        figure.text(left, 0.906, text, fontsize=10, color=FAINT, va="center")
    if reference is not None:
        differences = [
            f"{period} px {decibel(own - its)} dB"
            for period, own, its in zip(periods, inspection.report.excess, reference.excess, strict=True)
        ]
        size = ""
        if reference.resized_from is not None:
            size = f" (resized from {reference.resized_from[0]}x{reference.resized_from[1]})"
        text = (
            f"over {shortened(reference.name, 34)}{size}:   {'   '.join(differences)}   "
            f"energy above 1/4 cycle/px x{reference.high_energy:.3g}   FDL of pixels {reference.fdl:.4g}"
        )
        figure.text(left, 0.906, text, fontsize=10, color=REFERENCE, va="center")


def shortened(name: str, longest: int) -> str:
    """The end of a path, which tells more than its beginning."""
    name = printable(name)
    return name if len(name) <= longest else "…" + name[1 - longest :]


# --- the upper row -----------------------------------------------------------------------------------


def enlarged_square(inspection: Inspection) -> tuple[int, int, int]:
    """The x, y and side in px of what is shown enlarged: the middle of the lattice's place, or of the image."""
    x, y, w, h = inspection.report.region or inspection.crop or (0, 0, inspection.width, inspection.height)
    side = min(ENLARGED, inspection.width, inspection.height)
    left = max(0, min(round(x + (w - side) / 2), inspection.width - side))
    top = max(0, min(round(y + (h - side) / 2), inspection.height - side))
    return left, top, side


def draw_image(axes: Axes, image: Tensor, inspection: Inspection, square: tuple[int, int, int]) -> None:
    """Draw the whole image, with the lattice's strongest region framed."""
    h, w = image.shape[-2:]
    pixels = Image.fromarray(to_rgb(image))
    pixels.thumbnail((SHOWN, SHOWN), Image.Resampling.BOX)
    axes.imshow(pixels, extent=(0, w, h, 0), interpolation="antialiased", interpolation_stage="rgba")
    if inspection.report.region is not None:
        frame(axes, inspection.report.region, "-")
        axes.set_title("image, strongest grid framed")
    else:
        axes.set_title("image")
    x, y, side = square
    if inspection.report.region != (x, y, side, side):
        frame(axes, (x, y, side, side), ":")
    if inspection.crop is not None:
        frame(axes, inspection.crop, "--")
    axes.set_axis_off()
    axes.set_anchor("NW")


def frame(axes: Axes, place: tuple[int, int, int, int], line: str) -> None:
    """Draw a rectangle x, y, w, h in px that is seen on dark and on light."""
    x, y, w, h = place
    axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="black", linewidth=3.4, alpha=0.7))
    axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="white", linewidth=1.6, linestyle=line))


def draw_enlarged(axes: Axes, image: Tensor, square: tuple[int, int, int]) -> None:
    """Draw a square of the image enlarged, each pixel a square."""
    x, y, side = square
    pixels = to_rgb(image[..., y : y + side, x : x + side])
    axes.imshow(pixels, extent=(x, x + side, y + side, y), interpolation="nearest")
    axes.set_title(f"{side}x{side} px of it, enlarged")
    axes.set_axis_off()
    axes.set_anchor("NW")


def to_rgb(image: Tensor) -> np.ndarray:
    """The pixels (h, w, 3) uint8 of an image (1, c, h, w) in [0, 1]."""
    values = to_pixels(image, np.dtype(np.uint8))
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def draw_spectrum(axes: Axes, inspection: Inspection) -> None:
    """Draw the centred spectrum, dark where the power is, with rings where lattices would be, bold where one is."""
    power = inspection.spectrum
    low, high = np.percentile(power, (20, 99))
    if len(power) >= FINE:
        power = np.maximum(power, np.roll(power, -1, 0))
        power = np.maximum(power, np.roll(power, -1, 1))
    # Bins are drawn around their frequencies.
    half = 0.5 / len(power)
    extent = (-0.5 - half, 0.5 - half, 0.5 - half, -0.5 - half)
    axes.imshow(power, cmap="Greys", vmin=low, vmax=high, extent=extent, interpolation="nearest")
    periods = inspection.report.periods
    for period in periods:
        points = []
        for f in own_harmonics(period):
            points += [(f, 0.0), (-f, 0.0), (0.0, f), (0.0, -f)]
        ring(axes, points, color_of(period, periods), 0.7)
        axes.plot([], [], "o", ms=7, mfc="none", color=color_of(period, periods), label=f"{period} px")
    for peak in inspection.report.peaks:
        ring(axes, [(peak.fx, peak.fy), (-peak.fx, -peak.fy)], color_of(peak.period, periods), 2)
    axes.set(xlim=(-0.505, 0.505), ylim=(0.505, -0.505), xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
    axes.set_xticklabels(("-1/2", "0", "1/2"))
    axes.set_yticklabels(("-1/2", "0", "1/2"))
    axes.set_title("spectrum")
    axes.tick_params(length=0)
    axes.set_xlabel("cycles per pixel", labelpad=1)
    axes.spines[:].set_visible(False)
    axes.set_anchor("NW")
    # Three entries fit beside the title; more go below.
    few = len(periods) <= 3
    axes.legend(
        loc="lower right" if few else "upper right", bbox_to_anchor=(1.02, 0.985 if few else -0.1),
        ncols=min(len(periods), 5), handletextpad=0, columnspacing=0.8, borderpad=0.2,
    )  # fmt: skip


def own_harmonics(period: int) -> list[float]:
    """The frequencies k / period, up to 1/2 cycle per pixel, that belong to no shorter period."""
    return [k / period for k in range(1, period // 2 + 1) if math.gcd(k, period) == 1]


def ring(axes: Axes, points: list[tuple[float, float]], color: str, width: float) -> None:
    """Draw hollow circles around frequencies (fx, fy)."""
    fx, fy = zip(*points, strict=True)
    axes.scatter(fx, fy, s=70, facecolors="none", edgecolors=color, linewidths=width, zorder=3)


# --- the lower row -----------------------------------------------------------------------------------


def draw_profiles(figure: Figure, place: SubplotSpec, inspection: Inspection) -> None:
    """Draw the radial profile; with a reference both profiles, and their difference below."""
    reference = inspection.against
    if reference is None:
        main = figure.add_subplot(place)
    else:
        parts = place.subgridspec(2, 1, height_ratios=(2, 1), hspace=0.12)
        main = figure.add_subplot(parts[0])
        below = figure.add_subplot(parts[1], sharex=main)
        difference = inspection.profile_db - reference.profile_db
        below.axhline(0, color=REFERENCE, linewidth=1)
        below.plot(inspection.frequency, difference, color=INK, linewidth=1.4)
        below.axvspan(HIGH, 0.5, color=PALE, alpha=0.4, linewidth=0)
        below.set(xlabel="cycles per pixel", ylabel="difference, dB")
        main.tick_params(labelbottom=False)
        main.plot(
            inspection.frequency, reference.profile_db, color=REFERENCE, linewidth=1.4, label="reference"
        )
    main.plot(inspection.frequency, inspection.profile_db, color=INK, linewidth=1.6, label="image")
    octave = 10 * math.log10(2)
    own_fall = f", here {-octave * inspection.slope:.1f}" if math.isfinite(inspection.slope) else ""
    natural = natural_profile(inspection.frequency, inspection.profile_db)
    main.plot(
        inspection.frequency,
        natural,
        color=FAINT,
        linewidth=1.1,
        linestyle=(0, (4, 3)),
        label=f"photos fall {-octave * NATURAL_SLOPE:.0f} dB an octave{own_fall}",
    )
    main.set_xscale("log", base=2)
    low = inspection.frequency[0]
    main.set_xlim(low, 0.5)
    ticks = [frequency for frequency in OCTAVES if frequency >= low]
    main.set_xticks(ticks, [f"1/{round(1 / frequency)}" for frequency in ticks])
    main.minorticks_off()
    main.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    main.set(title="power by frequency", ylabel="dB")
    if reference is None:
        main.set_xlabel("cycles per pixel")
    main.legend(loc="lower left")


def draw_axes(figure: Figure, place: SubplotSpec, inspection: Inspection) -> None:
    """Draw the spectrum along its two axes, with peaks named by the wave's length and the excess."""
    parts = place.subgridspec(2, 1, hspace=0.42)
    middle = len(inspection.spectrum) // 2
    lines = {"x": inspection.spectrum[middle, middle:], "y": inspection.spectrum[middle:, middle]}
    # With an even side the highest frequency stands at the beginning: it is put at the end.
    if len(inspection.spectrum) % 2 == 0:
        ends = {"x": inspection.spectrum[middle, :1], "y": inspection.spectrum[:1, middle]}
        lines = {axis: np.concatenate([line, ends[axis]]) for axis, line in lines.items()}
    levels = np.concatenate([line[2:] for line in lines.values()])
    low, high = -60.0, 0.0
    if levels.size:
        low, high = float(levels.min()), float(levels.max())
    room = max(high - low, 10.0)
    titles = {"x": "along x: vertical stripes", "y": "along y: horizontal stripes"}
    for number, (axis, line) in enumerate(lines.items()):
        axes = figure.add_subplot(parts[number])
        draw_axis(axes, line, inspection, axis)
        axes.set(title=titles[axis], ylabel="dB", ylim=(low - 0.05 * room, high + 0.32 * room))
        if axis == "y":
            axes.set_xlabel("cycles per pixel")


def draw_axis(axes: Axes, line: np.ndarray, inspection: Inspection, axis: str) -> None:
    """Draw the spectrum along one axis, without the lowest two bins, which the window's lobe fills."""
    periods, side = inspection.report.periods, len(inspection.spectrum)
    frequency = np.arange(len(line)) / side
    for period in periods:
        for harmonic in own_harmonics(period):
            axes.axvline(harmonic, color=color_of(period, periods), linewidth=0.7, alpha=0.35)
    axes.plot(frequency[2:], line[2:], color=INK, linewidth=1.3)
    labels: list[float] = []
    # Peaks come with the strongest first: a weaker one beside it gets no label.
    for peak in inspection.report.peaks:
        place = abs(peak.fx if axis == "x" else peak.fy)
        if peak.axis != axis or any(abs(place - label) < LABEL_ROOM for label in labels):
            continue
        labels.append(place)
        height = float(line[min(round(place * side), len(line) - 1)])
        label_peak(axes, place, height, peak, periods)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ticks = [number / 16 for number in range(9)]
    axes.set_xticks(ticks, ["0", "1/16", "1/8", "3/16", "1/4", "5/16", "3/8", "7/16", "1/2"])
    axes.set_xlim(0, 0.505)


def label_peak(axes: Axes, place: float, height: float, peak: Peak, periods: Sequence[int]) -> None:
    """Draw a dot on the peak, at (cycles per pixel, dB), and its name above it."""
    color = color_of(peak.period, periods)
    axes.plot([place], [height], "o", ms=4.5, color=color, zorder=4)
    axes.annotate(
        f"{period_text(peak)} px\n{peak.excess:+.1f} dB",
        (place, height),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right" if place > 0.48 else "center",
        fontsize=9,
        linespacing=1.05,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
        color=color,
    )


# --- all images --------------------------------------------------------------------------------------


def draw_summary(inspections: Sequence[Inspection]) -> Figure:
    """Draw the scores of all images, the highest first: a dot for each period."""
    ranked = sorted(inspections, key=lambda inspection: -inspection.score)
    shown, periods = ranked[:ROWS], inspections[0].report.periods
    with mpl.rc_context(STYLE):
        height = 1.55 + 0.3 * len(shown)
        figure = Figure(figsize=(12, height), dpi=100)
        axes = figure.add_axes((0.32, 0.6 / height, 0.52, 1 - 1.5 / height))
        for row, inspection in enumerate(shown):
            axes.plot([0, max(0, inspection.score)], [row, row], color=PALE, linewidth=2, zorder=1)
            word = inspection.verdict + (f" ({inspection.note})" if inspection.note else "")
            axes.text(
                1.02, row, word, color=VERDICT_COLORS.get(inspection.verdict, FAINT), va="center",
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
        for number, period in enumerate(periods):
            scores = [inspection.report.excess[number] for inspection in shown]
            color = color_of(period, periods)
            axes.scatter(scores, range(len(shown)), s=42, color=color, label=f"{period} px", zorder=2)
        axes.set_yticks(
            range(len(shown)), [shortened(inspection.name, 44) for inspection in shown], color=INK
        )
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.axvline(0, color=FAINT, linewidth=0.8)
        axes.set_xlabel("lattice excess, dB")
        cut = f", the {ROWS} highest" if len(ranked) > ROWS else ""
        figure.text(
            0.02, 1 - 0.3 / height, f"{len(inspections)} images{cut}", fontsize=15, weight="bold", color=INK
        )
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(periods), handletextpad=0.1)
    return figure
