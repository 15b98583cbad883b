"""The semantic encoder of the released checkpoints: a vision-language model looks at the picture.

Qwen3-VL gets one chat message with the low-quality image and a fixed prompt. Its last hidden
states at all tokens but the image's own are the condition: what the model has understood of the
picture, in as many tokens as the prompt has (StrSR, arXiv 2603.06275).

Letters: b batch, h w pixels, m tokens, e width of the language model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.files import read_component, read_model, require_chat
from ..compute.offload import execution_device
from ..compute.surroundings import float32_by_default

# The prompt that the released projectors were trained with, to the letter: a part of the checkpoint.
PROMPT = (
    "Descibe this image in detail, especially the text in image. Cinematic, hyper sharpness, highly detailed, "
    "perfect without deformations. Camera, hyper detailed photo, realistic maximum detail, 32k, Color. Grading, "
    "ultra HD, extreme meticulous detailing, skin pore detailing"
)
LONGEST_ASPECT = 200  # the processor refuses longer strips
# The tool that the authors build the chat message with resizes pictures before the processor does, for the
# patches of an older model. The released projectors were trained behind it.
TRAINED_MULTIPLE = 28  # px, of both sides
TRAINED_PIXELS = (3_136, 12_845_056)  # the fewest and the most


class VisionLanguageEncoder(nn.Module):
    """The encoder from images to the tokens that the projector takes. No parameter trains."""

    def __init__(self, model: nn.Module, processor: Any, prompt: str = PROMPT) -> None:
        """Freeze the model, a Qwen3VLModel without its language-model head; processor: its Qwen3VLProcessor."""
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.processor = processor
        self.prompt = prompt

    @property
    def width(self) -> int:
        """The width e of a token."""
        return int(self.model.config.text_config.hidden_size)  # type: ignore[union-attr,arg-type]

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Return tokens (b, m, e), float32, of whole images (b, 3, h, w) in [0, 1].

        m depends on the prompt alone, so that any batch makes one tensor. Images are seen one by
        one: what is in a picture must not depend on its neighbours in a batch.
        """
        return torch.cat([self._encode(single) for single in image])  # (b, m, e)

    def _encode(self, image: Tensor) -> Tensor:
        """Return the tokens (1, m, e) of one image (3, h, w)."""
        inputs = self.processor(
            text=[self._text()],
            images=[as_trained(to_bytes(image))],
            input_data_format="channels_first",
            return_tensors="pt",
        ).to(execution_device(self.model))
        # Older transformers work out positions in the default type.
        with float32_by_default():
            states = self.model(**inputs, use_cache=False).last_hidden_state  # (1, image tokens + m, e)
        kept = inputs["input_ids"][0] != self.processor.image_token_id  # (image tokens + m,)
        return states[:, kept].float()  # type: ignore[no-any-return]  # (1, m, e)

    def _text(self) -> str:
        """The chat message of one picture and the prompt, as the template writes it."""
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.prompt}]},
        ]
        return str(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def count_tokens(self) -> int:
        """Return the number of tokens m, without encoding a picture."""
        tokens = self.processor.tokenizer(self._text())["input_ids"]
        return sum(token != self.processor.image_token_id for token in tokens)


def to_bytes(image: Tensor) -> Tensor:
    """Turn (3, h, w) in [0, 1] into uint8, as the processor gets a picture from a file.

    A strip longer than 200 times its width is widened first: the processor would refuse it.
    """
    h, w = image.shape[-2:]
    shortest = -(-max(h, w) // LONGEST_ASPECT)
    if min(h, w) < shortest:
        size = (max(h, shortest), max(w, shortest))
        image = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def trained_size(height: int, width: int) -> tuple[int, int]:
    """The size (h, w) px that a picture is resized to before the processor sees it: multiples of 28.

    Each side goes to the nearest multiple. A picture of too many or too few pixels (TRAINED_PIXELS) is brought
    to the bound first, and its sides are then rounded down or up.
    """
    fewest, most = TRAINED_PIXELS
    # Python's own round takes halves to the even number, as the authors' tool does.
    h, w = _multiple(height, round), _multiple(width, round)
    if fewest <= h * w <= most:
        return h, w
    if h * w > most:
        factor = math.sqrt(most / (height * width))
        return _multiple(height * factor, math.floor), _multiple(width * factor, math.floor)
    factor = math.sqrt(fewest / (height * width))
    return _multiple(height * factor, math.ceil), _multiple(width * factor, math.ceil)


def _multiple(side: float, rounding: Callable[[float], int]) -> int:
    """The multiple of TRAINED_MULTIPLE that `rounding` gives for a side, at least one."""
    return max(TRAINED_MULTIPLE, rounding(side / TRAINED_MULTIPLE) * TRAINED_MULTIPLE)


def as_trained(image: Tensor) -> Tensor:
    """Resize (3, h, w) uint8 to `trained_size` by Pillow's bicubic: torch's differs by up to 2 levels."""
    h, w = trained_size(*image.shape[-2:])
    pixels = Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).resize((w, h), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)  # (3, h, w)


def load_vision_language(folder: Path, dtype: torch.dtype) -> VisionLanguageEncoder:
    """Load the encoder from a Qwen3-VL folder in transformers' layout. Raises WeightsError."""
    from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    model = read_model(Qwen3VLForConditionalGeneration, folder, dtype).model
    processor = read_component(Qwen3VLProcessor, folder)
    require_chat(processor, folder)
    return VisionLanguageEncoder(model, processor)
