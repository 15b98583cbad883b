"""How large outputs are to be."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strsr_cli.batch.target_size import TargetSize, resolve_target_size
from strsr_models.errors import ImageError, UsageError


def size_of(rows: int, columns: int, /, **texts: Any) -> tuple[int, int]:
    """The output's size of an input under options of the command line."""
    return resolve_target_size(texts.pop("scale", None), **texts).output_size(rows, columns)


def test_without_options_it_is_four_times_larger() -> None:
    assert resolve_target_size(None) == TargetSize(4.0)
    assert size_of(30, 41) == (120, 164)
    assert size_of(30, 41, scale=1.5) == (45, 62)


@pytest.mark.parametrize(
    ("texts", "size"),
    [
        ({"longest": "4096"}, (3072, 4096)),
        ({"shortest": "2000"}, (2000, 2667)),
        ({"width": "1001"}, (751, 1001)),
        ({"height": "999"}, (999, 1332)),
        ({"width": "2000", "height": "2000"}, (1500, 2000)),
        ({"width": "2000", "height": "2000", "cover": True}, (2000, 2667)),
        ({"megapixels": "12"}, (3000, 4000)),
        ({"megapixels": "1.92"}, (1200, 1600)),
    ],
)
def test_sizes_are_exact(texts: dict[str, Any], size: tuple[int, int]) -> None:
    assert size_of(600, 800, **texts) == size


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 20_000))
def test_the_side_that_is_named_is_always_exact(height: int, width: int, limit: int) -> None:
    size = TargetSize(longest=limit, larger=">")
    if limit > 16 * max(height, width):
        with pytest.raises(ImageError, match="times, and 16 is the most"):
            size.output_size(height, width)
        return
    to_height, to_width = size.output_size(height, width)
    assert max(to_height, to_width) == limit
    short = min(height, width) * limit / max(height, width)
    assert abs(min(to_height, to_width) - max(1, short)) <= 0.5 + 1e-9 or min(to_height, to_width) == 1


def test_larger_pictures_fail_are_reduced_or_keep_their_size() -> None:
    with pytest.raises(ImageError, match="800x600 px: is already larger than longest 400; with > behind"):
        size_of(600, 800, longest="400")
    assert size_of(600, 800, longest="400>") == (300, 400)
    assert size_of(600, 800, longest="400<") == (600, 800)
    assert size_of(600, 800, longest="1600<") == size_of(600, 800, longest="1600>") == (1200, 1600)
    assert size_of(1000, 2, longest="100>") == (100, 1)
    # The same size is no reduction.
    assert TargetSize(longest=800).factor(600, 800) == 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"scale": 2.0, "longest": "400"}, "--scale and --longest: one size is enough"),
        ({"longest": "400", "width": "300"}, "--longest and --width: one size is enough"),
        ({"width": "400", "height": "300>"}, "the same > or < behind both"),
        ({"cover": True, "width": "400"}, "--cover: needs --width and --height"),
        ({"cover": True}, "--cover: needs"),
        ({"scale": 17.0}, "scale 17: must be between 1 and 16"),
        ({"scale": math.nan}, "scale nan"),
        *[
            ({"longest": text}, "--longest")
            for text in (
                "",
                "0",
                "-5",
                "4k",
                "1e3",
                "4096px",
                "12.5",
                "9999999",
                "<4096",
                "nan",
                "inf",
                "4096>>",
            )
        ],
        *[({"megapixels": text}, "--megapixels") for text in ("0", ".", "x", "-1", "inf")],
    ],
)
def test_sizes_that_make_no_sense_are_refused(texts: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        size_of(10, 10, **texts)


def test_fractions_and_spaces_around_numbers_are_fine() -> None:
    assert resolve_target_size(None, megapixels=" .5> ") == TargetSize(megapixels=0.5, larger=">")
    assert resolve_target_size(None, longest="400.0") == TargetSize(longest=400)
