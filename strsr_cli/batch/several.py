"""Several INPUTs of one command: what each of them brings, and the one list of outputs that they make together.

OUTPUT is a folder (or a remote place). Files lie directly in it, a folder keeps its name: `a.jpg photos/` makes
OUTPUT/a.jpg and OUTPUT/photos/... Names are found as in one folder; but two INPUTs that ask for one and the same name are
refused before anything is made, since a later command with one of them alone would take the other's output for its own.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from strsr_models.errors import UsageError

from ..images.find import (
    LITTER,
    OWN,
    FileList,
    Identity,
    count_files,
    describe_passed_over,
    find_files,
    identity,
)
from ..images.formats import FORMAT_BY_SUFFIX
from ..system.paths import is_folder
from .job import STREAM, Job, Source
from .naming import compared, output_name
from .plan import Plan, make_plan, name_jobs, pass_over_recorded
from .targets import (
    Arriving,
    has_file_suffix,
    is_stdout,
    is_stream,
    kept_kind,
    mode_of,
    output_stream,
    refused_name,
)

# Makes one target of its name below OUTPUT.
Aim = Callable[[PurePosixPath], Source]


@dataclass
class Brought:
    """What one INPUT brings: images, with their names below OUTPUT. is_tree: whether it is a folder.

    folder: what is the same for all that lies in the folder in which it lies itself.
    """

    argument: str
    name: PurePosixPath
    folder: Identity | str | None
    is_tree: bool
    images: list[tuple[Source, PurePosixPath]] = field(default_factory=list)
    failed: list[tuple[Source, str]] = field(default_factory=list)


@dataclass
class Collection:
    """What all INPUTs bring, each image once: by the INPUT that comes first."""

    kind: str
    # What knows their files where they are watched.
    arriving: Arriving | None = None
    brought: list[Brought] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    hints: list[str] = field(default_factory=list)
    _taken: set[tuple[Identity | str | None, str]] = field(default_factory=set)
    _folders: dict[Path, Identity | None] = field(default_factory=dict)
    # The INPUTs by their outputs' names.
    _names: dict[str, list[Brought]] = field(default_factory=dict)

    # --- one INPUT after the other ---

    def add_files(self, argument: str, root: Path | None) -> None:
        """Add a file, or a folder with all below it but OUTPUT. Raises UsageError.

        root: OUTPUT, where it is a folder. What is watched and not there may come back.
        """
        path = Path(argument)
        mode = mode_of(path)
        if mode is None and not os.path.lexists(path):
            if self.arriving is not None:
                self.hints.append(f"{argument}: is not there; waiting")
                return
            raise UsageError(f"{argument}: no such file or folder")
        if is_stream(mode):
            raise UsageError(f"{argument}: is a pipe or a device; give it as the only INPUT")
        if path.name.startswith(OWN):
            return
        if path.name.casefold() in LITTER:
            self.passed_over["hidden"] += 1
            return
        is_tree = mode is not None and stat.S_ISDIR(mode)
        name = folder_name(path) if is_tree else PurePosixPath(path.name)
        files = FileList()
        if is_tree:
            files = find_files(path, root or path / f"{OWN}nowhere")
            self.hints += [*files.hints, *pass_over_recorded(files, path)]
        else:
            files.add(path)
        brought = Brought(argument, name, self._folder(path), is_tree)
        if self.arriving is not None:
            choose, is_ready = self.arriving.choose, self.arriving.is_ready
            files.images = choose(files.images) if is_tree else list(filter(is_ready, files.images))
        for image in files.images:
            below = name / image.relative_to(path).as_posix() if is_tree else name
            self.take(brought, image, below, (self._folder(image), image.name))
        brought.failed += [failure for failure in files.failed if self._is_new(failure[0])]
        self.passed_over.update(files.passed_over)
        self.finish(brought)

    def take(
        self, brought: Brought, image: Source, name: PurePosixPath, key: tuple[Identity | str | None, str]
    ) -> None:
        """Add one image, unless another INPUT has brought it. key: what is the same for all its paths."""
        if key in self._taken:
            self.passed_over["again"] += 1
            return
        self._taken.add(key)
        brought.images.append((image, name))

    def finish(self, brought: Brought) -> None:
        """Add what an INPUT brings. Raises UsageError where another one has an output of its name."""
        if not brought.images and not brought.failed and not (brought.is_tree and self.arriving):
            return
        output = self._output_of(brought)
        namesakes = self._names.setdefault(compared(output), [])
        for other in namesakes:
            if compared(other.name) != compared(brought.name) or other.folder == brought.folder:
                # Of a.jpg and a.png, or A.jpg and a.jpg in one folder, each gets a name of its own.
                continue
            if _are_one(other, brought):
                self.passed_over["again"] += len(brought.images)
                return
            raise UsageError(
                f"{other.argument} and {brought.argument} would both become {output} in OUTPUT; "
                "rename one of them, or give them in two commands with an OUTPUT each"
            )
        namesakes.append(brought)
        self.brought.append(brought)

    def _is_new(self, path: Source) -> bool:
        """Whether no other INPUT has brought a path that cannot be read."""
        key = (str(path), "")
        is_new = key not in self._taken
        self._taken.add(key)
        return is_new

    def _folder(self, path: Path) -> Identity | None:
        """Return the identity of the folder in which a path lies."""
        # What .. leads to lies elsewhere than its name says.
        parent = path.parent if path.name not in ("", "..") else Path(os.path.realpath(path)).parent
        if parent not in self._folders:
            self._folders[parent] = identity(parent)
        return self._folders[parent]

    def _output_of(self, brought: Brought) -> PurePosixPath:
        """Return the name that an INPUT asks for in OUTPUT."""
        if brought.is_tree or not brought.images:
            return brought.name
        kind = kept_kind(brought.images[0][0]) if self.kind == "keep" else self.kind
        return output_name(brought.name, kind)

    # --- all together ---

    def plan(self, aim: Aim, frames: bool = False) -> Plan:
        """Return the plan of all images, in the order of their names. Raises UsageError.

        The order is the same whatever that of the arguments, so that several processes split one list.
        """
        plan = Plan([], passed_over=self.passed_over, hints=self.hints)
        images = [image for brought in self.brought for image in brought.images]
        plan.refused.extend(failure for brought in self.brought for failure in brought.failed)
        images.sort(key=lambda image: image[1].as_posix())
        inputs = {_key(source) for source, _ in images} - {None}
        for job, name in name_jobs(images, self.kind, plan.refused, frames=frames):
            if self.arriving is not None and not self.arriving.is_fresh(job.source):
                continue
            output = aim(name)
            reason, own = _refusal(output), _key(output)
            if reason is None and own in inputs:
                if own == _key(job.source):
                    raise UsageError(
                        f"{output}: the output would replace its own input; choose another OUTPUT"
                    )
                reason = f"its output {output} would replace an input; choose another OUTPUT"
            if reason is None:
                plan.jobs.append(Job(job.source, output, job.kind, job.frame, job.count))
            else:
                plan.refused.append((Path(job.name) if job.frame else job.source or Path(job.name), reason))
        return plan

    def require_images(self, arguments: list[str]) -> None:
        """Raise UsageError where there is nothing to do."""
        if any(brought.images or brought.failed for brought in self.brought):
            return
        counts, known = describe_passed_over(self.passed_over), ", ".join(FORMAT_BY_SUFFIX)
        what = f"no images in {len(arguments)} INPUTs ({known})"
        raise UsageError("; ".join(filter(None, [what, counts, *self.hints])))


def _are_one(one: Brought, other: Brought) -> bool:
    """Whether two INPUTs of one name are one file, or one folder, by links."""
    first, second = Path(one.argument), Path(other.argument)
    own = identity(first)
    return own is not None and own == identity(second)


def _key(source: Source | None) -> Identity | str | None:
    """Return what is the same for all names of a file, or the URL of an object; None where there is no file."""
    return identity(source) if isinstance(source, Path) else str(source)


def _refusal(output: Source) -> str | None:
    return refused_name(output) if isinstance(output, Path) else None


def folder_name(path: Path) -> PurePosixPath:
    """Return the name that a folder keeps in OUTPUT: its own, also where it is called . or ..; Raises UsageError."""
    name = path.name if path.name not in ("", "..") else Path(os.path.realpath(path)).name
    if not name:
        raise UsageError(f"{path}: has no name that it could keep in OUTPUT; give it as the only INPUT")
    return PurePosixPath(name)


def split_arguments(arguments: list[str], add: str | None) -> tuple[list[str], str | None]:
    """Return the INPUTs, and OUTPUT where there is one: the last argument.

    add: --in-place-suffix, with which the last one is OUTPUT only if it is no file.
    """
    if len(arguments) < 2 or (add is not None and os.path.isfile(arguments[-1])):  # noqa: PTH113
        return arguments, None
    return arguments[:-1], arguments[-1]


def without_output(sources: list[str], target: str | None) -> tuple[list[str], int]:
    """Return the INPUTs but for OUTPUT itself, which a shell puts among them for *, and the number of files in it.

    Where nothing else is left they are returned as they are.
    """
    own = None if target is None or len(sources) < 2 else identity(Path(target))
    if own is None or not is_folder(Path(str(target))):
        return sources, 0
    others = [source for source in sources if source == STREAM or identity(Path(source)) != own]
    if not others or len(others) == len(sources):
        return sources, 0
    return others, count_files(Path(str(target)))


def check_folder(target: str) -> Path:
    """Return OUTPUT as the folder of several INPUTs. Raises UsageError."""
    root = Path(target)
    if is_stdout(target) or output_stream(target) is not None:
        raise UsageError(
            f"{target}: there are several INPUTs, so OUTPUT, the last argument, must be a folder"
        )
    if is_folder(root):
        return root
    if os.path.lexists(root) or (not target.endswith("/") and has_file_suffix(root)):
        raise UsageError(
            f"{target}: there are several INPUTs, so OUTPUT, the last argument, must be a folder, not a file"
        )
    return root


def plan_beside(sources: list[str], target: str | None, kind: str, add: str, frames: bool) -> Plan:
    """Return the plan for several files whose outputs lie beside them, in one folder. Raises UsageError."""
    paths = list(map(Path, sources))
    for source, path in zip(sources, paths, strict=True):
        mode = mode_of(path)
        if mode is None or not stat.S_ISREG(mode):
            what = "no such file" if mode is None else "is no file"
            raise UsageError(f"{source}: {what}; --in-place-suffix takes one folder, or files of one folder")
        if identity(path.parent) != identity(paths[0].parent):
            raise UsageError(
                f"{sources[0]} and {source}: --in-place-suffix takes files of one folder at a time; "
                "use one command for each folder"
            )
    folder = str(paths[0].parent)
    return make_plan(folder, target, kind, [path.name for path in paths], add, frames)


def in_order(sources: list[str]) -> list[str]:
    """Return local INPUTs with those that hold others first, whatever the order in which they were given."""
    real = {source: Path(os.path.realpath(source)) for source in sources}
    return sorted(sources, key=lambda source: (len(real[source].parts), str(real[source]), source))
