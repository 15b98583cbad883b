"""Semantic tokens of a text prompt, from a base model's own text encoder.

Letters: b batch, m tokens, h width of the language model, k layers read, d = k * h.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import read_component, read_model, require_chat
from ..compute.offload import execution_device
from ..errors import WeightsError

log = logging.getLogger(__name__)

MOST_TOKENS = 512


@dataclass(frozen=True)
class TextConvention:
    """The way a family reads its text encoder."""

    thinking: bool  # the chat template's enable_thinking
    layers: tuple[int, ...]  # hidden states, 0 being the embeddings; several are concatenated per token
    keep_padding: bool  # whether the padding tokens up to MOST_TOKENS are part of the condition


class TextEncoder(nn.Module):
    """The encoder of a prompt, whose tokens are the same for every image. No parameter trains."""

    def __init__(self, model: nn.Module, tokenizer: Any, convention: TextConvention, prompt: str) -> None:
        """Freeze the model, transformers' decoder without its language-model head.

        tokenizer: with a chat template. prompt: what `forward` encodes.
        """
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.convention = convention
        self.prompt = prompt

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """Return tokens (1, m, d) of a prompt, float32; m is MOST_TOKENS where the family keeps padding."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.convention.thinking,
        )
        if len(text) > MOST_TOKENS and len(self.tokenizer(text)["input_ids"]) > MOST_TOKENS:
            log.warning("a prompt is longer than %d tokens: its end is not read", MOST_TOKENS)
        inputs = self.tokenizer(
            text, padding="max_length", max_length=MOST_TOKENS, truncation=True, return_tensors="pt"
        ).to(execution_device(self.model))
        # There is one (1, MOST_TOKENS, h) for the embeddings and one for each layer.
        states = self.model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        layers = [states[layer] for layer in self.convention.layers]
        tokens = torch.cat(layers, dim=-1).float()  # (1, MOST_TOKENS, d)
        if self.convention.keep_padding:
            return tokens
        return tokens[:, inputs["attention_mask"][0].bool()]  # (1, m, d)

    def forward(self, image: Tensor) -> Tensor:
        """Return the own prompt's tokens (b, m, d) for images (b, 3, h, w), which are only counted."""
        tokens = self.encode(self.prompt)  # (1, m, d)
        return tokens.expand(len(image), -1, -1)  # (b, m, d)


def load_text_encoder(
    folder: Path, convention: TextConvention, prompt: str, dtype: torch.dtype
) -> TextEncoder:
    """Load the encoder from a base model's folder with text_encoder/ and tokenizer/. Raises WeightsError."""
    from transformers import AutoModel, AutoTokenizer

    model = read_model(AutoModel, folder / "text_encoder", dtype)
    depth = model.config.num_hidden_layers
    if depth < max(convention.layers):
        raise WeightsError(
            f"{folder / 'text_encoder'}: {depth} layers, but hidden state {max(convention.layers)} is needed"
        )
    tokenizer = read_component(AutoTokenizer, folder / "tokenizer")
    require_chat(tokenizer, folder / "tokenizer")
    return TextEncoder(model, tokenizer, convention, prompt)
