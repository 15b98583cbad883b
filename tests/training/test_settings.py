"""Settings of a run: read, refused in one line, counted by a dry run, drawn by a preview."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.training.config_files import read_config
from strsr_cli.training.loop import learning_rate
from strsr_cli.training.settings import TrainConfig
from strsr_models import UsageError

from ..helpers.training import BASE, SMALL, limit_files, limits_end, run


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(steps=1000, warmup_steps=100, learning_rate=1e-3, final_learning_rate=1e-5)
    rates = [learning_rate(config, step) for step in (0, 50, 100, 500, 999)]
    assert rates[0] == pytest.approx(1e-5, rel=0.01)
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(1e-5, rel=0.01)


def test_a_preview_on_a_full_disk_is_one_line(
    photos: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    with limits_end():
        limit_files("step 3/", 100)
        result = strsr("train", "--data", photos, "--preview", tmp_path / "sheet.png", *SMALL)
    assert result.exit_code == 1
    assert f"{tmp_path / 'sheet.png'}: cannot be written" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_resolved_config_makes_the_same_config_again(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=1")
    again = read_config(TrainConfig, tmp_path / "run" / "config.toml", [])
    assert asdict(again) == asdict(read_config(TrainConfig, tiny_config, [*BASE, "steps=1"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("step=5", "unknown key 'step'; did you mean 'steps'"),
        ("steps=many", "steps: expected int, got 'many'"),
        ("steps=0", "steps must be at least 1"),
        ("crop_size=40", "must be a multiple of 16"),
        ("model.dit.widht=3", "unknown key 'widht'; did you mean 'width'"),
        ("model.dit.width.x=3", "width is a value, not a table"),
        ("perceptual_weight=1.0", "needs perceptual_weights"),
        ("steps", "expected key=value"),
        ("degrade.scale=[4]", "expected a list of 2"),
        ("precision=fp12", "use auto, fp16, bf16 or fp32"),
        (
            "compile_mode=reduce-overheads",
            "compile_mode 'reduce-overheads': unknown; did you mean 'reduce-overhead'",
        ),
        ("learning_rate=-1", "learning_rate must lie"),
        ("final_learning_rate=-5", "final_learning_rate must lie between"),
        ("gradient_clip=nan", "must be a finite number"),
        ("l1_weight=-1", "l1_weight -1.0: must not be negative"),
        ("model.dit.heads=0", "heads 0: must be at least 1"),
        ("precision=fp16", "CPUs do not train in it"),
        ("weight_decay=-1", "must not be negative"),
        ("betas=[1.5, 2]", "betas must lie"),
        ("seed=99999999999999999999999", "must be below 2^31"),
        ("stage=flows", "did you mean 'flow'"),
        ("stage=flow", "needs init"),
        ("accumulate=3", "must be a multiple of processes x accumulate"),
        ("init=/nowhere", "no such weights"),
        ("degrade.clean_share=1.5", "clean_share 1.5: must lie in [0, 1]"),
        ("degrade.mild_share=-0.1", "mild_share -0.1: must lie in [0, 1]"),
        ("degrade.mild_share=0.9", "must sum to at most 1"),
        ("degrade.final_sinc_prob=2", "final_sinc_prob 2.0: must lie in [0, 1]"),
        ("degrade.first.blur_prob=-1", "blur_prob -1.0: must lie in [0, 1]"),
        ("degrade.first.resize_prob=[0.5, 0.6, 0.3]", "resize_prob [0.5, 0.6, 0.3]: must not be negative"),
        ("degrade.scale=[0.5, 4]", "scale [0.5, 4.0]: must be two numbers from 1 on"),
        ("flow_noise=-1", "flow_noise -1.0: must not be negative"),
        ("model.sigma=0", "sigma 0.0: must lie in (0, 1]"),
        ("model.semantic.grid=0", "grid 0: must be at least 1"),
        ("model.autoencoder.encoder_channels=0", "encoder_channels 0: must be at least 1"),
    ],
)
def test_a_wrong_setting_is_one_line(
    setting: str, message: str, photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    result = strsr(
        "train",
        "--data",
        photos,
        "--out",
        tmp_path / "run",
        "--config",
        tiny_config,
        "--set",
        "device=cpu",
        "--set",
        setting,
    )
    assert result.exit_code in (2, 3)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_empty_folder_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no photo of at least 32 px"):
        run(tmp_path / "empty", tmp_path / "run", tiny_config, "steps=1")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_settings_and_memory_and_writes_nothing(
    photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = strsr("train", "--data", photos, "--config", tiny_config, "--dry-run", *SMALL)
    assert result.exit_code == 0, result.output
    told = re.search(r"about ([\d.]+) GiB \(weights", result.stdout)
    assert told is not None
    assert 0.1 < float(told.group(1)) < 8
    assert re.search(r"activations [\d.e-]+, photos [\d.e-]+, process [\d.]+\)", result.stdout)
    assert "1 photos, 0.1" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before
    toml = tmp_path / "resolved.toml"
    toml.write_text(result.stdout)
    assert read_config(TrainConfig, toml, []).device == "cpu"


def test_tables_of_settings_may_be_given_in_part(tmp_path: Path) -> None:
    config = read_config(TrainConfig, None, ["degrade.first.jpeg_quality=[50, 60]", "model.dit.depth=3"])
    default = TrainConfig()
    assert config.degrade.first.jpeg_quality == (50, 60)
    assert config.degrade.first.noise_sigma == default.degrade.first.noise_sigma
    assert config.degrade.second == default.degrade.second
    assert config.model.dit.depth == 3


def test_a_dry_run_counts_the_perceptual_network(
    photos: Path, tiny_config: Path, squeezenet: Path, strsr: Callable[..., Result]
) -> None:
    judged = ["--set", "perceptual_weight=1", "--set", f"perceptual_weights={squeezenet}", *SMALL]
    result = strsr("train", "--data", photos, "--config", tiny_config, "--dry-run", *judged)
    assert result.exit_code == 0, result.output
    told = re.search(r"judges ([\d.]+),", result.stdout)
    assert told is not None
    assert float(told.group(1)) == pytest.approx(0.722e6 * 4 / 2**30, rel=0.05)


def test_a_data_folder_that_is_not_there_is_named(tiny_config: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        run(tmp_path / "nowhere", tmp_path / "run", tiny_config, "steps=1")


def test_preview_draws_a_sheet(
    photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    result = strsr("train", "--data", photos, "--config", tiny_config, "--preview", sheet, *SMALL)
    assert result.exit_code == 0, result.output
    with Image.open(sheet) as image:
        assert min(image.size) > 200
