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


@pytest.mark.parametrize(
    "text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "", "auto", "auto/", "AUTO/2"]
)
def test_shards_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="use K/N"):
        parse_shard(text, {})


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
BATCH = {"AWS_BATCH_JOB_ARRAY_INDEX": "2", "AWS_BATCH_JOB_ARRAY_SIZE": "10"}
INDEXED = {"JOB_COMPLETION_INDEX": "2"}
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
        (None, BATCH, (3, 10, None)),
        (None, {**BATCH, **TORCHRUN}, (4, 4, 1)),
        (None, {**INDEXED, "STRSR_SHARDS": "5"}, (3, 5, None)),
        (None, {"STRSR_SHARDS": "5"}, (1, 1, None)),
        ("2/3", {}, (2, 3, None)),
        ("2/3", INDEXED, (2, 3, None)),
        ("1/1", BATCH, (1, 1, None)),
        ("auto/5", INDEXED, (3, 5, None)),
        ("auto/4", BATCH, (3, 4, None)),
        ("1/1", TORCHRUN, (1, 1, 1)),
    ],
)
def test_the_environment_says_which_part_unless_the_option_does(
    given: str | None, environment: dict[str, str], expected: tuple[int, int, int | None]
) -> None:
    shard = resolve_shard(given, environment)
    assert (shard.number, shard.count, shard.local) == expected


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        (None, INDEXED, "nothing says of how many: set STRSR_SHARDS, or use --shard auto/N"),
        (None, {"AWS_BATCH_JOB_ARRAY_INDEX": "2"}, "set AWS_BATCH_JOB_ARRAY_SIZE"),
        (None, {**INDEXED, "STRSR_SHARDS": "2"}, "must be an index from 0 and a count"),
        (None, {**INDEXED, "STRSR_SHARDS": "many"}, "must be an index from 0 and a count"),
        (None, {**BATCH, "AWS_BATCH_JOB_ARRAY_INDEX": ""}, "must be an index from 0 and a count"),
        ("auto/2", INDEXED, "counts from 0 to N - 1"),
        ("auto/2", {}, "none of AWS_BATCH_JOB_ARRAY_INDEX, JOB_COMPLETION_INDEX is set"),
    ],
)
def test_index_without_a_fitting_count_is_refused(
    given: str | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_shard(given, environment)


@pytest.mark.parametrize(("length", "count"), [(0, 3), (2, 5), (10, 1), (10, 3), (12, 4)])
def test_rest_of_a_list_begins_elsewhere_for_each_part(length: int, count: int) -> None:
    items = list(range(length))
    rests = [Shard(number, count).rest(items) for number in range(1, count + 1)]
    for number, rest in enumerate(rests, 1):
        assert sorted(rest + Shard(number, count).of(items)) == items
    if length == 12:
        assert [rest[0] for rest in rests] == [1, 3, 7, 9]


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
