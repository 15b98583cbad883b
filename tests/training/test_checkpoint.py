from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from strsr_cli.training.environment import make_accelerator
from strsr_cli.training.run.checkpoint import NON_FINITE_LIMIT, Guard
from strsr_cli.training.run.folder import Run
from strsr_cli.training.run.progress import Meter
from strsr_cli.training.settings import LoopConfig
from strsr_models import StrsrError, UsageError

# --- means -----------------------------------------------------------------------------------------


def test_a_mean_leaves_out_values_that_are_not_finite() -> None:
    meter = Meter(Accelerator(cpu=True))
    for value in (1.0, float("nan"), 3.0, float("inf")):
        meter.add({"l1_loss": torch.tensor(value), "lattice_16_db": torch.tensor(float("nan"))})
    values = meter.take(8)
    assert values["l1_loss"] == 2
    assert values["not_finite"] == 2
    assert values["lattice_16_db"] != values["lattice_16_db"]  # nothing was measured
    meter.add({"l1_loss": torch.tensor(5.0)})
    assert meter.take(2).keys() == {"l1_loss", "crops_per_s"}


# --- steps in fp16 ---------------------------------------------------------------------------------


class Scaled:
    """A real gradient scaler on the CPU around a parameter whose gradient overflows on demand."""

    def __init__(self, run: Run, scale: float) -> None:
        self.accelerator = Accelerator(cpu=True)
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        self.weight = nn.Parameter(torch.ones(1))
        self.sgd = torch.optim.SGD([self.weight], 0.1)
        self.guard, self.number = Guard(run), 0

    def step(self) -> None:  # as accelerate's optimiser
        self.accelerator.scaler.step(self.sgd)
        self.accelerator.scaler.update()

    def zero_grad(self, set_to_none: bool) -> None:
        self.sgd.zero_grad(set_to_none)

    def train(self, factor: float) -> bool:
        self.number += 1
        self.accelerator.scaler.scale(factor * self.weight.sum()).backward()
        return self.guard.step(self.accelerator, self, [self.weight], 1e9, self.number)


def test_overflows_that_look_for_the_scale_do_not_stop_a_run(tmp_path: Path) -> None:
    scaled = Scaled(Run(tmp_path / "run"), 2.0**40)
    taken = [scaled.train(1e30) for _ in range(16)]  # fits into float32 below a scale of about 2^28
    assert taken.index(True) == 12 > NON_FINITE_LIMIT
    assert all(taken[12:])
    assert scaled.guard.skipped == 12
    assert scaled.guard.healthy


def test_a_loss_that_is_never_finite_stops_it_all_the_same(tmp_path: Path) -> None:
    scaled = Scaled(Run(tmp_path / "run"), 4.0)
    for _ in range(11):  # scales 2 and 1 are still a search
        assert not scaled.train(float("nan"))
    with pytest.raises(StrsrError, match="10 steps in a row were not finite"):
        scaled.train(float("nan"))


# --- processes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_engines_that_take_parameters_apart_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(UsageError, match=f"{name}, which does not work here: set it up for DDP"):
        make_accelerator(LoopConfig(device="cpu"))


HOLD = """
import sys, time
from pathlib import Path
from strsr_cli.training.run.folder import Run
with Run(Path(sys.argv[1])).locked(True):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has a run's folder."""
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, env=paths, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_run_is_one_process_s_until_that_is_killed(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    with pytest.raises(StrsrError, match=f"another process is training in {run.folder}"), run.locked(True):
        pass
    with run.locked(False):  # a process of the same command that is not the main one
        pass
    holder.kill()
    holder.wait()
    with run.locked(True):
        pass
