from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from strsr_cli.training.distill import build, one_step, read_distill_config
from strsr_cli.training.memory import Estimate, estimate_memory

from ..helpers.tiny_models import cached_models_folder
from .test_distill import BASE

BARE = [*BASE, "coach=none", "perceptual_weight=0", "fdl_weight=0", "crop_size=64", "judge_shift=0"]
FULL = [*BASE, "fdl_from=0", "judge_shift=0", "crop_size=128"]


def estimate(student: str, settings: list[str], real: bool = False) -> Estimate:
    config = read_distill_config(student, None, settings)
    pipeline, criterion, turn = build(config, torch.device("cpu"))
    step = one_step(pipeline, criterion, turn, config)
    return estimate_memory(pipeline, criterion.networks(), config, 1, step, real=real)


def same(first: Estimate, second: Estimate) -> None:
    # The process grows while it runs tests.
    first, second = replace(first, process=0), replace(second, process=0)
    assert vars(first) == pytest.approx(vars(second), rel=1e-4)


def test_tensors_without_numbers_take_what_real_ones_take(tiny_weights: Path) -> None:
    same(estimate(str(tiny_weights), BARE), estimate(str(tiny_weights), BARE, real=True))


@pytest.mark.slow
@pytest.mark.parametrize("student", ["lite", "zimage", "flux2"])
@pytest.mark.parametrize(
    "way", ["gradient_checkpointing=true", "gradient_checkpointing=false", "precision=bf16"]
)
def test_estimates_equal_the_real_for_all_judges_and_families(
    student: str, way: str, squeezenet: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = [f"{name}_weights={squeezenet}" for name in ("coach", "perceptual", "fdl")]
    models = cached_models_folder(tmp_path_factory)
    settings = [*FULL, *files, f"models_dir={models}", "rank=4", "perceptual_network=squeezenet", way]
    same(estimate(student, settings), estimate(student, settings, real=True))


def test_judges_and_the_coachs_turn_are_counted(tiny_weights: Path, squeezenet: Path) -> None:
    alone = estimate(str(tiny_weights), BARE, real=True)
    assert alone.judges == 0
    coached = [*BARE, "coach=conv", f"coach_weights={squeezenet}", "coach_hidden=64"]
    config = read_distill_config(str(tiny_weights), None, coached)
    _, criterion, _ = build(config, torch.device("cpu"))
    assert criterion.coach is not None
    heads = sum(p.numel() for p in criterion.coach.heads.parameters())
    beside = estimate(str(tiny_weights), coached, real=True)
    assert beside.judges * 2**30 > 4 * heads + squeezenet.stat().st_size / 2
    assert (beside.gradients_and_adam - alone.gradients_and_adam) * 2**30 == pytest.approx(3 * 4 * heads)
    assert beside.activations > 1.2 * alone.activations
    with_distance = [*BARE, "perceptual_weight=0.1", f"perceptual_weights={squeezenet}"]
    assert estimate(str(tiny_weights), with_distance, real=True).judges * 2**20 > 1  # 0.7 M parameters


@pytest.mark.slow
def test_a_dry_run_of_a_big_student_tells_its_memory(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, strsr: Callable[..., Result]
) -> None:
    settings = [*BARE, f"models_dir={cached_models_folder(tmp_path_factory)}", "rank=4"]
    words = [word for setting in settings for word in ("--set", setting)]
    result = strsr("distill", "--data", photos, "--student", "flux2", "--dry-run", *words)
    assert result.exit_code == 0, result.output
    told = re.search(r"about ([\d.]+) GiB \(weights ([\d.]+), judges 0, .* activations", result.stdout)
    assert told is not None
    assert float(told.group(1)) > float(told.group(2)) > 0
