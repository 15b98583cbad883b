"""FLUX.2's arithmetic, against METHOD in straight lines that share no code with the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strsr_models import WeightsError, load_pipeline
from strsr_models.encoders.qwen import PROMPT
from strsr_models.pipelines.flux2 import Flux2Pipeline
from strsr_models.pipelines.options import PretrainedOptions

from ...helpers.tiny_models import look_at, merged_by_hand, project, save_text_encoder


def tokens_of_text(models: Path, prompt: str) -> Tensor:
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    base = models / "FLUX.2-klein-base-4B"
    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    model = Qwen3ForCausalLM.from_pretrained(base / "text_encoder").eval()
    text = (
        f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        # padding is part of the condition
    )
    inputs = tokenizer(text, padding="max_length", max_length=512, return_tensors="pt")
    states = model(**inputs, output_hidden_states=True).hidden_states
    return torch.cat([states[9], states[18], states[27]], dim=2)


def straight_line(models: Path, lq: Tensor, tokens: Tensor) -> Tensor:
    """METHOD sections 1 and 5 for a picture whose enlargement has sides of multiples of 16."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    dit = Flux2Transformer2DModel.from_pretrained(models / "FLUX.2-klein-base-4B" / "transformer").eval()
    vae = AutoencoderKLFlux2.from_pretrained(models / "FLUX.2-klein-base-4B" / "vae").eval()
    merged_by_hand(dit, models / "StrSR-flux" / "state_dict.pth")
    mean, std = vae.bn.running_mean, (vae.bn.running_var + 1e-4).sqrt()
    x_up = F.interpolate(lq, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)
    z = vae.encode(2 * x_up - 1).latent_dist.mean
    _, c, h, w = z.shape
    z_tokens, ids = [], []
    for row in range(h // 2):
        for column in range(w // 2):
            block = z[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]  # (c, 2, 2)
            z_tokens.append((block.flatten() - mean) / std)
            ids.append([0, row, column, 0])
    z_seq = torch.stack(z_tokens)[None]
    text_ids = torch.tensor([[0, 0, 0, index] for index in range(tokens.shape[1])])
    v = dit(
        z_seq, tokens, torch.tensor([800 / 1000]), img_ids=torch.tensor(ids), txt_ids=text_ids, guidance=None
    ).sample
    z_seq = (z_seq - 0.8 * v)[0] * std + mean
    z = torch.zeros(1, c, h, w)
    for token, (_, row, column, _) in zip(z_seq, ids, strict=True):
        z[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = token.view(c, 2, 2)
    return (vae.decode(z).sample.clamp(-1, 1) + 1) / 2


@torch.no_grad()
def test_a_picture_is_restored_by_what_is_seen_in_it(models: Path) -> None:
    lq = (torch.rand(1, 3, 12, 16) * 255).round() / 255
    tokens = project(models / "StrSR-flux" / "projector.pth", look_at(models, lq, PROMPT, (84, 56)))
    expected = straight_line(models, lq, tokens)
    pipeline = load_pipeline("flux2", models)
    torch.testing.assert_close(pipeline.encode_condition(lq), tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(pipeline.upscale(lq, 4), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.05


@torch.no_grad()
def test_a_picture_is_restored_by_a_prompt(models: Path) -> None:
    lq = torch.rand(1, 3, 12, 16)
    tokens = tokens_of_text(models, "a cat on a wall")
    expected = straight_line(models, lq, tokens)
    options = PretrainedOptions(conditioning="text", prompt="a cat on a wall")
    pipeline = load_pipeline("flux2", models, options=options)
    torch.testing.assert_close(pipeline.encode_condition(lq), tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(pipeline.upscale(lq, 4), expected, atol=1e-4, rtol=0)


def test_latents_are_packed_with_their_positions(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a transformer that answers zero, latents come back; what it saw is written out."""
    pipeline = load_pipeline("flux2", models)
    assert isinstance(pipeline, Flux2Pipeline)
    seen: dict[str, Any] = {}

    def answer(_dit: nn.Module, _args: tuple[()], inputs: dict[str, Any], _output: object) -> tuple[Tensor]:
        seen.update(inputs)
        return (torch.zeros_like(inputs["hidden_states"]),)

    pipeline.dit.register_forward_hook(answer, with_kwargs=True)
    monkeypatch.setattr(pipeline, "encode_posterior", lambda x: torch.arange(32.0).view(1, 4, 2, 4))
    latents = pipeline.encode_latents(torch.zeros(1, 3, 16, 32))
    mean, std = pipeline.vae.bn.running_mean, torch.sqrt(pipeline.vae.bn.running_var + 1e-4)
    first = torch.tensor([0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29.0])
    torch.testing.assert_close(latents[0, :, 0, 0], (first - mean) / std)
    torch.testing.assert_close(latents[0, :, 0, 1], (first + 2 - mean) / std)
    assert torch.equal(pipeline.denoise(latents, torch.zeros(1, 3, 96)), latents)
    assert seen["img_ids"].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0]]
    assert seen["txt_ids"].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]
    assert seen["timestep"].tolist() == pytest.approx([0.8])
    assert seen["guidance"] is None
    torch.testing.assert_close(seen["hidden_states"][0, 1], latents[0, :, 0, 1])


def test_tokens_of_a_long_prompt_are_cut(models: Path) -> None:
    pipeline = load_pipeline("flux2", models)
    assert isinstance(pipeline, Flux2Pipeline)
    pipeline.semantic_encoder.prompt = 600 * "a"
    with torch.no_grad():
        assert pipeline.encode_condition(torch.rand(1, 3, 32, 32)).shape == (1, 512, 96)


def test_a_text_encoder_with_too_few_layers_is_refused(models: Path, tmp_path: Path) -> None:
    base = tmp_path / "FLUX.2-klein-base-4B"
    save_text_encoder(base, layers=3)
    for part in ("transformer", "vae"):
        (base / part).symlink_to(models / "FLUX.2-klein-base-4B" / part)
    (tmp_path / "StrSR-flux").symlink_to(models / "StrSR-flux")
    with pytest.raises(WeightsError, match="3 layers, but hidden state 27 is needed"):
        load_pipeline("flux2", tmp_path, options=PretrainedOptions(conditioning="text", prompt="a"))
