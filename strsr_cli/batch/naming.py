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
from pathlib import Path

from ..images.formats import FORMAT_BY_SUFFIX, OUTPUT_FORMATS


def compared(path: Path) -> str:
    """Return a path in the form in which names are compared."""
    # Folding case may bring forth what composing changes, and the other way round.
    folded = unicodedata.normalize("NFC", path.as_posix()).casefold()
    return unicodedata.normalize("NFC", folded)


def output_name(source: Path, kind: str, add: str = "", whole: bool = False) -> Path:
    """Return the name of one output.

    add: what is added to the stem. whole: the input's suffix stays before the new one.
    """
    own = FORMAT_BY_SUFFIX.get(source.suffix.lower()) == kind
    suffix = source.suffix if own else OUTPUT_FORMATS[kind].suffix
    stem = source.name if whole and not own else source.stem
    return source.with_name(stem + add + suffix)


def frame_name(source: Path, number: int, count: int) -> Path:
    """Return the name of a file that would hold that frame, one of `count`, alone."""
    digits = max(4, len(str(count)))
    return source.with_name(f"{source.stem}_{number:0{digits}}{source.suffix}")


def output_names(
    sources: list[Path], kinds: list[str], add: str = "", are_frames: Container[int] = ()
) -> list[Path]:
    """Return the outputs' names for inputs with those relative names and output formats (of OUTPUT_FORMATS).

    are_frames: the positions of inputs that are no files of that name, but frames of one.
    """
    both = list(zip(sources, kinds, strict=True))
    short = [output_name(source, kind, add) for source, kind in both]
    asked = Counter(map(compared, short))
    folders = {compared(parent) for source in sources for parent in source.parents}
    # A file cannot have the name of a folder.
    taken: set[str] = set(folders)
    made: dict[int, Path] = {}
    numbers: Counter[str] = Counter()

    def unmoved(number: int) -> bool:
        own = FORMAT_BY_SUFFIX.get(sources[number].suffix.lower()) == kinds[number]
        return own and number not in are_frames

    for number in sorted(range(len(sources)), key=lambda number: not unmoved(number)):
        name = short[number]
        if asked[compared(name)] > 1:
            name = output_name(*both[number], add, whole=True)
        made[number] = _free(name, taken, numbers, add)
        taken.add(compared(made[number]))
    return [made[number] for number in range(len(sources))]


def _free(name: Path, taken: set[str], numbers: Counter[str], add: str) -> Path:
    """Return the name, or where it is taken the first numbered one that is free.

    numbers: the last number that each name was given. A number comes before what was added, by which outputs
    are told from inputs.
    """
    free, base, stem = name, compared(name), name.stem.removesuffix(add)
    while compared(free) in taken:
        numbers[base] += 1
        free = name.with_name(f"{stem}-{numbers[base] + 1}{add}{name.suffix}")
    return free
