"""`strsr upscale`: the order in which a batch is planned, looked at and done."""

from __future__ import annotations

import math
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from strsr_models.errors import UsageError

from ..images.formats import MAX_PIXELS, PNG_COMPRESSION, QUALITY
from .options import (
    Backend,
    Batch,
    BigModelsDir,
    CheckGrid,
    Compile,
    Conditioning,
    Cover,
    Device,
    Draft,
    Engine,
    Fidelity,
    Files0From,
    FilesFrom,
    Format,
    Frames,
    GpusPerWorker,
    GridLimit,
    Height,
    HelpAll,
    InPlaceSuffix,
    Jobs,
    JsonEvents,
    KeepTimes,
    Longest,
    LoraScale,
    Megapixels,
    Model,
    NoJournal,
    NoSpaceCheck,
    NoTokenCache,
    Offload,
    Overlap,
    Overwrite,
    PngCompression,
    Precision,
    Prompt,
    PromptFrom,
    Provenance,
    Quality,
    Quantize,
    Quiet,
    RayWorkers,
    Replace,
    ReportPage,
    RetryFailed,
    ShardText,
    Shortest,
    Sources,
    Steal,
    Steps,
    Strip,
    Target,
    Tile,
    UpscaleDryRun,
    UpscaleMaxPixels,
    UpscaleScale,
    Verbose,
    Watch,
    Weights,
    Width,
)

if TYPE_CHECKING:
    from ..batch.plan import Plan


def upscale(
    context: typer.Context,
    source: Sources = None,
    target: Target = None,
    scale: UpscaleScale = None,
    longest: Longest = None,
    shortest: Shortest = None,
    width: Width = None,
    height: Height = None,
    cover: Cover = False,
    megapixels: Megapixels = None,
    model: Model = "lite",
    weights: Weights = None,
    steps: Steps = 1,
    fidelity: Fidelity = 0.0,
    draft: Draft = False,
    format: Format = "keep",
    quality: Quality = QUALITY,
    png_compression: PngCompression = PNG_COMPRESSION,
    strip: Strip = False,
    provenance: Provenance = False,
    keep_times: KeepTimes = False,
    in_place_suffix: InPlaceSuffix = None,
    overwrite: Overwrite = False,
    replace: Replace = False,
    dry_run: UpscaleDryRun = False,
    no_space_check: NoSpaceCheck = False,
    check_grid: CheckGrid = False,
    grid_limit: GridLimit = None,
    max_pixels: UpscaleMaxPixels = MAX_PIXELS,
    frames: Frames = "first",
    files_from: FilesFrom = None,
    files0_from: Files0From = None,
    retry_failed: RetryFailed = False,
    no_journal: NoJournal = False,
    shard: ShardText = None,
    steal: Steal = False,
    watch: Watch = False,
    engine: Engine = "local",
    workers: RayWorkers = None,
    gpus_per_worker: GpusPerWorker = None,
    tile: Tile = "auto",
    overlap: Overlap = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch: Batch = "auto",
    jobs: Jobs = None,
    compile: Compile = False,
    backend: Backend = "auto",
    models_dir: BigModelsDir = None,
    conditioning: Conditioning = None,
    prompt: Prompt = None,
    prompt_from: PromptFrom = None,
    lora_scale: LoraScale = None,
    offload: Offload = None,
    quantize: Quantize = None,
    no_token_cache: NoTokenCache = False,
    report: ReportPage = None,
    json: JsonEvents = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    help_all: HelpAll = False,
) -> None:
    """Enlarge and restore an image, a folder of images, or a stream.

    What was made before with the same settings is skipped; one bad file does not stop the rest.
    ^C ends after the images under way, twice at once.

    Exit code: 0 all done, 1 some failed or the disk is too small, 2 wrong usage or nothing to do,
    3 weights or device not available, 130 interrupted, 141 reader of a pipe gone, 143 terminated.
    """
    from ..batch.job import keeps_exit_code, resolve_shard
    from ..batch.journal import require_journal
    from ..batch.receipts import Receipts
    from ..batch.remote.several import plan_inputs
    from ..batch.remote.state import make_state
    from ..batch.report import make_reporter
    from ..batch.target_size import resolve_target_size
    from ..batch.targets import listed_names
    from ..gallery.collect import report_page
    from ..images.read import is_whole_image
    from ..setup.hub_weights import local_weights
    from ..system.atomic import drop_unfinished
    from ..system.console import visible
    from ..system.machine import advice_on_cuda
    from ..system.signals import EXIT_INTERRUPTED, EXIT_SOME_FAILED, EndedBySignal, Stop
    from ..upscale.engines.costs import cost_lines, cost_rows
    from ..upscale.engines.engine import choose_engine
    from ..upscale.options import UpscaleOptions, resolve_options, run_hash, settings_hash
    from ..upscale.preflight import (
        check_space,
        check_writable,
        measure_pace,
        preflight,
        tell_forecast,
        weights_hash,
    )
    from ..upscale.request import check_replaced, check_request, check_watch
    from ..upscale.rounds.arrivals import Arrivals

    size = resolve_target_size(scale, longest, shortest, width, height, megapixels, cover)
    # One that is not there is None.
    arguments = [argument for argument in (*(source or ()), target) if argument is not None]
    check_output(arguments[-1] if len(arguments) > 1 else None, json, dry_run)
    tile_size = auto_or_number("--tile", tile, 64, "output pixels")
    batch_size = auto_or_number("--batch", batch, 1, "tiles")
    if grid_limit is not None and not (check_grid and math.isfinite(grid_limit)):
        raise UsageError(f"--grid-limit {grid_limit}: use a number of dB, together with --check-grid")
    part = resolve_shard(shard, os.environ)
    names, hints = listed_names(files_from, files0_from)
    arrivals = Arrivals(is_whole_image) if watch else None
    if watch:
        # What would leave nothing to watch, or to make.
        against = {
            "--dry-run": dry_run,
            "--retry-failed": retry_failed,
            "--steal": steal,
            "--replace": replace,
            "--files-from": names is not None,
            f"--engine {engine}": engine != "local",
        }
        check_watch(arguments, part, against)

    def replan() -> Plan:
        """Look at all INPUTs; with --watch, what is new in them since the last look."""
        planned = partial(plan_inputs, arguments, format, names, in_place_suffix, frames == "all", keep_times)
        if arrivals is None:
            return planned()
        arrivals.begin()
        return arrivals.fresh(planned(arrivals))

    whole_plan = replan()
    plan = whole_plan.shard(part)
    # A single image is an OUTPUT by itself, whatever is made beside it.
    is_batch = bool(plan.place or plan.tree or plan.many or any(job.frame for job in plan.jobs))
    upscale_images = choose_engine(engine, workers, gpus_per_worker, device, is_batch, dry_run)
    if retry_failed:
        require_journal(plan.root, no_journal, plan.place is not None)
    if steal:
        check_steal(no_journal, overwrite or replace, retry_failed, engine)
    options = UpscaleOptions(
        size=size,
        model=model,
        weights=local_weights(weights),
        tile=tile_size,
        overlap=overlap,
        device=device,
        precision=precision,
        quality=quality,
        steps=steps,
        fidelity=fidelity,
        draft=draft,
        check_grid=check_grid,
        grid_limit=grid_limit,
        max_pixels=max_pixels,
        strip=strip,
        provenance=provenance,
        keep_times=keep_times,
        jobs=jobs,
        batch=batch_size,
        compile=compile,
        backend=backend,
        png_compression=png_compression,
        local=part.local,
        big=resolve_options(
            model,
            plan.jobs,
            models_dir=models_dir,
            conditioning=conditioning,
            prompt=prompt,
            prompt_from=prompt_from,
            lora_scale=lora_scale,
            offload=offload,
            quantize=quantize,
            token_cache=False if no_token_cache else None,
        ),
    )
    reporter = make_reporter(json, quiet, verbose)
    stop = Stop(quiet)
    hashed_weights = weights_hash(options) if plan.root or plan.place else ""
    state = make_state(
        plan.root,
        plan.place,
        plan.jobs,
        settings=lambda job: settings_hash(options, job),
        weights=hashed_weights,
        overwrite=overwrite or replace,
        receipts=None if no_journal else Receipts(),
        retry_failed=retry_failed,
        remember=not no_journal,
        silent=dry_run,
        is_whole=is_whole_image,
        reporter=reporter,
        stop=stop,
    )
    reporter.on_failed = state.failed
    reporter.passed_over = plan.passed_over
    reporter.place = str(plan.place or plan.root or plan.single or "")
    watcher = None
    if arrivals is not None:
        from ..upscale.rounds.watching import KeptNetworks, Watch

        upscale_images = KeptNetworks()
        watcher = Watch(replan, arrivals, upscale_images, options, reporter, state)
        watcher.expect(plan)
    try:
        page = None if dry_run else report
        with (
            stop.watching(),
            report_page(page, reporter, stop, whole_plan.jobs, options_of(context), silent=json),
        ):
            if device == "auto" and (advice := advice_on_cuda()):
                reporter.note(advice)
            check_request(options)
            check_replaced(plan, state, replace)
            if is_batch:
                state.enter(run_hash(options, format, hashed_weights))
            for hint in hints + plan.hints:
                reporter.note(hint)
            if part.count > 1:
                reporter.note(f"part {part.number} of {part.count} (by {part.source})")
                reporter.elsewhere(whole_plan.count - plan.count)
            if not dry_run:
                reporter.prepare()
            show = (lambda line: typer.echo(visible(line))) if dry_run and not (json or verbose) else None
            forecast = preflight(plan, options, state, reporter, dry_run, show)
            if forecast.pending:
                check_writable(plan, dry_run)
            if dry_run:
                measure_pace(forecast, options)
                costs = cost_rows(forecast) if engine == "ray" else []
                text = tell_forecast(forecast, reporter, **({"cluster": costs} if costs else {}))
                for line in [] if json else [text, *cost_lines(costs)]:
                    typer.echo(visible(line))
                return
            state.sweep(plan.jobs)
            if forecast.pending:
                if not no_space_check:
                    check_space(forecast.sizes)
                upscale_images(forecast, options, reporter, state)
            if steal and part.count > 1:
                from ..upscale.rounds.stealing import make_left_over

                make_left_over(part.rest(whole_plan.jobs), options, reporter, state)
            if forecast.to_score:
                from ..upscale.rounds.scoring import score_skipped

                score_skipped(forecast.to_score, options, reporter, state)
            if watcher is not None and not stop.requested:
                watcher.run(watched_folders(arguments), plan.root)
            reporter.summary()
        if stop.requested:
            raise typer.Exit(EXIT_INTERRUPTED)
        if reporter.counts["failed"] and keeps_exit_code(os.environ):
            raise typer.Exit(EXIT_SOME_FAILED)
    except EndedBySignal:
        drop_unfinished()
        raise
    finally:
        state.close()
        reporter.close()


def options_of(context: typer.Context) -> list[tuple[str, str, bool]]:
    """The options of the command under way, given ones first: name, value, and whether it was given.

    --report and --help-all are left out.
    """
    rows = []
    for parameter in context.command.params:
        name = str(parameter.name)
        if parameter.param_type_name != "option" or name not in context.params:
            continue
        if name in ("report", "help_all"):
            continue
        value, source = context.params[name], context.get_parameter_source(name)
        given = source is not None and source.name != "DEFAULT"
        rows.append((max(parameter.opts, key=len), "" if value is None else str(value), given))
    return sorted(rows, key=lambda row: not row[2])


def watched_folders(arguments: list[str]) -> list[Path]:
    """The folders that --watch looks at: those that are INPUTs, and those in which other INPUTs lie."""
    from ..system.paths import is_folder

    paths = map(Path, arguments if len(arguments) == 1 else arguments[:-1])
    return list(dict.fromkeys(path if is_folder(path) else path.parent for path in paths))


def check_output(target: str | None, json: bool, dry_run: bool) -> None:
    """Raise UsageError for a standard output that cannot take an image, by any of its names."""
    from ..batch.targets import is_stdout

    if not is_stdout(target):
        return
    if json:
        raise UsageError(f"--json and OUTPUT {target} both want standard output; drop one of them")
    if sys.stdout.name == os.devnull:
        raise UsageError(f"OUTPUT {target}: standard output is closed; redirect it: > image.png")
    if sys.stdout.isatty() and not dry_run:
        raise UsageError(f"OUTPUT {target} would write an image to the terminal; redirect it: > image.png")


def check_steal(no_journal: bool, overwrite: bool, retry_failed: bool, engine: str) -> None:
    """Raise UsageError for options with which nobody can tell what other parts have left undone."""
    if no_journal:
        raise UsageError("--steal: goes by the journal; drop --no-journal")
    if overwrite:
        raise UsageError("--steal: outputs that exist count as done; drop --overwrite, or --steal")
    if retry_failed:
        raise UsageError("--steal: what failed is left to its own part; drop --retry-failed, or --steal")
    if engine != "local":
        raise UsageError(
            f"--steal: not with --engine {engine}, whose workers leave nothing over; drop one of them"
        )


def auto_or_number(option: str, text: str, least: int, unit: str) -> int | None:
    """`auto` -> None, a number of at least `least` -> itself. Raises UsageError that names the option."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{option} {text}: use auto or a number of {unit}, at least {least}")
    return int(text)
