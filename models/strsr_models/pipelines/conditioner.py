"""The semantic half of a family on a published base: what a picture or a prompt means to the transformer.

It stands by itself, so that a batch can have all its conditions made before the transformer comes into
memory: the peak is then the larger of the two halves, not their sum.

Letters: b batch, h w pixels, m tokens, e width of the encoder's tokens, d of the transformer's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..checkpoints.files import fill_strictly, read_tensors
from ..compute.offload import execution_device
from ..compute.surroundings import own_surroundings
from ..encoders.qwen import VisionLanguageEncoder, load_vision_language
from ..encoders.text import TextEncoder, load_text_encoder
from ..errors import WeightsError
from ..networks.projector import Projector
from .inputs import check_image

if TYPE_CHECKING:
    from .options import PretrainedOptions
    from .pretrained import PretrainedPipeline


VISION_LANGUAGE_FOLDER = "Qwen3-VL-4B-Instruct"
NEUTRAL_PROMPT = "A photo."  # for conditioning "none": says nothing about the picture


def project(tokens: Tensor, projector: nn.Module | None, most_tokens: int | None) -> Tensor:
    """Turn the encoder's tokens (b, n, e) into the transformer's (b, m, d), float32, at most `most_tokens`."""
    if projector is not None:
        tokens = projector(tokens.to(next(projector.parameters()).dtype))  # (b, n, d)
    return tokens.float()[:, :most_tokens]  # (b, m, d)


class Conditioner(nn.Module):
    """An encoder and its projector, to make conditions for `upscale(..., cond=...)` with."""

    def __init__(
        self,
        encoder: VisionLanguageEncoder | TextEncoder,
        projector: nn.Module | None = None,
        most_tokens: int | None = None,
    ) -> None:
        """Keep both networks.

        projector: to the transformer's tokens; None where they are the encoder's own.
        most_tokens: the largest m.
        """
        super().__init__()
        self.encoder = encoder
        self.projector = projector
        self.most_tokens = most_tokens

    def condition(self, image: Tensor) -> Tensor:
        """Return the condition (b, m, d) of images (b, 3, h, w) in [0, 1]: float32, on the CPU.

        Raises UsageError and ImageError for images that cannot be used, as `upscale` does.
        """
        check_image(image)
        image = image.detach().to(execution_device(self.encoder), torch.float32)
        return self.until_finite(lambda: self.encoder(image))

    look = condition  # its name in version 0.1

    def read(self, prompt: str) -> Tensor:
        """Return the condition (1, m, d) of a prompt, in text conditioning: float32, on the CPU."""
        encoder = self.encoder
        assert isinstance(encoder, TextEncoder)
        return self.until_finite(lambda: encoder.encode(prompt))

    def until_finite(self, encode: Callable[[], Tensor]) -> Tensor:
        """Encode and project; tokens that are not finite in half precision are made again in float32."""
        with own_surroundings(execution_device(self.encoder)):
            return self._until_finite(encode)

    def _until_finite(self, encode: Callable[[], Tensor]) -> Tensor:
        """Do what `until_finite` does, in the surroundings of this thread."""
        cond = project(encode(), self.projector, self.most_tokens)
        dtype = next(self.encoder.parameters()).dtype
        if not torch.isfinite(cond).all() and dtype != torch.float32:
            self.encoder.float()
            cond = project(encode(), self.projector, self.most_tokens)
            self.encoder.to(dtype)
        if not torch.isfinite(cond).all():
            raise WeightsError("the semantic encoder's tokens are not finite: its weights are damaged")
        return cond.cpu()


def load_encoder(
    family: type[PretrainedPipeline], root: Path, options: PretrainedOptions, dtype: torch.dtype
) -> tuple[VisionLanguageEncoder | TextEncoder | None, Projector | None]:
    """Load the encoder that `options` ask for and make the projector that it needs, still without weights."""
    if options.conditioning == "vlm":
        encoder = load_vision_language(root / VISION_LANGUAGE_FOLDER, dtype)
        return encoder, Projector(encoder.width, family.width_of(root))
    prompt = NEUTRAL_PROMPT if options.conditioning == "none" else options.prompt
    if options.conditioning in ("text", "none"):
        return load_text_encoder(root / family.base_folder, family.text_convention, prompt, dtype), None
    return None, None


def fill_projector(projector: nn.Module | None, path: Path) -> None:
    """Fill the projector, where there is one, from its file. Raises WeightsError."""
    if projector is not None:
        fill_strictly(projector, read_tensors(path), path)
