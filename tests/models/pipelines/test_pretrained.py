"""What zimage and flux2 share: loading, conditions, tiles, precision, training, saving."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from strsr_models import UsageError, WeightsError, load_pipeline
from strsr_models.checkpoints.locations import default_models_dir
from strsr_models.compute.devices import autocast
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.pipelines.options import PretrainedOptions
from strsr_models.pipelines.pretrained import PretrainedPipeline

from ...helpers.tiny_models import RANK

BASES = {"zimage": "Z-Image-Turbo", "flux2": "FLUX.2-klein-base-4B"}
ADAPTERS = {"zimage": "StrSR-zimage", "flux2": "StrSR-flux"}
families = pytest.mark.parametrize("family", BASES)
GIVEN = PretrainedOptions(conditioning="given")


def load(family: str, models: Path, **options: Any) -> PretrainedPipeline:
    pipeline = load_pipeline(family, models, options=PretrainedOptions(**options))
    assert isinstance(pipeline, PretrainedPipeline)
    return pipeline


@pytest.fixture
def trainable(request: pytest.FixtureRequest, models: Path) -> PretrainedPipeline:
    pipeline = load(request.param, models, adapter="none")
    pipeline.prepare_training(rank=2)
    return pipeline


both_trainable = pytest.mark.parametrize("trainable", BASES, indirect=True)


def restore(pipeline: PretrainedPipeline, lq_up: Tensor) -> Tensor:
    return pipeline.restore(lq_up, pipeline.encode_condition(lq_up[..., ::4, ::4]))


def step(pipeline: PretrainedPipeline, precision: str = "fp32") -> None:
    """One optimisation step away from the start, large enough to see."""
    optimizer = torch.optim.AdamW(pipeline.trainable_parameters(), lr=0.05)
    for _ in range(2):  # LoRA's A gets a gradient once B is not zero
        optimizer.zero_grad()
        with autocast(pipeline.device, precision):
            loss = restore(pipeline, torch.rand(2, 3, 32, 48)).square().mean()
        loss.backward()
        optimizer.step()


@families
@pytest.mark.parametrize("size", [(1, 1), (9, 13), (2, 401)])
def test_odd_sizes_in_tiles_repeat_exactly(family: str, models: Path, size: tuple[int, int]) -> None:
    pipeline = load(family, models)
    lq = torch.rand(1, 3, *size)
    tile = 512 if max(size) > 100 else 32
    hq = pipeline.upscale(lq, 3.3, tile=tile)
    assert hq.shape[-2:] == tuple(int(side * 3.3 + 0.5) for side in size)
    assert 0 <= hq.min() < hq.max() <= 1
    assert torch.equal(load(family, models).upscale(lq, 3.3, tile=tile), hq)


@families
def test_a_given_condition_needs_no_encoder(family: str, models: Path) -> None:
    pipeline = load(family, models)
    lq = torch.rand(2, 3, 10, 10)
    with torch.inference_mode():
        cond = pipeline.encode_condition(lq)
        assert torch.equal(pipeline.encode_condition(lq[1:]), cond[1:])
    expected = pipeline.upscale(lq, 2)
    pipeline.semantic_encoder = None  # its memory is free now
    assert torch.equal(pipeline.upscale(lq, 2, cond=cond), expected)
    bare = load(family, models, conditioning="given")
    assert bare.semantic_encoder is bare.projector is None
    assert torch.equal(bare.upscale(lq, 2, cond=cond), expected)
    with pytest.raises(UsageError, match=f"{family} was loaded without a semantic encoder"):
        bare.upscale(lq, 2)


@both_trainable
def test_gradients_reach_lora_and_projector_alone(trainable: PretrainedPipeline) -> None:
    frozen = {name: p.clone() for name, p in trainable.named_parameters() if not p.requires_grad}
    before = {name: value.clone() for name, value in trainable.trainable_state().items()}
    step(trainable)
    for name, parameter in trainable.named_parameters():
        wanted = ".lora_" in name or name.startswith("projector.")
        assert parameter.requires_grad == wanted, name
        if wanted:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
            assert not torch.equal(parameter, before[name]), name
        else:
            assert parameter.grad is None, name
            assert torch.equal(parameter, frozen[name]), name


@families
@pytest.mark.parametrize("base", ["fp32", "bf16"])
def test_a_step_in_mixed_precision(family: str, base: str, models: Path) -> None:
    pipeline = load(family, models, adapter="none", precision=base)
    pipeline.prepare_training(rank=2)
    step(pipeline, "bf16")
    assert {value.dtype for value in pipeline.trainable_parameters()} == {torch.float32}
    for parameter in pipeline.trainable_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter).all()
        assert parameter.grad.abs().max() > 0


@both_trainable
def test_trained_parts_are_saved_and_merged_at_load(
    trainable: PretrainedPipeline, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = trainable.name
    step(trainable)
    trainable.save(tmp_path, {"steps": "2"})
    keys = torch.load(models / ADAPTERS[family] / "state_dict.pth", weights_only=True).keys()
    assert load_file(tmp_path / "lora.safetensors").keys() == keys
    monkeypatch.setenv("STRSR_MODELS_DIR", str(models))
    lq_up = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = restore(trainable, lq_up)
        base = restore(load(family, models, adapter=str(tmp_path), lora_scale=0), lq_up)
        for loaded in (load_pipeline(family, tmp_path), load(family, models, adapter=str(tmp_path))):
            assert isinstance(loaded, PretrainedPipeline)
            assert not any(".lora_" in name for name, _ in loaded.named_parameters())
            torch.testing.assert_close(restore(loaded, lq_up), expected, atol=1e-4, rtol=0)
    assert (base - expected).abs().mean() > 1e-3
    again = load(family, models, adapter="none")
    again.prepare_training(start=tmp_path)
    torch.testing.assert_close(again.trainable_state(), trainable.trainable_state())
    other = "flux2" if family == "zimage" else "zimage"
    with pytest.raises(WeightsError, match=f"an adapter for --model {family}, not {other}"):
        load(other, models, adapter=str(tmp_path))


def test_training_starts_from_the_base_or_from_an_adapter(models: Path) -> None:
    with pytest.raises(UsageError, match="load it with adapter='none'"):
        load("zimage", models).prepare_training()
    pipeline = load("zimage", models, adapter="none")
    pipeline.prepare_training(start=models / "StrSR-zimage")
    published = load("zimage", models)
    lq_up = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(restore(pipeline, lq_up), restore(published, lq_up), atol=1e-4, rtol=1e-4)
    shapes = {tuple(value.shape) for name, value in pipeline.trainable_state().items() if "lora_A" in name}
    assert {shape[0] for shape in shapes} == {RANK}


def test_lite_trains_all_of_itself(tiny: LitePipeline) -> None:
    tiny.requires_grad_(False)
    assert tiny.trainable_parameters() == []
    tiny.prepare_training()
    assert tiny.trainable_state().keys() == dict(tiny.named_parameters()).keys()


@families
def test_text_training_has_no_projector(family: str, models: Path, tmp_path: Path) -> None:
    pipeline = load(family, models, adapter="none", conditioning="text", prompt="a photo")
    pipeline.prepare_training(rank=2)
    step(pipeline)
    assert all(".lora_" in name for name in pipeline.trainable_state())
    pipeline.save(tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "lora.safetensors"]
    with pytest.raises(WeightsError, match=r"projector\.safetensors: cannot be read"):
        load(family, models, adapter=str(tmp_path))


@families
def test_bfloat16_parameters_compute_as_they_are(family: str, models: Path) -> None:
    exact, rough = load(family, models), load(family, models, precision="bf16")
    assert exact.native_precision == "fp32"
    assert rough.native_precision == "bf16"
    assert rough.dit.dtype == rough.vae.dtype == rough.semantic_encoder.model.dtype == torch.bfloat16
    lq = torch.rand(1, 3, 12, 12)
    hq = rough.upscale(lq, 4)
    assert hq.dtype == torch.float32
    assert (hq - exact.upscale(lq, 4)).abs().mean() < 0.02
    assert torch.equal(rough.upscale(lq, 4, precision="fp16"), hq)  # no autocast on top
    widened = rough.upscale(lq, 4, precision="fp32")
    assert (widened - hq).abs().max() > 0
    assert rough.dit.dtype == rough.vae.dtype == torch.bfloat16
    assert torch.equal(rough.upscale(lq, 4), hq)
    cast = exact.upscale(lq, 4, precision="bf16")
    assert 0 < (cast - exact.upscale(lq, 4)).abs().mean() < 0.02


def test_an_overflow_in_half_precision_is_done_again_in_float32(
    models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where even the safe arithmetic of half_precision.py has no room: before the product."""
    pipeline = load("zimage", models, precision="fp16")
    with torch.no_grad():
        pipeline.dit.layers[0].feed_forward.w1.weight.mul_(2e5).clamp_(-6e4, 6e4)
    exact = load("zimage", models)
    exact.load_state_dict(pipeline.state_dict())
    lq = torch.rand(1, 3, 12, 12)
    hq = pipeline.upscale(lq, 4)
    assert "1 of 1 tiles were not finite in fp16" in caplog.text
    assert (hq - exact.upscale(lq, 4)).abs().mean() < 0.01


@families
def test_pieces_that_are_missing_are_named_with_their_source(family: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_pipeline(family, tmp_path)
    message = str(caught.value)
    base, adapter = BASES[family], ADAPTERS[family]
    assert (
        f"missing {base}/transformer, {base}/vae, Qwen3-VL-4B-Instruct, "
        f"{adapter}/state_dict.pth, {adapter}/projector.pth;"
    ) in message
    for repository in ("Qwen/Qwen3-VL-4B-Instruct", "jkwang28/StrSR", f"/{base}"):
        assert repository in message
    assert "--models-dir" in message
    with pytest.raises(WeightsError, match=f"missing {base}/transformer, {base}/vae, {base}/text_encoder"):
        load(family, tmp_path, conditioning="text", prompt="a", adapter="none")


@pytest.fixture
def damaged(models: Path, tmp_path: Path) -> Path:
    """A copy of Z-Image's pieces, to be damaged."""
    for folder in ("Z-Image-Turbo", "StrSR-zimage", "StrSR-flux"):
        shutil.copytree(models / folder, tmp_path / folder)
    return tmp_path


def test_damaged_files_are_named(damaged: Path) -> None:
    weights = damaged / "Z-Image-Turbo" / "vae" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(WeightsError, match=r"Z-Image-Turbo/vae: cannot be read as AutoencoderKL") as caught:
        load("zimage", damaged, conditioning="given")
    assert "\n" not in str(caught.value)
    weights.write_bytes(whole)

    lora = damaged / "StrSR-zimage" / "state_dict.pth"
    shutil.copy(damaged / "StrSR-flux" / "state_dict.pth", lora)
    with pytest.raises(
        WeightsError, match=r"StrSR-zimage/state_dict\.pth: does not fit this model, with none"
    ):
        load("zimage", damaged, conditioning="given")
    lora.write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match=r"state_dict\.pth: cannot be read as tensors"):
        load("zimage", damaged, conditioning="given")
    torch.save([1, 2], lora)
    with pytest.raises(WeightsError, match=r"holds a list, expected a dict of tensors"):
        load("zimage", damaged, conditioning="given")
    lora.unlink()
    with pytest.raises(WeightsError, match=r"missing StrSR-zimage/state_dict\.pth; they come from"):
        load("zimage", damaged, conditioning="given")


def test_the_damaged_file_of_several_is_named(damaged: Path) -> None:
    from diffusers import ZImageTransformer2DModel

    folder = damaged / "Z-Image-Turbo" / "transformer"
    model = ZImageTransformer2DModel.from_pretrained(folder)
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="60KB")
    assert load("zimage", damaged, conditioning="given").multiple_of == 16
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=f"{shard.name} is damaged or cut short, get it again"):
        load("zimage", damaged, conditioning="given")


def test_a_network_of_another_class_is_refused(models: Path, damaged: Path) -> None:
    vae = damaged / "Z-Image-Turbo" / "vae"
    shutil.rmtree(vae)
    shutil.copytree(models / "FLUX.2-klein-base-4B" / "vae", vae)
    with pytest.raises(WeightsError, match="holds AutoencoderKLFlux2, expected AutoencoderKL: is it"):
        load("zimage", damaged, conditioning="given")
    (vae / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"vae/config\.json: cannot be read \(not a JSON object\)"):
        load("zimage", damaged, conditioning="given")


def test_a_tokenizer_without_words_or_template_is_refused(models: Path, damaged: Path) -> None:
    eyes, tokenizer = damaged / "Qwen3-VL-4B-Instruct", damaged / "Z-Image-Turbo" / "tokenizer"
    shutil.copytree(models / eyes.name, eyes)
    for folder, options in ((eyes, {}), (tokenizer, {"conditioning": "text", "prompt": "a cat"})):
        for file, message in (("chat_template.jinja", "no chat template"), ("tokenizer.json", "vocab.json")):
            (folder / file).unlink()
            with pytest.raises(WeightsError, match=f"{folder.name}: has no .*{message}|{message}"):
                load("zimage", damaged, **options)
            shutil.copy(models / folder.relative_to(damaged) / file, folder)


def test_a_prompt_that_is_cut_is_told(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    load("zimage", models, conditioning="text", prompt="cat " * 20).encode_condition(torch.rand(1, 3, 4, 4))
    assert not caplog.records
    load("zimage", models, conditioning="text", prompt="cat " * 200).encode_condition(torch.rand(1, 3, 4, 4))
    assert [record.getMessage() for record in caplog.records] == [
        "a prompt is longer than 512 tokens: its end is not read"
    ]


def test_a_checkpoint_lacking_tensors_is_not_filled_with_noise(damaged: Path) -> None:
    from safetensors.torch import save_file

    weights = damaged / "Z-Image-Turbo" / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["layers.0.attention.to_q.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"transformer: .* missing layers\.0\.attention\.to_q\.weight"):
        load("zimage", damaged, conditioning="given")


def test_impossible_options_are_refused(models: Path) -> None:
    for wrong in (
        {"conditioning": "mood"},
        {"prompt": "a cat"},
        {"lora_scale": 2.0},
        {"lora_scale": float("nan")},
        {"precision": "fp8"},
    ):
        with pytest.raises(UsageError):
            PretrainedOptions(**wrong)
    with pytest.raises(UsageError, match="lite"):
        load_pipeline("lite", options=GIVEN)
    with pytest.raises(WeightsError, match="no adapter there"):
        load("zimage", models, adapter=str(models))


def test_the_models_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STRSR_MODELS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_models_dir() == tmp_path / "strsr" / "models"
    monkeypatch.setenv("STRSR_MODELS_DIR", str(tmp_path / "mine"))
    assert default_models_dir() == tmp_path / "mine"
