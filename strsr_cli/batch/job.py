"""One image to make, and a list of them split among processes that know nothing of each other but their number."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from strsr_models.errors import ImageError, UsageError

from ..images.places import RemoteFile
from ..system.paths import exists

STREAM = "-"  # in place of a path: standard input or output
Source = Path | RemoteFile
# Paths of streams that a process has open already.
DESCRIPTOR = re.compile(
    r"/dev/(?:fd/(?P<number>\d+)|(?P<name>stdin|stdout|stderr))|/proc/self/fd/(?P<own>\d+)"
)


def descriptor_of(path: Path) -> int | None:
    """Return the number of the open stream that a path such as /dev/fd/3 means; None for any other path."""
    match = DESCRIPTOR.fullmatch(path.as_posix())
    if match is None:
        return None
    if match["name"]:
        return ("stdin", "stdout", "stderr").index(match["name"])
    return int(match["number"] or match["own"])


@dataclass(frozen=True, slots=True)
class Job:
    """One image to make; its source and its target are files or remote objects, or None where that is a stream.

    frame: the number, from 1, of a frame or page, where those of a file are made one by one. count: how many
    of them that file has. pipe: a named pipe that is read in place of standard input. sink: a pipe or device that is
    written in place of standard output.
    """

    source: Source | None
    target: Source | None
    kind: str  # format of the output, a key of OUTPUT_FORMATS
    frame: int | None = None
    count: int = 1
    pipe: Path | None = None
    sink: Path | None = None

    @property
    def name(self) -> str:
        """The source as messages call it."""
        if self.source is None:
            return STREAM if self.pipe is None else str(self.pipe)
        return str(self.source) if self.frame is None else f"{self.source} (frame {self.frame})"

    def written(self) -> int | None:
        """Return the size in bytes of the finished output's file; None of a stream or an object."""
        try:
            return self.target.stat().st_size if isinstance(self.target, Path) else None
        except OSError:
            # Somebody has taken it away already.
            return None

    def read_stream(self) -> bytes:
        """Return all bytes of a stream, which can be read only once. Raises ImageError."""
        try:
            return sys.stdin.buffer.read() if self.pipe is None else self.pipe.read_bytes()
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be read: {error.strerror or error}") from error

    def write_stream(self, file: BinaryIO) -> None:
        """Copy a finished file, from where it stands, to the stream that takes the output. Raises OSError."""
        if self.sink is None:
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        number = descriptor_of(self.sink)
        # To open the path of an open stream would begin its file anew.
        with open(self.sink if number is None else os.dup(number), "wb") as stream:
            shutil.copyfileobj(file, stream)

    @property
    def target_name(self) -> str:
        """The target as messages call it."""
        if self.target is not None:
            return str(self.target)
        return STREAM if self.sink is None else str(self.sink)

    @property
    def finished(self) -> bool:
        """Whether the output is there; outputs appear whole, so a file that exists is done."""
        return isinstance(self.target, Path) and exists(self.target)


T = TypeVar("T")

# Of array jobs: the variable with the index, from 0, and the one with the count.
ARRAYS = {
    "AWS_BATCH_JOB_ARRAY_INDEX": "AWS_BATCH_JOB_ARRAY_SIZE",
    "JOB_COMPLETION_INDEX": "STRSR_SHARDS",
}


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1, of a list that several processes share.

    local: this process's number on its machine, from 0, if known. source: what said so.
    """

    number: int = 1
    count: int = 1
    local: int | None = None
    source: str = ""

    def of(self, items: list[T]) -> list[T]:
        """Return every count-th item: the same ones in every process that has the same list."""
        return items[self.number - 1 :: self.count]

    def rest(self, items: list[T]) -> list[T]:
        """Return all other items, from a place that is each shard's own, and round to it."""
        begin = len(items) * (self.number - 1) // self.count
        order = [*range(begin, len(items)), *range(begin)]
        return [items[place] for place in order if place % self.count != self.number - 1]


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Return the shard that a text stands for: `2/4` is the second of four; `auto/4` goes by the environment.

    Raises UsageError for other texts, and for `auto` where the environment names no index.
    """
    match = re.fullmatch(r"(\d{1,6}|auto)/(\d{1,6})", text)
    if match is None:
        raise UsageError(f"--shard {text}: use K/N, the part and how many there are, such as 2/4")
    count = int(match[2])
    if match[1] == "auto":
        return _auto_shard(count, environment, text)
    number = int(match[1])
    if not 1 <= number <= count:
        raise UsageError(f"--shard {text}: use K/N, the part and how many there are, such as 2/4")
    return Shard(number, count, source="--shard")


def resolve_shard(given: str | None, environment: Mapping[str, str]) -> Shard:
    """Return the shard of this process: the one that --shard gives, else the one that the environment names.

    torchrun, accelerate launch and srun put it into the environment, as do array jobs of AWS Batch and indexed
    Jobs of Kubernetes. The GPU goes by the environment even where the part is given. In an sbatch script itself,
    outside of srun, Slurm's variables speak of the job and not of processes: they are not followed.
    Raises UsageError for an index without a count, of which nobody can tell the part.
    """
    launched = _launched_shard(environment)
    if given is not None:
        return replace(parse_shard(given, environment), local=launched.local)
    return _array_shard(environment) if launched.count == 1 else launched


def keeps_exit_code(environment: Mapping[str, str]) -> bool:
    """Whether exit code 1, for images that failed, means to the launcher of this process what it means to us.

    torchrun ends the other processes for it, and prints a traceback of its own.
    """
    return "TORCHELASTIC_RUN_ID" not in environment


def _launched_shard(environment: Mapping[str, str]) -> Shard:
    """Return the shard by torchrun, accelerate launch or srun; a single part without them."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _read_shard(environment, "RANK", "WORLD_SIZE", "LOCAL_RANK")
    if environment.get("SLURM_STEP_ID", "").isdecimal():
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
        return _read_shard(environment, "SLURM_PROCID", tasks, "SLURM_LOCALID")
    return Shard()


def _array_shard(environment: Mapping[str, str]) -> Shard:
    """Return the shard by AWS Batch or Kubernetes, whose jobs are numbered from 0; a single part without them."""
    for index, size in ARRAYS.items():
        if index not in environment:
            continue
        if size not in environment:
            raise UsageError(
                f"{index} is {environment[index]}, and nothing says of how many: set {size}, "
                f"or use --shard auto/N (--shard 1/1: all images)"
            )
        number, count = environment[index], environment[size]
        if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
            raise UsageError(
                f"{index} is {number} and {size} is {count}: must be an index from 0 and a count"
            )
        return Shard(int(number) + 1, int(count), source=f"{index} and {size}")
    return Shard()


def _auto_shard(count: int, environment: Mapping[str, str], text: str) -> Shard:
    """Return the shard of `count` that the index of an array job names."""
    for index in ARRAYS:
        number = environment.get(index, "")
        if number.isdecimal():
            if int(number) >= count:
                raise UsageError(f"--shard {text}: {index} is {number}, which counts from 0 to N - 1")
            return Shard(int(number) + 1, count, source=f"{index} and --shard")
    raise UsageError(f"--shard {text}: none of {', '.join(ARRAYS)} is set; use K/N, such as 2/4")


def _read_shard(environment: Mapping[str, str], rank: str, size: str, local: str) -> Shard:
    """Return the shard that the variables of those three names describe; a single part where they do not."""
    rank_text, size_text = environment.get(rank, ""), environment.get(size, "")
    if not rank_text.isdecimal() or not size_text.isdecimal():
        return Shard()
    number, count = int(rank_text) + 1, int(size_text)
    if count < 2 or number > count:
        return Shard()
    local_text = environment.get(local, "")
    return Shard(
        number=number,
        count=count,
        local=int(local_text) if local_text.isdecimal() else None,
        source=f"{rank} and {size}",
    )
