"""A Ray cluster of nodes in one process, and runs of the command beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That of the nodes and the drivers: this checkout, one thread each, nothing sent anywhere."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return dict(os.environ)


@pytest.fixture
def nodes(environment: dict[str, str]) -> Iterator[Callable[..., object]]:
    """Two nodes of a CPU each beside a head without any; called, it gives the cluster."""
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 80_000_000}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **store}
    )
    workers = [cluster.add_node(num_cpus=1, **store) for _ in range(2)]
    environment["RAY_ADDRESS"] = cluster.address

    def remove() -> None:
        cluster.remove_node(workers.pop(), allow_graceful=False)

    yield remove
    cluster.shutdown()


@pytest.fixture
def start(tiny_weights: Path, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen]]:
    """Begin a run in another process, which is in a group of its own, as a shell does for each command."""
    running: list[subprocess.Popen] = []

    def begin(source: object, out: object, *options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "strsr_cli", "upscale", source, out, "--precision", "fp32", "--json"]
        command += options if "--model" in options else ["--weights", tiny_weights, *options]
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()
