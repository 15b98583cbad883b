from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strsr_models.errors import UsageError
from strsr_models.tiling import tiles

LENGTH, TILE = st.integers(1, 200), st.integers(1, 64)


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int]:
    tile = draw(TILE)
    return draw(LENGTH), tile, draw(st.integers(0, tile // 2))


@given(axes())
def test_tiles_cover_an_axis_and_stay_inside(axis: tuple[int, int, int]) -> None:
    length, tile, overlap = axis
    starts = tiles.axis_starts(length, tile, overlap)
    covered = {i for start in starts for i in range(start, start + min(tile, length))}
    assert covered == set(range(length))
    assert starts == sorted(set(starts))


@given(axes())
def test_weights_sum_to_one(axis: tuple[int, int, int]) -> None:
    length, tile, overlap = axis
    starts = tiles.axis_starts(length, tile, overlap)
    total = torch.zeros(length)
    for start, weight in zip(starts, tiles.axis_weights(length, tile, starts, overlap), strict=True):
        assert (weight > 0).all()
        total[start : start + min(tile, length)] += weight
    torch.testing.assert_close(total, torch.ones(length), atol=1e-6, rtol=0)


@settings(max_examples=50)
@given(axes(), axes())
def test_a_network_that_changes_nothing_gives_the_image_back(
    rows: tuple[int, int, int], columns: tuple[int, int, int]
) -> None:
    overlap = min(rows[2], columns[2])
    shape = (rows[1], columns[1])
    image = torch.rand(1, 3, rows[0], columns[0])
    blender = tiles.Blender(rows[0], columns[0], shape, overlap)
    back = torch.full_like(image, torch.nan)
    for number, tile in enumerate(tiles.plan(rows[0], columns[0], shape, overlap)):
        for top, left, final in blender.add(number, image[(..., *tile.slices)]):
            place = back[..., top : top + final.shape[-2], left : left + final.shape[-1]]
            assert place.isnan().all()  # each pixel comes once
            place.copy_(final)
    torch.testing.assert_close(back, image, atol=1e-6, rtol=0)


@given(st.integers(1, 100), st.integers(4, 20), st.integers(0, 2))
def test_fitted_tiles_are_no_more_in_number_and_no_larger(length: int, largest: int, overlap: int) -> None:
    length, largest, overlap = 16 * length, 16 * largest, 16 * overlap
    fitted = tiles.fit_tile(length, largest, overlap, 16)
    assert fitted <= largest
    assert fitted % 16 == 0
    count = len(tiles.axis_starts(length, fitted, overlap))
    assert count == len(tiles.axis_starts(length, largest, overlap))


def test_feathers_are_linear_over_the_overlap() -> None:
    first, second = tiles.axis_weights(12, 8, [0, 4], 4)
    torch.testing.assert_close(first[4:], torch.tensor([0.875, 0.625, 0.375, 0.125]))
    torch.testing.assert_close(second[:4], torch.tensor([0.125, 0.375, 0.625, 0.875]))


def test_smooth_feathers_take_less_at_a_tiles_border() -> None:
    first, second = tiles.axis_weights(12, 8, [0, 4], 4, smooth=True)
    torch.testing.assert_close(second[:4], torch.tensor([0.04296875, 0.31640625, 0.68359375, 0.95703125]))
    torch.testing.assert_close(first[4:] + second[:4], torch.ones(4))


def test_an_overlap_as_large_as_the_tile_is_refused() -> None:
    with pytest.raises(UsageError, match="overlap 8 must be"):
        tiles.axis_starts(100, 8, 8)
