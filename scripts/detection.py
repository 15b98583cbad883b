"""Measure how well lattices are found in photos, and how seldom where there are none: the figures of docs/developing/grid-estimator.md.

    python scripts/detection.py --photos FOLDER [--clean FOLDER ...] [--textures FOLDER] [--outputs FOLDER ...]
        [--every N] [--only TABLE ...] [--out docs/images]

Photos of scikit-image and of --photos get lattices planted; they and those of --clean, as they are, show false
alarms and the noise floor. All are reduced to three quarters first (antialiased), since JPEG and WebP print
lattices of 8, 4 and 16 px of their own, which would rightly be found; then rounded to 8 bits, as planted ones
are. Plain enlargements of the photos (every fourth of them) are clean too, but for nearest neighbour; so are pictures
without content. --textures: bricks, fabric, slats, reduced in small steps so that their periods pass through 4, 8 and
16. --outputs: an upscaler's, as they are. --every: take every Nth file of --clean. --only: floor, planted,
enlarged, empty, codecs, textures, outputs.
Writes Markdown tables to stdout and fft-detection.png, fft-floor.png to --out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import cv2
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
from strsr_models.tiling.enlargement import enlarge

mpl.use("Agg")


PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "coins", "moon", "rocket", "brick", "grass", "gravel")
PERIODS = (4, 8, 16)
AMPLITUDES = (0.5, 1.0, 2.0)  # 8-bit steps, root mean square
PATTERNS = ("checker", "box", "decoder", "decoder, modulated")
WAVES = ("cosines on both axes", "product of cosines", "cosine on one axis")
NUMBERS = {"excess": "--", "coherence": ":", "certainty": "-"}  # of a report, and how they are drawn
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
    contrast (its deviation in 15 x 15 px). Waves are cosines of that period, and nothing else.
    """
    down, across = np.indices(y.shape)
    down, across = down + rng.integers(period), across + rng.integers(period)
    wave, other = (np.cos(2 * np.pi * place / period) for place in (across, down))
    if kind in WAVES:
        planted = (wave + other, wave * other, wave)[WAVES.index(kind)]
    elif kind == "checker":
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
            for kind in (*PATTERNS, *WAVES):
                planted = pattern(kind, y, period, np.random.default_rng(number))
                for amplitude in AMPLITUDES:
                    yield kind, period, amplitude, inspect(y + amplitude * planted, (period,))


def detection_table(photos: dict[str, Gray], clean: list[LatticeReport], out: Path) -> None:
    """Print the rates and draw the ROC curves of both numbers at 1/4 and 1/2 and 1 step."""
    rows = list(plant(photos))
    print("\n| period | lattice | verdict at rms " + " | ".join(f"{a:g}" for a in AMPLITUDES) + " |")
    print("|---|---|" + "---|" * len(AMPLITUDES))
    for period in (8, 16):
        for kind in (*PATTERNS, "all", *WAVES):
            cells = []
            for amplitude in AMPLITUDES:
                verdicts = [
                    verdict(r)
                    for k, p, a, r in rows
                    if p == period and a == amplitude and (k == kind or (kind == "all" and k in PATTERNS))
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
        for name, dashes in NUMBERS.items():
            noise = np.sort([getattr(r, name)[PERIODS.index(period)] for r in clean])
            threshold = np.quantile(noise, 0.99)
            rates = []
            for amplitude, colour in zip(AMPLITUDES, ("C1", "C0", "C2"), strict=True):
                planted = np.array(
                    [
                        getattr(r, name)[0]
                        for kind, p, a, r in rows
                        if (p, a) == (period, amplitude) and kind in PATTERNS
                    ]
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
        "99th percentile | greatest | certainty: mean | 99th percentile | greatest | suspect | grid |\n|"
        + "---|"
        * 12
    )
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2))
    for column, period in enumerate(PERIODS):
        excess, coherent, certain = (np.array([getattr(r, n)[column] for r in clean]) for n in NUMBERS)
        single = [
            LatticeReport((period,), (e,), (c,), (False,), (), None, (s,))
            for e, c, s in zip(excess, coherent, certain, strict=True)
        ]
        verdicts = [verdict(report) for report in single]
        numbers = [
            f"{f(x):.2f}"
            for x in (excess, coherent, certain)
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


def webp_table(photos: dict[str, Gray]) -> None:
    """Print how many WebP files are reported as period 4 from the origin."""
    print("\n| WebP quality | grid | suspect | main period 4 | 4 from the origin |\n|---|---|---|---|---|")
    for quality in (30, 60, 75, 90, 95):
        reports = []
        for y in photos.values():
            file = BytesIO()
            Image.fromarray(np.rint(y).clip(0, 255).astype(np.uint8)).save(file, "WEBP", quality=quality)
            reports.append(inspect(np.asarray(Image.open(file).convert("L"), np.float32)))
        rates = (
            np.mean([verdict(r) == "grid" for r in reports]),
            np.mean([verdict(r) == "suspect" for r in reports]),
            np.mean([main_period(r) == 4 for r in reports]),
            np.mean([r.origin_aligned[0] for r in reports]),
        )
        print(f"| {quality} | " + " | ".join(f"{rate:.0%}" for rate in rates) + " |")


def ours(small: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The plain enlargement that strsr itself makes, (h, w, 3) uint8."""
    tensor = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
    large = enlarge(tensor, size[1], size[0])[0].permute(1, 2, 0).clamp(0, 1)
    return (large * 255).round().byte().numpy()


def kernels() -> dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]]:
    """Plain enlargements of uint8 pixels to (w, h), by their names."""
    pillow = {"nearest": 0, "bilinear": 2, "bicubic": 3, "Lanczos": 1}
    opencv = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "Lanczos": cv2.INTER_LANCZOS4}
    table = {
        f"Pillow {name}": lambda small, size, code=code: np.asarray(
            Image.fromarray(small).resize(size, Image.Resampling(code))
        )
        for name, code in pillow.items()
    }
    table |= {
        f"OpenCV {name}": lambda small, size, code=code: cv2.resize(small, size, interpolation=code)
        for name, code in opencv.items()
    }
    return table | {"strsr": ours}


def enlarged_table(files: list[Path]) -> None:
    """Print the verdicts on plain enlargements of photos that were reduced to three sixteenths first."""
    print(
        "\n| enlarged by | x2 | x3 | x4 | x8 | factor right | least gain, dB |\n|---|---|---|---|---|---|---|"
    )
    small = []
    for path in files[::4]:
        image = Image.fromarray(read_image(path).rgb8())
        size = (image.width * 3 // 16, image.height * 3 // 16)
        small.append(np.asarray(image.resize(size, Image.Resampling.LANCZOS)).copy())
    for name, kernel in kernels().items():
        cells, right, gains = [], [], []
        for factor in (2, 3, 4, 8):
            verdicts = []
            for pixels in small:
                part = np.ascontiguousarray(pixels[: 512 // factor, : 512 // factor])
                large = kernel(part, (part.shape[1] * factor, part.shape[0] * factor)).copy()
                report = inspect_lattice(torch.from_numpy(large).permute(2, 0, 1)[None].float() / 255)
                verdicts.append(verdict(report))
                right.append(report.interpolation is not None and report.interpolation.factor == factor)
                gains.append(report.interpolation.gain if report.interpolation else 0.0)
            cells.append(", ".join(f"{count} {word}" for word, count in Counter(verdicts).items()))
        print(f"| {name} | {' | '.join(cells)} | {sum(right)} of {len(right)} | {min(gains):.2f} |")


def empty_table() -> None:
    """Print the verdicts on pictures without content."""
    down, across = np.indices((512, 512)).astype(np.float32)
    noise = np.random.default_rng(0).random((512, 512)).astype(np.float32) * 102
    page = np.full((800, 600), 255, np.float32)
    page[100:110, 50:500] = 0
    pictures = {f"grey {value}": np.full((256, 256), value, np.float32) for value in range(0, 256, 5)}
    pictures |= {
        "horizontal ramp": across / 2,
        "vertical ramp": down / 2,
        "diagonal ramp": (across + down) / 4,
        "radial ramp": np.hypot(across - 256, down - 256) * 0.7,
        "flat sky above noise": np.where(down < 300, 127.5, noise),
        "white page with one rule": page,
    }
    verdicts = {name: verdict(inspect(picture)) for name, picture in pictures.items()}
    others = {name: word for name, word in verdicts.items() if word != "clean"}
    print(
        f"\n{len(verdicts)} pictures without content: {len(verdicts) - len(others)} clean; others: {others}"
    )


def outputs_table(folders: list[Path]) -> None:
    """Print the verdicts on pictures as they are."""
    print("\n| folder | clean | suspect | grid | main periods | with a trace |\n|---|---|---|---|---|---|")
    for folder in folders:
        reports = []
        for path in find_images(folder):
            tensor = torch.from_numpy(read_image(path).rgb8().copy()).permute(2, 0, 1)[None].float() / 255
            reports.append(inspect_lattice(tensor))
        words = Counter(verdict(r) for r in reports)
        periods = Counter(period for r in reports if (period := main_period(r)) is not None)
        counts = " | ".join(str(words[word]) for word in ("clean", "suspect", "grid"))
        traces = sum(max(r.trace) >= 1 for r in reports)
        print(f"| {folder.name} | {counts} | {dict(periods)} | {traces} |")


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
    parser.add_argument("--outputs", type=Path, nargs="*", default=[])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    photos = {name: reduced(getattr(data, name)(), REDUCE) for name in PHOTOS}
    files = find_images(args.photos) if args.photos else []
    photos |= {path.name: reduced(read_image(path).rgb8(), REDUCE) for path in files}

    def wanted(table: str) -> bool:
        return not args.only or table in args.only

    if wanted("enlarged"):
        enlarged_table(files)
    if wanted("empty"):
        empty_table()
    if wanted("outputs"):
        outputs_table(args.outputs)
    if wanted("codecs"):
        jpeg_table(photos)
        webp_table(photos)
    if wanted("floor") or wanted("planted"):
        clean = [inspect(y) for y in photos.values()]
        for folder in args.clean:
            chosen = find_images(folder)[:: args.every]
            clean += [inspect(reduced(read_image(path).rgb8(), REDUCE)) for path in chosen]
        floor_table(clean, args.out)
        print(f"\n{len(photos)} photos planted in")
        detection_table(photos, clean, args.out)
    if wanted("textures"):
        texture_table(args.textures)


if __name__ == "__main__":
    main()
