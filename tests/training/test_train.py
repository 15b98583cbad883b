"""What a run learns: losses that fall, stages, parts of a batch, several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from strsr_cli.training.data.crops import Crops, join, prepare
from strsr_cli.training.data.degrade import DegradeConfig
from strsr_cli.training.data.photos import load_photos
from strsr_cli.training.run.folder import Run
from strsr_cli.training.settings import TrainConfig
from strsr_cli.training.train import FlowStage, train
from strsr_models import load_pipeline
from strsr_models.pipelines.lite import LitePipeline

from ..helpers.training import BASE, metrics, run


def mean_l1(weights: Path, photos: Path) -> float:
    """Over the same crops for whatever weights."""
    crops = Crops(load_photos([photos], 32), 32, 9)
    raw = join([crops[number] for number in range(24)])
    batch = prepare(raw, 0, DegradeConfig(clean_share=1, mild_share=0), 9, torch.device("cpu"))
    pipeline = load_pipeline("lite", weights)
    with torch.no_grad():
        pred = pipeline(batch.lq_up, batch.picture)
    return float((pred - batch.hq).abs().mean())


def flow_loss(weights: Path, photos: Path) -> float:
    """Over the same crops and noise for whatever weights."""
    crops = Crops(load_photos([photos], 32), 32, 9)
    raw = join([crops[number] for number in range(32)])
    batch = prepare(raw, 0, DegradeConfig(), 9, torch.device("cpu"))
    pipeline = load_pipeline("lite", weights)
    assert isinstance(pipeline, LitePipeline)
    with torch.no_grad():
        losses, _ = FlowStage(pipeline, TrainConfig(), None)(
            batch.hq, batch.lq_up, batch.picture, torch.arange(32)
        )
    return float(losses["flow_loss"])


def test_training_lowers_the_loss_and_its_weights_upscale(
    photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    settings = ("degrade.clean_share=1.0", "degrade.mild_share=0.0", "learning_rate=0.003")
    start = run(photos, tmp_path / "start", tiny_config, "steps=1", *settings)
    weights = run(photos, tmp_path / "run", tiny_config, "steps=40", *settings)
    assert len(metrics(tmp_path / "run")) == 40
    assert mean_l1(weights, photos) < 0.98 * mean_l1(start, photos)
    assert load_file(weights / "model.safetensors")["dit.patch_in.weight"].dtype == torch.float16
    out = tmp_path / "exported"
    result = strsr("export", tmp_path / "run", out)
    assert result.exit_code == 0, result.output
    result = strsr("upscale", photos / "cat.png", tmp_path / "big.png", "--weights", out)
    assert result.exit_code == 0, result.output


def test_stages_may_follow_each_other_and_end_in_several_steps(
    photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    first = run(photos, tmp_path / "ae", tiny_config, "steps=20", "stage=autoencoder", "learning_rate=0.003")
    second = run(
        photos,
        tmp_path / "flow",
        tiny_config,
        "steps=60",
        "stage=flow",
        "learning_rate=0.01",
        f"init={first}",
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (first, second))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"dit", "projector", "semantic_encoder"}
    assert flow_loss(second, photos) < 0.9 * flow_loss(first, photos)
    outputs = []
    for steps in (1, 3):
        outputs.append(tmp_path / f"{steps}.png")
        result = strsr("upscale", photos / "cat.png", outputs[-1], "--weights", second, "--steps", steps)
        assert result.exit_code == 0, result.output
    assert outputs[0].read_bytes() != outputs[1].read_bytes()


def test_init_starts_from_given_weights(
    photos: Path, tiny_config: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    weights = run(
        photos,
        tmp_path / "run",
        tiny_config,
        "steps=1",
        f"init={tiny_weights}",
        "learning_rate=1e-9",
        "final_learning_rate=0",
    )
    lq = torch.rand(1, 3, 16, 16)
    before, after = (load_pipeline("lite", folder).upscale(lq) for folder in (tiny_weights, weights))
    torch.testing.assert_close(before, after, atol=2e-3, rtol=0)


def test_a_batch_in_parts_or_computed_twice_is_the_batch(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    ways = {"whole": "accumulate=1", "parts": "accumulate=2", "again": "gradient_checkpointing=true"}
    for out, way in ways.items():
        run(photos, tmp_path / out, tiny_config, "steps=3", "batch_size=4", way)
    whole, *others = ([line["l1_loss"] for line in metrics(tmp_path / out)] for out in ways)
    for curve in others:
        assert curve == pytest.approx(whole, rel=1e-4)


def test_training_with_a_feature_loss_logs_it(
    photos: Path, tiny_config: Path, squeezenet: Path, tmp_path: Path
) -> None:
    weights = f"perceptual_weights={squeezenet}"
    run(photos, tmp_path / "run", tiny_config, "steps=2", "perceptual_weight=0.1", weights)
    line = metrics(tmp_path / "run")[-1]
    assert line["perceptual_loss"] > 0
    saved = Run(tmp_path / "run").latest()
    assert saved is not None
    names = load_file(saved / "model.safetensors")
    assert not any("feature" in name or "network" in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2])
def test_processes_together_draw_the_curve_of_one(
    photos: Path, tiny_config: Path, tmp_path: Path, processes: int
) -> None:
    settings = [*BASE, "steps=8", "batch_size=4", "save_every=4"]
    arguments = ["train", "--data", str(photos), "--config", str(tiny_config)]
    arguments += [word for setting in settings for word in ("--set", setting)]
    # `accelerate launch --cpu` starts one process unless MPI is there; torch's own launcher starts as many as told.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    many, one = tmp_path / "many", tmp_path / "one"
    together = [*launch, "-m", "strsr_cli", *arguments, "--out", str(many)]
    done = subprocess.run(together, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = Run(many).latest()
    assert saved is not None
    assert (saved / f"random_states_{processes - 1}.pkl").exists()  # there really were so many
    train([photos], one, tiny_config, settings, lambda _line: None)
    for name in ("l1_loss", "learning_rate"):
        first, second = ([line[name] for line in metrics(out)] for out in (one, many))
        assert second == pytest.approx(first, rel=1e-4)
    first_weights, second_weights = (load_file(out / "model" / "model.safetensors") for out in (one, many))
    for key, value in first_weights.items():
        torch.testing.assert_close(second_weights[key], value, atol=2e-3, rtol=0.02)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch warns itself while it compiles
def test_compiled_networks_learn_the_same(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    curves = []
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        run(photos, out, tiny_config, "steps=3", "log_every=1", f"compile={compiled}")
        curves.append([line["l1_loss"] for line in metrics(out) if "l1_loss" in line])
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
