"""The memory of a container: limits of groups of processes, in trees of files as Linux shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from typer.testing import Result

from strsr_cli.setup import doctor
from strsr_cli.system import machine
from strsr_cli.system.memory import Memory, group_limits, memory

GB = 10**9
UNLIMITED = 9223372036854771712  # as the first kind of groups has it
SECOND = "30 24 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
FIRST = "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
OTHER = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def process(system: Path, cgroup: str, mountinfo: str) -> None:
    write(system / "proc/self/cgroup", cgroup)
    write(system / "proc/self/mountinfo", mountinfo)


def second(system: Path, group: str, limit: object, used: int = 0, cache: int = 0) -> None:
    folder = system / "sys/fs/cgroup" / group
    write(folder / "memory.max", limit)
    write(folder / "memory.current", used)
    write(folder / "memory.stat", f"anon 5\ninactive_file {cache}\nactive_file 3")


def first(system: Path, group: str, limit: object, used: int = 0, cache: int = 0) -> None:
    folder = system / "sys/fs/cgroup/memory" / group
    write(folder / "memory.limit_in_bytes", limit)
    write(folder / "memory.usage_in_bytes", used)
    write(folder / "memory.stat", f"inactive_file 7\ntotal_inactive_file {cache}")


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    process(tmp_path, "0::/", SECOND.format(root="/"))
    second(tmp_path, "", 2 * GB, used=GB, cache=GB // 4)
    assert list(group_limits(tmp_path)) == [(2 * GB, 2 * GB - 3 * GB // 4)]
    there = memory(tmp_path)
    assert there.total == min(2 * GB, psutil.virtual_memory().total)
    assert there.free is not None
    assert there.free <= 2 * GB - 3 * GB // 4


def test_limits_of_the_groups_above_count(tmp_path: Path) -> None:
    process(tmp_path, "0::/jobs/7/step", SECOND.format(root="/"))
    second(tmp_path, "jobs", 4 * GB, used=3 * GB)
    second(tmp_path, "jobs/7", 2 * GB, used=GB // 2)
    second(tmp_path, "jobs/7/step", "max")
    assert list(group_limits(tmp_path)) == [(4 * GB, GB), (2 * GB, 3 * GB // 2)]


def test_the_first_kind_of_groups_is_read(tmp_path: Path) -> None:
    process(tmp_path, "5:memory,hugetlb:/docker/ab\n4:cpu:/x\n0::/system", OTHER + FIRST.format(root="/"))
    first(tmp_path, "", UNLIMITED)
    first(tmp_path, "docker/ab", 2 * GB, used=GB, cache=GB)
    assert list(group_limits(tmp_path))[-1] == (2 * GB, 2 * GB)
    assert memory(tmp_path).total == min(2 * GB, psutil.virtual_memory().total)


@pytest.mark.parametrize("cgroup", ["5:memory:/docker/ab", "5:memory:/docker/ab/below", "5:memory:/other"])
def test_a_mounted_part_of_the_tree_is_the_own_group(cgroup: str, tmp_path: Path) -> None:
    process(tmp_path, cgroup, FIRST.format(root="/docker/ab"))
    first(tmp_path, "", 2 * GB, used=GB)
    first(tmp_path, "below", UNLIMITED)
    assert next(group_limits(tmp_path)) == (2 * GB, GB)


def test_names_of_groups_may_hold_colons(tmp_path: Path) -> None:
    process(tmp_path, "0::/a:b/c", SECOND.format(root="/"))
    second(tmp_path, "a:b/c", GB)
    assert list(group_limits(tmp_path)) == [(GB, GB)]


@pytest.mark.parametrize("limit", ["", "max", "no number", UNLIMITED])
def test_no_limit_leaves_the_machine_s_memory(limit: object, tmp_path: Path) -> None:
    process(tmp_path, "0::/../../up", SECOND.format(root="/.."))
    second(tmp_path, "", limit)
    assert memory(tmp_path).total == psutil.virtual_memory().total


def test_a_system_without_groups_has_its_own_memory(tmp_path: Path) -> None:
    assert list(group_limits(tmp_path)) == []
    assert memory(tmp_path).total == psutil.virtual_memory().total


def test_usual_places_are_looked_at_where_no_mounts_are_told(tmp_path: Path) -> None:
    second(tmp_path, "", GB, used=GB // 2)
    assert list(group_limits(tmp_path)) == [(GB, GB // 2)]


def test_doctor_says_what_fits_into_a_container(
    strsr: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process(tmp_path, "0::/", SECOND.format(root="/"))
    second(tmp_path, "", 2 * 2**30)
    monkeypatch.setattr(machine, "memory", lambda: memory(tmp_path))
    examination = json.loads(strsr("doctor", "--json", "--models-dir", tmp_path).stdout)
    assert examination["cpu"]["total_bytes"] == 2 * 2**30
    fits = {(row["model"], row["device"]): row["fits"] for row in examination["fit"]}
    assert fits["zimage", "cpu"] is fits["flux2", "cpu"] is False
    assert doctor.peak_bytes("zimage", "fp32") > 2 * 2**30
    monkeypatch.setattr(machine, "memory", lambda: Memory(None, None))
    assert json.loads(strsr("doctor", "--json", "--models-dir", tmp_path).stdout)["cpu"]["free_bytes"] is None
