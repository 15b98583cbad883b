"""The work beside the optimiser steps of a run: numbers, sheets, checkpoints, exported weights, stops."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ... import __version__
from ...system.atomic import writing
from ...system.console import Tell
from ...system.signals import Stopped, StopSignals
from ..criterion import Distance
from ..data.crops import Crops
from ..data.photos import data_hash
from ..settings import MAY_CHANGE, LoopConfig, config_hash
from .checkpoint import Average, Guard, check_finite, load_checkpoint, not_finite, save_checkpoint
from .folder import Run
from .history import HISTORY_NAME, Data, change_text, continued, history_text, read_history
from .progress import Meter, Progress
from .samples import lattice_curve, restore_samples, sample_batch, sample_scores, write_sheet

if TYPE_CHECKING:
    from accelerate import Accelerator
    from typing_extensions import Self  # typing has it from Python 3.11 on


CURVE_POINTS = 10  # steps of an interval whose lattice is measured, which keeps a device waiting


class Logbook:
    """The keeper of a run's folder while a loop trains. It is made once everything is prepared, and resumes at once."""

    def __init__(
        self,
        *,
        run: Run,
        accelerator: Accelerator,
        config: LoopConfig,
        crops: Crops,
        models: Sequence[nn.Module],
        average: Average,
        distance: Distance | None,
        start: Path | None,
        size: str,
        report: Tell,
    ) -> None:
        """models: those that accelerate prepared, in that order. distance: what the samples are scored with.

        start: file of weights that the run begins with, if any. size: how large the pipeline is, in words.
        """
        self.run, self.accelerator, self.config, self.average = run, accelerator, config, average
        self._models = models
        run.check_same(config, MAY_CHANGE)
        self.meter, self.guard, self.coach_guard = Meter(accelerator), Guard(run), Guard(run)
        self._guards = (self.guard, self.coach_guard)
        # The number of steps done so far.
        self.step = load_checkpoint(run, accelerator, models, average, self._guards)
        # The clock goes on as if the run had never been stopped.
        self._began = time.monotonic() - 60 * (run.minutes() or config.minutes_before)
        self._progress = Progress(
            main=accelerator.is_main_process,
            steps=config.steps,
            run=run,
            step=self.step,
            tensorboard=config.tensorboard,
            report=report,
        )
        if config.minutes:
            self._progress.seconds_left = lambda: 60 * (config.minutes - self.minutes)
        self._signals = StopSignals()
        self._photos, self._distance = crops.photos, distance
        self._sheet = sample_batch(crops, config.degrade) if accelerator.is_main_process else None
        self._samples_are_finite = True
        self._logged = self.step
        self._over = self.share >= 1
        self._start = ""
        if accelerator.is_main_process:
            run.write_config(config)
            self._start = run.started_from(start)
        self._progress.say(
            f"resumed at step {self.step}" if self.step else f"{len(crops.photos)} photos, {size}"
        )
        self._history: list[Data] = []
        if accelerator.is_main_process:
            self._history = self._note_data()

    def _note_data(self) -> list[Data]:
        """Write down which photos the run has from this step on, and say so where they are others than before."""
        known = read_history(self.run.folder)
        history = continued(known, Data(self.step, data_hash(self._photos), len(self._photos)))
        # A run that is over learns nothing from other photos.
        if self._over:
            return known or history
        if len(history) > 1 and history[-1].from_step == self.step:
            self._progress.say(change_text(history))
        self.run.write(self.run.folder / HISTORY_NAME, (history_text(history) + "\n").encode())
        return history

    def __enter__(self) -> Self:
        """Open the live line; from now on signals ask for a stop."""
        self._progress.__enter__()
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give terminal and signals back."""
        self._signals.__exit__(kind, error, trace)
        self._progress.__exit__(kind, error, trace)

    @property
    def minutes(self) -> float:
        """The minutes of training so far, over all starts of the run."""
        return (time.monotonic() - self._began) / 60

    @property
    def share(self) -> float:
        """The share of the run that is over, by its steps or, where it has a time, by the clock; at least 1 at its end."""
        by_steps = self.step / self.config.steps
        if not self.config.minutes:
            return by_steps
        return max(by_steps, self.minutes / self.config.minutes)

    @property
    def stop(self) -> int:
        """The step to train up to: the present one where the run is over."""
        return self.step if self.share >= 1 else self.config.steps

    def after_step(self, restored: Tensor, hq: Tensor, rates: dict[str, float]) -> bool:
        """Count a step and do what is due; returns whether the run is to stop.

        restored, hq: crops (b, 3, s, s) in [0, 1] for the lattice curve. rates: more numbers to log.
        """
        self.step += 1
        config, last = self.config, self._is_last()
        values = self._means(restored, hq, rates, self.step % config.log_every == 0 or last)
        stop = self._any_process(self._signals.requested)
        due = self.step % config.save_every == 0 and all(guard.healthy for guard in self._guards)
        samples = self._samples() if self.step % config.sample_every == 0 or last else {}
        if due or last or stop:
            # Every process has the same weights, and comes to the same answer.
            check_finite(self.run, self._models, self.average, self.step)
            if last and self._any_process(not self._samples_are_finite):
                raise not_finite(self.run, self.step, "what the averaged weights make of a sample is")
            save_checkpoint(self.run, self.accelerator, self.step, self.average, self._guards, self.minutes)
            if self.accelerator.is_main_process:
                self.run.export(self._write_weights)
        values |= samples
        # JSON has no NaN.
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        if values:
            self._progress.log(self.step, values)
        if stop and not last:
            self._progress.say(f"stopped at step {self.step}; the same command goes on from here")
        return stop or last

    def _is_last(self) -> bool:
        """Whether the run is over, for all processes alike: clocks may differ, steps do not."""
        over = self.share >= 1
        self._over = self._any_process(over) if self.config.minutes else over
        return self._over

    def _any_process(self, own: bool) -> bool:
        """Whether `own` is true in any process; all of them get the same answer."""
        if self.accelerator.num_processes == 1:
            return own
        count = torch.tensor(float(own), device=self.accelerator.device)
        return bool(self.accelerator.reduce(count, "sum") > 0)

    def _means(self, restored: Tensor, hq: Tensor, rates: dict[str, float], log: bool) -> dict[str, float]:
        """Measure the lattice when it is time to; returns the interval's numbers when it ends here, else none."""
        if log or self.step % max(1, self.config.log_every // CURVE_POINTS) == 0:
            self.meter.add(lattice_curve(restored, hq))
        if not log:
            return {}
        crops = (self.step - self._logged) * self.config.batch_size
        self._logged = self.step
        values = {**self.meter.take(crops), **rates}
        skipped = sum(guard.skipped for guard in self._guards)
        if skipped:
            values["skipped_steps"] = float(skipped)
        return values

    def _samples(self) -> dict[str, float]:
        """Draw the sheet of this step and return its scores; only the main process has any."""
        if self._sheet is None:
            return {}
        restored = restore_samples(self.average.pipeline, self._sheet, self.accelerator)
        self._samples_are_finite = bool(restored.isfinite().all())
        if self._over and not self._samples_are_finite:
            return {}
        path = self.run.folder / "samples" / f"{self.step:07d}.png"
        with writing(path, self.run.advice):
            write_sheet(path, self._sheet, restored)
        return sample_scores(self._sheet, restored, self._distance, self.accelerator.device)

    def finish(self) -> Path:
        """Report the folder of the weights and return it. Raises Stopped when a signal ended the run before its last step."""
        weights = self.run.folder / "model"
        # The run may have been killed between a checkpoint and its export.
        if self.accelerator.is_main_process and not weights.is_dir():
            self.run.export(self._write_weights)
        if self._signals.exit_code and not self._over:
            raise Stopped(self._signals.exit_code)
        if self.step > self.config.steps:
            self._progress.say(f"steps = {self.config.steps}: the run has done {self.step} already")
        self._progress.say(f"weights in {weights}; try them: strsr upscale INPUT OUTPUT --weights {weights}")
        return weights

    def _write_weights(self, folder: Path) -> None:
        """Save the averaged weights, with what they say of themselves."""
        words = provenance(self.config, self._history, self.step, self._start)
        # A run whose folder is lost goes on by these two.
        if self.config.minutes:
            words |= {"run": self.run.folder.name, "minutes": f"{self.minutes:.2f}"}
        self.average.pipeline.save(folder, words)


def provenance(config: LoopConfig, history: list[Data], step: int, start: str) -> dict[str, str]:
    """The metadata in which weights say where they come from. start: hash of the weights they were trained on from, or "".

    history: of the data; where these have changed, all of it goes along.
    """
    words = {
        "strsr": __version__,
        "steps": str(step),
        "config": config_hash(config),
        "data": history[-1].data,
    }
    if len(history) > 1:
        words["data_history"] = history_text(history)
    if start:
        words["start"] = start
    return words
