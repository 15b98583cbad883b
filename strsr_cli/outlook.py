"""A batch before its network is loaded: lists, weights and settings looked at, each image's fate foreseen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import strsr_models
from strsr_models.errors import ImageError, StrsrError, UsageError

from .big_models import BigModelOptions
from .forecast import check_memory, output_bytes, seconds_per_megapixel
from .found import read_list
from .images import read_image
from .journal import JOURNAL, sha256_of
from .ledger import Ledger
from .plan import STREAM, Job, Plan, planned_sizes
from .report import Reporter, describe_plan, size_text, told_counts
from .runs import weights_folder


def listed_names(lines: str | None, zeros: str | None) -> list[str] | None:
    """What --files-from or --files0-from name; None where neither is given. Raises UsageError."""
    if lines is not None and zeros is not None:
        raise UsageError("--files-from and --files0-from: one list is enough; drop one of them")
    given = lines if lines is not None else zeros
    if given is None:
        return None
    option = "--files-from" if lines is not None else "--files0-from"
    try:
        data = sys.stdin.buffer.read() if given == STREAM else Path(given).read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {given}: cannot be read: {error.strerror}") from error
    return read_list(data, zero=zeros is not None)


def require_journal(root: Path | None, no_journal: bool) -> None:
    """Raise UsageError unless failures of an earlier run are recorded."""
    if no_journal:
        raise UsageError("--retry-failed: goes by the journal; drop --no-journal")
    if root is None or not (root / JOURNAL).is_file():
        raise UsageError(
            f"--retry-failed: {root or 'OUTPUT'} has no {JOURNAL} of an earlier run; drop the option"
        )


def weights_hash(model: str, weights: Path | None, big: BigModelOptions | None) -> str:
    """The hash of the weights that a batch is made with; empty where there are none, which loading will tell."""
    try:
        if big is None:
            embedded = Path(strsr_models.__file__).parent / "weights" / model
            return sha256_of((weights_folder(weights) if weights else embedded) / "model.safetensors")
        from .provenance import weights_file  # torch is in its way

        return sha256_of(weights_file(model, weights, big))
    except (OSError, StrsrError):
        return ""


def is_whole_image(path: Path) -> bool:
    """Whether a file can be decoded to its end."""
    try:
        read_image(path, max_pixels=sys.maxsize)
    except ImageError:
        return False
    except MemoryError:  # its beginning was an image
        return True
    return True


@dataclass
class Outlook:
    """What is left to make. sizes: bytes of each output, about."""

    pending: list[Job] = field(default_factory=list)
    sizes: dict[Path, int] = field(default_factory=dict)
    megapixels: float = 0.0
    skipped: int = 0
    will_fail: int = 0


def look_ahead(
    plan: Plan,
    scale: float,
    max_pixels: int,
    ledger: Ledger,
    reporter: Reporter,
    dry_run: bool,
    show: Callable[[str], None] | None = None,
) -> Outlook:
    """Tell what will become of every image of a plan; what is to fail or to be skipped is that now.

    Not in a dry run, where `show` takes a line for people of each.
    """
    outlook, show = Outlook(), show or (lambda line: None)
    for path, reason in plan.refused:
        reporter.planned(str(path), "", error=reason)
        outlook.will_fail += 1
        show(f"{path}  will fail: {reason}")
        if not dry_run:
            reporter.failed(str(path), f"{path}: {reason}")
    for job, sizes in planned_sizes(plan.jobs, scale, max_pixels):
        settled = ledger.settled(job)
        if settled is None and "error" not in sizes:
            sizes |= _afford(job, sizes, outlook)
        fate = {"skip": True, "reason": settled} if settled else {}
        reporter.planned(job.name, job.target_name, **sizes, **fate)
        show(describe_plan({"input": job.name, "output": job.target_name, **sizes, **fate}))
        if settled:
            outlook.skipped += 1
            if not dry_run:
                reporter.skipped(job.name, job.target_name, settled)
        elif "error" in sizes:
            outlook.will_fail += 1
            if not dry_run:
                reporter.failed(job.name, str(sizes["error"]))
        else:
            outlook.pending.append(job)
    return outlook


def _afford(job: Job, sizes: dict[str, int | str], outlook: Outlook) -> dict[str, int | str]:
    """Count what an image will take; {"error": ...} where the machine has not got it."""
    if not sizes:  # a stream
        return {}
    height, width, to_height, to_width = (int(sizes[k]) for k in ("height", "width", "to_height", "to_width"))
    try:
        check_memory(job, height, width)
    except ImageError as error:
        return {"error": str(error)}
    outlook.megapixels += to_height * to_width / 1e6
    if job.target is not None:
        outlook.sizes[job.target] = output_bytes(job, to_height * to_width, height * width)
    return {}


def tell_forecast(
    outlook: Outlook, reporter: Reporter, model: str, weights: Path | None, device: str, precision: str
) -> str:
    """The end of a dry run, as an event and in words: how many, how much, how long."""
    each = None
    if outlook.megapixels:
        each = seconds_per_megapixel(model, weights_folder(weights) if weights else None, device, precision)
    seconds = None if each is None else round(each * outlook.megapixels, 1)
    size = sum(outlook.sizes.values())
    reporter.forecast(
        to_make=len(outlook.pending),
        skipped=outlook.skipped,
        will_fail=outlook.will_fail,
        megapixels=round(outlook.megapixels, 3),
        bytes=size,
        seconds=seconds,
    )
    fails = f", {outlook.will_fail} will fail" if outlook.will_fail else ""
    text = f"{len(outlook.pending)} to make, {outlook.skipped} skipped{fails}; nothing was written"
    if outlook.pending:
        text += f"; about {outlook.megapixels:.1f} MP, {size_text(size)}"
        text += f", {duration_text(seconds)} (by a small tile)" if seconds is not None else ""
    passed = told_counts(reporter.passed_over)
    return text + (f"; {passed}" if passed else "")


def duration_text(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
