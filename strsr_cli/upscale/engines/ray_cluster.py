"""A Ray cluster: connected to or started, kept off the terminal, and shared out among workers. Nothing else knows Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from strsr_models.errors import DeviceError, UsageError

from ... import __version__
from ...system.console import first_line
from ...system.machine import cores

ADDRESS = "RAY_ADDRESS"
OBJECT_STORE = 80_000_000  # bytes, about the least that Ray takes: names and events are all that pass it
CPUS = 4  # of a worker without a GPU, at most: more threads for one network pay little
LOST = "its node was lost"
ANSWER = 10.0  # s that a cluster has to answer; Ray itself would wait for minutes
# Ray reports nothing to its makers, and gives no hints about its next versions.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    """Yield the module ray, connected to the cluster of RAY_ADDRESS, or to one that lives as long as the context.

    Raises UsageError for an address that will not do, DeviceError where no cluster answers.
    """
    address = os.environ.get(ADDRESS) or "local"
    if address.startswith("ray://"):
        raise UsageError(
            f"{ADDRESS}={address}: is of Ray Client; run the command on a node, with HOST:6379 or auto"
        )
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    _check_answer(address)
    import ray

    own: dict[str, Any] = {}
    if address == "local":
        own = {"num_cpus": cores(), "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    with _silent_stdout():
        with _own_signals():
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
            except Exception as error:
                ray.shutdown()
                raise DeviceError(f"{ADDRESS}={address}: no Ray cluster: {first_line(error)}") from error
        try:
            yield ray
        finally:
            with _later_signals():
                ray.shutdown()


@contextlib.contextmanager
def _silent_stdout() -> Iterator[None]:
    """Send to nowhere what Ray says of workers that die, which would come in the middle of --json's events.

    Reporters keep the standard output that there was when they were made.
    """
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _check_answer(address: str) -> None:
    """Raise DeviceError where nobody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DeviceError(f"{ADDRESS}={address}: no Ray cluster answers: {reason}") from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Give back, at the end, the answer to SIGTERM that Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _later_signals() -> Iterator[None]:
    """Hold back ^C and SIGTERM until Ray is taken down: half of it would end the process with a code of its own.

    The second one ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            os._exit(128 + number)
        held.append(number)

    heeded = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, hold) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


@dataclass(frozen=True)
class Share:
    """What is shared out: how many workers, and the CPUs and GPUs of each."""

    workers: int
    cpus: int
    gpus: float


def share_out(
    nodes: list[dict[str, Any]], device: str, workers: int | None, gpus_per_worker: float | None
) -> Share:
    """Share a cluster out: a worker for each GPU; without GPUs, or with --device cpu, for each four CPUs of a node.

    nodes: as ray.nodes() lists them. workers: how many there are to be, also where the cluster has no room for them
    yet; None: as many as there is room for. gpus_per_worker: None: 1 where there are GPUs. Raises DeviceError where
    there is room for none.
    """
    there = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = 0.0
    if device != "cpu":
        gpus = (
            gpus_per_worker if gpus_per_worker is not None else float(any(node.get("GPU") for node in there))
        )
    if gpus:
        share = _share_of_gpus(there, gpus)
    else:
        largest = max((int(node.get("CPU", 0)) for node in there), default=0)
        cpus = max(1, min(CPUS, largest))
        share = Share(sum(int(node.get("CPU", 0)) // cpus for node in there), cpus, 0.0)
        if workers is not None:
            total = sum(int(node.get("CPU", 0)) for node in there)
            share = Share(workers, max(1, min(cpus, total // workers)), 0.0)
    if workers is not None:
        return Share(workers, share.cpus, share.gpus)
    if not share.workers:
        what = f"no node of the cluster has {gpus:g} GPUs" if gpus else "the cluster has no CPUs"
        raise DeviceError(f"--engine ray: {what}; with --workers N the command waits until there are some")
    return share


def _share_of_gpus(nodes: list[dict[str, Any]], gpus: float) -> Share:
    """Share out the nodes that have enough GPUs for a worker; their CPUs go with them."""
    fit = [node for node in nodes if node.get("GPU", 0) >= gpus]
    # The small addend is for parts such as 0.1, which sum up to a little less than a whole.
    counts = [int(node["GPU"] / gpus + 1e-6) for node in fit]
    cpus = [int(node.get("CPU", 0)) // count for node, count in zip(fit, counts, strict=True)]
    return Share(sum(counts), min(cpus, default=1), gpus)


def cause_of(error: Exception) -> str:
    """Return in a few words why a worker is gone, by what Ray says. Raises DeviceError where no worker can live."""
    text = str(error)
    if "No module named 'strsr" in text:
        raise DeviceError(
            f"--engine ray: a node of the cluster has no strsr, or an old one: pip install 'strsr[ray]=={__version__}'"
        ) from error
    if "memory" in text.partition("exit detail")[0]:
        return "its node ran out of memory"
    if "node has died" in text or "node was terminated" in text:
        return LOST
    return "the process ended without a word, as for lack of memory or a fault of a driver"
