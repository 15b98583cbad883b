"""Outputs and their references, paired by name: photo_x4.png and photo.jpg are a pair."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from strsr_models.errors import UsageError

from ..images.find import find_images, identity

# What upscalers put at the end of names.
SUFFIX = re.compile(r"_x\d+(?:\.\d+)?$", re.IGNORECASE)


@dataclass
class Pairs:
    """Outputs with their references, in order of the outputs' names.

    lonely: outputs without a reference, with the reason. unused: references that no output has.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    lonely: list[tuple[Path, str]] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)


def pair(out: Path, reference: Path) -> Pairs:
    """Pair the images of two folders, or two files. Raises UsageError for paths that make no sense."""
    for argument, path in (("OUT", out), ("--against", reference)):
        if not path.exists():
            raise UsageError(f"{argument} {path}: no such file or folder")
    if out.is_file() and reference.is_file():
        return Pairs([(out, reference)])
    if reference.is_file():
        raise UsageError(f"--against {reference}: OUT is a folder, so that it must be one, too")
    if identity(out) == identity(reference):
        raise UsageError(f"--against {reference}: is OUT itself; give the folder of the references")
    outputs = [out] if out.is_file() else find_images(out, without=reference)
    if not outputs:
        raise UsageError(f"{out}: no images in this folder")
    top = out.parent if out.is_file() else out
    references = References(reference, find_images(reference, without=out))
    pairs = Pairs()
    for output in outputs:
        found = references.of(output.relative_to(top))
        if len(found) == 1:
            pairs.pairs.append((output, found[0]))
        elif found:
            names = ", ".join(str(path.relative_to(reference)) for path in found)
            pairs.lonely.append((output, f"{len(found)} references may be meant: {names}"))
        else:
            pairs.lonely.append((output, f"no {bare(output.stem)} in {reference}"))
    used = {path for _, path in pairs.pairs}
    # Beside a single file the other references say nothing.
    pairs.unused = [] if out.is_file() else [path for path in references.images if path not in used]
    return pairs


def bare(stem: str) -> str:
    """Return the name of a file, without its suffix, as it was before an upscaler added _x4."""
    return SUFFIX.sub("", stem)


class References:
    """The images of a folder, to be looked up by the names of outputs. Case does not count."""

    def __init__(self, top: Path, images: list[Path]) -> None:
        self.images = images
        self.by_place: dict[str, list[Path]] = defaultdict(list)
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for path in images:
            relative = path.relative_to(top)
            for key in {key_of(relative), key_of(relative.with_suffix(""))}:
                self.by_place[key].append(path)
            for key in {path.name.casefold(), path.stem.casefold()}:
                self.by_name[key].append(path)

    def of(self, output: Path) -> list[Path]:
        """Return the references that an output may have, by its path within its folder: none, one, or several.

        The whole name counts before the name without its suffix, that before the name without _x4, and the same
        folder before any other.
        """
        names = [output.name, output.stem, bare(output.stem)]
        keys: Iterable[tuple[dict[str, list[Path]], str]] = [
            *((self.by_place, key_of(output.with_name(name))) for name in names if name),
            *((self.by_name, name.casefold()) for name in names if name),
        ]
        return next((known[key] for known, key in keys if known.get(key)), [])


def key_of(path: PurePath) -> str:
    """Return what the same path has in common on all systems."""
    return path.as_posix().casefold()
