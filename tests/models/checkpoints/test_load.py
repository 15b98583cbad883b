from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from strsr_models import MODELS, DeviceError, UsageError, WeightsError, load_pipeline
from strsr_models.checkpoints import published
from strsr_models.pipelines.lite import LitePipeline


def test_save_and_load_give_the_same_pipeline(tiny: LitePipeline, tiny_weights: Path) -> None:
    loaded = load_pipeline("lite", tiny_weights)
    lq = torch.rand(1, 3, 16, 16)
    assert (loaded.upscale(lq) - tiny.upscale(lq)).abs().max() < 2e-3  # float16 on disk
    assert not any(p.requires_grad for p in loaded.parameters())


def test_mismatches_come_in_one_message(tiny_weights: Path) -> None:
    path = tiny_weights / "model.safetensors"
    tensors = load_file(path)
    tensors["left.over"] = tensors.pop("dit.patch_in.bias")
    tensors["decoder.conv_out.bias"] = torch.zeros(5)
    save_file(tensors, path)
    with pytest.raises(WeightsError) as caught:
        load_pipeline("lite", tiny_weights)
    message = str(caught.value)
    assert "missing dit.patch_in.bias" in message
    assert "unknown left.over" in message
    assert "decoder.conv_out.bias is (5,), expected (3,)" in message


def test_damaged_and_missing_files_are_named(tiny_weights: Path, tmp_path: Path) -> None:
    (tiny_weights / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00rubbish")
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read as safetensors"):
        load_pipeline("lite", tiny_weights)
    with pytest.raises(WeightsError, match=r"config\.json: no such weights"):
        load_pipeline("lite", tmp_path / "nothing")


def test_an_unknown_key_names_its_nearest(tiny_weights: Path) -> None:
    path = tiny_weights / "config.json"
    config = json.loads(path.read_text())
    config["dit"]["widht"] = config["dit"].pop("width")
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="unknown key 'widht'; did you mean 'width'"):
        load_pipeline("lite", tiny_weights)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'lite'"):
        load_pipeline("light")
    with pytest.raises(UsageError, match="not a device"):
        load_pipeline("lite", device="quantum")
    with pytest.raises(DeviceError, match="CUDA devices here"):
        load_pipeline("lite", device="cuda:99")


def test_the_embedded_weights_fit_their_budget() -> None:
    folder = Path(__import__("strsr_models").__file__).parent / "weights" / "lite"
    assert (folder / "model.safetensors").stat().st_size <= 16 * 2**20
    assert sum(p.numel() for p in load_pipeline("lite").parameters()) <= 8.5e6
    assert (folder / "README.md").exists()


def test_weights_of_another_family_are_told_whose_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"family": "zimage"}')
    with pytest.raises(WeightsError, match=r"config\.json: of --model zimage, not lite"):
        load_pipeline("lite", tmp_path)


def test_the_light_table_has_the_names_of_all_families() -> None:
    assert set(published.MODELS) == set(MODELS)
