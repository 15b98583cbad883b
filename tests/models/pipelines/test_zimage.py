"""Z-Image's arithmetic, against METHOD in straight lines that share no code with the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strsr_models import WeightsError, load_pipeline
from strsr_models.encoders.qwen import PROMPT
from strsr_models.pipelines.options import PretrainedOptions
from strsr_models.pipelines.zimage import ZImagePipeline

from ...helpers.tiny_models import look_at, merged_by_hand, project


def tokens_of_text(models: Path, prompt: str) -> Tensor:
    """The tokens of the template's text alone: causal, so that padding to 512 changes nothing."""
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    base = models / "Z-Image-Turbo"
    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    model = Qwen3ForCausalLM.from_pretrained(base / "text_encoder").eval()
    text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    states = model(tokenizer(text, return_tensors="pt").input_ids, output_hidden_states=True).hidden_states
    assert len(states) == 1 + model.config.num_hidden_layers
    return states[-2]


def straight_line(models: Path, lq: Tensor, captions: Tensor) -> Tensor:
    """METHOD sections 1 and 5 for a picture whose enlargement has sides of multiples of 16."""
    from diffusers import AutoencoderKL, ZImageTransformer2DModel

    dit = ZImageTransformer2DModel.from_pretrained(models / "Z-Image-Turbo" / "transformer").eval()
    vae = AutoencoderKL.from_pretrained(models / "Z-Image-Turbo" / "vae").eval()
    merged_by_hand(dit, models / "StrSR-zimage" / "state_dict.pth")
    x_up = F.interpolate(lq, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)
    z = vae.encode(2 * x_up - 1).latent_dist.mean
    output = dit([z[0].unsqueeze(1)], torch.tensor([(1000 - 800) / 1000]), [captions[0]]).sample[0]
    z = z + 0.8 * output.squeeze(1)[None]  # v = -output
    x = vae.decode(z / 0.36 + 0.12).sample.clamp(-1, 1)
    return (x + 1) / 2


@torch.no_grad()
def test_a_picture_is_restored_by_what_is_seen_in_it(models: Path) -> None:
    lq = (torch.rand(1, 3, 12, 16) * 255).round() / 255
    captions = project(models / "StrSR-zimage" / "projector.pth", look_at(models, lq, PROMPT, (84, 56)))
    expected = straight_line(models, lq, captions)
    pipeline = load_pipeline("zimage", models)
    torch.testing.assert_close(pipeline.encode_condition(lq), captions, atol=1e-5, rtol=0)
    torch.testing.assert_close(pipeline.upscale(lq, 4), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.05


@torch.no_grad()
def test_a_picture_is_restored_by_a_prompt(models: Path) -> None:
    lq = torch.rand(1, 3, 12, 16)
    captions = tokens_of_text(models, "a cat on a wall")
    expected = straight_line(models, lq, captions)
    options = PretrainedOptions(conditioning="text", prompt="a cat on a wall")
    pipeline = load_pipeline("zimage", models, options=options)
    torch.testing.assert_close(pipeline.encode_condition(lq), captions, atol=1e-5, rtol=0)
    torch.testing.assert_close(pipeline.upscale(lq, 4), expected, atol=1e-4, rtol=0)


def test_the_transformer_is_called_once_at_a_fifth_and_negated(models: Path) -> None:
    """With a transformer that answers its input plus one, every constant can be read off."""
    pipeline = load_pipeline("zimage", models)
    assert isinstance(pipeline, ZImagePipeline)
    calls = []

    def answer(_dit: nn.Module, inputs: tuple[Any, ...], _output: object) -> tuple[list[Tensor]]:
        calls.append(inputs)
        return ([image + 1 for image in inputs[0]],)

    pipeline.dit.register_forward_hook(answer)
    latents, cond = torch.randn(2, 4, 6, 8), torch.randn(2, 5, 32)
    out = pipeline.denoise(latents, cond)
    torch.testing.assert_close(out, latents + 0.8 * (latents + 1))
    ((images, time, captions),) = calls
    assert [tuple(image.shape) for image in images] == [(4, 1, 6, 8)] * 2
    assert time.tolist() == pytest.approx([0.2, 0.2])
    assert torch.equal(torch.stack(captions), cond)


def test_decoding_divides_then_shifts(models: Path) -> None:
    pipeline = load_pipeline("zimage", models)
    assert isinstance(pipeline, ZImagePipeline)
    latents = torch.randn(1, 4, 2, 2)
    with torch.no_grad():
        expected = pipeline.vae.decode(latents / 0.36 + 0.12).sample / 2 + 0.5
        torch.testing.assert_close(pipeline.decode_latents(latents, latents), expected)


def test_a_vae_may_lack_its_shift_but_not_its_scale(models: Path) -> None:
    pipeline: Any = load_pipeline("zimage", models)
    latents = torch.randn(1, 4, 2, 2)
    pipeline.vae.register_to_config(shift_factor=None)
    with torch.no_grad():
        expected = pipeline.vae.decode(latents / 0.36).sample / 2 + 0.5
        torch.testing.assert_close(pipeline.decode_latents(latents, latents), expected)
    pipeline.vae.register_to_config(scaling_factor=None)
    with pytest.raises(WeightsError, match=r"vae/config\.json: scaling_factor is None"):
        pipeline.decode_latents(latents, latents)
