"""Measure how well lattices are found in photos, and how seldom where there are none: the figures of docs/developing/grid-estimator.md.

    python scripts/detection.py --photos FOLDER [--clean FOLDER ...] [--textures FOLDER] [--out docs/images]

Photos of scikit-image and of --photos get lattices planted; they and those of --clean, as they are, show false
alarms and the noise floor. All are reduced to three quarters first (antialiased), since JPEG and WebP print
lattices of 8, 4 and 16 px of their own, which would rightly be found; then rounded to 8 bits, as planted ones
are. --textures: bricks, fabric, slats, reduced in small steps so that their periods pass through 4, 8 and 16.
Writes Markdown tables to stdout and fft-detection.png, fft-floor.png to --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from scipy.ndimage import uniform_filter
from skimage import data

from strsr_cli.images.find import find_images
from strsr_cli.images.read import read_image
from strsr_models.spectrum import LatticeReport, inspect_lattice, main_period, verdict

mpl.use("Agg")


PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "coins", "moon", "rocket", "brick", "grass", "gravel")
PERIODS = (4, 8, 16)
AMPLITUDES = (0.25, 0.5, 1.0, 2.0)  # 8-bit steps, root mean square
PATTERNS = ("checker", "box", "decoder", "decoder, modulated")
REDUCE = 0.75
Gray = np.ndarray  # (h, w) float, 0 to 255


def reduced(pixels: np.ndarray, share: float) -> Gray:
    """BT.601 luma of uint8 pixels (h, w) or (h, w, 3) at a share of their size."""
    # It is not rounded yet, since lattices are planted first.
    image = Image.fromarray(pixels).convert("L").convert("F")
    size = (max(1, round(side * share)) for side in image.size)
    return np.asarray(image.resize(tuple(size), Image.Resampling.LANCZOS), np.float32)


def inspect(y: Gray, periods: tuple[int, ...] = PERIODS) -> LatticeReport:
    """The report on a picture rounded to 8 bits."""
    eight_bits = np.rint(y).clip(0, 255).astype(np.float32) / 255
    return inspect_lattice(torch.from_numpy(eight_bits)[None, None], periods)


def pattern(kind: str, y: Gray, period: int, rng: np.random.Generator) -> Gray:
    """Make a lattice of rms 1 and mean 0 that begins anywhere.

    checker: squares of half a period; box: bars of half a period both ways; decoder: a cell of random numbers, again
    and again, as a pixel shuffle's biases print it; decoder, modulated: the same in proportion to the photo's local
    contrast (its deviation in 15 x 15 px).
    """
    down, across = np.indices(y.shape)
    down, across = down + rng.integers(period), across + rng.integers(period)
    if kind == "checker":
        planted = 1.0 * ((down // (period // 2) + across // (period // 2)) % 2)
    elif kind == "box":
        planted = 1.0 * (down % period < period // 2) + (across % period < period // 2)
    else:
        planted = rng.standard_normal((period, period))[down % period, across % period]
    planted -= planted.mean()
    if kind == "decoder, modulated":
        variance = uniform_filter(y**2, 15) - uniform_filter(y, 15) ** 2
        planted *= np.sqrt(variance.clip(0)) + 0.1
    return (planted / planted.std()).astype(np.float32)


def plant(photos: dict[str, Gray]) -> Iterator[tuple[str, int, float, LatticeReport]]:
    """Plant lattices in every photo: yields kind, period, amplitude and the report on that period."""
    for number, y in enumerate(photos.values()):
        for period in (8, 16):
            for kind in PATTERNS:
                planted = pattern(kind, y, period, np.random.default_rng(number))
                for amplitude in AMPLITUDES:
                    yield kind, period, amplitude, inspect(y + amplitude * planted, (period,))


def detection_table(photos: dict[str, Gray], clean: list[LatticeReport], out: Path) -> None:
    """Print the rates and draw the ROC curves of both numbers at 1/4 and 1/2 and 1 step."""
    rows = list(plant(photos))
    print("\n| period | lattice | verdict at rms " + " | ".join(f"{a:g}" for a in AMPLITUDES) + " |")
    print("|---|---|" + "---|" * len(AMPLITUDES))
    for period in (8, 16):
        for kind in (*PATTERNS, "all"):
            cells = []
            for amplitude in AMPLITUDES:
                verdicts = [
                    verdict(r) for k, p, a, r in rows if p == period and a == amplitude and kind in (k, "all")
                ]
                alarms = np.mean([v in ("suspect", "grid") for v in verdicts])
                grids = np.mean([v == "grid" for v in verdicts])
                cells.append(f"{alarms:.1%} ({grids:.0%} grid)")
            print(f"| {period} | {kind} | " + " | ".join(cells) + " |")
    print(
        "\n| period | number | threshold at 1 % false alarms | found at rms "
        + " | ".join(f"{a:g}" for a in AMPLITUDES)
        + " |"
    )
    print("|---|---|---|" + "---|" * len(AMPLITUDES))
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axis, period in zip(axes, (8, 16), strict=True):
        for name, dashes in (("excess", "--"), ("coherence", "-")):
            noise = np.sort([getattr(r, name)[PERIODS.index(period)] for r in clean])
            threshold = np.quantile(noise, 0.99)
            rates = []
            for amplitude, colour in zip(AMPLITUDES, ("C7", "C1", "C0", "C2"), strict=True):
                planted = np.array(
                    [getattr(r, name)[0] for _, p, a, r in rows if (p, a) == (period, amplitude)]
                )
                rates.append(f"{np.mean(planted > threshold):.1%}")
                steps = np.concatenate([noise, [noise[-1] + 1e-6]])
                alarms = [np.mean(noise >= step) for step in steps]
                hits = [np.mean(planted >= step) for step in steps]
                if amplitude < 2:
                    axis.plot(
                        np.maximum(alarms, 1e-3),
                        hits,
                        dashes,
                        color=colour,
                        label=f"{name}, rms {amplitude:g}/255",
                    )
            print(f"| {period} | {name} | {threshold:.2f} | " + " | ".join(rates) + " |")
        axis.set_xscale("log")
        axis.axvline(0.01, color="0.6", linewidth=0.8)
        axis.set_title(f"period {period} px, four kinds of lattice")
        axis.set_xlabel("false alarms (1e-3: none)")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("found")
    axes[1].legend(frameon=False, fontsize=10)
    save(figure, out / "fft-detection.png")


def floor_table(clean: list[LatticeReport], out: Path) -> None:
    """Print the noise floor and the false alarms; draw how both numbers are distributed."""
    print(
        f"\n{len(clean)} photos\n\n| period | excess: mean | 99th percentile | greatest | coherence: mean | "
        "99th percentile | greatest | suspect | grid |\n|" + "---|" * 9
    )
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2))
    for column, period in enumerate(PERIODS):
        excess, coherent = (np.array([getattr(r, n)[column] for r in clean]) for n in ("excess", "coherence"))
        single = [
            LatticeReport((period,), (e,), (c,), (False,), (), None)
            for e, c in zip(excess, coherent, strict=True)
        ]
        verdicts = [verdict(report) for report in single]
        numbers = [
            f"{f(x):.2f}"
            for x in (excess, coherent)
            for f in (np.mean, lambda x: np.quantile(x, 0.99), np.max)
        ]
        print(
            f"| {period} | {' | '.join(numbers)} | {verdicts.count('suspect')} | {verdicts.count('grid')} |"
        )
        axes[0].hist(excess, np.arange(-1, 4, 0.1), histtype="step", linewidth=1.6, label=f"{period} px")
        axes[1].plot(np.sort(coherent), 1 - np.arange(len(coherent)) / len(coherent), label=f"{period} px")
    verdicts = [verdict(report) for report in clean]
    print(
        f"\nWhole reports: {verdicts.count('suspect')} suspect, {verdicts.count('grid')} grid of {len(verdicts)}."
    )
    axes[0].set(xlabel="excess, dB", ylabel="photos")
    axes[1].set(xlabel="coherence", ylabel="share of photos above", yscale="log", xlim=(0, 1))
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    save(figure, out / "fft-floor.png")


def jpeg_table(photos: dict[str, Gray]) -> None:
    """Print how many JPEG files are reported as period 8 from the origin, and how many after a crop of 3 x 5 px."""
    from io import BytesIO

    print(
        "\n| JPEG quality | grid | main period 8 | 8 from the origin | the same, cut by 3 x 5 px |\n|---|---|---|---|---|"
    )
    for quality in (30, 60, 75, 90, 95):
        reports, cut = [], []
        for y in photos.values():
            file = BytesIO()
            Image.fromarray(np.rint(y).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
            decoded = np.asarray(Image.open(file), np.float32)
            reports.append(inspect(decoded))
            cut.append(inspect(decoded[3:, 5:]))
        rates = (
            np.mean([verdict(r) == "grid" for r in reports]),
            np.mean([main_period(r) == 8 for r in reports]),
            np.mean([r.origin_aligned[1] for r in reports]),
            np.mean([r.origin_aligned[1] for r in cut]),
        )
        print(f"| {quality} | " + " | ".join(f"{rate:.0%}" for rate in rates) + " |")


def texture_table(folder: Path | None) -> None:
    """Print the worst that each texture gives over 61 sizes from 0.15 to 0.75."""
    textures = {name: getattr(data, name)() for name in ("brick", "grass", "gravel")}
    textures |= {path.stem: read_image(path).rgb8() for path in (find_images(folder) if folder else [])}
    print(
        "\n| texture | sizes | clean | suspect | grid | greatest excess | its coherence | greatest coherence |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, pixels in textures.items():
        reports = [inspect(reduced(pixels, share)) for share in np.linspace(0.15, 0.75, 61)]
        verdicts = [verdict(report) for report in reports]
        pairs = [
            pair for r in reports for pair in zip(r.excess, r.coherence, strict=True) if pair[0] == pair[0]
        ]
        excess, coherent = max(pairs)
        counts = " | ".join(str(verdicts.count(v)) for v in ("clean", "suspect", "grid"))
        print(
            f"| {name} | {len(reports)} | {counts} | {excess:.1f} | {coherent:.2f} | {max(c for _, c in pairs):.2f} |"
        )


def save(figure: plt.Figure, path: Path) -> None:
    """Write a picture 1200 px wide."""
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--clean", type=Path, nargs="*", default=[])
    parser.add_argument("--textures", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    photos = {name: reduced(getattr(data, name)(), REDUCE) for name in PHOTOS}
    if args.photos:
        photos |= {path.name: reduced(read_image(path).rgb8(), REDUCE) for path in find_images(args.photos)}
    clean = [inspect(y) for y in photos.values()]
    for folder in args.clean:
        clean += [inspect(reduced(read_image(path).rgb8(), REDUCE)) for path in find_images(folder)]
    floor_table(clean, args.out)
    print(f"\n{len(photos)} photos planted in")
    detection_table(photos, clean, args.out)
    jpeg_table(photos)
    texture_table(args.textures)


if __name__ == "__main__":
    main()
