"""Which files are images: those of a folder and all below it, or those of a list. Decodes nothing.

Nothing is passed over in silence: what is no image is counted, what cannot be looked at is named.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .formats import FORMAT_BY_SUFFIX, HEAD, READ_ONLY_SUFFIXES, sniff

IMAGE_SUFFIXES = {*FORMAT_BY_SUFFIX, *READ_ONLY_SUFFIXES}
OWN = ".strsr-"  # journal, locks, unfinished files: of no interest to anybody


# What file managers and archivers leave in folders of photos; names with a leading dot are hidden anyway.
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}


# Never looked into: they are no pictures to enlarge, though some begin like one (a camera's raw file and
# a backup like the TIFF or JPEG that they hold).
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
class FoundFiles:
    """What is in a folder: images, sorted; failures as (path, reason); the number of other files by kind.

    Kinds: hidden, other, output (what lies in OUTPUT, or has the name of one), again (in a list a
    second time; a link to a folder that is read anyway), folder (in a list).
    """

    images: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def add(self, path: Path) -> None:
        """Look at one file, by its name and, where that tells nothing, by its first bytes."""
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
                # A link to nothing, which does not call itself an image.
                self.passed_over["other"] += 1


def kind_of(path: Path) -> str | None:
    """Pillow's name of a file's format by its first bytes, or None. Raises OSError."""
    with open(path, "rb") as file:
        return sniff(file.read(HEAD))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that people do not see, or did not make."""
    return name.startswith(".") or name.casefold() in LITTER


def find_images(folder: Path, without: Path | None = None) -> list[Path]:
    """All images below a folder, sorted; see find_files."""
    return find_files(folder, without).images


def find_files(folder: Path, without: Path | None = None) -> FoundFiles:
    """All files below a folder but for what lies in `without`, unless that is the folder itself.

    Images are told by suffix, those of other suffixes by content. Links are followed; each folder is read
    once, under its own name if that is below `folder` too, so that loops of links end.
    """
    found = FoundFiles()
    for path in _walk(folder, identity(without) if without else None, found):
        found.add(path)
    found.images.sort()
    found.failed.sort()
    return found


def identity(path: Path) -> tuple[int, int] | None:
    """What is the same for all names of one file or folder; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _walk(top: Path, without: tuple[int, int] | None, found: FoundFiles) -> Iterator[Path]:
    """All files that are not hidden. Links to folders wait until all that is not linked has been read."""
    if without == identity(top):
        without = None
    seen: set[tuple[int, int] | None] = {identity(top)}
    folders, links = [top], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if folder != top:
            own = identity(folder)
            if own is not None and own == without:
                found.passed_over["output"] += _count_files(folder)
                continue
            if own in seen:
                found.passed_over["again"] += 1
                continue
            seen.add(own)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            found.failed.append((folder, f"this folder cannot be read: {error.strerror or error}"))
            continue
        for entry in entries:
            path = Path(folder, entry.name)
            if entry.name.startswith(OWN):
                continue
            if is_hidden(entry.name):
                found.passed_over["hidden"] += 1
            elif not _is_folder(entry):
                yield path
            else:
                (links if entry.is_symlink() else folders).append(path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


def _count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def list_files(names: list[str], folder: Path, without: Path) -> FoundFiles:
    """The files that a list names, relative to `folder` or absolute and below it; in the list's order.

    What is hidden or no image is passed over, as if the folder had been walked; what is not there, or not
    below the folder, fails.
    """
    found = FoundFiles()
    root, taken = str(_lexical(folder)), set[str]()
    outside = None if identity(without) == identity(folder) else str(_lexical(without))
    for name in names:
        if "\0" in name:
            found.failed.append((Path(name.split("\0")[0]), "has a NUL; use --files0-from for such a list"))
            continue
        full = _lexical(Path(root, name))
        if str(full) != root and not _below(str(full), root):
            found.failed.append(
                (Path(name), f"is outside of INPUT {folder}, to which names in a list belong")
            )
            continue
        relative = full.relative_to(root)
        path = folder / relative
        if str(full) in taken:
            found.passed_over["again"] += 1
        elif outside is not None and _below(str(full), outside):
            found.passed_over["output"] += 1
        elif any(map(is_hidden, relative.parts)):
            found.passed_over["hidden"] += 1
        else:
            _add_listed(found, path)
        taken.add(str(full))
    return found


def _add_listed(found: FoundFiles, path: Path) -> None:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            found.passed_over["folder"] += 1
        else:
            found.add(path)
    except FileNotFoundError:
        found.failed.append((path, "no such file; names in a list are relative to INPUT"))
    except OSError as error:
        found.failed.append((path, f"cannot be read: {error.strerror or error}"))


def _lexical(path: Path) -> Path:
    """Absolute and without .., by the name alone: links are not looked at."""
    return Path(os.path.normpath(path.absolute()))


def _below(path: str, root: str) -> bool:
    """Whether a path lies in a folder, by their names; both absolute and without .."""
    return path.startswith(root.rstrip(os.sep) + os.sep)


def read_list(data: bytes, zero: bool) -> list[str]:
    """The names in a list that ends each with NUL or, in a text, with a line; empty ones left out."""
    if zero:
        parts = data.split(b"\0")
    else:
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        parts = [line.removesuffix(b"\r") for line in lines]
    return [os.fsdecode(part) for part in parts if part]


def describe_passed_over(passed_over: Counter[str]) -> str:
    """What was passed over, in words; empty when that is nothing."""
    words = {
        "hidden": "hidden file",
        "other": "other file",
        "output": "output",
        "again": "second name",
        "folder": "folder",
    }
    counts = [(passed_over[kind], word) for kind, word in words.items() if passed_over[kind]]
    parts = [f"{count} {word}{'s' * (count != 1)}" for count, word in counts]
    return f"passed over: {', '.join(parts)}" if parts else ""
