"""Files of strangers: whatever bytes come, there is a picture or an ImageError, and soon."""

from __future__ import annotations

import contextlib
import os
import random
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strsr_cli.images.picture import Picture
from strsr_cli.images.read import decode_image, read_size
from strsr_models import ImageError

from ..helpers.image_files import small_files

FILES = cache(small_files)
NAMES = sorted(FILES())
PIXELS = 1_000_000
Edit = tuple[float, int, bytes]  # where (share of the file), how many bytes go, what comes


def mutated(data: bytes, edits: list[Edit]) -> bytes:
    for place, length, new in edits:
        at = int(place * len(data))
        data = data[:at] + new + data[at + length :]
    return data


def try_to_read(data: bytes, path: Path | None = None) -> bool:
    """Decode, and plan where there is a path; anything but a Picture or an ImageError is raised.

    Returns whether there was a picture.
    """
    picture = None
    with contextlib.suppress(ImageError):
        picture = decode_image(data, "x", PIXELS)
        assert isinstance(picture, Picture)
        assert picture.color.ndim == 3
        assert picture.color.size <= 3 * PIXELS
    if path is not None:
        path.write_bytes(data)
        with contextlib.suppress(ImageError):
            assert len(read_size(path, PIXELS)) == 2
    return picture is not None


@pytest.mark.parametrize("name", NAMES)
def test_the_files_themselves_are_read(name: str) -> None:
    assert decode_image(FILES()[name], name).color.shape[:2] == (10, 12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_cut_files_are_errors(name: str, share: float) -> None:
    data = FILES()[name]
    if name in ("moving.gif", "moving.webp", "pages.tif") and share >= 0.5:
        pytest.skip("the first frame is whole")
    with pytest.raises(ImageError, match=r"^x: cannot be decoded: .+$"):
        decode_image(data[: int(share * len(data))], "x")


@settings(max_examples=250, derandomize=True)
@given(
    name=st.sampled_from(NAMES),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=4
    ),
)
def test_mutated_files_are_pictures_or_errors(name: str, edits: list[Edit]) -> None:
    try_to_read(mutated(FILES()[name], edits))


@settings(max_examples=60, derandomize=True)
@given(head=st.sampled_from([FILES()[name][:12] for name in NAMES]), tail=st.binary(max_size=200))
def test_noise_behind_a_known_beginning_is_an_error(head: bytes, tail: bytes) -> None:
    try_to_read(head + tail)


@pytest.mark.slow
def test_mutations_for_ten_minutes_are_pictures_or_errors(tmp_path: Path) -> None:
    """A seed that is printed when it fails; STRSR_FUZZ_SECONDS sets how long (default: 600)."""
    seconds = float(os.environ.get("STRSR_FUZZ_SECONDS", "600"))
    seed, pictures, longest, began = 0, 0, 0.0, time.monotonic()
    while time.monotonic() - began < seconds:
        seed += 1
        rng = random.Random(seed)
        data = FILES()[rng.choice(NAMES)]
        edits = [
            (rng.random(), rng.choice((0, 1, 1, 2, 4, 40)), rng.randbytes(rng.choice((0, 1, 1, 2, 4))))
            for _ in range(rng.randint(1, 12))
        ]
        started = time.monotonic()
        try:
            pictures += try_to_read(mutated(data, edits), tmp_path / "x")
        except BaseException:
            print(f"seed {seed}")
            raise
        longest = max(longest, time.monotonic() - started)
        assert longest < 20, f"seed {seed} took long"
    print(f"{seed} mutations in {seconds:.0f} s, {pictures} pictures; the longest took {longest:.2f} s")
