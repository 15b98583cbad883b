"""Settings as text: what is written can be read again, whatever it holds, and who is blamed for what cannot."""

from __future__ import annotations

import json
import os
import string
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strsr_cli.training.config_files import flattened, parse_toml, read_config, run_settings, to_toml
from strsr_cli.training.data.teachers import TeacherConfig
from strsr_cli.training.run.folder import Run
from strsr_cli.training.settings import LATER, MAY_CHANGE, DistillConfig, TrainConfig
from strsr_models import UsageError

from ..helpers.training import run

OLD = Path(__file__).parent.parent / "golden" / "configs"  # of runs by earlier versions

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = ("learning_rate", "weight_decay", "l1_weight", "gradient_clip", "adam_eps")


@given(text=texts, name=st.sampled_from(["init", "perceptual_weights", "device", "precision"]))
def test_any_text_is_read_as_it_was_written(text: str, name: str) -> None:
    config = replace(TrainConfig(), **{name: text})
    assert parse_toml(to_toml(config))[name] == text


@given(
    values=st.lists(texts, max_size=4),
    kinds=st.dictionaries(st.sampled_from(["clean", "mild", "severe"]), st.lists(texts, max_size=3)),
)
@settings(deadline=None)
def test_any_list_and_table_of_texts_comes_back(values: list[str], kinds: dict[str, list[str]]) -> None:
    teacher = TeacherConfig(**{name: tuple(files) for name, files in kinds.items()})
    config = DistillConfig(
        teacher=teacher, pairs=tuple(values), perceptual_weight=0, coach="none", fdl_weight=0, pair_size=1024
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(to_toml(config).encode())
        assert read_config(DistillConfig, path, []) == config


@given(value=st.floats(1e-300, 1), name=st.sampled_from(NUMBERS))
def test_any_number_comes_back_to_the_bit(value: float, name: str) -> None:
    config = replace(TrainConfig(), **{name: min(value, 0.9), "final_learning_rate": 0.0})
    assert parse_toml(to_toml(config))[name] == getattr(config, name)


@given(
    key=st.sampled_from(["steps", "init", "betas", "degrade", "degrade.scale", "model.dit", "pairs", ""]),
    text=st.text(max_size=12),
)
@settings(deadline=None)
def test_any_setting_is_taken_or_refused_in_one_line(key: str, text: str) -> None:
    error = None
    try:
        to_toml(read_config(TrainConfig, None, [f"{key}={text}"])).encode()
    except UsageError as refusal:
        error = str(refusal)
    assert error is None or error.startswith("--set ")


def test_a_path_of_bytes_that_are_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"init 'r/\\udcff': is not UTF-8 text"):
        read_config(TrainConfig, None, [f"init={os.fsdecode(b'r/' + bytes([255]))}"])
    with pytest.raises(UsageError, match="must be a finite number"):
        read_config(TrainConfig, None, ["learning_rate=inf"])


def test_a_run_from_a_place_beyond_the_first_plane_goes_on(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    start = tmp_path / '😀 "run"'
    run(photos, start, tiny_config, "steps=1")
    init = f"init={json.dumps(str(start), ensure_ascii=False)}"
    for steps in ("steps=1", "steps=2"):
        run(photos, tmp_path / "run", tiny_config, init, steps)
    assert Run(tmp_path / "run").saved_steps() == [1, 2]


def test_a_config_that_json_wrote_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f"init = {json.dumps('r/😀run')}\n")
    assert run_settings(tmp_path) == {"init": "r/😀run"}


def test_dates_and_lines_are_text_where_a_text_is_wanted(tmp_path: Path) -> None:
    for text in ("2024-01-02", "07:32:00", "a\nseed = 3", "1\nseed = 3"):
        config = read_config(TrainConfig, None, [f"init={text}"])
        assert (config.init, config.seed) == (text, 0)
    (tmp_path / "c.toml").write_text("init = 2024-01-02")
    with pytest.raises(
        UsageError, match=r"c\.toml: init: expected str, got 2024-01-02; put a text in quotes"
    ):
        read_config(TrainConfig, tmp_path / "c.toml", [])


@pytest.mark.parametrize(
    ("settings", "blamed"),
    [
        (["seed=1", "step=3"], "--set step=3: unknown key"),
        (["steps=0", "seed=1"], "--set steps=0: steps must be"),
        (["degrade.clean_share=2"], "--set degrade.clean_share=2: degrade: clean_share"),
        (["learning_rate=1" + "0" * 400], "must be a number that fits a float"),
        ([], None),
    ],
)
def test_a_mistake_is_blamed_on_who_made_it(settings: list[str], blamed: str | None, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("seed = 5")
    bad.write_text("batch_size = 0")
    if blamed is not None:
        with pytest.raises(UsageError) as caught:
            read_config(TrainConfig, good, settings)
        assert blamed in str(caught.value)
        assert "good.toml" not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        read_config(TrainConfig, bad, [*settings[:0], "seed=1"])
    assert str(caught.value).startswith(f"--config {bad}: batch_size must be at least 1")


def old_run(name: str, folder: Path) -> Path:
    """A run's folder by an earlier version, as far as its settings and its checkpoint's name."""
    (folder / "checkpoints" / "0000005").mkdir(parents=True)
    (folder / "config.toml").write_bytes((OLD / f"{name}.toml").read_bytes())
    return folder


CASES: list[tuple[str, Any, list[str]]] = [
    ("train", TrainConfig, []),
    ("distill", DistillConfig, ["perceptual_weight=0", "coach=none", "fdl_weight=0"]),
]


@pytest.mark.parametrize(("name", "cls", "given"), CASES)
def test_a_run_of_an_earlier_version_goes_on_by_its_own_settings(
    name: str, cls: Any, given: list[str], tmp_path: Path
) -> None:
    folder = old_run(name, tmp_path / "run")
    text = (OLD / f"{name}.toml").read_text()
    before = flattened(parse_toml(text))
    # What a person gave is given again; other defaults of today must not reach the run.
    (tmp_path / "given.toml").write_text(text)
    config = read_config(
        cls, tmp_path / "given.toml", given, {"judge_shift": 16} if name == "distill" else {}, run=folder
    )
    now = flattened(parse_toml(to_toml(config)))
    assert {key: now[key] for key in before} == before
    younger = {key: value for key, value in now.items() if key not in before}
    assert younger
    assert younger == {key: LATER[key] for key in younger}
    Run(folder).check_same(config, MAY_CHANGE)
    # The run stays as old as it is: the next start must know it too.
    Run(folder).write_config(config)
    assert run_settings(folder) == before
    changed = read_config(cls, tmp_path / "given.toml", [*given, "photo_colors=srgb"], run=folder)
    with pytest.raises(UsageError, match=r"other settings of .*photo_colors .*photo_colors = 'stored'"):
        Run(folder).check_same(changed, MAY_CHANGE)


def test_a_younger_setting_of_one_shape_is_none_of_another(tmp_path: Path) -> None:
    name = "model.autoencoder.grain_maps"
    for shape, key in (("quarter", "level_cell=32"), ("pyramid", "pixel_channels=8")):
        own = [
            "model.dit.latent_channels=32",
            "model.autoencoder.latent_channels=32",
            f"model.autoencoder.{key}",
        ]
        folder = tmp_path / shape
        (folder / "checkpoints" / "0000005").mkdir(parents=True)
        # As it was before there was grain.
        begun = read_config(TrainConfig, None, [*own, f"{name}=0"] if shape == "quarter" else own)
        (folder / "config.toml").write_text(to_toml(begun, without={name}))
        config = read_config(TrainConfig, None, own, run=folder)
        assert config == begun
        assert (name in flattened(parse_toml(to_toml(config)))) == (shape == "quarter")
        Run(folder).check_same(config, MAY_CHANGE)


@pytest.mark.parametrize(("name", "cls", "given"), CASES)
def test_every_setting_is_old_or_has_its_value_of_before(name: str, cls: Any, given: list[str]) -> None:
    before = flattened(parse_toml((OLD / f"{name}.toml").read_text()))
    now = flattened(parse_toml(to_toml(read_config(cls, None, given))))
    ours = {key for key in now if not key.startswith("model.")}
    assert ours - before.keys() - LATER.keys() == set()


def test_a_run_without_its_settings_is_not_gone_on_with(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=1")
    (tmp_path / "run" / "config.toml").unlink()
    with pytest.raises(UsageError, match=r"config.toml: is missing, .*put it back"):
        run(photos, tmp_path / "run", tiny_config, "steps=2")
    assert not (tmp_path / "run" / "config.toml").exists()


def test_letters_of_settings_are_never_lost() -> None:
    everything = string.printable + "\x00\x1f\x7f\x85\u2028\u202e\ufeff\U0010ffff"
    assert parse_toml(to_toml(replace(TrainConfig(), init=everything)))["init"] == everything
