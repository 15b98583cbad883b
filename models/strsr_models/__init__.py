"""One-step restoration with diffusion transformers: tensors in, tensors out.

    from strsr_models import load_pipeline
    hq = load_pipeline("lite").upscale(lq, scale=4)     # (b, 3, h, w) in [0, 1]

Names are loaded on first use, so that `strsr_models.errors` does not cost an import of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import DeviceError, ImageError, StrsrError, UsageError, WeightsError
    from .load import MODELS, load_pipeline
    from .pipelines.base import OneStepPipeline


_HOME = {
    "DeviceError": "errors",
    "ImageError": "errors",
    "StrsrError": "errors",
    "UsageError": "errors",
    "WeightsError": "errors",
    "MODELS": "load",
    "load_pipeline": "load",
    "OneStepPipeline": "pipelines.base",
}

__all__ = [
    "MODELS",
    "DeviceError",
    "ImageError",
    "OneStepPipeline",
    "StrsrError",
    "UsageError",
    "WeightsError",
    "load_pipeline",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
