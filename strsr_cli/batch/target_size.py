"""How large an output is to be: a factor for all pictures, or a size for each.

    --longest 4096          exactly; a picture that is larger already fails
    --longest '4096>'       a larger picture is reduced to it
    --longest '4096<'       a larger picture keeps its size, and is restored

So it is for --shortest, --width, --height (both: the picture fits into that box, with --cover it covers it) and
--megapixels.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from strsr_models.errors import ImageError, UsageError
from strsr_models.tiling.sizes import LARGEST_SCALE, check_scale, output_size, scaled_size

LIMIT = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)(?P<larger>[<>]?)")
REFUSE, REDUCE, KEEP = "", ">", "<"  # what becomes of a picture that is larger
LARGEST_SIDE = 1_000_000  # px


@dataclass(frozen=True)
class TargetSize:
    """The size that outputs are to have: a factor, or limits in px (megapixels: in millions of them).

    larger: what becomes of a picture that is larger than its output would be: REFUSE, REDUCE or KEEP.
    cover: whether the output is to be at least as large as width and height, rather than at most.
    """

    scale: float = 4.0
    longest: int | None = None
    shortest: int | None = None
    width: int | None = None
    height: int | None = None
    megapixels: float | None = None
    larger: str = REFUSE
    cover: bool = False

    @property
    def words(self) -> str:
        """The size as an output says of its making, and as it is hashed."""
        names = ("longest", "shortest", "width", "height", "megapixels")
        parts = [f"{name} {value:g}" for name in names if (value := getattr(self, name)) is not None]
        if not parts:
            return f"scale {self.scale:g}"
        return ", ".join(parts) + self.larger + (" covered" if self.cover else "")

    def factor(self, height: int, width: int) -> float:
        """The factor from an input of height x width px to its output. Below 1: the picture is to be reduced.

        Raises ImageError, without a file's name, for a picture that is larger already where such are refused, and for
        one that would have to be enlarged too far.
        """
        factors = []
        for limit, side in (
            (self.longest, max(height, width)),
            (self.shortest, min(height, width)),
            (self.width, width),
            (self.height, height),
        ):
            if limit is not None:
                factors.append(limit / side)
        if self.megapixels is not None:
            factors.append(math.sqrt(self.megapixels * 1e6 / (height * width)))
        if not factors:
            return self.scale
        factor = max(factors) if self.cover else min(factors)
        if factor < 1 and self.larger == REFUSE:
            raise ImageError(
                f"{width}x{height} px: is already larger than {self.words}; with > behind the number such "
                "pictures are reduced, with < they keep their size"
            )
        if factor > LARGEST_SCALE:
            raise ImageError(
                f"{width}x{height} px: {self.words} would enlarge it {factor:.1f} times, and {LARGEST_SCALE} is the most"
            )
        return max(factor, 1.0) if self.larger == KEEP else factor

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) in px of the output of an input. Raises the errors of `factor`."""
        factor = self.factor(height, width)
        if factor >= 1:
            return output_size(height, width, factor)
        return scaled_size(height, width, factor)


def resolve_target_size(
    scale: float | None,
    longest: str | None = None,
    shortest: str | None = None,
    width: str | None = None,
    height: str | None = None,
    megapixels: str | None = None,
    cover: bool = False,
) -> TargetSize:
    """The size that the options of a command line ask for.

    Raises UsageError for numbers that make no sense, and for options that contradict each other.
    """
    texts = {"longest": longest, "shortest": shortest, "width": width, "height": height}
    given = {name: text for name, text in (*texts.items(), ("megapixels", megapixels)) if text is not None}
    if cover and not {"width", "height"} <= given.keys():
        raise UsageError("--cover: needs --width and --height, the box that is to be covered")
    if not given:
        if scale is None:
            return TargetSize()
        check_scale(scale)
        return TargetSize(scale)
    flags = [f"--{name}" for name in given]
    if scale is not None:
        raise UsageError(f"--scale and {flags[0]}: one size is enough; drop one of them")
    if len(given) > 1 and given.keys() != {"width", "height"}:
        raise UsageError(f"{' and '.join(flags)}: one size is enough; only --width and --height go together")
    limits = {name: _limit(f"--{name}", text, name != "megapixels") for name, text in given.items()}
    marks = {larger for _, larger in limits.values()}
    if len(marks) > 1:
        raise UsageError(f"{' and '.join(flags)}: put the same > or < behind both numbers")
    sizes = {name: number for name, (number, _) in limits.items()}
    return TargetSize(larger=marks.pop(), cover=cover, **sizes)  # type: ignore[arg-type]


def _limit(flag: str, text: str, whole: bool) -> tuple[float, str]:
    """The number and the mark of a limit such as 4096>. whole: whether it is one of px."""
    match = LIMIT.fullmatch(text.strip())
    number = float(match["number"]) if match else 0.0
    if match is None or not 0 < number <= LARGEST_SIDE or (whole and number != int(number)):
        unit = "px" if whole else "million px"
        raise UsageError(
            f"{flag} {text}: use a number of {unit}, such as {'4096' if whole else '12'}; "
            "in quotes, > behind it reduces larger pictures and < leaves them as large as they are"
        )
    return (int(number) if whole else number), match["larger"]
