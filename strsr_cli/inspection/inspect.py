"""`strsr fft-inspect`: looks for the grid that upscalers print; tells, draws, and fails where it is asked to."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from torch import Tensor

from strsr_models.errors import ImageError, UsageError

from ..images.color import to_tensor
from ..images.find import find_images
from ..images.formats import MAX_PIXELS
from ..images.read import read_image
from ..system.atomic import whole_file
from . import text as spectrum_text
from .measure import Inspection, compare, inspect

Report = Callable[[str], None]
SUMMARY = "summary.png"


@dataclass(frozen=True)
class InspectOptions:
    """What is looked for, and where it goes."""

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
    """An image to look at. relative: to the folder that it was found in."""

    path: Path
    relative: Path


def inspect_paths(paths: list[str], options: InspectOptions, report: Report) -> bool:
    """Look at all images; False when a score is too high or a file failed. Raises UsageError."""
    sources = find_sources(paths, options.out)
    if options.against is not None and not options.against.exists():
        raise UsageError(f"--against {options.against}: no such file or folder")
    sheets = plan_sheets(sources, options.out)
    console = Console(highlight=False)
    table = console.is_terminal and spectrum_text.table_fits(console, options.periods) and not options.json
    found: list[Inspection] = []
    failed = 0
    for source in with_bar(sources, beside_lines=console.is_terminal and not table):
        try:
            one, image = inspect_source(source, options)
            if source.path in sheets:
                write_sheet(sheets[source.path], image, one)
        except (ImageError, MemoryError, RuntimeError) as error:
            failed += 1
            tell_failure(source, error, options, report)
            continue
        found.append(one)
        if options.json:
            drawn = {"sheet": str(sheets[source.path])} if source.path in sheets else {}
            report(json.dumps({**as_json(one), **drawn}))
        elif not table:
            report(spectrum_text.as_line(one))
    if table and found:
        spectrum_text.print_table(console, found, options.periods)
    if options.out is not None and len(found) > 1:
        write_summary(options.out / SUMMARY, found)
    return not failed and not too_high(found, options.fail_above)


def find_sources(paths: list[str], out: Path | None) -> list[Source]:
    """All images that the arguments name, each once; sheets of an earlier call are not looked at."""
    found: dict[Path, Source] = {}
    for path in map(Path, paths):
        if path.is_dir():
            if out is not None and out.is_dir() and out.samefile(path):
                raise UsageError(f"--out {out}: sheets would lie among the images; choose another folder")
            inner = find_images(path, without=out)
            if not inner:
                raise UsageError(f"{path}: no images in this folder")
        elif path.exists():
            inner = [path]
        else:
            raise UsageError(f"{path}: no such file or folder")
        for each in inner:
            relative = each.relative_to(path) if path.is_dir() else Path(each.name)
            found.setdefault(each.resolve(), Source(each, relative))
    return list(found.values())


def with_bar(sources: list[Source], beside_lines: bool) -> Iterator[Source]:
    """The sources; on a terminal with a bar that vanishes, unless lines are printed there meanwhile."""
    console = Console(stderr=True)
    hidden = beside_lines or len(sources) < 2 or not console.is_terminal
    yield from track(sources, "looking", console=console, transient=True, disable=hidden)


def inspect_source(source: Source, options: InspectOptions) -> tuple[Inspection, Tensor]:
    """The inspection of one image and its pixels (1, c, h, w). Raises ImageError."""
    # Transparency is ignored.
    image = to_tensor(read_image(source.path, options.max_pixels).color)
    found = inspect(str(source.path), image, options.periods, options.channel, options.crop)
    if options.against is not None:
        reference = find_reference(source, options.against)
        other = to_tensor(read_image(reference, options.max_pixels).color)
        found = compare(found, image, str(reference), other)
    return found, image


def find_reference(source: Source, against: Path) -> Path:
    """The image to compare with: the one of the same name, or the one of the same stem."""
    if against.is_file():
        return against
    named = [against / source.relative, against / source.path.name]
    for path in named:
        if path.is_file():
            return path
    of_stem = [path for path in find_images(against) if path.stem == source.path.stem]
    if len(of_stem) == 1:
        return of_stem[0]
    reason = f"{len(of_stem)} images of that name" if of_stem else f"no {source.relative} there"
    raise ImageError(f"{source.path}: --against {against}: {reason}")


def tell_failure(source: Source, error: Exception, options: InspectOptions, report: Report) -> None:
    """Name a file that failed, on standard error, or in JSON beside the others."""
    reason = "out of memory" if isinstance(error, MemoryError) else (str(error).splitlines() or ["failed"])[0]
    if not isinstance(error, ImageError):
        reason = f"{source.path}: {reason}"
    if options.json:
        report(json.dumps({"image": str(source.path), "error": reason}))
    else:
        Console(stderr=True, highlight=False).print(
            f"failed {reason}", style="red", markup=False, soft_wrap=True
        )


def too_high(found: list[Inspection], limit: float | None) -> bool:
    """Whether any score of any period is above the limit."""
    return limit is not None and any(one.score > limit for one in found)


# --- sheets ------------------------------------------------------------------------------------------


def plan_sheets(sources: list[Source], out: Path | None) -> dict[Path, Path]:
    """The sheet of each source's path; makes the folder. Raises UsageError before anything is measured."""
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
    """A name for each: a.png for a.jpg; a.jpg.png, a.jpg-2.png where names would collide, without case."""
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
    """Make a folder for sheets, and see that it can be written to. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--out {out}: cannot be written: no permission for {folder}")


def write_sheet(path: Path, image: Tensor, found: Inspection) -> None:
    """Draw one image's sheet. Raises ImageError."""
    # Matplotlib is loaded for pictures only.
    from .sheet import draw_sheet

    save(path, draw_sheet(image, found))


def write_summary(path: Path, found: list[Inspection]) -> None:
    """Draw all images' scores, the highest first."""
    from .sheet import draw_summary

    save(path, draw_summary(found))


def save(path: Path, figure: Any) -> None:
    """Write a figure, whole or not at all."""
    try:
        with whole_file(path) as file, warnings.catch_warnings():
            # Letters that the font lacks: boxes.
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            figure.savefig(file, format="png")
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {error.strerror or error}") from error


# --- for programs ------------------------------------------------------------------------------------


def as_json(found: Inspection) -> dict[str, Any]:
    """All numbers of an inspection; what is not a number is None."""
    report = found.report
    values: dict[str, Any] = {
        "image": found.name,
        "width": found.width,
        "height": found.height,
        "channel": found.channel,
        "crop": found.crop,
        "verdict": found.verdict,
        "score_db": found.score,
        "note": found.note or None,
        "excess_db": by_period(report.periods, report.excess),
        "coherence": by_period(report.periods, report.coherence),
        "origin_aligned": by_period(report.periods, report.origin_aligned),
        "peaks": [
            {"fy": p.fy, "fx": p.fx, "period": p.period, "excess_db": p.excess, "axis": p.axis}
            for p in report.peaks
        ],
        "region": report.region,
        "slope": found.slope,
        "profile": {"frequency": found.frequency.tolist(), "db": found.profile_db.tolist()},
    }
    if found.against is not None:
        other = found.against
        values["against"] = {
            "image": other.name,
            "resized_from": other.resized_from,
            "excess_db": by_period(report.periods, other.excess),
            "profile_db": other.profile_db.tolist(),
            "difference_db": (found.profile_db - other.profile_db).tolist(),
            "fdl_pixels": other.fdl,
            "high_frequency_energy_ratio": other.high_energy,
        }
    rounded: dict[str, Any] = plain(values)
    return rounded


def by_period(periods: Sequence[int], values: Sequence[Any]) -> dict[str, Any]:
    """JSON's keys are text."""
    return {str(period): value for period, value in zip(periods, values, strict=True)}


def plain(value: Any) -> Any:
    """The value with numbers rounded to what they are worth, and None for those that are none."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value
