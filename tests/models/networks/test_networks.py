from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from strsr_models.networks import dit
from strsr_models.networks.autoencoder import Decoder, StructuralEncoder
from strsr_models.networks.dit import DiT, DiTConfig, rotary_angles, rotate
from strsr_models.pipelines.lite import LiteConfig, LitePipeline

from ...conftest import TINY


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 80), (48, 32)])
def test_shapes_hold_for_any_multiple_of_sixteen(height: int, width: int) -> None:
    lq_up = torch.rand(2, 3, height, width)
    latents = StructuralEncoder(TINY.autoencoder)(lq_up)
    assert latents.shape == (2, 8, height // 8, width // 8)
    velocity = DiT(TINY.dit)(latents, torch.tensor([800.0, 20.0]), torch.rand(2, 5, 32))
    assert velocity.shape == latents.shape
    assert Decoder(TINY.autoencoder)(latents).shape == lq_up.shape


def test_parameters_all_get_a_gradient(tiny: LitePipeline) -> None:
    image = torch.rand(1, 3, 32, 48)
    tiny.restore(image, tiny.encode_condition(image)).square().sum().backward()
    silent = [name for name, p in tiny.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # Values of zero-gradient keys would mean an organ that training cannot reach.
    assert silent == []


def test_the_full_size_stays_within_the_budget() -> None:
    pipeline = LitePipeline(LiteConfig()).eval()
    parameters = sum(p.numel() for p in pipeline.parameters())
    image = torch.rand(1, 3, 512, 512)
    with torch.no_grad():
        cond = pipeline.encode_condition(image)
        with FlopCounterMode(display=False) as counter:
            pipeline.restore(image, cond)
    assert parameters <= 8.5e6
    assert counter.get_total_flops() / (0.512**2 * 1e12) <= 0.2


def test_rotary_positions_are_relative() -> None:
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    angles = rotary_angles(8, 8, 8, torch.device("cpu"))
    cos, sin = angles.cos(), angles.sin()

    def score(at: int, to: int) -> float:
        turned_q, turned_k = (rotate(x, cos[n : n + 1], sin[n : n + 1]) for x, n in ((q, at), (k, to)))
        return float((turned_q * turned_k).sum())

    assert score(0, 3 * 8 + 2) == pytest.approx(score(8 + 1, 4 * 8 + 3), abs=1e-5)
    assert score(0, 3 * 8 + 2) != pytest.approx(score(0, 2 * 8 + 3), abs=1e-3)


def test_semantic_tokens_and_timestep_steer_the_velocity(tiny: LitePipeline) -> None:
    latents, tokens = torch.randn(1, 8, 4, 4), torch.randn(1, 4, 32)
    with torch.no_grad():
        plain = tiny.dit(latents, torch.tensor([800.0]), tokens)
        assert not torch.allclose(plain, tiny.dit(latents, torch.tensor([100.0]), tokens), atol=1e-3)
        assert not torch.allclose(plain, tiny.dit(latents, torch.tensor([800.0]), tokens + 1), atol=1e-3)


def test_bfloat16_is_close_and_finite(tiny: LitePipeline) -> None:
    image = torch.rand(1, 3, 64, 64)
    exact = tiny.upscale(image, 2)
    rough = tiny.upscale(image, 2, precision="bf16")
    assert torch.isfinite(rough).all()
    assert (exact - rough).abs().mean() < 0.01


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8 x heads"):
        DiTConfig(width=100, heads=4)


@pytest.mark.parametrize("tokens", [1, 7, 700])
def test_attention_in_products_is_attention(tokens: int) -> None:
    """The way of CPUs in bfloat16, in as many parts as it takes; 700 tokens take three."""
    q, k, v = (torch.randn(2, 3, tokens, 16).bfloat16() for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    torch.testing.assert_close(dit.attend(q, k, v).float(), expected, atol=0.02, rtol=0.02)
