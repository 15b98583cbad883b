from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from strsr_models import UsageError, WeightsError
from strsr_models.encoders import convnext
from strsr_models.encoders.convnext import CLIP_MEAN, CLIP_STD, ConvNextTrunk
from strsr_models.networks.discriminator import Coach, Discriminator, DiscriminatorConfig

TINY = "convnext_tiny_for_tests"


@pytest.fixture(scope="module", autouse=True)
def _tiny_config(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A CLIP ConvNeXt that open_clip builds in no time: timm's smallest, 0.3 M parameters."""
    import open_clip

    vision = {
        "timm_model_name": "test_convnext",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop": 0.0,
        "timm_drop_path": 0.1,
        "image_size": 64,
    }
    text = {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
    path = tmp_path_factory.mktemp("configs") / f"{TINY}.json"
    path.write_text(json.dumps({"embed_dim": 20, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)


@pytest.fixture
def clip_tensors() -> dict[str, Tensor]:
    """A whole CLIP model's tensors as open_clip itself makes them, the text tower's included."""
    import open_clip

    model = open_clip.create_model(TINY, pretrained=None)
    return dict(model.state_dict())


def test_maps_and_embedding_are_those_of_open_clip(clip_tensors: dict[str, Tensor], tmp_path: Path) -> None:
    import open_clip

    path = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(clip_tensors, path)
    model = open_clip.create_model(TINY, pretrained=None).eval()
    model.load_state_dict(clip_tensors)
    trunk = ConvNextTrunk(path, TINY)
    image = torch.rand(2, 3, 64, 96)
    maps, embedding = trunk(image)
    normalised = (image - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(embedding, model.encode_image(normalised))
        expected = model.visual.trunk.forward_intermediates(normalised, intermediates_only=True)
    for found, wanted in zip(maps, expected[:3], strict=True):
        torch.testing.assert_close(found, wanted)
    assert [tuple(x.shape[1:]) for x in maps] == [
        (c, 16 // 2**i, 24 // 2**i) for i, c in enumerate(trunk.channels)
    ]
    assert tuple(embedding.shape) == (2, trunk.embedding_channels) == (2, 20)


def test_the_default_is_the_published_trunk() -> None:
    import open_clip

    assert convnext.CLIP_MEAN == open_clip.OPENAI_DATASET_MEAN
    assert convnext.CLIP_STD == open_clip.OPENAI_DATASET_STD
    with torch.device("meta"):
        tower = convnext._visual_tower(convnext._model_config(convnext.NAME))
    assert [info["num_chs"] for info in tower.trunk.feature_info[:3]] == [384, 768, 1536]
    assert tuple(tower.head.proj.weight.shape) == (1024, 3072)
    repository = convnext._repository(convnext.NAME, convnext.TAG)
    assert repository == "laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup"


def test_the_visual_tower_alone_is_built_and_it_is_frozen() -> None:
    trunk = ConvNextTrunk("random", TINY).train()
    assert not any(module.training for module in trunk.modules())
    assert not any(p.requires_grad for p in trunk.parameters())
    assert all(name.startswith("visual.") for name, _ in trunk.named_parameters())
    assert not any("text" in name or "token" in name for name, _ in trunk.named_parameters())
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(trunk(image)[1], trunk(image)[1])  # no dropped paths


def test_the_trunk_coaches_and_passes_gradients_to_the_image() -> None:
    trunk = ConvNextTrunk("random", TINY)
    config = DiscriminatorConfig(trunk.channels, trunk.embedding_channels, hidden=8)
    coach = Coach(trunk, Discriminator(config)).train()
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    logits = coach(image)
    assert [tuple(x.shape) for x in logits] == [(2, 1, 4, 4), (2, 1, 2, 2), (2, 1, 1, 1), (2, 1)]
    sum(x.sum() for x in logits).backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    assert image.grad.count_nonzero() > 0


def test_checkpointing_changes_nothing_but_memory(clip_tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in clip_tensors.items()}}, path)
    gradients = []
    for checkpointing in (False, True):
        image = torch.full((1, 3, 64, 64), 0.4).requires_grad_()
        maps, embedding = ConvNextTrunk(path, TINY, checkpointing=checkpointing)(image)
        (maps[2].square().sum() + embedding.square().sum()).backward()
        gradients.append(image.grad)
    torch.testing.assert_close(*gradients)


def test_a_folder_and_safetensors_in_float16_do_as_well(
    clip_tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = tmp_path / "CLIP-tiny"
    folder.mkdir()
    save_file({k: v.half() for k, v in clip_tensors.items()}, folder / "open_clip_model.safetensors")
    torch.save(clip_tensors, tmp_path / "whole.bin")
    image = torch.rand(1, 3, 64, 64)
    half, whole = ConvNextTrunk(folder, TINY), ConvNextTrunk(str(tmp_path / "whole.bin"), TINY)
    assert all(p.dtype == torch.float32 for p in half.parameters())
    torch.testing.assert_close(half(image)[1], whole(image)[1], rtol=0.02, atol=0.02)


def test_mismatches_are_named_all_at_once(clip_tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "wrong.bin"
    clip_tensors["visual.head.proj.weight"] = torch.zeros(7, 3)
    clip_tensors["visual.trunk.stem.0.bias"] *= float("nan")
    del clip_tensors["visual.trunk.stem.0.weight"]
    torch.save(clip_tensors, path)
    with pytest.raises(WeightsError) as caught:
        ConvNextTrunk(path, TINY)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        str(path),
        TINY,
        "head.proj.weight is (7, 3)",
        "stem.0.bias is not finite",
        "missing trunk.stem.0.w",
    ):
        assert part in message


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "vgg.pth")
    with pytest.raises(WeightsError, match=r"missing .*; and \d+ more"):
        ConvNextTrunk(tmp_path / "vgg.pth", TINY)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish"])
@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_a_damaged_file_is_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"clip\.{suffix}: cannot be read"):
        ConvNextTrunk(path, TINY)


def test_missing_weights_are_told_with_where_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import socket

    def no_network(*_args: object) -> None:
        raise AssertionError("it tried the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(WeightsError) as caught:
        ConvNextTrunk()
    assert "https://huggingface.co/laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup" in str(
        caught.value
    )
    assert "strsr models pull CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup; or give the path" in str(
        caught.value
    )
    with pytest.raises(WeightsError, match=r"none\.bin: no such weights of convnext_xxlarge; they come from"):
        ConvNextTrunk(tmp_path / "none.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty: holds none of open_clip_model\.safetensors"):
        ConvNextTrunk(tmp_path / "empty")


def test_weights_in_the_hubs_cache_are_found(
    clip_tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(clip_tensors, path)
    asked = []

    def cache(repository: str, file: str) -> str | None:
        asked.append((repository, file))
        return str(path) if file == path.name else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cache)
    monkeypatch.setattr(convnext, "_repository", lambda _name, _tag: "somebody/tiny")
    trunk = ConvNextTrunk(name=TINY)
    assert torch.equal(trunk.visual.head.proj.weight, clip_tensors["visual.head.proj.weight"])
    assert asked[-1] == ("somebody/tiny", path.name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("convnext_xxlarg", "did you mean 'convnext_xxlarge'"), ("ViT-B-32", "no such ConvNeXt")],
)
def test_a_name_that_is_no_convnext_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ConvNextTrunk("random", name)


def test_an_image_too_small_is_refused() -> None:
    trunk = ConvNextTrunk("random", TINY)
    assert trunk(torch.rand(1, 3, 32, 47))[0][2].shape[-2:] == (2, 2)
    with pytest.raises(UsageError, match=r"at least 32 px, got \(31, 64\)"):
        trunk(torch.rand(1, 3, 31, 64))


def test_open_clip_is_needed_for_the_trunk_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)  # as if it were not installed
    importlib.reload(convnext)
    with pytest.raises(UsageError, match="pip install open_clip_torch"):
        convnext.ConvNextTrunk("random", TINY)
