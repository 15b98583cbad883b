"""The settings of an Upscaler, which `strsr.upscale` takes as well. Imports nothing heavy."""

from __future__ import annotations

import os
from typing import TypedDict


class Size(TypedDict, total=False):
    """How large an answer is to be, in place of `scale`, as the command's options of the same names say it.

    A limit is a number, or a text with > or < behind it: what becomes of an image that is larger already.
    "4096>" reduces it, "4096<" lets it keep its size and restores it; without a mark it is refused.
    """

    longest: int | str | None  # px of the longer side
    shortest: int | str | None  # px of the shorter side
    width: int | str | None  # px; with height: the answer fits into that box
    height: int | str | None  # px
    megapixels: float | str | None  # millions of px of the whole
    cover: bool  # whether the answer is to cover the box of width and height


class Settings(TypedDict, total=False):
    """What decides the pixels and how they are computed, as the command's options of the same names do.

    A setting that is left out has the command's default.
    """

    model: str  # lite, zimage or flux2
    weights: str | os.PathLike[str] | None  # a folder in place of the model's own weights
    device: str  # auto, cpu, cuda, cuda:N or mps
    precision: str  # auto, fp16, bf16, fp32 or, of lite on a CPU, int8
    tile: int | None  # px of what the network makes: largest side of a tile; None: chosen to fit each image
    overlap: int | None  # the same px; None: the model's
    steps: int  # of the network
    fidelity: float  # of lite: from 0, the sharper picture, to 1, the more faithful
    draft: bool  # of lite, below x4: whether it is computed at the size of the answer, faster and softer
    batch: int | None  # tiles at once; None: what fits the memory
    compile: bool  # whether the networks are compiled
    backend: str  # what computes lite's tiles on a CPU: auto, torch or openvino
    quality: int  # of files written as JPEG, WebP or AVIF
    png_compression: int  # of files written as PNG, 0 to 5
    strip: bool  # whether all metadata but the colour profile is dropped
    max_pixels: int  # of a file that is read
    models_dir: (
        str | os.PathLike[str] | None
    )  # of zimage and flux2; None: STRSR_MODELS_DIR or the user's cache
    conditioning: str | None  # of zimage and flux2: vlm, text or none
    prompt: str | None  # of text conditioning
    lora_scale: float | None  # of zimage and flux2
    offload: str | None  # of zimage and flux2
    quantize: str | None  # of zimage and flux2


class SizeAndSettings(Size, Settings, total=False):
    """What `strsr.upscale` takes: how large an answer is to be, and the settings of an Upscaler."""
