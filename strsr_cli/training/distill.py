"""`strsr distill`: one-step restoration taught by an asymmetric coach and a frequency filter (StrSR).

Stage 1: L1, a perceptual distance, and a coach: a frozen network unlike the student, with trained
heads that tell photos from restored ones. Stage 2, from step `fdl_from` on: the same and the
Frequency Distribution Loss (arXiv 2603.06275).

The student restores by the verbs that `strsr upscale` runs. Only what its family trains gets a
gradient: all of lite; LoRA and projector of zimage and flux2.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from strsr_models.checkpoints.locations import WEIGHTS_NAME, default_models_dir, lite_folder, weights_folder
from strsr_models.compute.devices import resolve_device, resolve_precision
from strsr_models.errors import UsageError, nearest
from strsr_models.load import MODELS, load_lite
from strsr_models.pipelines.base import OneStepPipeline
from strsr_models.pipelines.options import PretrainedOptions

from ..system.console import Tell
from .config_files import read_config, to_toml
from .criterion import CoachTurn, Criterion, random_window, weighted_sum
from .data.crops import Batch, Crops
from .data.pairs import GROUP, NOTE_EVERY, PairWindows, are_made, make_pairs
from .data.photos import Photos, load_photos
from .data.teachers import Teachers, teacher_files
from .environment import begin_step, compile_parts, make_accelerator
from .judge_files import check_judges
from .loop import (
    batches_from,
    check_crop_size,
    describe,
    in_parts,
    learning_rate,
    make_adamw,
    set_learning_rate,
)
from .memory import Step, decoded_bytes, estimate_memory
from .preview import draw_preview
from .run.checkpoint import Average
from .run.folder import Run
from .run.logbook import Logbook
from .settings import LITE_PRESET, DistillConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


COACH_CLIP = 1.0  # norm of the gradient over all heads


def distill(
    student: str, data: list[Path], out: Path, config_file: Path | None, settings: list[str], report: Tell
) -> Path:
    """Run or resume the distillation in `out`; returns the folder of the exported weights."""
    config = read_distill_config(student, config_file, settings, run=out)
    accelerator = make_accelerator(config)
    torch.manual_seed(config.seed)
    pipeline, criterion, turn = build(config, accelerator.device)
    parameters = pipeline.trainable_parameters()
    main = accelerator.is_main_process
    # With pairs, photos are needed only for the sheet's few samples.
    cache_gb = 0.0 if config.pairs else config.cache_gb
    crops = Crops(
        load_photos(data, smallest(config), cache_gb, main, config.photo_colors),
        config.crop_size,
        config.seed,
        config.graphics_share,
    )
    run, average = Run(out), Average(pipeline, config.ema_decay)
    trunk = criterion.coach and criterion.coach.trunk
    compile_parts(config, [*pipeline.children(), criterion.distance, trunk])
    model, optimizer = accelerator.prepare(pipeline, make_adamw(parameters, config, config.learning_rate))
    models, heads = [model], []
    if turn is not None:
        heads = list(turn.heads.parameters())
        coach_adamw = make_adamw(heads, config, config.coach_learning_rate)
        coach, coach_optimizer = accelerator.prepare(turn, coach_adamw)
        models.append(coach)
    with (
        run.locked(main),
        Logbook(
            run=run,
            accelerator=accelerator,
            config=config,
            crops=crops,
            models=models,
            average=average,
            distance=criterion.distance,
            start=first_weights(config),
            size=describe(pipeline),
            report=report,
        ) as logbook,
    ):
        dropped = 0
        for batch, numbers in batches_of(logbook, crops, pipeline, config, accelerator):
            begin_step(config)
            step = logbook.step
            dropped += len(batch.dropped)
            students_turn = not heads or config.turns == "both" or step % 2 == 0
            coachs_turn = bool(heads) and (config.turns == "both" or step % 2 == 1)
            rate = learning_rate(config, step, logbook.share)
            set_learning_rate(optimizer, rate)
            lesson = None
            if batch.teacher is not None:
                lesson = batch.teacher.lerp(batch.hq, config.photo_share)
                lesson = pipeline.attainable(lesson, batch.lq_up)
            whole = (batch.hq, batch.lq_up, batch.picture, numbers, lesson)
            restored_parts = []
            for hq, lq_up, picture, part, teacher in in_parts(accelerator, model, whole, config.accumulate):
                with torch.set_grad_enabled(students_turn):
                    restored = model(lq_up, pipeline.training_condition(lq_up, picture))
                if students_turn:
                    with accelerator.autocast():
                        losses = criterion(restored, hq, step, part, teacher)
                    accelerator.backward(weighted_sum(losses, config) / config.accumulate)
                    logbook.meter.add(losses)
                restored_parts.append(restored.detach())
            if students_turn:
                stepped = logbook.guard.step(
                    accelerator, optimizer, parameters, config.gradient_clip, step + 1
                )
                if stepped:
                    average.update(step + 1)
            if coachs_turn:
                set_learning_rate(coach_optimizer, config.coach_learning_rate)
                fakes = torch.cat(restored_parts).float()
                reals = batch.hq if lesson is None or config.coach_real == "photo" else lesson
                windows = [
                    random_window(image, config.judge_shift, config.seed, step) for image in (reals, fakes)
                ]
                coach_loss = torch.zeros((), device=accelerator.device)
                for real, fake, part in in_parts(accelerator, coach, (*windows, numbers), config.accumulate):
                    losses = coach(real, fake, part, step)
                    accelerator.backward(weighted_sum(losses, config) / config.accumulate)
                    logbook.meter.add(losses)
                    coach_loss += losses["coach_loss"].detach() / config.accumulate
                if turn is not None and turn.rests(accelerator.reduce(coach_loss, "mean")):
                    coach_optimizer.zero_grad(set_to_none=True)
                else:
                    logbook.coach_guard.step(accelerator, coach_optimizer, heads, COACH_CLIP, step + 1)
            rates = {"learning_rate": rate}
            if dropped:
                rates["dropped_pairs"] = float(dropped)
            if logbook.after_step(restored_parts[-1], batch.hq[-len(restored_parts[-1]) :], rates):
                break
    return logbook.finish()


def smallest(config: DistillConfig) -> int:
    """The shortest side in px that photos must have; with pairs the same photos count in training as when they were made."""
    return config.pair_size if config.pairs else config.crop_size


def batches_of(
    logbook: Logbook,
    crops: Crops,
    pipeline: OneStepPipeline,
    config: DistillConfig,
    accelerator: Accelerator,
) -> Iterator[tuple[Batch, list[int]]]:
    """Yield this process's share of each batch from the logbook's step on, out of pairs or made in every step."""
    if not config.pairs:
        teachers = None
        if config.teacher:
            precision = resolve_precision(config.precision, accelerator.device)
            teachers = Teachers(config.teacher, accelerator.device, precision)
        yield from batches_from(logbook.step, logbook.stop, crops, config, accelerator, teachers)
        return
    windows = PairWindows(config, crops.photos, pipeline.multiple_of, accelerator.device)
    for step in range(logbook.step, logbook.stop):
        yield windows.draw(step, accelerator.process_index, accelerator.num_processes)


def make_teachers_pairs(
    data: list[Path],
    count: int,
    config_file: Path | None,
    settings: list[str],
    report: Tell,
    group: int = GROUP,
    note_every: int = NOTE_EVERY,
) -> Path:
    """Make, or go on making, the pairs of a configuration, `group` at a time; returns their folder."""
    # The files of the judges need not be there.
    unjudged = {"perceptual_weight": 0.0, "coach": "none", "fdl_weight": 0.0}
    config = read_distill_config("lite", config_file, settings, fixed=unjudged)
    if not isinstance(config.pairs, str) or not config.pairs or not config.teacher:
        raise UsageError("--make-pairs: needs the settings pairs, one folder, and teacher")
    if count < 1:
        raise UsageError(f"--make-pairs {count}: must be at least 1")
    photos = load_photos(data, config.pair_size, cache_gb=0, colors=config.photo_colors)
    if are_made(config, photos, count, group):
        report(f"{config.pairs}: made already")
        return Path(config.pairs)
    device = resolve_device(config.device)
    # Now that the photos are needed, they are decoded.
    photos = Photos(photos.files, photos.smallest, config.cache_gb, photos.colors)
    precision = resolve_precision(config.precision, device)
    return make_pairs(
        config,
        photos,
        count,
        device=device,
        precision=precision,
        report=report,
        group=group,
        note_every=note_every,
    )


def read_distill_config(
    student: str,
    config_file: Path | None,
    settings: list[str],
    *,
    fixed: dict[str, Any] | None = None,
    run: Path | None = None,
) -> DistillConfig:
    """Read published values for zimage and flux2, or lite's preset for lite; then the file, then settings.

    fixed, run: see `read_config`.
    """
    preset: dict[str, Any] = {} if is_pretrained(student) else dict(LITE_PRESET)
    fixed = {**(fixed or {}), "student": student}
    return read_config(DistillConfig, config_file, settings, preset, fixed=fixed, run=run)


def build(config: DistillConfig, device: torch.device) -> tuple[OneStepPipeline, Criterion, CoachTurn | None]:
    """Build the student, its judges, and the coach's own turn, if there is a coach."""
    check_judges(config)
    pipeline = build_student(config).to(device)
    criterion = Criterion(pipeline, config, device)
    turn = CoachTurn(criterion.coach, config) if criterion.coach else None
    return pipeline, criterion, turn


def build_student(config: DistillConfig) -> OneStepPipeline:
    """Build the pipeline to teach, on the CPU; only what its family trains is trainable."""
    if is_pretrained(config.student):
        folder = Path(config.models_dir) if config.models_dir else default_models_dir()
        # Frozen parts are in the run's precision, since 6 B of them in float32 would not fit.
        precision = resolve_precision(config.precision, resolve_device(config.device))
        options = PretrainedOptions(adapter="none", precision=precision)
        pipeline = MODELS[config.student](folder, torch.device("cpu"), options)
    else:
        # Its first weights are drawn and replaced; what is drawn next, a coach's, has always followed that.
        pipeline = load_lite(student_folder(config.student), torch.device("cpu"), None)
    pipeline.prepare_training(config.rank)
    if not config.semantic_tokens:
        pipeline.silence_semantics()
    if config.trains == "decoder":
        pipeline.train_decoder_alone()
    pipeline.set_gradient_checkpointing(config.gradient_checkpointing)
    check_crop_size(config, pipeline)
    return pipeline


def is_pretrained(student: str) -> bool:
    """Whether the student is a published family, and not lite or a folder of its weights."""
    return student in MODELS and student != "lite"


def student_folder(student: str) -> Path:
    """The folder of weights that `--student NAME` means: lite's own, a run's model/, or the folder itself."""
    if student == "lite":
        return lite_folder(None)
    folder = Path(student)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else nearest(student, MODELS)
        raise UsageError(f"--student {student}: {problem}; or give the folder of a run or of weights")
    return weights_folder(folder)


def first_weights(config: DistillConfig) -> Path | None:
    """The file that a student of lite's kind starts from; a new adapter starts from none."""
    return None if is_pretrained(config.student) else student_folder(config.student) / WEIGHTS_NAME


def preview(
    student: str, data: list[Path], config_file: Path | None, settings: list[str], sheet: Path
) -> None:
    """Write a sheet of what the student would see of the data: rows of hq | lq."""
    config = read_distill_config(student, config_file, settings)
    draw_preview(sheet, data, config)


def dry_run(
    student: str, data: list[Path], config_file: Path | None, settings: list[str], report: Tell
) -> None:
    """Tell what `distill` would run and what memory it would take; nothing is written."""
    config = read_distill_config(student, config_file, settings)
    accelerator = make_accelerator(config)
    photos = load_photos(data, smallest(config), cache_gb=0)
    pipeline, criterion, turn = build(config, torch.device("cpu"))
    report(to_toml(config))
    report(f"# {len(photos)} photos, {describe(pipeline)}")
    step = one_step(pipeline, criterion, turn, config)
    files = itertools.chain.from_iterable(teacher_files(config.teacher).values())
    # With pairs, neither photos nor teachers are kept.
    estimate = estimate_memory(
        pipeline,
        criterion.networks(),
        config,
        accelerator.num_processes,
        step,
        photos=0 if config.pairs else decoded_bytes(photos, config.cache_gb),
        teachers=0 if config.pairs else sum(path.stat().st_size for path in set(files) if path.is_file()),
    )
    report(f"# memory on each device: {estimate}")


def one_step(
    pipeline: OneStepPipeline, criterion: Criterion, turn: CoachTurn | None, config: DistillConfig
) -> Step:
    """A function to be measured: student's and coach's turn on one part of a batch, in the last stage."""

    def step(batch: Batch, numbers: list[int]) -> None:
        last = config.steps - 1
        restored = pipeline(batch.lq_up, pipeline.training_condition(batch.lq_up, batch.picture))
        losses = criterion(restored, batch.hq, last, numbers, batch.hq if config.teacher else None)
        weighted_sum(losses, config).backward()  # type: ignore[no-untyped-call]
        if turn is not None:
            pair = (batch.hq, restored.detach().float())
            windows = [random_window(image, config.judge_shift, config.seed, last) for image in pair]
            losses = turn(*windows, numbers)
            weighted_sum(losses, config).backward()  # type: ignore[no-untyped-call]

    return step
