"""What the arguments INPUT and OUTPUT are: files, folders or streams; and the job for a single image.

What the system does not let us look at (a name too long for it, a folder that is closed to us) is a UsageError here,
where it is an argument as a whole.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Protocol

from strsr_models.errors import UsageError

from ..images.find import OTHER_SUFFIXES, identity, is_utf16, kind_of, read_list
from ..images.formats import FORMAT_BY_SUFFIX, OTHER_IMAGE_SUFFIXES, OUTPUT_FORMATS, READ_ONLY_SUFFIXES
from ..images.places import RemoteFile
from ..system.paths import NAME_REFUSED
from .job import STREAM, Job, Source, descriptor_of
from .naming import output_name

# Endings that people give to folders as well, though files have them.
OF_FOLDERS_TOO = (
    "bak old orig tmp temp part partial download crdownload swp cfg log ini js css py sh db bin exe so dll"
)
# Suffixes of files that are not written, and that nobody would give to a folder.
FOREIGN_SUFFIXES = {*READ_ONLY_SUFFIXES, *OTHER_IMAGE_SUFFIXES, *OTHER_SUFFIXES} - {
    f".{name}" for name in OF_FOLDERS_TOO.split()
}


class Arriving(Protocol):
    """What knows the files of folders that are watched."""

    def choose(self, paths: list[Path]) -> list[Path]:
        """Return those of a folder's images that are whole; none where all of these are known."""

    def is_ready(self, path: Path) -> bool:
        """Whether a file is known, or new and whole."""

    def is_fresh(self, source: Source | None) -> bool:
        """Whether a file that is ready is not known."""


def mode_of(path: Path) -> int | None:
    """Return the mode of a file or folder that is an argument, None where there is none.

    Raises UsageError where the system does not tell.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be reached: {getattr(error, 'strerror', None) or error}") from error


def check_readable(path: Path, mode: int) -> None:
    """Raise UsageError for an INPUT that is closed to us as a whole: a folder, or a single file."""
    try:
        if stat.S_ISDIR(mode):
            with os.scandir(path):
                # Names may be listed in a folder whose files are out of reach.
                (path / os.pardir).stat()
        else:
            with open(path, "rb"):
                pass
    except PermissionError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except OSError:
        # Whatever else it is befalls the image when it is read.
        return


def is_stream(mode: int | None) -> bool:
    """Whether a mode is that of a pipe or device, as <(command) gives; those can be read or written only once."""
    return mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode))


def is_stdout(target: str | None) -> bool:
    """Whether OUTPUT is standard output, by any of its names."""
    return target == STREAM or (target is not None and descriptor_of(Path(target)) == 1)


def output_stream(target: str) -> Path | None:
    """Return OUTPUT's path where it is a pipe or a device, as /dev/fd/3 is; None for files and folders.

    Raises UsageError for what an image cannot be written to.
    """
    path = Path(target)
    number = descriptor_of(path)
    if number is not None:
        _check_descriptor(target, number)
        return path
    mode = mode_of(path)
    if mode is not None and (stat.S_ISBLK(mode) or stat.S_ISSOCK(mode)):
        raise UsageError(
            f"{target}: is a disk or a socket, to which no image is written; choose another OUTPUT"
        )
    if not is_stream(mode):
        return None
    if _is_terminal(path):
        raise UsageError(f"OUTPUT {target} would write an image to the terminal; choose another OUTPUT")
    return path


def _check_descriptor(target: str, number: int) -> None:
    """Raise UsageError unless that open stream was given to this process to write an image to."""
    if number == 2:
        raise UsageError(f"OUTPUT {target}: standard error is for messages; use -, standard output")
    try:
        # What this process has opened by itself is not inherited by others, and none of the user's business.
        given = number < 2 or os.get_inheritable(number)
    except (OSError, OverflowError):
        given = False
    if not given:
        raise UsageError(f"OUTPUT {target}: this stream is not open; redirect it: {number}> image.png")
    if number != 1 and os.isatty(number):
        raise UsageError(
            f"OUTPUT {target} would write an image to the terminal; redirect it: {number}> image.png"
        )


def _is_terminal(path: Path) -> bool:
    """Whether a path is that of a terminal. Pipes are none, and are not opened."""
    if not stat.S_ISCHR(path.stat().st_mode):
        return False
    try:
        handle = os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        # It cannot be written to, which the attempt will say.
        return False
    try:
        return os.isatty(handle)
    finally:
        os.close(handle)


def has_file_suffix(path: Path) -> bool:
    """Whether a path has the suffix of a file, written or not, and so is no folder's; or is nothing but a suffix."""
    return any(
        name.lower() in FORMAT_BY_SUFFIX.keys() | FOREIGN_SUFFIXES for name in (path.suffix, path.name)
    )


def job_of(source: Path | None, target: str, kind: str) -> Job:
    """Return the job for a single image, or for standard input where source is None. Raises UsageError."""
    if is_stdout(target):
        return Job(source, None, "png" if kind == "keep" else kind)
    path = Path(target)
    if (stream := output_stream(target)) is not None:
        named = FORMAT_BY_SUFFIX.get(path.suffix.lower(), "png")
        return Job(source, None, named if kind == "keep" else kind, sink=stream)
    mode = mode_of(path)
    if not (mode is not None and stat.S_ISDIR(mode)) and not target.endswith("/"):
        suffix = path.suffix.lower()
        if suffix in FORMAT_BY_SUFFIX:
            named = FORMAT_BY_SUFFIX[suffix]
            if kind not in ("keep", named):
                raise UsageError(f"{target}: its suffix says {named}, --format says {kind}; drop one of them")
            return _check_target(Job(source, path, named))
        if has_file_suffix(path):
            known = ", ".join(FORMAT_BY_SUFFIX)
            what = f"cannot write {suffix} files" if suffix else "a suffix without a name"
            raise UsageError(f"{target}: {what}; use one of {known}; a folder of that name: {target}/")
    if kind == "keep":
        kind = "png" if source is None else kept_kind(source)
    name = output_name(Path("stdin") if source is None else Path(source.name), kind)
    return _check_target(Job(source, path / name, kind))


def job_beside(source: Path, target: str | None, kind: str, add: str) -> Job:
    """Return the job for a single image whose output goes into the image's own folder. Raises UsageError."""
    if target is not None and identity(Path(target)) != identity(source.parent):
        raise UsageError(f"{target}: --in-place-suffix writes beside INPUT; drop OUTPUT, or the option")
    kind = kept_kind(source) if kind == "keep" else kind
    return _check_target(Job(source, source.parent / output_name(Path(source.name), kind, add), kind))


def kept_kind(source: Source) -> str:
    """Return the format that `--format keep` means for an input: what its suffix says, else what it is, else PNG.

    An object is known by its suffix alone.
    """
    suffix = source.suffix.lower()
    if isinstance(source, RemoteFile) or suffix in FORMAT_BY_SUFFIX or suffix in READ_ONLY_SUFFIXES:
        return FORMAT_BY_SUFFIX.get(suffix, "png")
    kinds = {form.pillow: kind for kind, form in OUTPUT_FORMATS.items()}
    try:
        return kinds.get(kind_of(source) or "", "png")
    except OSError:
        return "png"


def _check_target(job: Job) -> Job:
    """Return the job. Raises UsageError where its output would take the place of its input."""
    if isinstance(job.source, Path) and isinstance(job.target, Path):
        own = identity(job.target)
        if own is not None and own == identity(job.source):
            raise UsageError(f"{job.target}: the output would replace its own input; choose another OUTPUT")
    return job


def refused_name(target: Path) -> str | None:
    """Return why the system refuses the name of an output, or None where it does not."""
    try:
        os.lstat(target)
    except OSError as error:
        if error.errno in NAME_REFUSED:
            return f"its output {target} cannot be written: {error.strerror}; rename the image"
    return None


def listed_names(lines: str | None, zeros: str | None) -> tuple[list[str] | None, list[str]]:
    """Return the names in the list of --files-from or --files0-from, and what a person should know of it.

    None where neither is given. Raises UsageError.
    """
    if lines is not None and zeros is not None:
        raise UsageError("--files-from and --files0-from: one list is enough; drop one of them")
    source = lines if lines is not None else zeros
    if source is None:
        return None, []
    option = "--files-from" if lines is not None else "--files0-from"
    try:
        data = sys.stdin.buffer.read() if source == STREAM else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {source}: cannot be read: {error.strerror}") from error
    hints = [f"{option} {source}: is UTF-16 text, and was read as such"] if is_utf16(data) else []
    try:
        return read_list(data, zero=zeros is not None), hints
    except UsageError as error:
        raise UsageError(f"{option} {source}: {error}") from error
