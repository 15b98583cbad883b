"""The names of outputs: no two alike, whatever the inputs are called.

An output has its input's name, with the suffix of its format. Names are compared without case and with
accents composed (NFC), as file systems of Windows and macOS do. Where two inputs ask for one name:
- an input that keeps its name to the letter has it;
- the others keep their whole names and add the suffix: a.jpg.webp, a.png.webp;
- what is taken even so gets a number: IMG_1-2.png beside IMG_1.png.
Frames of one file are named as if each were a file with a number: clip.gif -> clip_0001.gif -> clip_0001.png.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Container
from pathlib import PurePath
from typing import TypeVar

from ..images.formats import FORMAT_BY_SUFFIX, OUTPUT_FORMATS

# Paths of files, or names of objects.
Named = TypeVar("Named", bound=PurePath)


def compared(path: PurePath) -> str:
    """Return a path in the form in which names are compared."""
    name = path.as_posix()
    if name.isascii():
        return name.lower()
    # Folding case may bring forth what composing changes, and the other way round.
    folded = unicodedata.normalize("NFC", name).casefold()
    return unicodedata.normalize("NFC", folded)


def output_name(source: Named, kind: str, add: str = "", whole: bool = False) -> Named:
    """Return the name of one output.

    add: what is added to the stem. whole: the input's suffix stays before the new one.
    """
    own = FORMAT_BY_SUFFIX.get(source.suffix.lower()) == kind
    # Most keep theirs, and a list may have a million.
    if own and not add:
        return source
    suffix = source.suffix if own else OUTPUT_FORMATS[kind].suffix
    stem = source.name if whole and not own else source.stem
    name = stem + add + suffix
    return source if name == source.name else source.with_name(name)


def frame_name(source: Named, number: int, count: int) -> Named:
    """Return the name of a file that would hold that frame, one of `count`, alone."""
    digits = max(4, len(str(count)))
    return source.with_name(f"{source.stem}_{number:0{digits}}{source.suffix}")


def output_names(
    sources: list[Named], kinds: list[str], add: str = "", are_frames: Container[int] = ()
) -> list[Named]:
    """Return the outputs' names for inputs with those relative names and output formats (of OUTPUT_FORMATS).

    are_frames: the positions of inputs that are no files of that name, but frames of one.
    """
    both = list(zip(sources, kinds, strict=True))
    short = [output_name(source, kind, add) for source, kind in both]
    keys = list(map(compared, short))
    asked = Counter(keys)
    parents = {source.parent for source in sources}
    folders = {compared(folder) for parent in parents for folder in (parent, *parent.parents)}
    # A file cannot have the name of a folder.
    taken: set[str] = set(folders)
    made: dict[int, Named] = {}
    numbers: Counter[str] = Counter()

    def unmoved(number: int) -> bool:
        own = FORMAT_BY_SUFFIX.get(sources[number].suffix.lower()) == kinds[number]
        return own and number not in are_frames

    for number in sorted(range(len(sources)), key=lambda number: not unmoved(number)):
        name, key = short[number], keys[number]
        if asked[key] > 1 or key in taken:
            if asked[key] > 1:
                name = output_name(*both[number], add, whole=True)
            name = _free(name, taken, numbers, add)
            key = compared(name)
        made[number] = name
        taken.add(key)
    return [made[number] for number in range(len(sources))]


def _free(name: Named, taken: set[str], numbers: Counter[str], add: str) -> Named:
    """Return the name, or where it is taken the first numbered one that is free.

    numbers: the last number that each name was given. A number comes before what was added, by which outputs
    are told from inputs.
    """
    free, base, stem = name, compared(name), name.stem.removesuffix(add)
    while compared(free) in taken:
        numbers[base] += 1
        free = name.with_name(f"{stem}-{numbers[base] + 1}{add}{name.suffix}")
    return free
