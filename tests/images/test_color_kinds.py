"""Colours of some eighty kinds of files, as an independent reader sees them: none shifts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from skimage import color as sk_color
from skimage import data as sk_data

from ..helpers.color_kinds import Kind, Scene, color_kinds

SIDE = 64  # px of a patch; lite shifts narrower ones a little
PATCHES = [
    [(40, 40, 40), (128, 128, 128), (225, 222, 218), (196, 145, 120)],
    [(60, 90, 150), (80, 130, 70), (170, 60, 55), (225, 180, 60)],
]
DARK, LIGHT, MIDDLE = (25, 25, 25), (235, 235, 235), (120, 70, 40)  # ends of ramps
PAGE = Path(__file__).parents[2] / "docs" / "developing" / "color-kinds.md"


def to_light(pixels: np.ndarray) -> Scene:
    values = pixels / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def chart() -> Scene:
    """Patches, and below them ramps of gray and of a colour."""
    flat = np.array(PATCHES, float).repeat(SIDE, 0).repeat(SIDE, 1)
    steps = np.linspace(0, 1, 4 * SIDE)[None, :, None]
    ramps = [(1 - steps) * np.array(DARK) + steps * np.array(end) for end in (LIGHT, MIDDLE)]
    return to_light(np.concatenate([flat, *(ramp.repeat(SIDE // 2, 0) for ramp in ramps)]))


def photo() -> Scene:
    pixels = sk_data.coffee()[:384, 100:484].reshape(128, 3, 128, 3, 3).mean((1, 3))
    return to_light(pixels)


class Reader:
    """libvips, which reads files by their profiles into CIELAB under D50, each step in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lab(self, path: Path) -> np.ndarray:
        """(h, w, 3); a file without a profile is taken for sRGB."""
        image, header = path, self.header(path)
        gray = int(header["bands"]) < 3
        if header["format"] == "float":
            # libvips wants floats in other bounds than TIFF has them.
            image = self.run("cast", self.run("linear", image, "65535", "0"), "ushort")
            image = self.run("copy", image, "--interpretation", "grey16" if gray else "rgb16")
        if gray and "icc-profile-data" not in header:
            image = self.run("colourspace", image, "srgb" if header["format"] == "uchar" else "rgb16")
        image = self.run("icc_import", image, "--embedded", "--intent", "relative")
        raw = self.folder / "pixels.raw"
        subprocess.run(["vips", "rawsave", image, raw], check=True, capture_output=True)
        shape = int(header["height"]), int(header["width"]), -1
        return np.fromfile(raw, np.float32).reshape(shape)[..., :3]

    def run(self, step: str, image: Path, *options: str) -> Path:
        out = self.folder / f"{step}.v"
        command = ["vips", step, image, out, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"vips {step} {image}: {done.stderr}"
        return out

    def header(self, image: Path) -> dict[str, str]:
        done = subprocess.run(["vipsheader", "-a", image], capture_output=True, text=True, check=True)
        return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)


def halved(lab: np.ndarray) -> np.ndarray:
    height, width = lab.shape[:2]
    return lab.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))


def chart_parts(lab: np.ndarray) -> np.ndarray:
    """(n, 3): means of the middles of the patches, and of pieces of the ramps."""
    inner = SIDE // 4
    flat = lab[: 2 * SIDE].reshape(2, SIDE, 4, SIDE, 3)[:, inner:-inner, :, inner:-inner].mean((1, 3))
    ramps = lab[2 * SIDE :].reshape(2, SIDE // 2, 32, 8, 3)[:, 8:-8, 1:-1].mean((1, 3))
    return np.concatenate([flat.reshape(-1, 3), ramps.reshape(-1, 3)])


def differences(
    kinds: list[Kind], scene: Scene, parts: Callable[[np.ndarray], np.ndarray], folder: Path, strsr: Callable
) -> dict[str, np.ndarray]:
    """CIEDE2000 of each kind between what its file shows and what its output, shrunk back, shows."""
    sources, reader = folder / "in", Reader(folder)
    for kind in kinds:
        path = sources / (kind.out or "keep") / f"{kind.name}{kind.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(kind.make(scene))
    for source in sources.iterdir():
        result = strsr(
            "upscale", source, folder / "out" / source.name, "--scale", "2", "--format", source.name
        )
        assert result.exit_code == 0, result.output
    found = {}
    for kind in kinds:
        name = kind.out or "keep"
        truth = sources / name / f"{kind.name}{kind.suffix}"
        suffix = f".{kind.out}" if kind.out else kind.suffix
        if kind.reference is not None:
            truth = folder / f"reference{kind.reference[0]}"
            truth.write_bytes(kind.reference[1](scene))
        shown = reader.lab(folder / "out" / name / f"{kind.name}{suffix}")
        found[kind.name] = sk_color.deltaE_ciede2000(parts(reader.lab(truth)), parts(halved(shown)))
    return found


def write_page(charts: dict[str, np.ndarray], photos: dict[str, np.ndarray]) -> None:
    lines = [
        "# Colours of files, kind by kind",
        "",
        "Made by `STRSR_UPDATE_GOLDEN=1 python -m pytest -m slow tests/images/test_color_kinds.py`: each",
        "kind of file is enlarged twice by lite, its output shrunk back by means, and both are read by",
        "libvips by their profiles (of what libvips does not know, the input is given to it in other words).",
        "CIEDE2000 on eight flat patches and two ramps, and its mean on a photo. The kinds:",
        "[tests/helpers/color_kinds.py](../../tests/helpers/color_kinds.py). The bounds of the test: 1.0 on",
        "each patch and piece of a ramp; a photo's mean at most 0.3 above that of `png-8`, where the output",
        "is JPEG, WebP or AVIF above that of `png-8` as that format (these lose something of their own).",
        "",
        "| kind | patches and ramps: mean | largest | photo: mean |",
        "|---|---|---|---|",
    ]
    for name, values in charts.items():
        lines.append(f"| {name} | {values.mean():.2f} | {values.max():.2f} | {photos[name].mean():.2f} |")
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("vips") is None, reason="needs libvips (libvips-tools)")
def test_colours_of_every_kind_of_file_stay(tmp_path: Path, strsr: Callable) -> None:
    kinds = list(color_kinds())
    assert len(kinds) >= 60
    assert len({kind.name for kind in kinds}) == len(kinds)
    charts = differences(kinds, chart(), chart_parts, tmp_path / "charts", strsr)
    photos = differences(kinds, photo(), lambda lab: lab, tmp_path / "photos", strsr)
    for name, values in charts.items():
        print(f"{name:28} {values.mean():.3f} {values.max():.3f} {photos[name].mean():.3f}")
    if os.environ.get("STRSR_UPDATE_GOLDEN"):
        write_page(charts, photos)
    assert {name for name, values in charts.items() if values.max() > 1.0} == set()
    plain = {out: photos[f"png-8-to-{out}"].mean() for out in ("jpg", "webp", "avif")}
    for kind in kinds:
        out = kind.out or kind.suffix[1:]
        assert photos[kind.name].mean() <= plain.get(out, photos["png-8"].mean()) + 0.3, kind.name
