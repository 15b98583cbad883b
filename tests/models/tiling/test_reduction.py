"""A picture that is reduced piece by piece is the picture that PyTorch reduces as a whole."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from strsr_models.tiling import tiles
from strsr_models.tiling.reduction import Reduction
from strsr_models.tiling.walk import TiledPicture


def reduced(
    image: torch.Tensor, target: tuple[int, int], rows: list[int], columns: list[int]
) -> torch.Tensor:
    """The image reduced in pieces of those heights and widths."""
    reduction = Reduction((image.shape[-2], image.shape[-1]), target)
    whole = image.new_full((*image.shape[:-2], *target), torch.nan)
    for band in image.split(rows, -2):
        left = 0
        for piece in band.split(columns, -1):
            tiles.paste(whole, reduction.add(left, piece))
            left += piece.shape[-1]
    return whole


@pytest.mark.parametrize(
    ("size", "target", "rows", "columns"),
    [
        ((64, 96), (16, 24), [64], [96]),
        ((64, 96), (32, 48), [20, 20, 24], [50, 46]),
        ((70, 53), (26, 20), [1, 2, 30, 37], [40, 7, 6]),
        ((40, 40), (39, 38), [13, 13, 14], [40]),
        ((12, 400), (3, 100), [12], [7] * 57 + [1]),
        ((4, 4), (1, 1), [1, 1, 1, 1], [1, 1, 1, 1]),
        ((33, 8), (33, 2), [8, 8, 8, 9], [8]),
    ],
)
def test_pieces_make_the_reduction_of_the_whole(
    size: tuple[int, int], target: tuple[int, int], rows: list[int], columns: list[int]
) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(image, target, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(reduced(image, target, rows, columns), expected, atol=1e-5, rtol=0)


def test_a_flat_picture_stays_flat() -> None:
    image = torch.full((1, 3, 90, 77), 0.3)
    assert float((reduced(image, (31, 26), [45, 45], [30, 47]) - 0.3).abs().max()) < 1e-6


@pytest.mark.parametrize("scale", [1, 1.3, 2, 3.9])
def test_tiles_of_a_larger_picture_make_the_output(scale: float) -> None:
    """A network that changes nothing gives the enlargement, made larger and reduced."""
    lq = torch.rand(1, 3, 21, 34, generator=torch.Generator().manual_seed(1))
    made, target = (84, 136), (round(21 * scale), round(34 * scale))
    tiled = TiledPicture(
        read=lambda rows, columns: lq[..., rows, columns],
        size=(21, 34),
        made=made,
        target=target,
        canvas=(96, 160),
        shape=(64, 64),
        overlap=16,
        device=torch.device("cpu"),
    )
    whole = torch.full((1, 3, *target), torch.nan)
    order = list(range(len(tiled.tiles)))
    # In any order.
    for number in order[1::2] + order[::2]:
        tiles.paste(whole, tiled.add(number, tiled.view(number)))
    large = F.interpolate(lq, made, mode="bicubic", align_corners=False).clamp(0, 1)
    expected = F.interpolate(large, target, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(whole, expected.clamp(0, 1), atol=1e-5, rtol=0)
