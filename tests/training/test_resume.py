"""A run that loses no night: kills, signals, steps that are not finite, damaged checkpoints."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from strsr_cli.training.run.folder import Run
from strsr_cli.training.train import train
from strsr_models import StrsrError, UsageError

from ..helpers.training import BASE, metrics, newest, run, same


@pytest.mark.parametrize(
    "settings", [[], ["workers=1"], ["batch_size=4", "accumulate=2"]], ids=["plain", "workers", "parts"]
)
def test_a_killed_run_resumed_equals_a_straight_one(
    settings: list[str], photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run(photos, tmp_path / "straight", tiny_config, "steps=6", *settings)

    def die_at_five(line: str) -> None:
        if line.startswith("step 5/"):
            raise SystemExit  # two steps behind the checkpoint

    out = tmp_path / "killed"
    settings = [*settings, "steps=6", "save_every=3"]
    with pytest.raises(SystemExit):
        train([photos], out, tiny_config, [*BASE, *settings], die_at_five)
    assert Run(out).saved_steps() == [3]
    run(photos, out, tiny_config, *settings)
    assert same(newest(tmp_path / "straight"), newest(out))
    kept = ("step", "l1_loss", "learning_rate")
    first, second = (
        [[line[key] for key in kept] for line in metrics(tmp_path / o)] for o in ("straight", "killed")
    )
    assert first == second


# A run that gets SIGTERM in its third step, in a process of its own: a signal that is not caught ends only that one.
SIGNALLED = """
import os, pathlib, signal, sys
from strsr_cli.system.signals import Stopped
from strsr_cli.training.train import train

def terminate_at_three(line):
    if line.startswith("step 3/"):
        os.kill(os.getpid(), signal.SIGTERM)

photos, out, config, *settings = sys.argv[1:]
try:
    train([pathlib.Path(photos)], pathlib.Path(out), pathlib.Path(config), settings, terminate_at_three)
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


def test_sigterm_writes_a_checkpoint_and_the_run_goes_on(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", SIGNALLED, str(photos), str(out), str(tiny_config), *BASE, "steps=6"]
    ended = subprocess.run(command, check=False, timeout=120, capture_output=True, text=True)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    assert Run(out).saved_steps() == [4]  # after the step under way
    run(photos, out, tiny_config, "steps=6")
    run(photos, tmp_path / "straight", tiny_config, "steps=6")
    assert same(newest(tmp_path / "straight"), newest(out))


def not_finite_in(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of those steps (counted from 1) NaN."""
    real, count = torch.nn.functional.l1_loss, iter(range(1, 1000))

    def l1_loss(pred: torch.Tensor, hq: torch.Tensor, **options: object) -> torch.Tensor:
        return real(pred, hq, **options) * (float("nan") if next(count) in steps else 1.0)

    monkeypatch.setattr(torch.nn.functional, "l1_loss", l1_loss)


def test_a_step_that_is_not_finite_is_skipped_and_counted(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite_in({2}, monkeypatch)
    run(photos, tmp_path / "run", tiny_config, "steps=3")
    assert metrics(tmp_path / "run")[-1]["skipped_steps"] == 1
    assert all(value.isfinite().all() for value in newest(tmp_path / "run").values())


def test_skipped_steps_are_counted_on_over_a_resume(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_finite_in({2, 4}, monkeypatch)
    run(photos, tmp_path / "run", tiny_config, "steps=3")
    run(photos, tmp_path / "run", tiny_config, "steps=5")
    assert [line.get("skipped_steps") for line in metrics(tmp_path / "run")] == [None, 1, 1, 2, 2]
    assert [line.get("not_finite") for line in metrics(tmp_path / "run")] == [None, 1, None, 1, None]


def test_ten_steps_in_a_row_that_are_not_finite_stop_the_run(
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
def test_a_kill_loses_at_most_the_steps_since_the_checkpoint(
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
