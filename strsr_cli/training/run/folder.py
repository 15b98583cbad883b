"""A training run's folder, where a night's work is safe.

config.toml        the configuration, every value resolved
start.sha256       hash of the weights that the run started from, where it did not start from random ones
lock               locked by the process that trains in the folder
data.json          which photos it has learnt from, from which step on
metrics.jsonl      one line per log interval; the same numbers for TensorBoard in tensorboard/
checkpoints/N/     all that is needed to go on from step N; appears whole, the two newest are kept
samples/           sheets of lq_up | restored | hq
model/             the averaged weights, for `strsr upscale --weights` and `strsr export`
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from strsr_models.errors import StrsrError, UsageError

from ...system.atomic import (
    TEMPORARY_PREFIX,
    cannot_write,
    is_unfinished,
    sweep,
    sync,
    sync_folder,
    whole_file,
    whole_folder,
    writing,
)
from ..config_files import CONFIG_NAME, flattened, parse_toml, run_settings, still_older, to_toml
from ..settings import LATER

try:
    import fcntl
except ImportError:
    # On Windows nothing keeps two commands out of one folder.
    fcntl = None  # type: ignore[assignment]


KEPT_CHECKPOINTS = 2
STEP_DIGITS = 7
MINUTES_NAME = "minutes.json"  # in a checkpoint: how long the run has trained, over all its starts
FRESH = ".new"  # suffix of a folder that is being written


class Run:
    """The files of one run."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is missing. Raises UsageError where it holds anything else, or cannot be made."""
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        if folder.is_dir() and any(folder.iterdir()) and not self.checkpoints.is_dir():
            raise UsageError(f"--out {folder}: is neither empty nor a run; choose another folder")
        try:
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {folder}: cannot be made: {error.strerror}") from error

    @contextlib.contextmanager
    def locked(self, main: bool) -> Iterator[None]:
        """Keep other commands out of the folder; of the processes of one command, only the main one does.

        Raises StrsrError when another one is in it. The system gives the lock back however the process
        ends. It is the process's own (lockf, not flock): workers that outlive a kill -9 do not keep it.
        """
        if not main or fcntl is None:
            yield
            return
        path = self.folder / "lock"
        with writing(path, self.advice):
            file = open(path, "w")  # noqa: SIM115
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Other errors come from a file system that knows no locks.
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise StrsrError(
                        f"another process is training in {self.folder}; wait for it, or choose another --out"
                    ) from error
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what processes that were killed here have left unfinished; nobody else works in the folder now."""
        sweep([self.folder, self.folder / "samples", self.checkpoints])
        for path in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
            # Earlier versions' folders do not say whose they are.
            if path.is_dir() and not is_unfinished(path.name):
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.checkpoints / f"parts{FRESH}", ignore_errors=True)

    def started_from(self, weights: Path | None) -> str:
        """SHA-256 of the file of weights that the run began with, also when that file has changed since; or "".

        Only the main process may call it.
        """
        path = self.folder / "start.sha256"
        if self.latest() is None:
            path.unlink(missing_ok=True)
            if weights is not None:
                self.write(path, hashlib.sha256(weights.read_bytes()).hexdigest().encode())
        return path.read_text() if path.exists() else ""

    def write_config(self, config: Any) -> None:
        """Save the resolved configuration, without the settings that the run is older than: it stays older."""
        older = still_older(self.folder, config) if self.latest() is not None else ()
        self.write(self.folder / CONFIG_NAME, to_toml(config, older).encode())

    def write(self, path: Path, data: bytes) -> None:
        """Write one file of the run, whole. Raises StrsrError when the disk does not take it."""
        with writing(path, self.advice), whole_file(path) as file:
            file.write(data)

    @property
    def advice(self) -> str:
        """The last clause of an error: what is left when something cannot be written."""
        return f"the last checkpoint is {self.latest() or 'none'}"

    def check_same(self, config: Any, may_change: set[str]) -> None:
        """Raise UsageError when a run that has checkpoints was made with other settings than these, or does not say.

        A setting that its config.toml lacks, as it is older, had the value that LATER names.
        """
        if self.latest() is None:
            return
        before = run_settings(self.folder)
        if before is None:
            raise UsageError(
                f"{self.folder / CONFIG_NAME}: is missing, so that nobody knows what this run was begun with; put it "
                f"back, or make it by the run's own command with --dry-run in place of --out, > {CONFIG_NAME}"
            )
        before = LATER | before
        now = flattened(parse_toml(to_toml(config)))
        names = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
        # A value of before that nothing can be now, such as a kind of coach that `train` has not.
        names -= LATER.keys() - now.keys()
        changed = sorted({name.split(".")[0] for name in names} - may_change)
        if changed:
            plain = [name for name in changed if name in before]
            values = ", ".join(f"{name} = {before[name]!r}" for name in plain)
            in_brackets = f" ({values})" if values else ""
            raise UsageError(
                f"{self.folder}: was begun with other settings of {', '.join(changed)}"
                f"{in_brackets}; give the same ones or another --out"
            )

    def log(self, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        with writing(path, self.advice), open(path, "a") as file:
            file.write(json.dumps(values) + "\n")

    def trim_log(self, step: int) -> None:
        """Forget logged lines after `step`, which a resumed run makes again."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_bytes().splitlines()
            self.write(path, b"".join(line + b"\n" for line in lines if _step_of(line) <= step))

    def saved_steps(self) -> list[int]:
        """The steps of all whole checkpoints, oldest first."""
        folders = (path for path in self.checkpoints.iterdir() if path.is_dir() and path.name.isdecimal())
        return sorted(int(path.name) for path in folders if len(path.name) >= STEP_DIGITS)

    def latest(self) -> Path | None:
        """The newest whole checkpoint, or None in a new run."""
        steps = self.saved_steps()
        return self.checkpoint(steps[-1]) if steps else None

    def minutes(self) -> float:
        """The minutes that the run had trained at its newest checkpoint; 0 in a new run, or one that does not say."""
        latest = self.latest()
        try:
            return 0.0 if latest is None else float(json.loads((latest / MINUTES_NAME).read_text()))
        except (OSError, ValueError, TypeError):
            return 0.0

    def checkpoint(self, step: int) -> Path:
        """The folder where the checkpoint of `step` is or will be."""
        return self.checkpoints / f"{step:0{STEP_DIGITS}d}"

    def keep(self, step: int, folder: Path) -> None:
        """Make `folder`, which holds a whole checkpoint, the newest; drop old ones once it is on the disk."""
        target = self.checkpoint(step)
        # A run that was resumed and stopped at once has this checkpoint already.
        if target.exists():
            shutil.rmtree(folder)
            return
        try:
            sync_folder(folder)
            folder.rename(target)
            sync(target.parent)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise cannot_write(target, error, self.advice) from error
        for old in self.saved_steps()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(self.checkpoint(old), ignore_errors=True)

    def export(self, write: Callable[[Path], None]) -> Path:
        """Have `write(folder)` fill model/, which is replaced whole; returns the folder."""
        target = self.folder / "model"
        whole_folder(target, write, "the run's checkpoints are still there")
        return target


def _step_of(line: bytes) -> float:
    """The step of a logged line; a line that was cut short by a crash is never kept."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
