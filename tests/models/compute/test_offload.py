"""Networks that wait: where numbers are computed changes, which numbers does not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from strsr_models import load_pipeline
from strsr_models.compute.offload import choose_mode, execution_device, fitting_mode, move_layer_by_layer
from strsr_models.load import load_conditioner
from strsr_models.pipelines.options import PretrainedOptions
from strsr_models.pipelines.pretrained import PretrainedPipeline

CPU = torch.device("cpu")
families = pytest.mark.parametrize("family", ["zimage", "flux2"])


def load(family: str, models: Path, **options: Any) -> PretrainedPipeline:
    pipeline = load_pipeline(family, models, options=PretrainedOptions(conditioning="given", **options))
    assert isinstance(pipeline, PretrainedPipeline)
    return pipeline


def cond_for(pipeline: PretrainedPipeline) -> torch.Tensor:
    return torch.randn(
        1, 9, pipeline.condition_width(pipeline.dit), generator=torch.Generator().manual_seed(3)
    )


@families
@pytest.mark.parametrize("mode", ["model", "sequential"])
def test_offloading_changes_no_bit(family: str, mode: str, models: Path) -> None:
    """With accelerate's hooks in place, on the one device that every machine has."""
    plain, moved = load(family, models), load(family, models)
    moved.place(mode, CPU)
    assert all(hasattr(network, "_hf_hook") for network in (moved.dit, moved.vae))
    lq, cond = torch.rand(1, 3, 20, 30), cond_for(plain)
    expected = plain.upscale(lq, 4, tile=64, cond=cond)
    for _ in range(2):
        assert torch.equal(moved.upscale(lq, 4, tile=64, cond=cond), expected)
    assert moved.device == CPU
    weights = {parameter.device.type for parameter in moved.parameters()}
    assert weights == ({"meta"} if mode == "sequential" else {"cpu"})


@families
@pytest.mark.parametrize("mode", ["auto", "model", "sequential"])
def test_offloading_moves_nothing_on_the_cpu(family: str, mode: str, models: Path) -> None:
    pipeline = load(family, models, offload=mode)
    assert pipeline.offload == "none"
    assert not hasattr(pipeline.dit, "_hf_hook")


@pytest.mark.parametrize("mode", ["model", "sequential"])
def test_a_tile_that_is_not_finite_is_done_again(
    mode: str, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = []
    for placed in ("none", mode):
        pipeline = load("zimage", models, precision="fp16")
        with torch.no_grad():
            # Before the product, where even half_precision.py has no room.
            pipeline.dit.layers[0].feed_forward.w1.weight.mul_(2e5).clamp_(-6e4, 6e4)
        pipeline.place(placed, CPU)
        results.append(pipeline.upscale(torch.full((1, 3, 9, 20), 0.5), 4, tile=64, cond=cond_for(pipeline)))
        assert "2 of 2 tiles were not finite in fp16" in caplog.messages[-1]
    assert torch.equal(results[0], results[1])


@families
def test_eight_bits_are_close_and_hold_the_adapter(family: str, models: Path) -> None:
    pytest.importorskip("torchao", reason="an extra")
    plain, base = load(family, models), load(family, models, adapter="none")
    rounded = load(family, models, quantize="int8")
    lq, cond = torch.rand(1, 3, 20, 30), cond_for(plain)
    exact = plain.upscale(lq, 4, cond=cond)
    error = (rounded.upscale(lq, 4, cond=cond) - exact).abs().mean()
    assert 0 < error < 0.1 * (base.upscale(lq, 4, cond=cond) - exact).abs().mean()


@pytest.mark.parametrize("conditioning", ["vlm", "text"])
def test_a_language_model_can_move_layer_by_layer(conditioning: str, models: Path) -> None:
    prompt = {"prompt": "a cat"} if conditioning == "text" else {}
    options = PretrainedOptions(conditioning=conditioning, **prompt)
    plain, moved = (load_conditioner("zimage", models, options=options) for _ in range(2))
    move_layer_by_layer(moved.encoder.model, CPU)
    assert execution_device(moved.encoder) == CPU
    assert next(moved.encoder.parameters()).is_meta
    image = torch.rand(1, 3, 40, 30)
    if conditioning == "vlm":
        assert torch.equal(moved.condition(image), plain.condition(image))
    else:
        assert torch.equal(moved.read("a dog"), plain.read("a dog"))
        assert torch.equal(plain.read("a cat"), plain.condition(image))


@families
def test_a_conditioner_gives_what_the_whole_pipeline_would(family: str, models: Path) -> None:
    lq = torch.rand(2, 3, 20, 30)
    for precision in ("fp32", "bf16"):
        options = PretrainedOptions(precision=precision)
        whole = load_pipeline(family, models, options=options)
        with torch.inference_mode():
            assert torch.equal(
                load_conditioner(family, models, options=options).condition(lq), whole.encode_condition(lq)
            )


def test_the_offload_mode_is_the_fastest_that_fits() -> None:
    gigabyte, work = 10**9, 1024**2
    dit, vae = 12_300_000_000, 170_000_000  # Z-Image in bfloat16
    assert fitting_mode(24 * gigabyte, dit, vae, work) == "none"
    assert fitting_mode(14 * gigabyte, dit, vae, work) == "model"
    assert fitting_mode(8 * gigabyte, dit, vae, work) == "sequential"
    assert fitting_mode(14 * gigabyte, dit, vae, 2 * work) == "sequential"
    assert choose_mode("sequential", CPU, dit, vae, work, 2) == "none"


@families
def test_a_vae_that_runs_out_of_memory_works_in_tiles(
    family: str, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A decoder and an encoder that refuse more than 64 x 64 px, as a small GPU would."""
    plain, small = load(family, models), load(family, models)
    small.vae_tile = 64
    for part, most in ((small.vae.encoder, 64), (small.vae.decoder, 8)):

        def limit(_part: torch.nn.Module, inputs: tuple[torch.Tensor], most: int = most) -> None:
            if max(inputs[0].shape[-2:]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")

        part.register_forward_pre_hook(limit)
    lq, cond = torch.rand(1, 3, 24, 24), cond_for(plain)
    with caplog.at_level(logging.WARNING):
        tiled = small.upscale(lq, 4, cond=cond)
    assert caplog.text.count("the VAE does not fit the free memory") == 1
    assert tiled.shape == (1, 3, 96, 96)
    assert torch.isfinite(tiled).all()
    # What fits is computed as a whole and exactly, before and after.
    assert torch.equal(
        small.upscale(lq[..., :16, :16], 4, cond=cond), plain.upscale(lq[..., :16, :16], 4, cond=cond)
    )
    small.vae_tile = small.vae.tile_sample_min_size = 128
    with pytest.raises(torch.OutOfMemoryError):
        small.upscale(lq, 4, cond=cond)
