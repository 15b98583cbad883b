"""float16 made safe: networks that overflow it give what they give in float32."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strsr_models import WeightsError, load_pipeline
from strsr_models.compute.devices import parameter_dtype
from strsr_models.compute.half_precision import companion_dtype, make_float16_safe, rescaled
from strsr_models.pipelines.options import PretrainedOptions
from strsr_models.pipelines.pretrained import PretrainedPipeline

from ...helpers.tiny_models import CAPTION_WIDTH, JOINT_WIDTH

FAMILIES = {"zimage": CAPTION_WIDTH, "flux2": JOINT_WIDTH}
families = pytest.mark.parametrize("family", FAMILIES)
CLOSE = 0.004  # relative; float16 rounds to 2^-11, and a handful of layers add up


def load(family: str, models: Path, **options: Any) -> PretrainedPipeline:
    pipeline = load_pipeline(family, models, options=PretrainedOptions(**options))
    assert isinstance(pipeline, PretrainedPipeline)
    return pipeline


def base(family: str, models: Path) -> PretrainedPipeline:
    """In float32, with values that float16 holds exactly: what differs then is arithmetic alone."""
    pipeline = load(family, models, conditioning="given", adapter="none")
    pipeline.dit.half().float()
    return pipeline


@torch.no_grad()
def times(factor: float, *modules: nn.Module) -> None:
    for module in modules:
        for weight in module.parameters():
            weight.copy_((weight * factor).clamp(-6e4, 6e4).half().float())


def feed_forward(dit: Any) -> None:
    """A product silu(a) * b past float16's range, in every kind of block."""
    if hasattr(dit, "layers"):
        for block in (dit.layers[0], dit.noise_refiner[0], dit.context_refiner[0]):
            times(300, block.feed_forward.w1, block.feed_forward.w3)
    else:
        double, single = dit.transformer_blocks[0], dit.single_transformer_blocks[0]
        times(600, double.ff.linear_in, double.ff_context.linear_in)
        times(600, single.attn.to_qkv_mlp_proj)


def residual(dit: Any) -> None:
    """A residual sum past float16's range, and in FLUX.2, which has no norm before it, what is added to it."""
    if hasattr(dit, "layers"):
        for block in dit.layers:
            times(2e4, block.attention_norm2, block.ffn_norm2)
            times(30, block.adaLN_modulation)
    else:
        times(2e3, dit.double_stream_modulation_img, dit.double_stream_modulation_txt)
        times(2e3, dit.single_stream_modulation)
        for block in dit.transformer_blocks:
            times(30, block.attn.to_v, block.attn.add_v_proj, block.attn.to_out, block.attn.to_add_out)
            times(30, block.ff, block.ff_context)


def embedding(dit: Any) -> None:
    """Tokens past float16's range before the first block."""
    embedders = [dit.context_embedder, dit.x_embedder] if hasattr(dit, "context_embedder") else []
    embedders = embedders or [dit.cap_embedder[1], *dit.all_x_embedder.values()]
    times(1e5, *embedders)


def answers(family: str, exact: PretrainedPipeline) -> tuple[Tensor, Tensor, Tensor]:
    """Velocities in float32, in plain float16 and in safe float16 of the same weights."""
    latents = torch.randn(2, *((16, 3, 4) if family == "flux2" else (4, 6, 8)))
    inputs = latents, torch.tensor([0.8, 0.4]), torch.randn(2, 5, FAMILIES[family])
    plain, safe = copy.deepcopy(exact), copy.deepcopy(exact)
    plain.dit.half()
    make_float16_safe(safe.dit.half())
    with torch.inference_mode():
        return exact.velocity(*inputs), plain.velocity(*inputs), safe.velocity(*inputs)


def error(found: Tensor, expected: Tensor) -> float:
    """Relative, of the whole."""
    return float((found - expected).norm() / expected.norm())


@families
@pytest.mark.parametrize("plant", [feed_forward, residual, embedding])
def test_blocks_that_overflow_float16_agree_with_float32(
    family: str, plant: Callable[[Any], None], models: Path
) -> None:
    exact = base(family, models)
    plant(exact.dit)
    expected, plain, safe = answers(family, exact)
    assert not torch.isfinite(plain).any()
    assert error(safe, expected) < CLOSE


@families
def test_blocks_without_overflow_are_as_close_as_plain_float16(family: str, models: Path) -> None:
    expected, plain, safe = answers(family, base(family, models))
    assert 0 < error(safe, expected) < 1.1 * error(plain, expected) < CLOSE


@families
def test_a_condition_past_float16_comes_in_whole(family: str, models: Path) -> None:
    """Language models have such activations."""
    exact = base(family, models)
    safe = copy.deepcopy(exact)
    make_float16_safe(safe.dit.half())
    latents, sigma = torch.randn(1, *((16, 3, 4) if family == "flux2" else (4, 6, 8))), torch.tensor([0.8])
    cond = torch.randn(1, 5, FAMILIES[family])
    cond[0, 2, 3] = 1e5
    with torch.inference_mode():
        expected = exact.velocity(latents, sigma, cond)
        assert error(safe.velocity(latents, sigma, cond), expected) < CLOSE
        assert error(exact.velocity(latents, sigma, cond.clamp(max=6e4)), expected) > 0


@families
def test_weights_may_come_layer_by_layer(family: str, models: Path) -> None:
    """Offloading replaces the same methods, around these."""
    from accelerate import cpu_offload

    pipeline = load(family, models, conditioning="given", adapter="none", precision="fp16")
    feed_forward(pipeline.dit)
    latents = torch.randn(1, *((16, 3, 4) if family == "flux2" else (4, 6, 8)))
    cond = torch.randn(1, 5, FAMILIES[family])
    with torch.inference_mode():
        expected = pipeline.denoise(latents, cond)
    cpu_offload(pipeline.dit, torch.device("cpu"))
    assert next(pipeline.dit.parameters()).device.type == "meta"
    with torch.inference_mode():
        assert torch.equal(pipeline.denoise(latents, cond), expected)


@families
def test_a_picture_in_float16_is_close_to_float32(
    family: str, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exact = load(family, models, conditioning="given")
    rough = load(family, models, conditioning="given", precision="fp16")
    assert rough.native_precision == "fp16"
    lq, cond = torch.rand(1, 3, 12, 16), torch.randn(1, 5, FAMILIES[family])
    hq = exact.upscale(lq, 4, cond=cond)
    assert 0 < (rough.upscale(lq, 4, cond=cond) - hq).abs().max() < 0.01
    feed_forward(exact.dit)
    feed_forward(rough.dit)
    changed, found = exact.upscale(lq, 4, cond=cond), rough.upscale(lq, 4, cond=cond)
    assert (changed - hq).abs().mean() > 1e-3
    assert (found - changed).abs().max() < 0.01
    assert not caplog.text  # no tile was done again
    wide = rough.upscale(lq, 4, cond=cond, precision="fp32")  # as a tile is that is not finite
    exact.dit.load_state_dict(rough.dit.state_dict())  # rounded
    torch.testing.assert_close(wide, exact.upscale(lq, 4, cond=cond), atol=1e-4, rtol=0)
    assert torch.equal(rough.upscale(lq, 4, cond=cond), found)


def test_the_transformer_alone_is_in_float16(models: Path) -> None:
    pipeline = load("zimage", models, precision="fp16")
    assert pipeline.dit.dtype == torch.float16
    assert pipeline.vae.dtype == pipeline.semantic_encoder.model.dtype == torch.float32  # no bf16 here
    assert torch.isfinite(pipeline.upscale(torch.rand(1, 3, 8, 8), 2)).all()


@torch.no_grad()
def test_products_of_matrices_at_the_edge_of_float16_are_finite() -> None:
    """Whatever comes in, the linear layer inside sees and gives numbers within float16."""
    linear = nn.Linear(64, 48).half()
    seen: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        y = nn.functional.linear(x, linear.weight, linear.bias)
        seen.extend([x, y])
        return y

    wide = copy.deepcopy(linear).float()
    for size in (1e-3, 1, 1e4, 1e9):
        for factor in (1e-3, 1, 1e5):
            linear.weight.copy_((wide.weight * factor).clamp(-65504, 65504))
            x = size * torch.randn(5, 64)
            row = linear.weight[7].float()
            x[0] = size * row / row.abs().max()  # as much as one output can be
            x[1] = size
            expected = nn.functional.linear(x, linear.weight.float(), linear.bias.float())
            found = rescaled(linear, forward, x)
            assert found.dtype == torch.float32
            assert error(found, expected) < 2e-3, (size, factor)
    assert max(float(value.abs().max()) for value in seen) < 65504
    assert {value.dtype for value in seen} == {torch.float16}


def test_weights_that_float16_cannot_hold_are_named(models: Path) -> None:
    dit = base("zimage", models).dit
    with torch.no_grad():
        dit.layers[1].feed_forward.w2.weight[3, 4] = 7e4
    with pytest.raises(
        WeightsError, match=r"beyond float16's 65504: layers\.1\.feed_forward\.w2\.weight; use"
    ):
        make_float16_safe(dit.half())


def test_another_version_of_diffusers_is_refused_by_name(models: Path) -> None:
    import diffusers

    version = rf"diffusers {diffusers.__version__}: float16 cannot be made safe \("
    dit = base("zimage", models).dit.half()
    dit.layers[0].feed_forward.up = dit.layers[0].feed_forward.w3
    del dit.layers[0].feed_forward.w3
    with pytest.raises(WeightsError, match=version + r".*lacks layers\.0\.feed_forward\.w3\)"):
        make_float16_safe(dit)
    dit = base("flux2", models).dit.half()
    dit.transformer_blocks[0].norm2 = nn.LayerNorm(32).half()
    with pytest.raises(WeightsError, match=version + r".*transformer_blocks\.0\.norm2 without weights\)"):
        make_float16_safe(dit)
    dit = base("flux2", models).dit.half()
    dit.single_transformer_blocks[1].attn.to_out = nn.Identity()
    with pytest.raises(WeightsError, match=version + r".*blocks\.1\.attn\.to_out as a linear layer\)"):
        make_float16_safe(dit)
    with pytest.raises(WeightsError, match="Linear: no float16 for this transformer"):
        make_float16_safe(nn.Linear(2, 2).half())


def test_a_residual_that_has_become_narrow_is_noticed(models: Path) -> None:
    """Names alone do not tell what is computed between them."""
    pipeline = load("flux2", models, precision="fp16", conditioning="given", adapter="none")
    block = pipeline.dit.single_transformer_blocks[1]
    forward = block.forward
    block.forward = lambda *args, **kwargs: forward(*args, **kwargs).half()
    with pytest.raises(WeightsError, match=r"Flux2SingleTransformerBlock gives torch\.float16, not float32"):
        pipeline.upscale(torch.rand(1, 3, 8, 8), 2, cond=torch.randn(1, 5, JOINT_WIDTH))


def test_precisions_depend_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for has_bf16, auto, beside in ((True, brain, brain), (False, half, single)):
        monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has_bf16, **_options: has)
        assert parameter_dtype("auto", gpu) == auto
        assert parameter_dtype("fp16", gpu) == half
        assert parameter_dtype("auto", cpu) == single
        assert companion_dtype(half, gpu) == beside
        assert companion_dtype(brain, gpu) == brain
        assert companion_dtype(single, gpu) == single
