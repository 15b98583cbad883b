from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import Result

from strsr_cli.data import Crops, join
from strsr_cli.degrade import DegradeConfig
from strsr_cli.images import read_image
from strsr_cli.runs import read_config, to_toml
from strsr_cli.train import TrainConfig, learning_rate, train
from strsr_models import StrsrError, UsageError, load_pipeline
from strsr_models.encoders.features import FeatureNetwork
from strsr_models.losses.perceptual import feature_distance

from .conftest import TINY

BASE = ["batch_size=2", "crop_size=32", "workers=0", "log_every=1", "warmup_steps=1", "device=cpu"]


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "cat.png")
    Image.fromarray(photo[:8, :8]).save(folder / "too-small.png")
    (folder / "damaged.jpg").write_text("no")
    return folder


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    model = to_toml(TrainConfig(model=TINY))
    path.write_text(model[model.index("[model]") : model.index("[degrade]")])
    return path


def run(photos: Path, out: Path, config: Path, *settings: str) -> Path:
    return train([photos], out, config, [*BASE, *settings], lambda _line: None)


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def mean_l1(weights: Path, photos: Path) -> float:
    """Over the same crops for whatever weights."""
    crops = Crops(
        [np.array(read_image(photos / "cat.png").rgb8())], 32, 9, DegradeConfig(clean_share=1, mild_share=0)
    )
    batch = join([crops[number] for number in range(24)])
    pipeline = load_pipeline("lite", weights)
    with torch.no_grad():
        pred = pipeline.restore(batch.lq_up, pipeline.encode_condition(batch.picture))
    return float((pred - batch.hq).abs().mean())


def test_training_lowers_the_loss_and_its_weights_upscale(
    photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    settings = ("precision=fp32", "degrade.clean_share=1.0", "degrade.mild_share=0.0", "learning_rate=0.003")
    start = run(photos, tmp_path / "start", tiny_config, "steps=1", *settings)
    weights = run(photos, tmp_path / "run", tiny_config, "steps=40", *settings)
    assert len(metrics(tmp_path / "run")) == 40
    assert mean_l1(weights, photos) < 0.98 * mean_l1(start, photos)
    assert load_file(weights / "model.safetensors")["dit.patch_in.weight"].dtype == torch.float16
    result = strsr("upscale", photos / "cat.png", tmp_path / "big.png", "--weights", weights)
    assert result.exit_code == 0, result.output


def test_stopped_and_resumed_equals_straight(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "straight", tiny_config, "steps=6", "precision=fp32")
    out = tmp_path / "stopped"

    def stop_at_three(line: str) -> None:
        if line.startswith("step 3/"):
            raise KeyboardInterrupt

    settings = [*BASE, "steps=6", "precision=fp32", "save_every=2"]
    with pytest.raises(KeyboardInterrupt):
        train([photos], out, tiny_config, settings, stop_at_three)
    run(photos, out, tiny_config, "steps=6", "precision=fp32", "save_every=2")
    first, second = (
        torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (tmp_path / "straight", out)
    )
    for part in ("pipeline", "ema"):
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part])
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4, 5, 6]


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
        ("crop_size=40", "must be a multiple of 16"),
        ("model.dit.widht=3", "unknown key 'widht'; did you mean 'width'"),
        ("perceptual_weight=1.0", "needs perceptual_weights"),
        ("steps", "expected key=value"),
        ("degrade.scale=[4]", "expected a list of 2"),
        ("precision=fp12", "use auto, fp16, bf16 or fp32"),
        ("learning_rate=-1", "learning_rate must lie"),
    ],
)
def test_a_wrong_setting_is_one_line(
    setting: str, message: str, photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    result = strsr(
        "train", "--data", photos, "--out", tmp_path / "run", "--config", tiny_config, "--set", setting
    )
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_an_empty_folder_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no photo of at least 32 px"):
        run(tmp_path / "empty", tmp_path / "run", tiny_config, "steps=1")


def test_ten_losses_that_are_not_finite_stop_the_run(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strsr_cli.train.F.l1_loss", lambda pred, hq: (pred - hq).mean() * float("nan"))
    with pytest.raises(StrsrError, match="10 steps in a row were not finite"):
        run(photos, tmp_path / "run", tiny_config, "steps=20")


def test_a_damaged_checkpoint_is_named(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"rubbish")
    with pytest.raises(StrsrError, match=r"checkpoint\.pt: cannot be read"):
        run(photos, tmp_path / "run", tiny_config, "steps=1")


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(steps=1000, warmup_steps=100, learning_rate=1e-3, final_learning_rate=1e-5)
    rates = [learning_rate(config, step) for step in (0, 50, 100, 500, 999)]
    assert rates[0] == pytest.approx(1e-5, rel=0.01)
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(1e-5, rel=0.01)


@pytest.fixture
def squeezenet(tmp_path: Path) -> Path:
    """A file of random weights with torchvision's names, as far as the last tap."""
    import torchvision

    path = tmp_path / "squeezenet.safetensors"
    save_file(dict(torchvision.models.squeezenet1_1(weights=None).state_dict()), path)
    return path


def test_feature_distance_is_zero_at_equality_and_trains_the_prediction_only(squeezenet: Path) -> None:
    network = FeatureNetwork("squeezenet", squeezenet)
    target = torch.rand(2, 3, 48, 48)
    assert float(feature_distance(target, target, network)) == 0
    pred = torch.rand(2, 3, 48, 48, requires_grad=True)
    distance = feature_distance(pred, target, network)
    distance.backward()
    assert 0 < distance.item() <= 4
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all()
    assert not any(p.requires_grad for p in network.parameters())


def test_training_with_a_feature_loss_logs_it(
    photos: Path, tiny_config: Path, squeezenet: Path, tmp_path: Path
) -> None:
    weights = f"perceptual_weights={squeezenet}"
    run(photos, tmp_path / "run", tiny_config, "steps=2", "perceptual_weight=0.1", weights)
    assert metrics(tmp_path / "run")[-1]["perceptual_loss"] > 0


def test_init_starts_from_given_weights(
    photos: Path, tiny_config: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    weights = run(
        photos, tmp_path / "run", tiny_config, "steps=1", f"init={tiny_weights}", "learning_rate=1e-9"
    )
    lq = torch.rand(1, 3, 16, 16)
    before, after = (
        load_pipeline("lite", tiny_weights).upscale(lq),
        load_pipeline("lite", weights).upscale(lq),
    )
    torch.testing.assert_close(before, after, atol=2e-3, rtol=0)
