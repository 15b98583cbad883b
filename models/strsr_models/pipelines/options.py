"""The options that families are loaded with: lite, and those on a published base."""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoints.published import LARGEST_LORA_SCALE
from ..compute import offload
from ..compute.devices import DTYPES
from ..compute.quantize import QUANTIZATIONS
from ..errors import UsageError

CONDITIONINGS = ("vlm", "text", "none", "given")


@dataclass(frozen=True)
class LiteOptions:
    """The options that lite is loaded with."""

    # From 0, the sharper picture, to 1, the more faithful: how far its weights go to those of the faithful end.
    fidelity: float = 0.0
    # Whether a picture that is to be smaller than `LiteConfig.least_scale` is computed at its own size: faster, softer.
    draft: bool = False
    # The precision to compute in, of a pipeline that neither trains nor moves: weights are rounded to it once.
    settled: str | None = None

    def __post_init__(self) -> None:
        # The comparison is false for NaN as well.
        if not 0 <= self.fidelity <= 1:
            raise UsageError(f"fidelity {self.fidelity:g}: must be between 0 and 1")


@dataclass(frozen=True)
class PretrainedOptions:
    """The options that a family on a published base is loaded with."""

    # Where conditions come from. vlm: from the picture; text: from `prompt`; none: from a neutral prompt;
    # given: no encoder is loaded.
    conditioning: str = "vlm"
    prompt: str = ""  # for text conditioning
    # The one-step tensors to merge: "published" (StrSR's, in the models folder), "none" (the base
    # model as it is, to train from), or a folder that training wrote.
    adapter: str = "published"
    lora_scale: float = 1.0  # 0: the base model, 1: as trained
    # The parameters' precision: auto, bf16, fp16 or fp32. On CUDA, auto is bf16 where the GPU multiplies
    # it, else fp16, which is made safe; elsewhere it is fp32.
    precision: str = "auto"
    offload: str = "none"  # what waits in main memory: see offload.py
    quantize: str = "none"  # the transformer's weights: none, int8 or int4

    def __post_init__(self) -> None:
        if self.conditioning not in CONDITIONINGS:
            raise UsageError(f"conditioning {self.conditioning!r}: use {', '.join(CONDITIONINGS)}")
        if self.prompt and self.conditioning != "text":
            raise UsageError(f"a prompt needs conditioning 'text', not {self.conditioning!r}")
        if not 0 <= self.lora_scale <= LARGEST_LORA_SCALE:
            raise UsageError(f"lora_scale {self.lora_scale:g}: must be between 0 and {LARGEST_LORA_SCALE}")
        if self.precision not in ("auto", *DTYPES):
            raise UsageError(f"precision {self.precision!r}: use auto, {', '.join(DTYPES)}")
        if self.offload not in offload.MODES:
            raise UsageError(f"offload {self.offload!r}: use {', '.join(offload.MODES)}")
        if self.quantize not in QUANTIZATIONS:
            raise UsageError(f"quantize {self.quantize!r}: use {', '.join(QUANTIZATIONS)}")
        if self.quantize != "none" and self.offload == "sequential":
            raise UsageError(
                "quantised weights cannot move layer by layer: choose --quantize or --offload sequential"
            )
