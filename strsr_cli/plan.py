"""What will be made from what, known before any network is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from strsr_models.errors import ImageError, UsageError, nearest
from strsr_models.sizes import output_size

from .formats import FORMAT_BY_SUFFIX, MAX_PIXELS, OUTPUT_FORMATS, READ_ONLY_SUFFIXES, check_fits
from .images import find_images, kind_of, read_size

STREAM = "-"  # in place of a path: standard input or output
# Suffixes of images that are not written, and that nobody would give to a folder.
FOREIGN_SUFFIXES = {*READ_ONLY_SUFFIXES, ".psd", ".svg", ".jp2", ".ppm", ".exr", ".pdf"}


@dataclass(frozen=True)
class Job:
    """One image to make. source or target is None for a stream."""

    source: Path | None
    target: Path | None
    kind: str  # of the output, a key of OUTPUT_FORMATS

    @property
    def name(self) -> str:
        """The source as messages call it."""
        return STREAM if self.source is None else str(self.source)

    @property
    def target_name(self) -> str:
        """The target as messages call it."""
        return STREAM if self.target is None else str(self.target)

    @property
    def finished(self) -> bool:
        """Whether the output is there; outputs appear whole, so a file that exists is done."""
        return self.target is not None and self.target.exists()


def plan_jobs(source: str, target: str, kind: str) -> list[Job]:
    """All jobs for INPUT, OUTPUT and --format ("keep" or a key of OUTPUT_FORMATS), in a stable order.

    Two sources of one name but for the suffix, whose outputs would collide, give outputs that keep
    the whole source name: a.jpg.png. Raises UsageError for paths that make no sense.
    """
    if kind != "keep" and kind not in OUTPUT_FORMATS:
        raise UsageError(f"--format {kind}: unknown; {nearest(kind, ['keep', *OUTPUT_FORMATS])}")
    if source == STREAM:
        return [_single(None, target, kind)]
    path = Path(source)
    if path.is_dir():
        return _folder(path, target, kind)
    if not path.exists():
        raise UsageError(f"{source}: no such file or folder")
    return [_single(path, target, kind)]


def _single(source: Path | None, target: str, kind: str) -> Job:
    own = "png" if source is None else kept_kind(source)
    if target == STREAM:
        return Job(source, None, "png" if kind == "keep" else kind)
    path = Path(target)
    suffix = path.suffix.lower()
    if not path.is_dir() and not target.endswith("/"):
        if suffix in FORMAT_BY_SUFFIX:
            named = FORMAT_BY_SUFFIX[suffix]
            if kind not in ("keep", named):
                raise UsageError(f"{target}: its suffix says {named}, --format says {kind}; drop one of them")
            return _checked(Job(source, path, named))
        if suffix in FOREIGN_SUFFIXES:
            known = ", ".join(FORMAT_BY_SUFFIX)
            raise UsageError(f"{target}: cannot write {suffix} files; use one of {known}")
    kind = own if kind == "keep" else kind
    stem = "stdin" if source is None else source.stem
    same = source is not None and FORMAT_BY_SUFFIX.get(source.suffix.lower()) == kind
    name = source.name if source is not None and same else stem + OUTPUT_FORMATS[kind].suffix
    return _checked(Job(source, path / name, kind))


def _folder(source: Path, target: str, kind: str) -> list[Job]:
    if target == STREAM:
        raise UsageError(f"{source}: a folder cannot go to standard output; give a folder as OUTPUT")
    root = Path(target)
    if not root.is_dir() and root.suffix.lower() in FORMAT_BY_SUFFIX.keys() | FOREIGN_SUFFIXES:
        raise UsageError(f"{target}: INPUT is a folder, so OUTPUT must be one, not an image file")
    found = [path for path in find_images(source) if not inside(path, root, source)]
    if not found:
        raise UsageError(f"{source}: no images in this folder ({', '.join(FORMAT_BY_SUFFIX)})")

    def output(path: Path, whole_name: bool) -> Path:
        relative = path.relative_to(source)
        own = FORMAT_BY_SUFFIX.get(path.suffix.lower())
        made = kept_kind(path) if kind == "keep" else kind
        if own == made:
            return root / relative
        stem = relative.name if whole_name else relative.stem
        return root / relative.with_name(stem + OUTPUT_FORMATS[made].suffix)

    # Names are compared without case, as Windows and macOS do.
    taken = Counter(str(output(path, False)).casefold() for path in found)
    outputs = [output(path, taken[str(output(path, False)).casefold()] > 1) for path in found]
    twice = [path for path, count in Counter(str(out).casefold() for out in outputs).items() if count > 1]
    if twice:
        clash = [path for path, out in zip(found, outputs, strict=True) if str(out).casefold() == twice[0]]
        raise UsageError(f"{' and '.join(map(str, clash))} would both become {twice[0]}; rename one")
    kinds = [kept_kind(path) if kind == "keep" else kind for path in found]
    return [_checked(Job(*job)) for job in zip(found, outputs, kinds, strict=True)]


def kept_kind(path: Path) -> str:
    """What `--format keep` makes of an input: what its suffix says, else what it is, else PNG."""
    suffix = path.suffix.lower()
    if suffix in FORMAT_BY_SUFFIX or suffix in READ_ONLY_SUFFIXES:
        return FORMAT_BY_SUFFIX.get(suffix, "png")
    kinds = {form.pillow: kind for kind, form in OUTPUT_FORMATS.items()}
    return kinds.get(kind_of(path) or "", "png")


def inside(path: Path, root: Path, source: Path) -> bool:
    """Whether a found image is itself an output: OUTPUT may lie inside INPUT."""
    root = root.resolve()
    return root != source.resolve() and root in path.resolve().parents


def _checked(job: Job) -> Job:
    """The job, unless its output would take the place of its input."""
    if job.source is not None and job.target is not None and job.target.exists():
        if job.target.samefile(job.source):
            raise UsageError(f"{job.target}: the output would replace its own input; choose another OUTPUT")
    return job


def planned_sizes(
    jobs: list[Job], scale: float, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Job, dict[str, int | str]]]:
    """For each job the sizes that its input has and its output will have, or the error that awaits it."""
    for job in jobs:
        if job.source is None:
            yield job, {}
            continue
        try:
            height, width = read_size(job.source, max_pixels)
            to_height, to_width = fitting_size(job, height, width, scale)
        except ImageError as error:
            yield job, {"error": str(error)}
            continue
        yield job, {"width": width, "height": height, "to_width": to_width, "to_height": to_height}


def fitting_size(job: Job, height: int, width: int, scale: float) -> tuple[int, int]:
    """(height, width) of the output; ImageError when its format cannot hold that."""
    to_height, to_width = output_size(height, width, scale)
    try:
        check_fits(job.kind, to_height, to_width)
    except ImageError as error:
        raise ImageError(f"{job.name}: {error}") from error
    return to_height, to_width
