"""How large answers are to be: a factor or a target size, by the same rules as the command's options."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strsr_cli.batch.target_size import TargetSize, resolve_target_size
from strsr_cli.images.picture import Picture, reduced_picture
from strsr_models.errors import ImageError, UsageError, nearest
from strsr_models.pipelines.inputs import check_image

from .settings import Size

LIMITS = ("longest", "shortest", "width", "height", "megapixels")
SIZE_NAMES = Size.__annotations__.keys()


def resolve_size(scale: float | None, size: Size) -> TargetSize:
    """Return the size that the arguments of a call ask for; a limit is a number, or a text such as "4096>".

    Raises UsageError for what the command refuses, and TypeError, as Python does, for names that are unknown.
    """
    for name in size:
        if name not in SIZE_NAMES:
            known = nearest(name, SIZE_NAMES)
            raise TypeError(f"upscale() got an unexpected keyword argument {name!r}; {known}")
    limits: dict[str, Any] = {name: _limit_text(name, size.get(name)) for name in LIMITS}
    return resolve_target_size(scale, cover=bool(size.get("cover", False)), **limits)


def _limit_text(name: str, limit: object) -> str | None:
    """Return a limit as the command line has it. Raises UsageError for what is neither a number nor a text."""
    if limit is None or isinstance(limit, str):
        return limit
    if isinstance(limit, bool) or not isinstance(limit, int | float | np.integer | np.floating):
        raise UsageError(f"{name}: must be a number, or a text such as '4096>', not a {type(limit).__name__}")
    # Without an exponent, which the command does not know.
    return format(Decimal(str(limit)), "f")


def factor_of(size: TargetSize, height: int, width: int, name: str) -> float:
    """Return the factor from an image of height x width px, called `name`. Raises ImageError where there is none."""
    try:
        return size.factor(height, width)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def reduced_tensor(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce images (b, 3, h, w) to (height, width) px by Pillow's Lanczos filter, as the command does. Raises UsageError."""
    check_image(images)
    pixels = images.detach().to("cpu", torch.float32).permute(0, 2, 3, 1).numpy()
    smaller = [reduced_picture(Picture(image, None, icc=None, format=""), size).color for image in pixels]
    return torch.from_numpy(np.stack(smaller)).permute(0, 3, 1, 2).clamp(0, 1).contiguous().to(images)
