"""The plan of a batch: what will be made from what, known before any network is loaded."""

from __future__ import annotations

import contextlib
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from strsr_models.errors import ImageError, UsageError, nearest
from strsr_models.tiling.sizes import output_size

from ..images.find import (
    FileList,
    describe_passed_over,
    find_files,
    identity,
    kind_of,
    list_files,
    read_list,
)
from ..images.formats import FORMAT_BY_SUFFIX, MAX_PIXELS, OUTPUT_FORMATS, READ_ONLY_SUFFIXES, check_fits
from ..images.read import frames_of, read_size
from .job import STREAM, Job, Shard
from .journal import JOURNAL
from .naming import frame_name, output_name, output_names

# Suffixes of images that are not written, and that nobody would give to a folder.
FOREIGN_SUFFIXES = {*READ_ONLY_SUFFIXES, ".psd", ".svg", ".jp2", ".ppm", ".exr", ".pdf"}


@dataclass(frozen=True)
class Plan:
    """The images that a command line asks for: those to make, and those that will not be made.

    root: the output folder of a tree of images, or None for a single one. refused: path and reason of each
    image that cannot be done. passed_over: numbers of files that are no inputs, by kind (see FileList).
    """

    jobs: list[Job]
    root: Path | None = None
    refused: list[tuple[Path, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """The number of images, those that cannot be done included."""
        return len(self.jobs) + len(self.refused)

    def shard(self, part: Shard) -> Plan:
        """Return one part of the plan.

        It is to be taken before anything is skipped, so that all processes split the same list.
        """
        return replace(self, jobs=part.of(self.jobs), refused=part.of(self.refused))


def make_plan(
    source: str,
    target: str | None,
    kind: str,
    names: list[str] | None = None,
    add: str | None = None,
    frames: bool = False,
) -> Plan:
    """Return the plan for INPUT, OUTPUT and --format ("keep" or a key of OUTPUT_FORMATS), in a stable order.

    names: a list of files below INPUT, in place of all of them. add: --in-place-suffix; OUTPUT is None then.
    frames: --frames all. Raises UsageError for paths that make no sense.
    """
    if kind != "keep" and kind not in OUTPUT_FORMATS:
        raise UsageError(f"--format {kind}: unknown; {nearest(kind, ['keep', *OUTPUT_FORMATS])}")
    check_suffix(add)
    if target is None and add is None:
        raise UsageError("OUTPUT is missing: a folder or file for what is made; or use --in-place-suffix _x4")
    if source == STREAM:
        if names is not None or add is not None:
            raise UsageError("INPUT -: standard input has no folder; drop --files-from and --in-place-suffix")
        return _plan_stream(None, str(target), kind, frames)
    path = Path(source)
    if path.is_dir():
        return _plan_folder(path, target, kind, names, add, frames)
    if names is not None:
        raise UsageError(f"{source}: no such folder; names in a list are relative to INPUT, such as .")
    if not path.exists():
        raise UsageError(f"{source}: no such file or folder")
    if is_stream(path):
        if add is not None:
            raise UsageError(f"{source}: a pipe has no place for outputs beside it; drop --in-place-suffix")
        return _plan_stream(path, str(target), kind, frames)
    if frames:
        plan = _plan_frames(path, target, kind, add)
        if plan is not None:
            return plan
    if add is not None:
        return _plan_single(_job_beside(path, target, kind, add))
    return _plan_single(_job_of(path, str(target), kind))


def is_stream(path: Path) -> bool:
    """Whether a path is that of a pipe or terminal, as <(command) gives; those can be read only once."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _plan_stream(pipe: Path | None, target: str, kind: str, frames: bool) -> Plan:
    """Return the plan for a pipe, or for standard input where there is none."""
    if frames:
        name = STREAM if pipe is None else pipe
        raise UsageError(f"INPUT {name}: --frames all needs a file, whose frames can be counted first")
    return Plan([replace(_job_of(None, target, kind), pipe=pipe)])


def _plan_frames(source: Path, target: str | None, kind: str, add: str | None) -> Plan | None:
    """Return the plan for all frames of a single file, which are a batch with a journal; None for a still."""
    if target is not None and add is None and not Path(target).is_dir() and not target.endswith("/"):
        if target == STREAM or Path(target).suffix.lower() in FORMAT_BY_SUFFIX.keys() | FOREIGN_SUFFIXES:
            raise UsageError(f"{target}: --frames all may make several files, so OUTPUT must be a folder")
    elif add is not None:
        # The job itself is not needed: making it checks the paths.
        _job_beside(source, target, kind, add)
    folder = source.parent if target is None or add is not None else Path(target)
    # A file whose frames cannot be counted is refused by the plan itself.
    with contextlib.suppress(ImageError):
        if frames_of(source) == 1:
            return None
    return _plan_outputs(FileList([source]), source.parent, folder, kind, add or "", frames=True)


def _plan_single(job: Job) -> Plan:
    """Return the plan for a single image, which has a root only where its folder has a journal already."""
    if job.target is None or not (job.target.parent / JOURNAL).exists():
        return Plan([job])
    return Plan([job], job.target.parent)


def check_suffix(add: str | None) -> None:
    """Raise UsageError for a suffix that cannot be added to a name."""
    if add is not None and (not add or not add.isprintable() or set(add) & set('/\\:*?"<>|')):
        raise UsageError(f"--in-place-suffix {add!r}: use some letters for the end of names, such as _x4")


def _job_of(source: Path | None, target: str, kind: str) -> Job:
    """Return the job for a single image, or for standard input where source is None."""
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
            return _check_target(Job(source, path, named))
        if suffix in FOREIGN_SUFFIXES:
            known = ", ".join(FORMAT_BY_SUFFIX)
            raise UsageError(f"{target}: cannot write {suffix} files; use one of {known}")
    kind = own if kind == "keep" else kind
    name = output_name(Path("stdin") if source is None else Path(source.name), kind)
    return _check_target(Job(source, path / name, kind))


def _job_beside(source: Path, target: str | None, kind: str, add: str) -> Job:
    """Return the job for a single image whose output goes into the image's own folder."""
    if target is not None and identity(Path(target)) != identity(source.parent):
        raise UsageError(f"{target}: --in-place-suffix writes beside INPUT; drop OUTPUT, or the option")
    kind = kept_kind(source) if kind == "keep" else kind
    return _check_target(Job(source, source.parent / output_name(Path(source.name), kind, add), kind))


def _plan_folder(
    source: Path, target: str | None, kind: str, names: list[str] | None, add: str | None, frames: bool
) -> Plan:
    """Return the plan for a folder of images, or for those of them that a list names."""
    if target == STREAM:
        raise UsageError(f"{source}: a folder cannot go to standard output; give a folder as OUTPUT")
    root = source if target is None else Path(target)
    if not root.is_dir() and root.suffix.lower() in FORMAT_BY_SUFFIX.keys() | FOREIGN_SUFFIXES:
        raise UsageError(f"{target}: INPUT is a folder, so OUTPUT must be one, not an image file")
    here = identity(root) is not None and identity(root) == identity(source)
    if here and add is None:
        raise UsageError(
            f"{target}: OUTPUT is INPUT, where outputs would replace their own inputs; choose another OUTPUT, "
            "or --in-place-suffix _x4 for outputs beside them"
        )
    if add is not None and not here:
        raise UsageError(f"{target}: --in-place-suffix writes beside INPUT; drop OUTPUT, or the option")
    files = find_files(source, root) if names is None else list_files(names, source, root)
    if add is not None:
        _pass_over_outputs(files, add)
    if not files.images and not files.failed:
        known = ", ".join(FORMAT_BY_SUFFIX)
        counts = describe_passed_over(files.passed_over)
        where = "no images in this folder" if names is None else "no images in this list"
        raise UsageError(f"{source}: {where} ({known}){'; ' + counts if counts else ''}")
    return _plan_outputs(files, source, root, kind, add or "", frames)


def _pass_over_outputs(files: FileList, add: str) -> None:
    """Take away, and count as passed over, the images that have the name of an output."""
    inputs = [path for path in files.images if not path.stem.casefold().endswith(add.casefold())]
    files.passed_over["output"] += len(files.images) - len(inputs)
    files.images = inputs


def _plan_outputs(files: FileList, source: Path, root: Path, kind: str, add: str, frames: bool) -> Plan:
    """Return a plan of a job for each image, or for each of its frames; no output replaces any of the images."""
    plan = Plan([], root, list(files.failed), files.passed_over)
    images: list[tuple[Path, int | None]] = [(path, None) for path in files.images]
    if frames:
        images = list(_split_frames(files.images, plan.refused))
    kinds = {path: kept_kind(path) if kind == "keep" else kind for path in files.images}
    counts = Counter(path for path, _ in images)
    names: list[Path] = []
    are_frames: set[int] = set()
    for number, (path, frame) in enumerate(images):
        name = path.relative_to(source)
        names.append(name if frame is None else frame_name(name, frame, counts[path]))
        if frame is not None:
            are_frames.add(number)
    outputs = output_names(names, [kinds[path] for path, _ in images], add, are_frames)
    inputs = {identity(path) for path in files.images} - {None}
    for (path, frame), name in zip(images, outputs, strict=True):
        job = Job(
            source=path,
            target=root / name,
            kind=kinds[path],
            frame=frame,
            count=1 if frame is None else counts[path],
        )
        if identity(root / name) in inputs:
            reason = f"its output {root / name} would replace an input; choose another OUTPUT"
            plan.refused.append((Path(job.name), reason))
        else:
            plan.jobs.append(job)
    return plan


def _split_frames(paths: list[Path], refused: list[tuple[Path, str]]) -> Iterator[tuple[Path, int | None]]:
    """Yield each image, or each frame of it by its number; a file whose frames cannot be counted is refused."""
    for path in paths:
        try:
            count = frames_of(path)
        except ImageError as error:
            refused.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        if count == 1:
            yield path, None
        else:
            yield from ((path, number) for number in range(1, count + 1))


def kept_kind(path: Path) -> str:
    """Return the format that `--format keep` means for an input: what its suffix says, else what it is, else PNG."""
    suffix = path.suffix.lower()
    if suffix in FORMAT_BY_SUFFIX or suffix in READ_ONLY_SUFFIXES:
        return FORMAT_BY_SUFFIX.get(suffix, "png")
    kinds = {form.pillow: kind for kind, form in OUTPUT_FORMATS.items()}
    try:
        return kinds.get(kind_of(path) or "", "png")
    except OSError:
        return "png"


def _check_target(job: Job) -> Job:
    """Return the job. Raises UsageError where its output would take the place of its input."""
    if job.source is not None and job.target is not None and job.target.exists():
        if identity(job.target) == identity(job.source):
            raise UsageError(f"{job.target}: the output would replace its own input; choose another OUTPUT")
    return job


def planned_sizes(
    jobs: list[Job], scale: float, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Job, dict[str, int | str]]]:
    """Yield each job with the sizes in px of its input and its output, or with the error that awaits it."""
    for job in jobs:
        if job.source is None:
            yield job, {}
            continue
        try:
            height, width = read_size(job.source, max_pixels, job.frame)
            to_height, to_width = fitting_size(job, height, width, scale)
        except ImageError as error:
            yield job, {"error": str(error)}
            continue
        except MemoryError:
            # Some readers decode a picture to know its size.
            yield job, {"error": f"{job.name}: out of memory while its header was read"}
            continue
        yield job, {"width": width, "height": height, "to_width": to_width, "to_height": to_height}


def fitting_size(job: Job, height: int, width: int, scale: float) -> tuple[int, int]:
    """Return the output's (height, width) in px. Raises ImageError where its format cannot hold that."""
    to_height, to_width = output_size(height, width, scale)
    try:
        check_fits(job.kind, to_height, to_width)
    except ImageError as error:
        raise ImageError(f"{job.name}: {error}") from error
    return to_height, to_width


def listed_names(lines: str | None, zeros: str | None) -> list[str] | None:
    """Return the names in the list of --files-from or --files0-from; None where neither is given. Raises UsageError."""
    if lines is not None and zeros is not None:
        raise UsageError("--files-from and --files0-from: one list is enough; drop one of them")
    source = lines if lines is not None else zeros
    if source is None:
        return None
    option = "--files-from" if lines is not None else "--files0-from"
    try:
        data = sys.stdin.buffer.read() if source == STREAM else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {source}: cannot be read: {error.strerror}") from error
    return read_list(data, zero=zeros is not None)
