from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from strsr_cli.training.config_files import read_config, to_toml
from strsr_cli.training.data.teachers import TeacherConfig
from strsr_cli.training.distill import read_distill_config
from strsr_cli.training.settings import DistillConfig, TrainConfig
from strsr_models.config import from_dict, to_dict
from strsr_models.errors import UsageError
from strsr_models.networks.autoencoder import PyramidConfig, QuarterConfig
from strsr_models.pipelines.lite import LiteConfig

from ..conftest import TINY

BASE = ["coach=none", "fdl_weight=0", "perceptual_weight=0", "judge_shift=0", "crop_size=32"]


def lite(**data: Any) -> LiteConfig:
    return from_dict(LiteConfig, data, "here")


def distilling(*settings: str) -> DistillConfig:
    return read_distill_config("lite", None, [*BASE, *settings])


@pytest.mark.parametrize("config", [LiteConfig(), TINY], ids=["quarter", "pyramid"])
def test_shapes_come_back_from_their_tables(config: LiteConfig) -> None:
    assert from_dict(LiteConfig, json.loads(json.dumps(to_dict(config))), "here") == config


@pytest.mark.parametrize("model", [LiteConfig(), TINY], ids=["quarter", "pyramid"])
def test_shapes_come_back_from_toml(model: LiteConfig, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(to_toml(TrainConfig(model=model)))
    assert read_config(TrainConfig, tmp_path / "a.toml", []).model == model


def test_a_partial_table_keeps_the_default_shape() -> None:
    assert lite(autoencoder={"decoder_blocks": 3}).autoencoder == QuarterConfig(decoder_blocks=3)
    assert lite(autoencoder={}).autoencoder == QuarterConfig()
    config = lite(autoencoder={"latent_channels": 16}, dit={"latent_channels": 16})
    assert config.autoencoder == QuarterConfig(latent_channels=16)
    assert config.dit.depth == LiteConfig().dit.depth


def test_a_table_with_keys_of_the_other_shape_is_of_it() -> None:
    config = lite(autoencoder={"encoder_channels": 16}, dit={"latent_channels": 32})
    assert config.autoencoder == PyramidConfig(encoder_channels=16)
    mixed = {"latent_channels": 8, "decoder_blocks": [1, 1, 1], "pixel_channels": 4}
    config = lite(autoencoder=mixed, dit={"latent_channels": 8})
    assert config.autoencoder == PyramidConfig(8, decoder_blocks=(1, 1, 1), pixel_channels=4)


def test_shapes_are_chosen_inside_of_other_tables_too() -> None:
    shape = ["model.autoencoder.encoder_channels=16", "model.dit.latent_channels=32"]
    config = read_config(TrainConfig, None, shape)
    assert config.model.autoencoder == PyramidConfig(encoder_channels=16)
    assert config.model.semantic == LiteConfig().semantic
    config = read_config(TrainConfig, None, ["model.autoencoder.decoder_blocks=2"])
    assert config.model.autoencoder == QuarterConfig(decoder_blocks=2)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"decoder_blokcs": 2}, "autoencoder: unknown key 'decoder_blokcs'; did you mean 'decoder_blocks'"),
        ({"pixel_chanels": 4}, "autoencoder: unknown key 'pixel_chanels'"),
        ({"encoder_channels": 8, "pixel_chanels": 4}, "autoencoder: unknown key 'pixel_chanels'"),
        ({"decoder_blocks": "many"}, "autoencoder: decoder_blocks: expected int, got 'many'"),
        ({"encoder_channels": "many"}, "autoencoder: encoder_channels: expected int, got 'many'"),
        ({"encoder_channels": 0}, "autoencoder: encoder_channels 0: must be at least 1"),
        ("quarter", "autoencoder: expected a table, got 'quarter'"),
        (None, "autoencoder: expected a table, got None"),
    ],
    ids=["quarter", "one", "pyramid", "type", "pyramid_type", "value", "word", "null"],
)
def test_mistakes_in_a_union_of_tables_are_named(table: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        lite(autoencoder=table)
    assert words in str(caught.value)


def test_a_teacher_is_a_file_or_a_table_of_files() -> None:
    assert distilling("teacher=a.pth").teacher == "a.pth"
    config = distilling('teacher={clean = ["a.pth"], severe = ["b.pth", "c.pth"]}')
    assert config.teacher == TeacherConfig(clean=("a.pth",), severe=("b.pth", "c.pth"))
    assert distilling('teacher.mild=["a.pth"]').teacher == TeacherConfig(mild=("a.pth",))
    assert distilling().teacher == ""


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('teacher.sever=["a.pth"]', "teacher: unknown key 'sever'; did you mean 'severe'"),
        ("teacher.severe=a.pth", "teacher: severe: expected a list, got 'a.pth'"),
        ("teacher.severe=[1]", "teacher: severe: expected str, got 1"),
        ("teacher=5", "teacher: expected str, got 5"),
        ("teacher=true", "teacher: expected str, got True"),
        ("perceptual_network=3", "perceptual_network: expected str, got 3"),
        ("perceptual_network=[3]", "perceptual_network: expected str, got 3"),
        ('perceptual_network={vgg = "a"}', "perceptual_network: expected str, got {'vgg': 'a'}"),
    ],
)
def test_mistakes_in_other_unions_are_named(setting: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        distilling(setting)
    assert words in str(caught.value)


def test_networks_are_one_name_or_a_list() -> None:
    one = distilling("perceptual_weight=1", "perceptual_network=vgg19", "perceptual_weights=a")
    assert (one.perceptual_network, one.perceptual_weights) == ("vgg19", "a")
    two = [f'{role}_network=["vgg19", "squeezenet"]' for role in ("perceptual", "coach")]
    files = [f'{role}_weights=["a", "b"]' for role in ("perceptual", "coach")]
    config = distilling(*two, *files, "perceptual_weight=1", "coach=conv")
    assert config.perceptual_network == config.coach_network == ("vgg19", "squeezenet")
    assert config.perceptual_weights == config.coach_weights == ("a", "b")
    assert config.coach_on_features


@pytest.mark.parametrize("role", ["perceptual", "coach"])
@pytest.mark.parametrize("files", ['["a"]', '["a", "b", "c"]', '["a", ""]', "a", "[]"])
def test_networks_of_a_list_each_need_their_file(role: str, files: str) -> None:
    settings = [f'{role}_network=["vgg19", "squeezenet"]', f"{role}_weights={files}"]
    settings += ["perceptual_weight=1"] if role == "perceptual" else ["coach=conv"]
    with pytest.raises(UsageError, match=rf"{role}_weights.*\['vgg19', 'squeezenet'\]"):
        distilling(*settings)


def test_lists_come_back_from_a_runs_config(tmp_path: Path) -> None:
    """As a resumed run reads and compares them."""
    config = distilling('perceptual_network=["vgg19"]', 'teacher.clean=["a.pth"]', 'pairs=["p", "q"]')
    (tmp_path / "a.toml").write_text(to_toml(config))
    assert read_config(DistillConfig, tmp_path / "a.toml", []) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["perceptual_target=teacher"], "is teacher, and there is none: set teacher"),
        (["coach_real=teacher"], "is teacher, and there is none: set teacher"),
        (["perceptual_target=teachers"], "did you mean 'teacher'"),
        (["photo_share=1.5"], "photo_share 1.5: must lie in [0, 1]"),
        (["teacher_weight=-1"], "teacher_weight -1.0: must not be negative"),
        (["graphics_share=2"], "graphics_share 2.0: must lie in [0, 1]"),
        (["coach_noise=-0.1"], "coach_noise must not be negative"),
        (["coach_floor=1"], "coach_floor must lie in [0, 1)"),
        (["degrade.lens_share=0.4"], "lens_share 0.4: must sum to at most 1"),
        (["degrade.medium_share=-1"], "medium_share -1.0: must lie in [0, 1]"),
    ],
)
def test_impossible_settings_are_named(settings: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        distilling(*settings)
    assert words in str(caught.value)
