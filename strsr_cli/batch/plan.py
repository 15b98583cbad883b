"""The plan of a batch: what will be made from what, known before any network is loaded."""

from __future__ import annotations

import contextlib
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from strsr_models.errors import ImageError, UsageError, nearest

from ..images.find import (
    FileList,
    describe_passed_over,
    find_files,
    identity,
    list_files,
)
from ..images.formats import FORMAT_BY_SUFFIX, MAX_PIXELS, OUTPUT_FORMATS, check_fits
from ..images.places import Place
from ..images.read import frames_of, read_size
from ..system.paths import exists, is_folder
from .job import STREAM, Job, Shard, Source
from .journal import Journal
from .journal_files import JOURNAL, has_journal
from .naming import Named, frame_name, output_names
from .target_size import TargetSize
from .targets import (
    Arriving,
    check_readable,
    has_file_suffix,
    is_stdout,
    is_stream,
    job_beside,
    job_of,
    kept_kind,
    mode_of,
    output_stream,
    refused_name,
)


@dataclass(frozen=True)
class Plan:
    """The images that a command line asks for: those to make, and those that will not be made.

    root: the output folder of a tree of images, or None for a single one. refused: path and reason of each
    image that cannot be done. passed_over: numbers of files that are no inputs, by kind (see FileList). hints: what
    a person should know of those. single: the one output whose name OUTPUT gives, or None. place: the remote OUTPUT of a
    tree of images, in place of a root. tree: whether INPUT is the list of a remote place. many: whether there
    are several INPUTs, or one that is a folder.
    """

    jobs: list[Job]
    root: Path | None = None
    refused: list[tuple[Source, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    hints: list[str] = field(default_factory=list)
    single: Source | None = None
    place: Place | None = None
    tree: bool = False
    many: bool = False

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
    arriving: Arriving | None = None,
) -> Plan:
    """Return the plan for INPUT, OUTPUT and --format ("keep" or a key of OUTPUT_FORMATS), in a stable order.

    names: a list of files below INPUT, in place of all of them. add: --in-place-suffix; OUTPUT is None then.
    frames: --frames all. arriving: knows the files of a folder that is watched, of which only new ones are planned;
    such a folder may be empty. Raises UsageError for paths that make no sense.
    """
    check_arguments([source], target, kind, add)
    if source == STREAM:
        if names is not None or add is not None:
            raise UsageError("INPUT -: standard input has no folder; drop --files-from and --in-place-suffix")
        return _plan_stream(None, str(target), kind, frames)
    path = Path(source)
    mode = mode_of(path)
    if mode is not None and stat.S_ISDIR(mode):
        # Of a folder whose images are listed, the names need not be readable.
        if names is None:
            check_readable(path, mode)
        return _plan_folder(path, target, kind, names, add, frames, arriving)
    if names is not None:
        raise UsageError(f"{source}: no such folder; names in a list are relative to INPUT, such as .")
    if mode is None:
        raise UsageError(f"{source}: no such file or folder")
    if is_stream(mode):
        if add is not None:
            raise UsageError(f"{source}: a pipe has no place for outputs beside it; drop --in-place-suffix")
        return _plan_stream(path, str(target), kind, frames)
    check_readable(path, mode)
    if frames:
        plan = _plan_frames(path, target, kind, add)
        if plan is not None:
            return plan
    if add is not None:
        return plan_single(job_beside(path, target, kind, add), None)
    return plan_single(job_of(path, str(target), kind), target)


def check_arguments(sources: list[str], target: str | None, kind: str, add: str | None = None) -> None:
    """Raise UsageError for arguments that make no sense whatever they name; see `make_plan`."""
    if kind != "keep" and kind not in OUTPUT_FORMATS:
        raise UsageError(f"--format {kind}: unknown; {nearest(kind, ['keep', *OUTPUT_FORMATS])}")
    check_suffix(add)
    if target is None and add is None:
        raise UsageError("OUTPUT is missing: a folder or file for what is made; or use --in-place-suffix _x4")
    for argument, value in (*(("INPUT", source) for source in sources), ("OUTPUT", target)):
        # It would be the folder in which we are.
        if value == "":
            raise UsageError(f"{argument} is empty: was a variable not set? For this folder write .")


def _plan_stream(pipe: Path | None, target: str, kind: str, frames: bool) -> Plan:
    """Return the plan for a pipe, or for standard input where there is none."""
    if frames:
        name = STREAM if pipe is None else pipe
        raise UsageError(f"INPUT {name}: --frames all needs a file, whose frames can be counted first")
    return plan_single(replace(job_of(None, target, kind), pipe=pipe), target)


def _plan_frames(source: Path, target: str | None, kind: str, add: str | None) -> Plan | None:
    """Return the plan for all frames of a single file, which are a batch with a journal; None for a still."""
    if target is not None and add is None and not is_folder(Path(target)) and not target.endswith("/"):
        if is_stdout(target) or output_stream(target) or has_file_suffix(Path(target)):
            raise UsageError(f"{target}: --frames all may make several files, so OUTPUT must be a folder")
    elif add is not None:
        # The job itself is not needed: making it checks the paths.
        job_beside(source, target, kind, add)
    folder = source.parent if target is None or add is not None else Path(target)
    # A file whose frames cannot be counted is refused by the plan itself.
    with contextlib.suppress(ImageError):
        if frames_of(source) == 1:
            return None
    return _plan_outputs(FileList([source]), source.parent, folder, kind, add or "", frames=True)


def plan_single(job: Job, target: str | None) -> Plan:
    """Return the plan for a single image, which has a root only where its folder has a journal already.

    target: OUTPUT, where the image's name may be what it gives.
    """
    if not isinstance(job.target, Path):
        return Plan([job])
    # A stream as INPUT has no record in a journal.
    keeps = job.source is not None and has_journal(job.target.parent)
    root = job.target.parent if keeps else None
    single = job.target if target is not None and job.target == Path(target) else None
    if (reason := refused_name(job.target)) is not None:
        return Plan([], root, [(Path(job.name), reason)])
    return Plan([job], root, single=single)


def check_suffix(add: str | None) -> None:
    """Raise UsageError for a suffix that cannot be added to a name."""
    if add is not None and (not add or not add.isprintable() or set(add) & set('/\\:*?"<>|')):
        raise UsageError(f"--in-place-suffix {add!r}: use some letters for the end of names, such as _x4")


def _plan_folder(
    source: Path,
    target: str | None,
    kind: str,
    names: list[str] | None,
    add: str | None,
    frames: bool,
    arriving: Arriving | None,
) -> Plan:
    """Return the plan for a folder of images, or for those of them that a list names."""
    if is_stdout(target):
        raise UsageError(f"{source}: a folder cannot go to standard output; give a folder as OUTPUT")
    root = source if target is None else Path(target)
    if target is not None and output_stream(target) is not None:
        raise UsageError(f"{target}: INPUT is a folder, so OUTPUT must be one, not a stream")
    if not is_folder(root) and not str(target).endswith("/") and has_file_suffix(root):
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
    hints = [*files.hints, *pass_over_recorded(files, source)]
    if arriving is not None:
        files.images = arriving.choose(files.images)
    elif not files.images and not files.failed:
        known = ", ".join(FORMAT_BY_SUFFIX)
        counts = describe_passed_over(files.passed_over)
        where = "no images in this folder" if names is None else "no images in this list"
        raise UsageError("; ".join(filter(None, [f"{source}: {where} ({known})", counts, *hints])))
    return replace(_plan_outputs(files, source, root, kind, add or "", frames, arriving), hints=hints)


def _pass_over_outputs(files: FileList, add: str) -> None:
    """Take away, and count as passed over, the images that have the name of an output."""
    inputs = [path for path in files.images if not path.stem.casefold().endswith(add.casefold())]
    files.passed_over["output"] += len(files.images) - len(inputs)
    files.images = inputs


def pass_over_recorded(files: FileList, top: Path) -> list[str]:
    """Take away, and count as passed over, the images that the journal of a folder below `top` names as outputs.

    In `top` itself, which a person has named, only those count that lie beside their own inputs. Returns a line for
    each folder.
    """
    journals: dict[Path, dict[str, str]] = {}
    counts: Counter[Path] = Counter()
    inputs = []
    for path in files.images:
        folder = _recording_folder(path, top, journals)
        if folder is None:
            inputs.append(path)
        else:
            counts[folder] += 1
    files.images = inputs
    if counts:
        files.passed_over["output"] += counts.total()
    return [outputs_hint(folder, "folder", count) for folder, count in sorted(counts.items())]


def _recording_folder(path: Path, top: Path, journals: dict[Path, dict[str, str]]) -> Path | None:
    """Return the folder, `top` or one below it, whose journal names a file as an output; None where there is none."""
    for number in range(len(path.relative_to(top).parts)):
        folder = path.parents[number]
        if folder not in journals:
            journals[folder] = Journal(folder, silent=True).sources if has_journal(folder) else {}
        outputs = journals[folder]
        source = outputs.get(path.relative_to(folder).as_posix())
        if source is None:
            continue
        beside = path.with_name(Path(source).name)
        original = beside.relative_to(folder).as_posix() not in outputs and exists(beside)
        if folder != top or original:
            return folder
    return None


def outputs_hint(where: Path | Place, word: str, count: int) -> str:
    """Say which outputs of an earlier run are no inputs. word: what `where` is called."""
    what = "1 output of strsr is" if count == 1 else f"{count} outputs of strsr are"
    return f"{where}: {what} passed over, as its {JOURNAL} names them; to enlarge them again give that {word} as INPUT"


def _plan_outputs(
    files: FileList,
    source: Path,
    root: Path,
    kind: str,
    add: str,
    frames: bool,
    arriving: Arriving | None = None,
) -> Plan:
    """Return a plan of a job for each image, or for each of its frames; no output replaces any of the images."""
    plan = Plan([], root, list(files.failed), files.passed_over)
    inputs = {identity(path) for path in files.images} - {None}
    for job, name in jobs_with_names(files.images, source, kind, plan.refused, add, frames):
        if arriving is not None and not arriving.is_fresh(job.source):
            continue
        reason = refused_name(root / name)
        if reason is None and identity(root / name) in inputs:
            reason = f"its output {root / name} would replace an input; choose another OUTPUT"
        if reason is None:
            plan.jobs.append(replace(job, target=root / name))
        else:
            plan.refused.append((Path(job.name), reason))
    return plan


def jobs_with_names(
    paths: list[Path],
    top: Path,
    kind: str,
    refused: list[tuple[Source, str]],
    add: str = "",
    frames: bool = False,
) -> list[tuple[Job, Path]]:
    """Return a job without a target for each image below `top`, or for each of its frames, and its output's name.

    What cannot be counted in frames is added to `refused`.
    """
    return name_jobs([(path, path.relative_to(top)) for path in paths], kind, refused, add, frames)


def name_jobs(
    sources: list[tuple[Source, Named]],
    kind: str,
    refused: list[tuple[Source, str]],
    add: str = "",
    frames: bool = False,
) -> list[tuple[Job, Named]]:
    """Return a job without a target for each image, or for each of its frames, and its output's name.

    sources: images with their relative names. What cannot be counted in frames is added to `refused`.
    """
    jobs: list[Job] = []
    names: list[Named] = []
    are_frames: set[int] = set()
    for source, own in sources:
        kept = kept_kind(source) if kind == "keep" else kind
        counted = _split_frames(source, refused) if frames and isinstance(source, Path) else [(None, 1)]
        for frame, count in counted:
            if frame is not None:
                are_frames.add(len(jobs))
            names.append(own if frame is None else frame_name(own, frame, count))
            jobs.append(Job(source, None, kept, frame, count))
    outputs = output_names(names, [job.kind for job in jobs], add, are_frames)
    return list(zip(jobs, outputs, strict=True))


def _split_frames(path: Path, refused: list[tuple[Source, str]]) -> list[tuple[int | None, int]]:
    """Return the number of each frame, with their count; (None, 1) of a still. What cannot be counted is refused."""
    try:
        count = frames_of(path)
    except ImageError as error:
        refused.append((path, str(error).removeprefix(f"{path}: ")))
        return []
    return [(None, 1)] if count == 1 else [(number, count) for number in range(1, count + 1)]


def planned_sizes(
    jobs: list[Job], size: TargetSize, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[Job, dict[str, int | str]]]:
    """Yield each job with the sizes in px of its input and its output, or with the error that awaits it."""
    for job in jobs:
        if not isinstance(job.source, Path):
            # The sizes of streams and objects are known when they are read.
            yield job, {} if job.source is None or job.source.size is None else {"bytes": job.source.size}
            continue
        try:
            height, width = read_size(job.source, max_pixels, job.frame)
            to_height, to_width = fitting_size(job, height, width, size)
        except ImageError as error:
            yield job, {"error": str(error)}
            continue
        except MemoryError:
            # Some readers decode a picture to know its size.
            yield job, {"error": f"{job.name}: out of memory while its header was read"}
            continue
        yield job, {"width": width, "height": height, "to_width": to_width, "to_height": to_height}


def fitting_size(job: Job, height: int, width: int, size: TargetSize) -> tuple[int, int]:
    """Return the output's (height, width) in px. Raises ImageError where it cannot be had, or its format not hold it."""
    try:
        to_height, to_width = size.output_size(height, width)
        check_fits(job.kind, to_height, to_width)
    except ImageError as error:
        raise ImageError(f"{job.name}: {error}") from error
    return to_height, to_width
