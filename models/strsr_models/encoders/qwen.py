"""The semantic encoder of the released checkpoints: a vision-language model looks at the picture.

Qwen3-VL gets one chat message with the low-quality image and a fixed prompt. Its last hidden
states at all tokens but the image's own are the condition: what the model has understood of the
picture, in as many tokens as the prompt has (StrSR, arXiv 2603.06275).

Letters: b batch, h w pixels, m tokens, e width of the language model.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.files import read_component, read_model, require_chat
from ..compute.offload import execution_device

# What the released projectors were trained with, to the letter: a part of the checkpoint.
PROMPT = (
    "Descibe this image in detail, especially the text in image. Cinematic, hyper sharpness, highly detailed, "
    "perfect without deformations. Camera, hyper detailed photo, realistic maximum detail, 32k, Color. Grading, "
    "ultra HD, extreme meticulous detailing, skin pore detailing"
)
LONGEST_ASPECT = 200  # the processor refuses longer strips
# The tool that the authors build the chat message with resizes pictures before the processor does, for the patches
# of an older model. The released projectors were trained behind it.
SEEN_MULTIPLE = 28  # px, of both sides
SEEN_PIXELS = (3_136, 12_845_056)  # the fewest and the most


class VisionLanguageEncoder(nn.Module):
    """Images to the tokens that the projector takes. No parameter trains."""

    def __init__(self, model: nn.Module, processor: Any, prompt: str = PROMPT) -> None:
        """model: a Qwen3VLModel (without its language-model head); processor: its Qwen3VLProcessor."""
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.processor = processor
        self.prompt = prompt

    @property
    def width(self) -> int:
        """Of a token."""
        return int(self.model.config.text_config.hidden_size)  # type: ignore[union-attr,arg-type]

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Tokens (b, m, e), float32, of whole images (b, 3, h, w) in [0, 1].

        m depends on the prompt alone, so that any batch makes one tensor. Images are seen one by
        one: what is in a picture must not depend on its neighbours in a batch.
        """
        return torch.cat([self._look(single) for single in image])  # (b, m, e)

    def _look(self, image: Tensor) -> Tensor:
        """(3, h, w) -> (1, m, e)."""
        inputs = self.processor(
            text=[self._text()],
            images=[as_trained(to_bytes(image))],
            input_data_format="channels_first",
            return_tensors="pt",
        ).to(execution_device(self.model))
        states = self.model(**inputs, use_cache=False).last_hidden_state  # (1, image tokens + m, e)
        return states[:, inputs["input_ids"][0] != self.processor.image_token_id].float()  # type: ignore[no-any-return]

    def _text(self) -> str:
        messages = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.prompt}]},
        ]
        return str(self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def count_tokens(self) -> int:
        """m, without looking at a picture."""
        tokens = self.processor.tokenizer(self._text())["input_ids"]
        return sum(token != self.processor.image_token_id for token in tokens)


def to_bytes(image: Tensor) -> Tensor:
    """(3, h, w) in [0, 1] -> uint8, as the processor gets a picture from a file.

    A strip longer than 200 times its width is widened first: the processor would refuse it.
    """
    h, w = image.shape[-2:]
    shortest = -(-max(h, w) // LONGEST_ASPECT)
    if min(h, w) < shortest:
        size = (max(h, shortest), max(w, shortest))
        image = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def seen_size(height: int, width: int) -> tuple[int, int]:
    """(h, w) px that a picture is resized to before the processor sees it: multiples of 28, each side to the nearest.

    A picture of too many or too few pixels (SEEN_PIXELS) is brought to the bound first, and its sides then rounded down or up.
    """
    fewest, most = SEEN_PIXELS
    # Python's round, which takes halves to the even number, as the authors' tool does.
    h, w = (max(SEEN_MULTIPLE, round(side / SEEN_MULTIPLE) * SEEN_MULTIPLE) for side in (height, width))
    if fewest <= h * w <= most:
        return h, w
    bound, whole = (most, math.floor) if h * w > most else (fewest, math.ceil)
    factor = math.sqrt(bound / (height * width))
    h, w = (
        max(SEEN_MULTIPLE, whole(side * factor / SEEN_MULTIPLE) * SEEN_MULTIPLE) for side in (height, width)
    )
    return h, w


def as_trained(image: Tensor) -> Tensor:
    """(3, h, w) uint8 -> (3, h', w') uint8 of `seen_size`, by Pillow's bicubic: torch's differs by up to 2 levels."""
    h, w = seen_size(*image.shape[-2:])
    pixels = Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).resize((w, h), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def load_vision_language(folder: Path, dtype: torch.dtype) -> VisionLanguageEncoder:
    """From a Qwen3-VL folder in transformers' layout. Raises WeightsError."""
    from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    model = read_model(Qwen3VLForConditionalGeneration, folder, dtype).model
    processor = read_component(Qwen3VLProcessor, folder)
    require_chat(processor, folder)
    return VisionLanguageEncoder(model, processor)
