"""A worker of a cluster: it loads the networks once, and takes chunks of images through the stages.

It runs on any node that has the same strsr and sees the same INPUT and OUTPUT. It claims nothing, since the driver has;
it writes outputs and its part of the journal itself, and its events go back in batches.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from strsr_models.errors import StrsrError, WeightsError

from ...batch.job import Job
from ...batch.state import BatchState
from ...system.atomic import drop_unfinished
from ...system.console import first_line
from ...system.signals import OUR_THREADS, Stop
from ..preflight import weights_hash
from .events import Event, Forwarder
from .order import Order, check_node, worker_state

if TYPE_CHECKING:
    from ..stages import Stages

log = logging.getLogger(__name__)

INTERVAL = 0.5  # s between two reports of a worker


class Worker:
    """The actor. `load` and `work` yield lists of events; an error that ends the run is the event "fatal"."""

    def __init__(self, order: Order) -> None:
        self.order, self.options = order, order.options
        self.reporter = Forwarder(order.quiet, order.verbose)
        self.stop_wish = Stop()
        self.threads = max(1, order.cpus)
        self.stages: Stages | None = None
        self.state = BatchState()

    def load(self) -> Iterator[list[Event]]:
        """Look whether this node is fit for the batch, and load what all chunks have in common."""
        yield from self._stream(self._load)

    def work(self, jobs: list[Job]) -> Iterator[list[Event]]:
        """Make the images of a chunk."""
        yield from self._stream(partial(self._work, jobs))

    def stop(self) -> None:
        """Finish the images under way, and begin no other."""
        self.stop_wish.requested = True

    def leave(self) -> None:
        """End this process at once, and leave nothing half written."""
        drop_unfinished()
        os._exit(0)

    def _stream(self, work: Callable[[], None]) -> Iterator[list[Event]]:
        """Yield the events of some work, which has a thread of its own, until its end."""
        self.reporter.ended.clear()
        threading.Thread(target=self._guard, args=(work,), name=OUR_THREADS + "chunk", daemon=True).start()
        ended = False
        while not ended:
            ended = self.reporter.ended.wait(INTERVAL)
            if events := self.reporter.fetch():
                yield events

    def _guard(self, work: Callable[[], None]) -> None:
        """Do some work; what it raises ends the run, and is forwarded."""
        where = f"on node {platform.node()}"
        try:
            work()
        except StrsrError as error:
            self.reporter.add("fatal", type(error)(f"{error} ({where})"))
        except OSError as error:
            self.reporter.add("fatal", StrsrError(f"{error} ({where})"))
        except Exception as error:
            log.debug("not foreseen", exc_info=error)
            reason = f"{type(error).__name__}: {first_line(error)} ({where})"
            self.reporter.add("fatal", StrsrError(f"{reason}; this is a bug of strsr, please report it"))
        finally:
            self.reporter.ended.set()

    def _load(self) -> None:
        order = self.order
        check_node(order)
        self.options = replace(
            order.options,
            device=devices(order.gpus),
            jobs=order.options.jobs or max(1, self.threads // 2),
            local=None,
        )
        hashed = weights_hash(self.options)
        # Where there are none, loading them will say so.
        if hashed and hashed != order.weights:
            raise WeightsError(f"the weights of {self.options.model} are others than where the command runs")
        self.state = worker_state(order, reporter=self.reporter, stop=self.stop_wish)
        if self.options.big is None:
            from ..stages import load_stages
            from ..workers import set_thread_count

            set_thread_count(self.threads)
            loaded = load_stages([], self.options, self.reporter, self.state, self.threads)
            self.stages = loaded[0] if loaded is not None else None

    def _work(self, jobs: list[Job]) -> None:
        """Take a chunk through the stages: with lite's networks as they are, with others' loaded for each chunk."""
        from ..stages import load_stages
        from ..workers import pool_size, set_thread_count, threads_for_workers

        set_thread_count(self.threads)
        with threads_for_workers(2 * min(pool_size(self.options.jobs), len(jobs)) + 1) as threads:
            stages = self.stages
            if stages is None:
                free_memory()
                loaded = load_stages(jobs, self.options, self.reporter, self.state, threads)
                if loaded is None:
                    return
                stages, jobs = loaded
            stages.run(jobs)


def devices(gpus: float) -> str:
    """Return --device of a worker with so many GPUs, which are all that it sees.

    Where torch finds none of them, that is an error rather than a reason to go on slowly.
    """
    if not gpus:
        return "cpu"
    return "cuda" if gpus <= 1 else ",".join(f"cuda:{number}" for number in range(int(gpus)))


def free_memory() -> None:
    """Let go of the networks of an earlier chunk, before those of the next one come."""
    import gc

    import torch

    # Modules and their hooks hold each other, so that only the collector frees them.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
