"""What a pipeline is given, checked before anything is computed; each error is one line that says whose fault it is."""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from ..errors import ImageError, UsageError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NOT_FINITE = "some of its pixels are not finite numbers (NaN or infinite)"


def check_image(image: object) -> None:
    """Raise UsageError unless an image is a tensor (b, 3, h, w) of floats with values and at least one pixel.

    Raises ImageError where some of these are not finite.
    """
    if not isinstance(image, Tensor):
        raise UsageError(f"expected a float tensor (b, 3, h, w) in [0, 1], got a {type(image).__name__}")
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape or image.dtype not in FLOATS:
        raise UsageError(
            f"expected a float tensor (b, 3, h, w) in [0, 1], got {image.dtype} {tuple(image.shape)}"
        )
    check_values(image, "the image")
    if not is_finite(image):
        raise ImageError(f"the image: {NOT_FINITE}")


def check_cond(cond: object, images: int, width: int) -> None:
    """Raise UsageError unless a condition is a tensor (b, m, d) of finite floats, with b images and d = width."""
    if not isinstance(cond, Tensor) or cond.dtype not in FLOATS:
        kind = cond.dtype if isinstance(cond, Tensor) else f"a {type(cond).__name__}"
        raise UsageError(f"cond: expected a float tensor ({images}, m, {width}), got {kind}")
    if cond.ndim != 3 or len(cond) != images or cond.shape[2] != width:
        raise UsageError(f"cond: expected a float tensor ({images}, m, {width}), got {tuple(cond.shape)}")
    check_values(cond, "cond")
    if not is_finite(cond):
        raise UsageError("cond: some of its numbers are not finite")


def check_values(tensor: Tensor, name: str) -> None:
    """Raise UsageError for a tensor whose numbers do not simply lie in memory."""
    if tensor.is_meta:
        raise UsageError(f"{name}: is on the meta device, which holds no values")
    if tensor.layout != torch.strided:
        raise UsageError(f"{name}: is {tensor.layout}; give a dense tensor (to_dense())")


def check_steps(steps: object) -> int:
    """Return the number of steps. Raises UsageError unless it is a whole number, at least 1."""
    return _at_least(steps, "steps", 1)


def check_tile(tile: object, overlap: object) -> None:
    """Raise UsageError unless the side of tiles and their overlap are None or whole numbers of px, not negative."""
    if tile is not None:
        _at_least(tile, "tile", 1)
    if overlap is not None:
        _at_least(overlap, "overlap", 0)


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    return bool(torch.isfinite(tensor).all())


def _at_least(number: object, name: str, least: int) -> int:
    """Return a whole number, NumPy's as well. Raises UsageError for other things and for less than `least`."""
    try:
        value = operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        value = least - 1
    if value < least:
        raise UsageError(f"{name} {number!r}: must be a whole number, at least {least}")
    return value
