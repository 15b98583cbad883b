"""The image files of a folder and all below it, or those of a list. Decodes nothing.

Nothing is passed over in silence: files that are no images are counted, those that cannot be read are named.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from strsr_models.errors import UsageError

from ..system.atomic import is_unfinished
from ..system.paths import is_file
from .formats import FORMAT_BY_SUFFIX, HEAD, READ_ONLY_SUFFIXES, sniff

IMAGE_SUFFIXES = {*FORMAT_BY_SUFFIX, *READ_ONLY_SUFFIXES}
OWN = ".strsr-"  # the beginning of the names of journals, locks and unfinished files, which are never counted

# What file managers and archivers leave in folders of photos; names with a leading dot are hidden anyway.
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}

# Suffixes of files that are never looked into: they are no pictures to enlarge, though some begin like one
# (a camera's raw file and a backup like the TIFF or JPEG that they hold).
_OTHER = (
    "bak old orig tmp temp part partial crdownload download swp "
    "3fr arw cr2 cr3 crw dcr dng erf fff iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw "
    "x3f thm psd psb xcf kra ora clip ai eps svg svgz pdf indd afphoto blend "
    "txt md rst csv tsv json jsonl xml xmp yaml yml toml ini cfg log html htm css js py sh aae pp3 dop lrcat "
    "doc docx xls xlsx ppt pptx odt ods odp rtf epub db sqlite "
    "mp4 m4v mov avi mkv webm mpg mpeg mts m2ts 3gp wmv flv mp3 m4a aac wav flac ogg opus "
    "zip gz bz2 xz zst 7z rar tar tgz iso dmg exe dll so bin safetensors pth pt ckpt onnx"
)
OTHER_SUFFIXES = {f".{name}" for name in _OTHER.split()}


@dataclass
class FileList:
    """The files of a folder: images, sorted; failures as (path, reason); the number of other files by kind.

    Kinds: hidden, other, output (what lies in OUTPUT, or has the name of one), again (in a list a
    second time; a link to a folder that is read anyway), folder (in a list).
    """

    images: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    hints: list[str] = field(default_factory=list)  # what a person should know, a line each

    def add(self, path: Path) -> None:
        """Add one file, told by its name and, where that tells nothing, by its first bytes."""
        suffix = path.suffix.lower()
        if suffix in OTHER_SUFFIXES:
            self.passed_over["other"] += 1
            return
        try:
            # A pipe would keep its reader waiting for ever.
            if not stat.S_ISREG(path.stat().st_mode):
                self.passed_over["other"] += 1
            elif suffix in IMAGE_SUFFIXES or kind_of(path):
                self.images.append(path)
            else:
                self.passed_over["other"] += 1
        except OSError as error:
            if suffix in IMAGE_SUFFIXES or error.errno not in (errno.ENOENT, errno.ELOOP):
                self.failed.append((path, f"cannot be read: {error.strerror or error}"))
            else:
                # It is a link to nothing, which does not call itself an image.
                self.passed_over["other"] += 1


def kind_of(path: Path) -> str | None:
    """Return Pillow's name of a file's format by its first bytes, or None. Raises OSError."""
    with open(path, "rb") as file:
        return sniff(file.read(HEAD))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that people do not see, or did not make."""
    return name.startswith(".") or name.casefold() in LITTER


def find_images(folder: Path, without: Path | None = None) -> list[Path]:
    """Return all images below a folder, sorted; see find_files."""
    return find_files(folder, without).images


def find_files(folder: Path, without: Path | None = None) -> FileList:
    """Find all files below a folder but for what lies in `without`, unless that is the folder itself.

    Images are told by suffix, those of other suffixes by content. Links are followed; each folder is read
    once, under its own name if that is below `folder` too, so that loops of links end.
    """
    files = FileList()
    for path in _walk(folder, identity(without) if without else None, files):
        files.add(path)
    files.images.sort()
    files.failed.sort()
    return files


# Device and inode of a file or folder; where a disk has no true inodes, its one path without links.
Identity = tuple[int, int] | str


def identity(path: Path) -> Identity | None:
    """Return what is the same for all names of a file or folder, and for it alone; None where there is none.

    Some disks give all their files one inode, or 0: those of a file and of its own folder are compared to know it.
    """
    try:
        state = path.stat()
    except OSError:
        return None
    inode, real = (state.st_dev, state.st_ino), Path(os.path.realpath(path))
    try:
        folder = real.parent.stat()
    except OSError:
        return inode
    is_own = state.st_ino and inode != (folder.st_dev, folder.st_ino)
    return inode if is_own else os.path.normcase(real)


def _walk(top: Path, without: Identity | None, files: FileList) -> Iterator[Path]:
    """Walk through all files that are not hidden, and count the others in `files`.

    Links to folders wait until all that is not linked has been read.
    """
    if without == identity(top):
        without = None
    visited: set[Identity | None] = {identity(top)}
    folders = [top]
    links: list[Path] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if folder != top:
            own = identity(folder)
            if own is not None and own == without:
                files.passed_over["output"] += count_files(folder)
                continue
            if own in visited:
                files.passed_over["again"] += 1
                continue
            visited.add(own)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            files.failed.append((folder, f"this folder cannot be read: {error.strerror or error}"))
            continue
        for entry in entries:
            path = Path(folder, entry.name)
            if entry.name.startswith(OWN) or is_unfinished(entry.name):
                continue
            if is_hidden(entry.name):
                files.passed_over["hidden"] += 1
            elif not _is_folder(entry):
                yield path
            elif entry.is_symlink():
                links.append(path)
            else:
                folders.append(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one.

    Some disks list their folders as files: what has no suffix that we know is asked for itself.
    """
    try:
        if entry.is_dir():
            return True
        if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES | OTHER_SUFFIXES:
            return False
        return stat.S_ISDIR(Path(entry.path).stat().st_mode)
    except OSError:
        # A link that leads to itself is neither.
        return False


def count_files(folder: Path) -> int:
    """Count the files in a folder and all below it, but for those of our own."""
    count = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(OWN)]
        count += sum(not (name.startswith(OWN) or is_unfinished(name)) for name in files)
    return count


def list_files(names: list[str], folder: Path, without: Path) -> FileList:
    """Find the files that a list names, relative to `folder` or absolute and below it, in the list's order.

    What is hidden or no image is passed over, as if the folder had been walked; what is not there, or not
    below the folder, fails.
    """
    files = FileList()
    root = str(_lexical(folder))
    taken: set[str] = set()
    outside = None if identity(without) == identity(folder) else str(_lexical(without))
    for name in names:
        if "\0" in name:
            files.failed.append((Path(name.split("\0")[0]), "has a NUL; use --files0-from for such a list"))
            continue
        full = _lexical(Path(root, name))
        if str(full) != root and not _below(str(full), root):
            files.failed.append(
                (Path(name), f"is outside of INPUT {folder}, to which names in a list belong")
            )
            continue
        relative = full.relative_to(root)
        if any(part.startswith(OWN) for part in relative.parts):
            continue
        if str(full) in taken:
            files.passed_over["again"] += 1
        elif outside is not None and _below(str(full), outside):
            files.passed_over["output"] += 1
        elif any(map(is_hidden, relative.parts)):
            files.passed_over["hidden"] += 1
        else:
            _add_listed(files, folder, relative)
        taken.add(str(full))
    return files


def _add_listed(files: FileList, folder: Path, relative: Path) -> None:
    """Add a file that a list names; folders are counted, and one that is missing fails."""
    path = folder / relative
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            files.passed_over["folder"] += 1
        else:
            files.add(path)
    except FileNotFoundError:
        _add_latin(files, folder, relative)
    except (OSError, ValueError) as error:
        files.failed.append((path, f"cannot be read: {getattr(error, 'strerror', None) or error}"))


def _add_latin(files: FileList, folder: Path, relative: Path) -> None:
    """Add a file whose name is not UTF-8 in the list and means one that is there in Latin-1; else it fails."""
    raw, advice = os.fsencode(relative), "names in a list are relative to INPUT"
    try:
        raw.decode()
    except UnicodeDecodeError:
        path = folder / raw.decode("cp1252", "replace")
        if is_file(path):
            if not files.hints:
                files.hints.append(f"{path}: the list names it in Latin-1, not UTF-8; such names are read so")
            if path in files.images:
                files.passed_over["again"] += 1
            else:
                files.add(path)
            return
        advice = "the list is not UTF-8 text: save it as UTF-8"
    files.failed.append((folder / relative, f"no such file; {advice}"))


def _lexical(path: Path) -> Path:
    """Make a path absolute and without .., by its name alone: links are not followed."""
    return Path(os.path.normpath(path.absolute()))


def _below(path: str, root: str) -> bool:
    """Whether a path lies in a folder, by their names; both absolute and without .."""
    return path.startswith(root.rstrip(os.sep) + os.sep)


def read_list(data: bytes, zero: bool) -> list[str]:
    """Read the names in a list, each ended by NUL or, in a text, by its line; empty ones are left out.

    A text with the mark of UTF-16 is read as such. Raises UsageError for what can be no list of names.
    """
    if is_utf16(data):
        try:
            data = os.fsencode(data.decode("utf-32" if data.startswith(codecs.BOM_UTF32_LE) else "utf-16"))
        except UnicodeError as error:
            raise UsageError(f"looks like UTF-16 text, and is damaged ({error}); save it as UTF-8") from error
    data = data.removeprefix(codecs.BOM_UTF8)
    # Of UTF-16 without its mark, every second byte of plain letters is a NUL.
    if not zero and len(data) > 3 and not (any(data[1:64:2]) and any(data[0:64:2])):
        raise UsageError("looks like UTF-16 text without its mark; save it as UTF-8")
    parts = data.split(b"\0") if zero else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(part) for part in parts if part]


def is_utf16(data: bytes) -> bool:
    """Whether a list begins with the mark of UTF-16 (or UTF-32), as PowerShell writes it."""
    return data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def describe_passed_over(passed_over: Counter[str]) -> str:
    """Say in words what was passed over; an empty text when that is nothing."""
    words = {
        "hidden": "hidden file",
        "other": "other file",
        "output": "output",
        "again": "second name",
        "folder": "folder",
    }
    parts = []
    for kind, word in words.items():
        count = passed_over[kind]
        if count:
            parts.append(f"{count} {word}" if count == 1 else f"{count} {word}s")
    return f"passed over: {', '.join(parts)}" if parts else ""
