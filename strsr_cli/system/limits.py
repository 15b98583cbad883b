"""What the system allows this process of threads and memory, and one line where that is too little."""

from __future__ import annotations

import errno
import gc
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from strsr_models.errors import DeviceError

try:
    import resource
except ImportError:
    # Windows has no such limits.
    resource = None  # type: ignore[assignment]

FEW_THREADS = 10_000  # a limit from which on nobody's threads are counted
CGROUP_LIMITS = ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max")
NO_THREAD = "can't start new thread"
THREAD_ADVICE = "allow more (ulimit -u, a container's pids limit), or use fewer: --jobs 1, OMP_NUM_THREADS=1"
DEVICE_ADVICE = "end what else uses it, or try --device cpu"
MEMORY_ADVICE = "allow more (ulimit -v, a container's memory limit)"

# What loaders and libraries call memory that they do not get.
_NO_MEMORY = ("failed to map segment", "annot allocate memory", "can't allocate memory", "static TLS block")

# How many threads each library starts by itself while it is loaded, in the order of its variables.
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def startable_threads(wanted: int) -> int:
    """Return how many of the wanted number of threads can be started beside those that are there, by trying it."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except (RuntimeError, MemoryError):
        pass
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return len(threads)


def lacks_threads(wanted: int) -> bool:
    """Whether fewer than the wanted number of threads can be started; tried only where the system has a low limit.

    Where memory is limited it is not tried, for threads leave some of it taken.
    """
    if resource is not None and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return False
    return _limit_of_threads() < FEW_THREADS and startable_threads(wanted) < wanted


def _limit_of_threads() -> float:
    """Return how many processes and threads this user, or this container, may have."""
    limits = [math.inf]
    if resource is not None:
        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        limits += [] if soft == resource.RLIM_INFINITY else [soft]
    for path in CGROUP_LIMITS:
        # There is no such container, or its limit is the word "max".
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits)


def spare_threads(cores: int) -> None:
    """Let libraries that are not loaded yet compute with one thread each, where the system does not allow them more.

    OpenBLAS and OpenMP end the process where they cannot start what they want.
    """
    # Two libraries have pools of that size, and a handful of threads reads, restores and writes.
    if lacks_threads(2 * cores + 6):
        for name in _POOLS:
            os.environ[name] = "1"


def require_threads(wanted: int) -> None:
    """Raise DeviceError where fewer than the wanted number of threads can be started beside those that are there."""
    if lacks_threads(wanted):
        raise DeviceError(f"{wanted} more threads cannot be started; {THREAD_ADVICE}")


def scarcity(error: BaseException) -> str | None:
    """Return in one line what the system does not give this process, by an error; None for errors of other kinds."""
    text = str(error)
    if isinstance(error, RuntimeError) and NO_THREAD in text:
        return f"no more threads can be started; {THREAD_ADVICE}"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return f"out of memory; {MEMORY_ADVICE}"
    # PyTorch is not loaded for its error's sake.
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({text.partition('. ')[0][:200]}); {DEVICE_ADVICE}"
    lines = [line.strip() for line in text.splitlines() if any(words in line for words in _NO_MEMORY)]
    if isinstance(error, ImportError | RuntimeError | OSError) and lines:
        return f"out of memory ({lines[0][:200]}); {MEMORY_ADVICE}"
    if isinstance(error, ImportError):
        return _broken_import(error)
    return None


def _broken_import(error: ImportError) -> str:
    """Return in one line which package cannot be loaded."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next(
        (line for line in lines if line.startswith("Original error")), lines[0] if lines else "ImportError"
    )
    with suppress(AttributeError):
        if error.name and error.name not in reason:
            reason = f"{error.name}: {reason}"
    return f"a package cannot be loaded ({reason[:200]}); install strsr again"


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python look for cycles less often, while lists of a million names grow, which have none."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
