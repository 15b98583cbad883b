"""What an output says of how it was made, when asked to."""

from __future__ import annotations

from pathlib import Path

from strsr_models.checkpoints import default_models_dir
from strsr_models.errors import WeightsError
from strsr_models.load import EMBEDDED, pretrained_family
from strsr_models.pipelines.adapter import adapter_files

from . import __version__
from .big_models import BigModelOptions
from .journal import sha256_of


def provenance(model: str, weights: Path | None, big: BigModelOptions | None, scale: float) -> str:
    """One line: version, model, hash of its weights, scale. Raises WeightsError for weights not there."""
    path = weights_file(model, weights, big)
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    return f"strsr {__version__}; model {model}; weights sha256:{digest}; scale {scale:g}"


def weights_file(model: str, weights: Path | None, big: BigModelOptions | None) -> Path:
    """The file that tells one training from another: lite's weights, the adapter of zimage and flux2."""
    if big is None:
        return (weights or EMBEDDED / model) / "model.safetensors"
    root = big.models_dir or default_models_dir()
    return adapter_files(weights or root / pretrained_family(model).adapter_folder)[0]
