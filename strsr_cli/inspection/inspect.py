"""The work of `strsr fft-inspect`: measure images for the grid that upscalers print, tell, draw, fail above a limit."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import track
from torch import Tensor

from strsr_models.errors import ImageError, UsageError
from strsr_models.spectrum.interpolation import Interpolation

from ..images.color.restorer import to_tensor
from ..images.find import find_images, identity
from ..images.formats import MAX_PIXELS
from ..images.picture import visible_color
from ..images.read import read_image
from ..system.atomic import whole_file
from ..system.console import Tell, make_console
from ..system.terminal import takes_escapes
from . import text as spectrum_text
from .measure import Inspection, compare, inspect_image

SUMMARY = "summary.png"
DIGITS = 5  # of numbers in JSON

Item = TypeVar("Item")


@dataclass(frozen=True)
class InspectOptions:
    """The options of the command: what is looked for, and where the results go."""

    periods: tuple[int, ...]  # px
    against: Path | None
    out: Path | None
    json: bool
    fail_above: float | None  # dB
    channel: str
    crop: tuple[int, int, int, int] | None  # x, y, w, h
    max_pixels: int = MAX_PIXELS  # of an image


@dataclass(frozen=True)
class Source:
    """An image to inspect. relative: its path within the folder that was named, or its name."""

    path: Path
    relative: Path


def inspect_paths(paths: list[str], options: InspectOptions, report: Tell) -> bool:
    """Inspect all images. Returns False when a score is too high or a file failed. Raises UsageError."""
    sources = find_sources(paths, options.out)
    if options.against is not None and not options.against.exists():
        raise UsageError(f"--against {options.against}: no such file or folder")
    sheets = plan_sheets(sources, options.out)
    console = make_console()
    table = console.is_terminal and spectrum_text.table_fits(console, options.periods) and not options.json
    inspections: list[Inspection] = []
    failed = 0
    for source in with_bar(sources, "looking", beside_lines=console.is_terminal and not table):
        try:
            inspection, image = inspect_source(source, options)
            if source.path in sheets:
                write_sheet(sheets[source.path], image, inspection)
        except (ImageError, MemoryError, RuntimeError) as error:
            failed += 1
            tell_failure(source, error, options, report)
            continue
        inspections.append(inspection)
        if options.json:
            values = as_json(inspection)
            if source.path in sheets:
                values["sheet"] = str(sheets[source.path])
            report(json.dumps(values))
        elif not table:
            report(spectrum_text.as_line(inspection))
    if table and inspections:
        spectrum_text.print_table(console, inspections, options.periods)
    if options.out is not None and len(inspections) > 1:
        write_summary(options.out / SUMMARY, inspections)
    return not failed and not too_high(inspections, options.fail_above)


def find_sources(paths: list[str], out: Path | None) -> list[Source]:
    """All images that the arguments name, each once; sheets of an earlier call are left out. Raises UsageError."""
    sources: dict[Path, Source] = {}
    for path in map(Path, paths):
        if path.is_dir():
            if out is not None and out.is_dir() and identity(out) == identity(path):
                raise UsageError(f"--out {out}: sheets would lie among the images; choose another folder")
            images = find_images(path, without=out)
            if not images:
                raise UsageError(f"{path}: no images in this folder")
        elif path.exists():
            images = [path]
        else:
            raise UsageError(f"{path}: no such file or folder")
        for image in images:
            relative = image.relative_to(path) if path.is_dir() else Path(image.name)
            sources.setdefault(image.resolve(), Source(image, relative))
    return list(sources.values())


def with_bar(items: Sequence[Item], words: str, beside_lines: bool = False) -> Iterator[Item]:
    """Yield the items; a terminal shows a bar that vanishes, unless lines are printed there meanwhile."""
    console = make_console(stderr=True)
    hidden = beside_lines or len(items) < 2 or not takes_escapes(sys.stderr)
    # rich before 14.3 prints an empty line for a hidden bar.
    yield from items if hidden else track(items, words, console=console, transient=True)


def inspect_source(source: Source, options: InspectOptions) -> tuple[Inspection, Tensor]:
    """The inspection of one image, and its pixels (1, c, h, w) without alpha. Raises ImageError."""
    image = read_colors(source.path, options.max_pixels)
    inspection = inspect_image(str(source.path), image, options.periods, options.channel, options.crop)
    if options.against is not None:
        path = find_reference(source, options.against)
        reference = read_colors(path, options.max_pixels)
        inspection = compare(inspection, image, str(path), reference)
    return inspection, image


def read_colors(path: Path, max_pixels: int) -> Tensor:
    """The colours of an image file, (1, c, h, w); a flat one where transparency hides them. Raises ImageError."""
    picture = read_image(path, max_pixels)
    return to_tensor(visible_color(picture.color, picture.alpha))


def find_reference(source: Source, against: Path) -> Path:
    """The image to compare with: the one of the same name, or the one of the same stem. Raises ImageError."""
    if against.is_file():
        return against
    for path in (against / source.relative, against / source.path.name):
        if path.is_file():
            return path
    namesakes = [path for path in find_images(against) if path.stem == source.path.stem]
    if len(namesakes) == 1:
        return namesakes[0]
    reason = f"{len(namesakes)} images of that name" if namesakes else f"no {source.relative} there"
    raise ImageError(f"{source.path}: --against {against}: {reason}")


def tell_failure(source: Source, error: Exception, options: InspectOptions, report: Tell) -> None:
    """Name a file that failed, on standard error, or in JSON beside the others."""
    reason = "out of memory" if isinstance(error, MemoryError) else (str(error).splitlines() or ["failed"])[0]
    if not isinstance(error, ImageError):
        reason = f"{source.path}: {reason}"
    if options.json:
        report(json.dumps({"image": str(source.path), "error": reason}))
    else:
        make_console(stderr=True).print(f"failed {reason}", style="red", markup=False, soft_wrap=True)


def too_high(inspections: list[Inspection], limit: float | None) -> bool:
    """Whether any score of any period is above the limit."""
    return limit is not None and any(inspection.score > limit for inspection in inspections)


# --- sheets ------------------------------------------------------------------------------------------


def plan_sheets(sources: list[Source], out: Path | None) -> dict[Path, Path]:
    """The sheets by their sources' paths; the folder is made. Raises UsageError before anything is measured."""
    if out is None:
        return {}
    if out.suffix.lower() == ".png" and not out.is_dir():
        if len(sources) > 1:
            raise UsageError(f"--out {out}: {len(sources)} images want a folder, not a file")
        sheets = {sources[0].path: out}
    elif out.suffix and not out.is_dir():
        raise UsageError(f"--out {out}: sheets are PNG files; use a name with .png, or a folder")
    else:
        sheets = {source.path: out / name for source, name in zip(sources, sheet_names(sources), strict=True)}
    originals = {source.path.resolve() for source in sources}
    for sheet in {*sheets.values(), *([out / SUMMARY] if len(sources) > 1 else [])}:
        if sheet.resolve() in originals:
            raise UsageError(f"--out {out}: {sheet} would replace an image that is looked at")
        make_folder(out, sheet.parent)
    return sheets


def sheet_names(sources: list[Source]) -> list[Path]:
    """The name of each source's sheet: a.png for a.jpg; a.jpg.png or a.jpg-2.png where names would collide.

    Names that differ in case alone count as the same.
    """
    short = [source.relative.with_suffix(".png") for source in sources]
    count = Counter(str(name).casefold() for name in [*short, SUMMARY])
    taken = {SUMMARY}
    names = []
    for source, name in zip(sources, short, strict=True):
        if count[str(name).casefold()] > 1:
            name = source.relative.with_name(source.relative.name + ".png")
        number, wanted = 1, name
        while str(name).casefold() in taken:
            number += 1
            name = wanted.with_name(f"{wanted.stem}-{number}.png")
        taken.add(str(name).casefold())
        names.append(name)
    return names


def make_folder(out: Path, folder: Path) -> None:
    """Make a folder for sheets, and check that it can be written to. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--out {out}: cannot be written: no permission for {folder}")


def write_sheet(path: Path, image: Tensor, inspection: Inspection) -> None:
    """Draw one image's sheet. Raises ImageError."""
    # Matplotlib, which is slow to load, is loaded for sheets only.
    from .sheet import draw_sheet

    save(path, draw_sheet(image, inspection))


def write_summary(path: Path, inspections: list[Inspection]) -> None:
    """Draw the summary of all images, the highest score first. Raises ImageError."""
    from .sheet import draw_summary

    save(path, draw_summary(inspections))


def save(path: Path, figure: Any) -> None:
    """Write a figure as PNG, whole or not at all. Raises ImageError."""
    try:
        with whole_file(path) as file, warnings.catch_warnings():
            # Letters that the font lacks are drawn as boxes, without a warning.
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            figure.savefig(file, format="png")
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {error.strerror or error}") from error


# --- for programs ------------------------------------------------------------------------------------


def as_json(inspection: Inspection) -> dict[str, Any]:
    """All values of an inspection, for JSON; numbers that are not finite become None."""
    report = inspection.report
    values: dict[str, Any] = {
        "image": inspection.name,
        "width": inspection.width,
        "height": inspection.height,
        "channel": inspection.channel,
        "crop": inspection.crop,
        "verdict": inspection.verdict,
        "score_db": inspection.score,
        "note": inspection.note or None,
        "excess_db": by_period(report.periods, report.excess),
        "coherence": by_period(report.periods, report.coherence),
        "origin_aligned": by_period(report.periods, report.origin_aligned),
        "peaks": [
            {
                "fy": peak.fy,
                "fx": peak.fx,
                "period": peak.period,
                "excess_db": peak.excess,
                "axis": peak.axis,
            }
            for peak in report.peaks
        ],
        "region": report.region,
        "certainty": by_period(report.periods, report.certainty),
        "trace_db": by_period(report.periods, report.trace),
        "interpolation": interpolation_values(report.interpolation),
        "flat": report.flat,
        "slope": inspection.slope,
        "profile": {"frequency": inspection.frequency.tolist(), "db": inspection.profile_db.tolist()},
    }
    if inspection.against is not None:
        reference = inspection.against
        values["against"] = {
            "image": reference.name,
            "resized_from": reference.resized_from,
            "excess_db": by_period(report.periods, reference.excess),
            "profile_db": reference.profile_db.tolist(),
            "difference_db": (inspection.profile_db - reference.profile_db).tolist(),
            "fdl_pixels": reference.fdl,
            "high_frequency_energy_ratio": reference.high_energy,
        }
    rounded: dict[str, Any] = plain(values)
    return rounded


def interpolation_values(interpolation: Interpolation | None) -> dict[str, Any] | None:
    """The values of a plain enlargement, for JSON; None where none is known."""
    if interpolation is None or interpolation.smooth:
        return None
    return {
        "factor": interpolation.factor,
        "gain_db": interpolation.gain,
        "residual_steps": interpolation.residual,
        "blocks": interpolation.blocks,
    }


def by_period(periods: Sequence[int], values: Sequence[Any]) -> dict[str, Any]:
    """The values by their periods, as text, since the keys of JSON are text."""
    return {str(period): value for period, value in zip(periods, values, strict=True)}


def plain(value: Any, digits: int = DIGITS) -> Any:
    """The value with numbers rounded to so many decimals, and None in place of those that are not finite."""
    if isinstance(value, dict):
        return {key: plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    return value
