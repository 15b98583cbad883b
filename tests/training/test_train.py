from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import Result

from strsr_cli.system.atomic import whole_folder
from strsr_cli.system.signals import Stopped
from strsr_cli.training.data.crops import Crops, join, prepare
from strsr_cli.training.data.degrade import DegradeConfig
from strsr_cli.training.data.photos import load_photos
from strsr_cli.training.loop import learning_rate
from strsr_cli.training.run import logbook
from strsr_cli.training.run.folder import Run
from strsr_cli.training.run.progress import Progress
from strsr_cli.training.settings import TrainConfig, read_config, to_toml
from strsr_cli.training.train import FlowStage, train
from strsr_models import StrsrError, UsageError, load_pipeline
from strsr_models.pipelines.lite import LitePipeline

from ..conftest import TINY

BASE = [
    "batch_size=2",
    "crop_size=32",
    "workers=0",
    "log_every=1",
    "warmup_steps=1",
    "device=cpu",
    "precision=fp32",
    "tensorboard=false",
]


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    lines = to_toml(TrainConfig(model=TINY))
    path.write_text(lines[lines.index("[model]") :])
    return path


SMALL = ["--set", "device=cpu", "--set", "crop_size=32"]


def run(photos: Path, out: Path, config: Path, *settings: str) -> Path:
    return train([photos], out, config, [*BASE, *settings], lambda _line: None)


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def newest(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint: weights, averages and the optimiser's moments."""
    folder = Run(out).latest()
    assert folder is not None
    tensors = {**load_file(folder / "model.safetensors")}
    tensors |= {f"average.{k}": v for k, v in load_file(folder / "average.safetensors").items()}
    for number, moments in torch.load(folder / "optimizer.bin", weights_only=True)["state"].items():
        tensors |= {f"adam.{number}.{k}": v for k, v in moments.items() if isinstance(v, torch.Tensor)}
    return tensors


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


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


# --- learning --------------------------------------------------------------------------------------


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


def test_autoencoder_then_flow_then_several_steps(
    photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    first = run(photos, tmp_path / "ae", tiny_config, "steps=40", "stage=autoencoder", "learning_rate=0.003")
    second = run(
        photos,
        tmp_path / "flow",
        tiny_config,
        "steps=80",
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


def test_a_run_s_folder_stands_for_its_weights(
    photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    first = tmp_path / "first"
    weights = run(photos, first, tiny_config, "steps=1") / "model.safetensors"
    second = run(photos, tmp_path / "second", tiny_config, "steps=1", f"init={first}")
    with safe_open(second / "model.safetensors", "pt") as file:
        assert file.metadata()["start"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    with safe_open(weights, "pt") as file:
        assert "start" not in file.metadata()
    outputs = [tmp_path / "by-run.png", tmp_path / "by-weights.png"]
    for output, folder in zip(outputs, (tmp_path / "second", second), strict=True):
        result = strsr("upscale", photos / "cat.png", output, "--weights", folder)
        assert result.exit_code == 0, result.output
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


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


def test_tensorboard_gets_the_numbers(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=2", "tensorboard=true")
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"l1_loss" in events.read_bytes()


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(steps=1000, warmup_steps=100, learning_rate=1e-3, final_learning_rate=1e-5)
    rates = [learning_rate(config, step) for step in (0, 50, 100, 500, 999)]
    assert rates[0] == pytest.approx(1e-5, rel=0.01)
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(1e-5, rel=0.01)


# --- a run that loses no night ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [[], ["workers=1"], ["batch_size=4", "accumulate=2"]], ids=["plain", "workers", "parts"]
)
def test_ten_steps_equal_five_a_kill_and_five(
    settings: list[str], photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run(photos, tmp_path / "straight", tiny_config, "steps=10", *settings)

    def die_at_seven(line: str) -> None:
        if line.startswith("step 7/"):
            raise SystemExit  # two steps behind the checkpoint

    out = tmp_path / "killed"
    settings = [*settings, "steps=10", "save_every=5"]
    with pytest.raises(SystemExit):
        train([photos], out, tiny_config, [*BASE, *settings], die_at_seven)
    assert Run(out).saved_steps() == [5]
    run(photos, out, tiny_config, *settings)
    assert same(newest(tmp_path / "straight"), newest(out))
    kept = ("step", "l1_loss", "learning_rate")
    first, second = (
        [[line[key] for key in kept] for line in metrics(tmp_path / o)] for o in ("straight", "killed")
    )
    assert first == second


def test_sigterm_writes_a_checkpoint_and_the_run_goes_on(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def terminate_at_three(line: str) -> None:
        if line.startswith("step 3/"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as stopped:
        train([photos], out, tiny_config, [*BASE, "steps=6"], terminate_at_three)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert Run(out).saved_steps() == [4]  # after the step under way
    run(photos, out, tiny_config, "steps=6")
    run(photos, tmp_path / "straight", tiny_config, "steps=6")
    assert same(newest(tmp_path / "straight"), newest(out))


def test_a_full_disk_leaves_the_old_checkpoint(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(photos, out, tiny_config, "steps=2")
    before = newest(out)
    with (
        limits_end(),
        pytest.raises(
            StrsrError, match=r"cannot be written .*; is the disk full\? the last checkpoint is .*0000002"
        ),
    ):
        train([photos], out, tiny_config, [*BASE, "steps=4"], limit_files)
    assert Run(out).saved_steps() == [2]
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["0000002"]
    assert same(before, newest(out))
    run(photos, out, tiny_config, "steps=4")
    assert Run(out).saved_steps() == [2, 4]


def limit_files(line: str, most: int = 100_000) -> None:
    """Behind step 3 no file may grow past so many bytes."""
    if line.startswith("step 3/"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@contextlib.contextmanager
def limits_end() -> Iterator[None]:
    """Inside, a limit may be set: writing then fails as on a full disk. Behind it, pytest writes again."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("setting", "file"), [("log_every=1", "metrics.jsonl"), ("sample_every=4", "samples/0000004.png")]
)
def test_a_full_disk_is_one_line_that_names_the_file(
    setting: str, file: str, photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = [*BASE, "steps=8", "save_every=3", "log_every=3", setting]
    with limits_end(), pytest.raises(StrsrError) as caught:
        train([photos], out, tiny_config, settings, lambda line: limit_files(line, 100))
    told = str(caught.value)
    assert told.startswith(f"{out / file}: cannot be written")
    assert told.endswith(f"is the disk full? the last checkpoint is {Run(out).checkpoint(3)}")
    assert len(told.splitlines()) == 1


def test_so_it_is_with_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(True, 5, Run(tmp_path / "run"), 0, True, lambda _line: None)

    def log_a_lot() -> None:
        with limits_end(), progress:
            limit_files("step 3/", 400)
            for step in range(5):
                progress.log(step, {f"n{number}": 1.0 for number in range(10)})

    with pytest.raises(StrsrError, match=r"run/tensorboard: cannot be written .*last checkpoint"):
        log_a_lot()
    assert "Traceback" not in capsys.readouterr().err


def test_a_preview_on_a_full_disk_is_one_line(
    photos: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    with limits_end():
        limit_files("step 3/", 100)
        result = strsr("train", "--data", photos, "--preview", tmp_path / "sheet.png", *SMALL)
    assert result.exit_code == 1
    assert f"{tmp_path / 'sheet.png'}: cannot be written" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_only_two_checkpoints_are_kept(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=5", "save_every=1", "precision=auto")
    assert Run(tmp_path / "run").saved_steps() == [4, 5]


def not_finite_in(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of those steps (counted from 1) NaN."""
    real, count = torch.nn.functional.l1_loss, iter(range(1, 1000))

    def l1_loss(pred: torch.Tensor, hq: torch.Tensor) -> torch.Tensor:
        return real(pred, hq) * (float("nan") if next(count) in steps else 1.0)

    monkeypatch.setattr("torch.nn.functional.l1_loss", l1_loss)


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite_in({2}, monkeypatch)
    run(photos, tmp_path / "run", tiny_config, "steps=3")
    assert metrics(tmp_path / "run")[-1]["skipped_steps"] == 1
    assert all(value.isfinite().all() for value in newest(tmp_path / "run").values())


def test_their_count_goes_on_over_a_resume(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite_in({2, 4}, monkeypatch)
    run(photos, tmp_path / "run", tiny_config, "steps=3")
    run(photos, tmp_path / "run", tiny_config, "steps=5")
    assert [line.get("skipped_steps") for line in metrics(tmp_path / "run")] == [None, 1, 1, 2, 2]
    assert [line.get("not_finite") for line in metrics(tmp_path / "run")] == [None, 1, None, 1, None]


def test_ten_of_them_in_a_row_stop_the_run(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite_in(set(range(4, 100)), monkeypatch)
    with pytest.raises(
        StrsrError, match=r"10 steps in a row .* last checkpoint is .*0000003; go on with a lower"
    ):
        run(photos, tmp_path / "run", tiny_config, "steps=20", "save_every=3")
    assert all(value.isfinite().all() for value in newest(tmp_path / "run").values())


def test_a_damaged_checkpoint_is_named(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=1")
    saved = Run(tmp_path / "run").latest()
    assert saved is not None
    (saved / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(StrsrError, match=r"checkpoints/0000001: cannot be resumed .*move it away"):
        run(photos, tmp_path / "run", tiny_config, "steps=2")


def test_a_run_goes_on_with_its_own_settings_only(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=1")
    for setting, named in (
        ("model.dit.depth=1", "model"),
        ("seed=5", r"seed \(seed = 0\)"),
        ("batch_size=4", "batch"),
    ):
        with pytest.raises(UsageError, match=f"was begun with other settings of {named}"):
            run(photos, tmp_path / "run", tiny_config, "steps=2", setting)
    run(photos, tmp_path / "run", tiny_config, "steps=2", "log_every=2", "learning_rate=1e-5")
    assert metrics(tmp_path / "run")[-1]["step"] == 2


def test_a_checkpoint_of_another_network_is_never_loaded_in_part(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=1")
    saved = Run(tmp_path / "run").latest()
    assert saved is not None
    tensors = load_file(saved / "model.safetensors")
    save_file({f"other.{name}": value for name, value in tensors.items()}, saved / "model.safetensors")
    with pytest.raises(StrsrError, match=r"cannot be resumed \(it has no pipeline"):
        run(photos, tmp_path / "run", tiny_config, "steps=2")


@pytest.mark.slow
def test_one_run_at_a_time(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    words = [word for setting in [*BASE, "steps=1"] for word in ("--set", setting)]
    command = [sys.executable, "-m", "strsr_cli", "train", "--data", photos, "--config", tiny_config, "--out"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with Run(tmp_path / "run").locked(True):
        other = subprocess.run(
            [*map(str, command), str(tmp_path / "run"), *words],
            env=paths,
            capture_output=True,
            text=True,
            check=False,
        )
    assert other.returncode == 1
    assert other.stderr.splitlines()[-1].startswith(
        f"strsr: another process is training in {tmp_path / 'run'}; "
    )
    assert Run(tmp_path / "run").latest() is None


def test_a_folder_that_is_not_a_run_is_left_alone(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.toml").write_text("precious")
    with pytest.raises(UsageError, match="neither empty nor a run"):
        run(photos, mine, tiny_config, "steps=1")
    assert [path.name for path in mine.iterdir()] == ["config.toml"]
    assert (mine / "config.toml").read_text() == "precious"


def test_weights_that_are_gone_are_made_again(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    weights = run(photos, tmp_path / "run", tiny_config, "steps=1")
    before = load_file(weights / "model.safetensors")
    shutil.rmtree(weights)
    assert run(photos, tmp_path / "run", tiny_config, "steps=1") == weights
    assert same(load_file(weights / "model.safetensors"), before)


def test_a_new_folder_takes_the_place_of_the_old_one_and_of_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("model", "model.old", "model.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    whole_folder(target, lambda folder: (folder / "file").write_text("fresh") and None)
    assert (target / "file").read_text() == "fresh"

    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StrsrError, match="is the disk full"):
        whole_folder(target, fail)
    assert (target / "file").read_text() == "fresh"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.new", "model.old"]


# --- settings --------------------------------------------------------------------------------------


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


def test_dry_run_tells_settings_sizes_and_memory_and_writes_nothing(
    photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = strsr("train", "--data", photos, "--config", tiny_config, "--dry-run", *SMALL)
    assert result.exit_code == 0, result.output
    told = re.search(r"about ([\d.]+) GiB \(weights", result.stdout)
    assert told is not None
    assert 0.001 < float(told.group(1)) < 0.1
    assert "1 photos, 0.1" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before
    toml = tmp_path / "resolved.toml"
    toml.write_text(result.stdout)
    assert read_config(TrainConfig, toml, []).device == "cpu"


def test_part_of_a_table_is_enough(tmp_path: Path) -> None:
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


def test_the_lattice_is_looked_at_ten_times_an_interval(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    real = logbook.lattice_curve
    monkeypatch.setattr(logbook, "lattice_curve", lambda *images: looked.append(1) or real(*images))
    run(photos, tmp_path / "run", tiny_config, "steps=21", "log_every=20", "batch_size=1")
    assert len(looked) == 11
    assert all("lattice_4_db" in line for line in metrics(tmp_path / "run"))


def test_what_cannot_be_measured_on_small_crops_is_left_out_of_the_log(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=1", "crop_size=32")
    (line,) = metrics(tmp_path / "run")
    assert "lattice_4_db" in line
    assert "lattice_16_db" not in line  # fewer than four periods


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


def test_export_wants_a_run_and_a_new_folder(
    tmp_path: Path, tiny_weights: Path, strsr: Callable[..., Result]
) -> None:
    (tmp_path / "some").mkdir()
    assert "not the folder of a run" in strsr("export", tmp_path / "some", tmp_path / "w").stderr
    (tmp_path / "run").mkdir()
    tiny_weights.rename(tmp_path / "run" / "model")
    (tmp_path / "some" / "precious.txt").write_text("mine")
    refused = strsr("export", tmp_path / "run", tmp_path / "some")
    assert refused.exit_code == 2
    assert "not an empty folder" in refused.stderr
    assert (tmp_path / "some" / "precious.txt").read_text() == "mine"


# --- several processes -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2])
def test_two_processes_draw_the_curve_of_one(
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
def test_kill_at_any_moment_loses_at_most_the_steps_since_the_checkpoint(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = [word for s in [*BASE, "steps=100000", "save_every=2"] for word in ("--set", s)]
    command = [
        sys.executable,
        "-m",
        "strsr_cli",
        "train",
        "--data",
        photos,
        "--out",
        out,
        "--config",
        tiny_config,
    ]
    for number in range(4):
        process = subprocess.Popen([*map(str, command), *settings], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        want = 4 * (number + 1)
        while time.monotonic() < deadline and not (
            out.exists() and max(Run(out).saved_steps(), default=0) >= want
        ):
            time.sleep(0.01 * (number + 1))
        process.kill()
        process.wait()
        assert max(Run(out).saved_steps()) >= want
        assert all(value.isfinite().all() for value in newest(out).values())
    run(photos, out, tiny_config, f"steps={max(Run(out).saved_steps()) + 1}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch warns itself while it compiles
def test_compiled_networks_learn_the_same(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    curves = []
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        run(photos, out, tiny_config, "steps=3", "log_every=1", f"compile={compiled}")
        curves.append([line["l1_loss"] for line in metrics(out) if "l1_loss" in line])
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
