from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import safe_open
from typer.testing import Result

from strsr_cli.training.config_files import read_config
from strsr_cli.training.distill import distill, read_distill_config
from strsr_cli.training.loop import learning_rate
from strsr_cli.training.run import logbook
from strsr_cli.training.run.folder import Run
from strsr_cli.training.settings import TrainConfig
from strsr_cli.training.train import train
from strsr_models.errors import UsageError

from ..helpers.training import metrics

LOOP = [
    "batch_size=2",
    "crop_size=32",
    "workers=0",
    "device=cpu",
    "precision=fp32",
    "tensorboard=false",
    "log_every=1",
    "warmup_steps=1",
    "steps=50",
    "learning_rate=1e-3",
    "final_learning_rate=1e-5",
    "degrade.clean_share=1",
    "degrade.mild_share=0",
]
DISTILL = [*LOOP, "coach=none", "fdl_weight=0", "perceptual_weight=0", "judge_shift=0"]


class Clock:
    """Stands still, but for one minute behind each step of a run."""

    def __init__(self, dies_at: int = 0) -> None:
        self.now, self.dies_at = 5000.0, dies_at

    def monotonic(self) -> float:
        return self.now

    def report(self, line: str) -> None:
        if line.startswith("step "):
            self.now += 60
            if line.startswith(f"step {self.dies_at}/"):
                raise SystemExit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clock]:
    """A clock in place of the run's."""

    def start(dies_at: int = 0) -> Clock:
        clock = Clock(dies_at)
        monkeypatch.setattr(logbook, "time", SimpleNamespace(monotonic=clock.monotonic))
        return clock

    return start


@pytest.fixture
def go(
    photos: Path, tiny_weights: Path, tmp_path: Path, clock: Callable[..., Clock]
) -> Callable[..., list[int]]:
    """Run or resume a distillation, always in the same folder; the steps logged so far."""

    def run(*settings: str, dies_at: int = 0) -> list[int]:
        out, now = tmp_path / "run", clock(dies_at)
        distill(str(tiny_weights), [photos], out, None, [*DISTILL, *settings], now.report)
        return [int(line["step"]) for line in metrics(out)]

    return run


def metadata(out: Path) -> dict[str, str]:
    with safe_open(out / "model" / "model.safetensors", "pt") as file:
        return dict(file.metadata())


def test_a_run_ends_by_the_clock(go: Callable[..., list[int]], tmp_path: Path) -> None:
    """Its step 4 is the first behind which three minutes are over."""
    assert go("minutes=3") == [1, 2, 3, 4]
    run = Run(tmp_path / "run")
    assert run.saved_steps() == [4]
    assert run.minutes() == 3
    rates = [line["learning_rate"] for line in metrics(run.folder)]
    falls = [0.5 * (1 + math.cos(math.pi * share)) for share in (0, 1 / 3, 2 / 3, 1)]
    assert rates == pytest.approx([1e-5 + (1e-3 - 1e-5) * fall for fall in falls])


def test_a_run_that_is_over_trains_no_further_step(go: Callable[..., list[int]], tmp_path: Path) -> None:
    go("minutes=1")
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert go("minutes=1") == [1, 2]
    assert Run(tmp_path / "run").saved_steps() == [2]
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before
    assert go("minutes=2") == [1, 2, 3, 4]  # more time: goes on from minute 1


def test_a_stopped_run_counts_the_minutes_before_the_stop(
    go: Callable[..., list[int]], tmp_path: Path
) -> None:
    """Those that its newest checkpoint knows of."""
    with pytest.raises(SystemExit):
        go("minutes=3", "save_every=2", dies_at=3)
    assert Run(tmp_path / "run").minutes() == 1
    assert go("minutes=3", "save_every=2") == [1, 2, 3, 4, 5]
    assert Run(tmp_path / "run").minutes() == 3


def test_minutes_before_count_once(go: Callable[..., list[int]], tmp_path: Path) -> None:
    assert go("minutes=3", "minutes_before=2") == [1, 2]
    assert Run(tmp_path / "run").minutes() == 3
    assert go("minutes=5", "minutes_before=2") == [1, 2, 3, 4, 5]
    assert Run(tmp_path / "run").minutes() == 5


def test_steps_end_a_run_that_has_minutes_left(go: Callable[..., list[int]], tmp_path: Path) -> None:
    assert go("minutes=100", "steps=2") == [1, 2]
    rates = [line["learning_rate"] for line in metrics(tmp_path / "run")]
    assert rates == pytest.approx([1e-3, 1e-5 + (1e-3 - 1e-5) / 2])


def test_the_clock_ends_training_runs_too(
    photos: Path, tiny_weights: Path, tmp_path: Path, clock: Callable[..., Clock]
) -> None:
    out, settings = tmp_path / "run", [*LOOP, f"init={tiny_weights}", "minutes=1"]
    train([photos], out, None, settings, clock().report)
    train([photos], out, None, settings, clock().report)
    assert [line["step"] for line in metrics(out)] == [1, 2]
    assert Run(out).minutes() == 1
    assert [line["learning_rate"] for line in metrics(out)] == pytest.approx([1e-3, 1e-5])
    assert metadata(out)["minutes"] == "1.00"


def test_a_run_ends_by_the_real_clock(
    photos: Path, tiny_weights: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    words = [word for s in [*DISTILL, "steps=1000000", "minutes=0.01"] for word in ("--set", s)]
    out = tmp_path / "run"
    result = strsr("distill", "--data", photos, "--student", tiny_weights, "--out", out, *words)
    assert result.exit_code == 0, result.output
    assert 0.01 <= float(metadata(out)["minutes"]) < 5


def test_weights_say_run_and_minutes_of_runs_by_the_clock(
    go: Callable[..., list[int]], tmp_path: Path
) -> None:
    go("minutes=1.5")
    said = metadata(tmp_path / "run")
    assert (said["run"], said["minutes"], said["steps"]) == ("run", "2.00", "3")


def test_weights_of_other_runs_say_neither(go: Callable[..., list[int]], tmp_path: Path) -> None:
    go("steps=1")
    said = metadata(tmp_path / "run")
    assert said["steps"] == "1"
    assert not {"run", "minutes"} & said.keys()


@pytest.mark.parametrize("text", [None, "", "[", "null", '"soon"'])
def test_a_checkpoint_that_says_no_minutes_counts_none(text: str | None, tmp_path: Path) -> None:
    """As those from before there was a clock."""
    run = Run(tmp_path)
    assert run.minutes() == 0
    run.checkpoint(7).mkdir()
    if text is not None:
        (run.checkpoint(7) / "minutes.json").write_text(text)
    assert run.minutes() == 0


def test_the_learning_rate_follows_the_share_of_the_run() -> None:
    settings = ["steps=1000", "warmup_steps=4", "learning_rate=0.01", "final_learning_rate=0.001"]
    config = read_config(TrainConfig, None, settings)
    assert learning_rate(config, 500, 0.0) == pytest.approx(0.01)
    assert learning_rate(config, 5, 0.5) == pytest.approx(0.0055)
    assert learning_rate(config, 5, 1.0) == pytest.approx(0.001)
    assert learning_rate(config, 5, 1.7) == pytest.approx(0.001)  # the clock may run over
    assert learning_rate(config, 1, 0.0) == pytest.approx(0.005)  # still warming up
    assert learning_rate(config, 250) == learning_rate(config, 250, 0.25)


@pytest.mark.parametrize("setting", ["minutes=-1", "minutes_before=-1", "minutes=inf", "minutes=soon"])
def test_impossible_minutes_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        read_distill_config("lite", None, [*DISTILL, setting])
