from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strsr_models import UsageError, WeightsError
from strsr_models.checkpoints.lora import (
    add_lora,
    load_lora,
    lora_rank,
    lora_state_dict,
    merge_lora,
    published_names,
    target_names,
)
from strsr_models.pipelines.flux2 import Flux2Pipeline
from strsr_models.pipelines.pretrained import PretrainedPipeline
from strsr_models.pipelines.zimage import ZImagePipeline

from ...helpers.tiny_models import RANK

HERE = Path("lora.safetensors")
FAMILIES = [ZImagePipeline, Flux2Pipeline]
families = pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])


def transformer(family: type[PretrainedPipeline], models: Path) -> Any:
    return family.classes()[0].from_pretrained(models / family.base_folder / "transformer").eval()


def run(family: type[PretrainedPipeline], dit: nn.Module) -> Tensor:
    torch.manual_seed(1)
    pipeline = family(dit, nn.Identity())
    channels = 4 if family is ZImagePipeline else 16
    return pipeline.denoise(torch.randn(1, channels, 4, 6), torch.randn(1, 7, pipeline.condition_width(dit)))


def wrapped(family: type[PretrainedPipeline], models: Path, rank: int = 3) -> Any:
    """A transformer with an adapter that matters."""
    dit = transformer(family, models)
    add_lora(dit, family.lora_targets, rank)
    with torch.no_grad():
        for parameter in lora_state_dict(dit).values():
            parameter.normal_(std=0.3)
    return dit


@families
def test_merged_equals_wrapped(family: type[PretrainedPipeline], models: Path) -> None:
    dit = wrapped(family, models)
    merged = transformer(family, models)
    before = run(family, merged)
    merge_lora(merged, copy.deepcopy(lora_state_dict(dit)), family.lora_targets, HERE)
    torch.testing.assert_close(run(family, merged), run(family, dit), atol=1e-4, rtol=1e-4)
    assert (run(family, merged) - before).abs().mean() > 0.01


@families
def test_a_new_adapter_changes_nothing_and_alone_trains(
    family: type[PretrainedPipeline], models: Path
) -> None:
    dit = transformer(family, models)
    before = run(family, dit)
    add_lora(dit.bfloat16().float(), family.lora_targets, 8)
    tensors = lora_state_dict(dit)
    assert {name for name, p in dit.named_parameters() if p.requires_grad} == {
        name.removeprefix("base_model.model.") for name in tensors
    }
    std = torch.cat([value.flatten() for name, value in tensors.items() if "lora_A" in name]).std()
    assert float(std) == pytest.approx(1 / 8, rel=0.05)
    assert all(not value.any() for name, value in tensors.items() if "lora_B" in name)
    torch.testing.assert_close(run(family, dit), before, atol=0.05, rtol=0.05)


def test_the_adapter_of_a_bfloat16_model_is_float32(models: Path) -> None:
    dit = transformer(ZImagePipeline, models).bfloat16()
    add_lora(dit, ZImagePipeline.lora_targets, 2)
    assert {value.dtype for value in lora_state_dict(dit).values()} == {torch.float32}
    assert dit.layers[0].attention.to_q.base_layer.weight.dtype == torch.bfloat16
    assert torch.isfinite(run(ZImagePipeline, dit)).all()


def test_targets_are_the_published_ones(models: Path) -> None:
    names = target_names(transformer(ZImagePipeline, models), ZImagePipeline.lora_targets)
    blocks = ("noise_refiner.0", "context_refiner.0", "layers.0", "layers.1")
    parts = ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0")
    parts += ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    assert set(names) == {f"{block}.{part}" for block in blocks for part in parts}

    names = target_names(transformer(Flux2Pipeline, models), Flux2Pipeline.lora_targets)
    parts = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    double = {f"transformer_blocks.{n}.attn.{part}" for n in range(2) for part in parts}
    single = {f"single_transformer_blocks.{n}.attn.to_{p}" for n in range(2) for p in ("qkv_mlp_proj", "out")}
    assert set(names) == double | single


@families
def test_an_adapter_can_be_trained_on(family: type[PretrainedPipeline], models: Path) -> None:
    path = models / family.adapter_folder / "state_dict.pth"
    tensors = torch.load(path, weights_only=True)
    dit = transformer(family, models)
    add_lora(dit, family.lora_targets, lora_rank(tensors, path))
    load_lora(dit, tensors, path)
    assert lora_state_dict(dit).keys() == tensors.keys()
    merged = transformer(family, models)
    merge_lora(merged, tensors, family.lora_targets, path)
    torch.testing.assert_close(run(family, merged), run(family, dit), atol=1e-4, rtol=1e-4)
    with pytest.raises(WeightsError, match=r"is \(2, 32\), expected \(4, 32\)"):
        load_lora(dit, lora_state_dict(wrapped(family, models, rank=2)), path)


def test_an_adapter_is_merged_with_its_scale_in_float32(models: Path) -> None:
    """W + scale * B A in float32, rounded once to what W is stored in."""
    tensors = lora_state_dict(wrapped(ZImagePipeline, models))
    key = "base_model.model.layers.0.attention.to_k.lora_{}.default.weight"
    product = tensors[key.format("B")] @ tensors[key.format("A")]
    for dtype in (torch.float32, torch.bfloat16):
        dit = transformer(ZImagePipeline, models).to(dtype)
        weight = dit.layers[0].attention.to_k.weight
        before = weight.detach().float().clone()
        merge_lora(dit, tensors, ZImagePipeline.lora_targets, HERE, scale=0.5)
        assert weight.dtype == dtype
        assert torch.equal(weight, (before + 0.5 * product).to(dtype))


def test_names_as_peft_saves_them_are_known(models: Path) -> None:
    tensors = dict(lora_state_dict(wrapped(ZImagePipeline, models)))
    saved = {name.replace(".default.", "."): value for name, value in tensors.items()}
    bare = {name.removeprefix("base_model.model."): value for name, value in saved.items()}
    for form in (tensors, saved, bare):
        assert published_names(form).keys() == tensors.keys()
    assert published_names({"left.over": 1}) == {"left.over": 1}


def test_an_adapter_of_another_family_is_told_so_in_short(models: Path) -> None:
    tensors = dict(lora_state_dict(wrapped(Flux2Pipeline, models)))
    with pytest.raises(WeightsError, match="with none of its layers: is it another family's") as caught:
        merge_lora(transformer(ZImagePipeline, models), tensors, ZImagePipeline.lora_targets, HERE)
    assert len(str(caught.value)) < 200


def test_mismatches_come_in_one_message(models: Path) -> None:
    tensors: dict[str, Any] = dict(lora_state_dict(wrapped(ZImagePipeline, models)))
    key = "base_model.model.layers.0.attention.{}.lora_{}.default.weight"
    tensors["left.over"] = tensors.pop(key.format("to_q", "B"))
    tensors[key.format("to_k", "B")] = torch.zeros(5, 3)
    tensors[key.format("to_v", "A")] = "text"
    tensors[key.format("to_out.0", "A")] = torch.full((3, 32), float("nan"))
    dit = transformer(ZImagePipeline, models)
    before = copy.deepcopy(dit.state_dict())
    with pytest.raises(WeightsError) as caught:
        merge_lora(dit, tensors, ZImagePipeline.lora_targets, HERE)
    message = str(caught.value)
    assert message.startswith("lora.safetensors: does not fit this model: ")
    assert f"missing {key.format('to_q', 'B')}" in message
    assert "unknown left.over" in message
    assert f"{key.format('to_k', 'B')} is (5, 3), expected (32, 3)" in message
    assert f"{key.format('to_v', 'A')} is a str, expected a tensor" in message
    assert f"{key.format('to_out.0', 'A')} is not finite" in message
    assert all(torch.equal(value, before[name]) for name, value in dit.state_dict().items())


def test_adapters_without_rank_or_with_several_are_refused(models: Path) -> None:
    with pytest.raises(WeightsError, match="holds no LoRA tensors"):
        merge_lora(nn.Identity(), {"0.weight": torch.zeros(2, 2)}, ("to_q",), HERE)
    tensors = dict(lora_state_dict(wrapped(ZImagePipeline, models)))
    key = "base_model.model.layers.0.attention.to_k.lora_A.default.weight"
    with pytest.raises(WeightsError, match="holds no LoRA tensors"):
        lora_rank({key: torch.zeros(0, 32)}, HERE)
    tensors[key] = torch.zeros(9, 32)
    tensors[5] = torch.zeros(9, 32)  # a pickle may have any keys
    with pytest.raises(WeightsError) as caught:
        merge_lora(transformer(ZImagePipeline, models), tensors, ZImagePipeline.lora_targets, HERE)
    assert f"{key} is (9, 32), expected (3, 32)" in str(caught.value)
    assert "unknown 5" in str(caught.value)
    with pytest.raises(UsageError, match="rank 0"):
        add_lora(nn.Identity(), ("to_q",), 0)
    assert lora_rank(torch.load(models / "StrSR-flux" / "state_dict.pth"), HERE) == RANK
