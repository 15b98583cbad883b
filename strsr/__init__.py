"""strsr for Python: images, arrays, tensors or files in, the same kind out, four times as large.

    import strsr
    large = strsr.upscale("small.jpg", scale=4)

Names are loaded on first use, so that `import strsr` costs no import of torch. On tensors alone, and on the
networks themselves: the package strsr_models.
"""

from __future__ import annotations

import importlib
import random
from typing import TYPE_CHECKING, Any

from strsr_cli import __version__

if TYPE_CHECKING:
    from strsr_models.errors import DeviceError, ImageError, StrsrError, UsageError, WeightsError

    from .settings import Settings
    from .upscaler import Upscaler, upscale

_HOME = {
    "DeviceError": "strsr_models.errors",
    "ImageError": "strsr_models.errors",
    "StrsrError": "strsr_models.errors",
    "UsageError": "strsr_models.errors",
    "WeightsError": "strsr_models.errors",
    "Settings": "strsr.settings",
    "Upscaler": "strsr.upscaler",
    "upscale": "strsr.upscaler",
}

__all__ = [
    "DeviceError",
    "ImageError",
    "Settings",
    "StrsrError",
    "Upscaler",
    "UsageError",
    "WeightsError",
    "__version__",
    "upscale",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    state = random.getstate()
    module = importlib.import_module(_HOME[name])
    # Some of the libraries that are imported draw random numbers: the caller's next ones stay what they were.
    random.setstate(state)
    return getattr(module, name)


def __dir__() -> list[str]:
    """Name what there is, also before it is loaded."""
    return sorted({*globals(), *__all__})
