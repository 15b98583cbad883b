from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strsr_cli.batch.job import Shard, parse_shard, resolve_shard
from strsr_models import UsageError
from strsr_models.compute.devices import resolve_device


@given(st.lists(st.integers()), st.integers(1, 9))
def test_shards_share_a_list_out_evenly(items: list[int], count: int) -> None:
    parts = [Shard(number, count).of(items) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", ""])
def test_shards_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="use K/N"):
        parse_shard(text)


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (None, {}, (1, 1, None)),
        (None, TORCHRUN, (4, 4, 1)),
        (None, {**TORCHRUN, **SRUN}, (4, 4, 1)),
        (None, SRUN, (2, 2, 0)),
        (None, {**SRUN, "SLURM_STEP_NUM_TASKS": "8"}, (2, 8, 0)),
        (None, {key: value for key, value in SRUN.items() if key != "SLURM_STEP_ID"}, (1, 1, None)),  # sbatch
        (None, {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, (1, 1, None)),
        (None, {**TORCHRUN, "RANK": "x"}, (1, 1, None)),
        ("2/3", {}, (2, 3, None)),
        ("1/1", TORCHRUN, (1, 1, 1)),
    ],
)
def test_the_environment_says_which_part_unless_the_option_does(
    given: str | None, environment: dict[str, str], expected: tuple[int, int, int | None]
) -> None:
    shard = resolve_shard(given, environment)
    assert (shard.number, shard.count, shard.local) == expected


def test_the_processes_of_a_machine_spread_over_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(resolve_device("auto", local)) for local in (None, 0, 1, 2)] == [
        "cuda",
        "cuda:0",
        "cuda:1",
        "cuda:0",  # Slurm shows each task its own GPU only
    ]
    assert str(resolve_device("cpu", 1)) == "cpu"
