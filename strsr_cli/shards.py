"""A list split among processes that know nothing of each other but their number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from strsr_models.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, from 1. local: this process's number on its machine, from 0, if known."""

    number: int = 1
    count: int = 1
    local: int | None = None
    source: str = ""  # what said so

    def of(self, items: list[T]) -> list[T]:
        """Every count-th item: the same ones in every process that has the same list."""
        return items[self.number - 1 :: self.count]


def parse_shard(text: str) -> Shard:
    """`2/4` -> the second of four."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match:
        number, count = int(match[1]), int(match[2])
        if 1 <= number <= count:
            return Shard(number, count, source="--shard")
    raise UsageError(f"--shard {text}: use K/N, the part and how many there are, such as 2/4")


def resolve_shard(given: str | None, environment: Mapping[str, str]) -> Shard:
    """What --shard says; else what torchrun, accelerate launch or srun have put into the environment.

    The GPU goes by the environment even where the part is given. In an sbatch script itself, outside
    of srun, Slurm's variables speak of the job and not of processes: they are not followed.
    """
    found = Shard()
    if "RANK" in environment and "WORLD_SIZE" in environment:
        found = _numbered(environment, "RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif environment.get("SLURM_STEP_ID", "").isdecimal():
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
        found = _numbered(environment, "SLURM_PROCID", tasks, "SLURM_LOCALID")
    if given is None:
        return found
    shard = parse_shard(given)
    return Shard(shard.number, shard.count, found.local, shard.source)


def _numbered(environment: Mapping[str, str], rank: str, size: str, local: str) -> Shard:
    numbers = [environment.get(name, "") for name in (rank, size, local)]
    if not all(number.isdecimal() for number in numbers[:2]):
        return Shard()
    number, count = int(numbers[0]) + 1, int(numbers[1])
    if count < 2 or number > count:
        return Shard()
    return Shard(number, count, int(numbers[2]) if numbers[2].isdecimal() else None, f"{rank} and {size}")
