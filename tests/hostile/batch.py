"""One batch over all hostile files through the command line, and the judgement of what came out."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import tifffile

from .broken import broken_files
from .cases import Case, Either, Made, PassedOver, Refused
from .good import good_files
from .labels import labelled_files
from .names import make_special, named_files, special_files

SCALE = 2
SECONDS = 120  # after which a batch is said to hang
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline
ROOT = Path(__file__).parent.parent.parent


def all_cases() -> list[Case]:
    return [*good_files(), *labelled_files(), *broken_files(), *named_files(), *special_files()]


def make_folder(cases: list[Case], folder: Path) -> list[Case]:
    """Write the files; returns those that this file system can hold under their names."""
    written = []
    for made in cases:
        path = folder / os.fsdecode(made.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):  # where names differ by more than case or composition
                continue
            if made.data is None:
                make_special(path)
            else:
                path.write_bytes(made.data)
        except (OSError, ValueError):
            continue
        written.append(made)
    return written


@dataclass
class Batch:
    """What a run said, by name of the input below the folder."""

    code: int
    stderr: bytes
    seconds: float
    lines: list[str]  # of stdout that are not JSON
    planned: dict[bytes, str] = field(default_factory=dict)  # the output
    done: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    failed: dict[bytes, str] = field(default_factory=dict)
    skipped: set[bytes] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    summary: dict[str, float] = field(default_factory=dict)
    twice: list[bytes] = field(default_factory=list)  # with more than one outcome


def strsr(*args: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    """The real command in a process of its own, waited for."""
    options = {"capture_output": True, "timeout": SECONDS, "env": environment(), **options}
    return subprocess.run(command(*args), check=False, **options)  # type: ignore[call-overload, no-any-return]


def obey_modes() -> None:
    """Before a program starts: root, too, may read and write only what modes of files allow (Linux)."""
    if OBEDIENT:
        for override in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            LIBC.prctl(24, override, 0, 0, 0)  # PR_CAPBSET_DROP


OBEDIENT = sys.platform == "linux" and os.geteuid() == 0
LIBC = ctypes.CDLL(None) if OBEDIENT else None


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "strsr_cli", *map(str, args)]


def environment(**more: object) -> dict[str, str]:
    """For a process of the command: this code, one thread."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "models")])
    own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return {**os.environ, **own, **{name: str(value) for name, value in more.items()}}


def run_batch(folder: Path, out: Path, *args: object, **environ: object) -> Batch:
    """Upscale a folder, and read what --json says. environ: variables of the process."""
    began = time.monotonic()
    ran = strsr(
        "upscale",
        folder,
        out,
        "--scale",
        SCALE,
        "--json",
        *args,
        env=environment(**environ),
        preexec_fn=obey_modes,
    )
    batch = Batch(ran.returncode, ran.stderr, time.monotonic() - began, [])
    for line in ran.stdout.decode().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            batch.lines.append(line)
            continue
        kind = event.pop("event")
        if kind == "summary":
            batch.summary = event
        elif kind == "message":
            batch.messages.append(event["text"])
        elif "input" in event:
            _take(batch, kind, os.fsencode(event["input"]).removeprefix(os.fsencode(folder) + b"/"), event)
    return batch


def _take(batch: Batch, kind: str, name: bytes, event: dict) -> None:
    if kind == "planned":
        batch.planned[name] = event["output"]
        return
    if name in batch.done or name in batch.failed or name in batch.skipped:
        batch.twice.append(name)
    if kind == "done":
        batch.done[name] = event["height"], event["width"]
        batch.planned[name] = event["output"]
    elif kind == "failed":
        batch.failed[name] = event["reason"]
    elif kind == "skipped":
        batch.skipped.add(name)


def judged(case: Case, batch: Batch) -> str:
    """What is wrong with what became of a file; empty when all is well."""
    name, expected = case.name, case.expected
    if isinstance(expected, PassedOver):
        return "" if name not in batch.planned and name not in batch.failed else "not passed over"
    if name in batch.failed:
        if isinstance(expected, Made):
            return f"failed: {batch.failed[name]}"
        return "" if expected.word in batch.failed[name] else f"the reason is {batch.failed[name]!r}"
    if name not in batch.done:
        return "no outcome"
    if isinstance(expected, Refused):
        return "a picture was made"
    pixels = decoded(Path(batch.planned[name]))
    if isinstance(expected, Either):
        wanted = tuple(SCALE * side for side in expected.size)
        return "" if wanted == pixels.shape[:2] else f"{pixels.shape} in place of {wanted}"
    if expected.says and not any(expected.says in said for said in warnings_of(case, batch)):
        return f"no warning of {expected.says!r}"
    return compared(pixels, expected)


def warnings_of(case: Case, batch: Batch) -> list[str]:
    """What was said of a file."""
    return [said for said in batch.messages if os.fsdecode(case.name) in said]


def decoded(path: Path) -> np.ndarray:
    """(h, w, c) of an output, whole, by another library than the one that wrote it where there is one."""
    data = path.read_bytes()
    if data.startswith((b"II", b"MM")):
        pixels = tifffile.imread(BytesIO(data))
        return pixels if pixels.ndim == 3 else pixels[..., None]
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, f"OpenCV cannot read {path}"
    if pixels.ndim == 2:
        return pixels[..., None]
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    with_alpha_of_gray = data.startswith(b"\x89PNG") and data[25] == 4
    return pixels[..., [0, 3]] if with_alpha_of_gray else pixels


def compared(pixels: np.ndarray, expected: Made) -> str:
    """What is wrong with an output's pixels, of 8 or 16 bits or floats as the truth's are."""
    truth = expected.truth
    wanted = (SCALE * truth.shape[0], SCALE * truth.shape[1])
    if pixels.shape[:2] != wanted:
        return f"{pixels.shape[:2]} px in place of {wanted}"
    if pixels.dtype != truth.dtype:
        return f"{pixels.dtype} in place of {truth.dtype}"
    if pixels.shape[2] != truth.shape[2]:
        return f"{pixels.shape[2]} channels in place of {truth.shape[2]}"
    top = max(1, float(truth.max())) if truth.dtype == np.float32 else np.iinfo(truth.dtype).max
    parts = pixels.reshape(truth.shape[0], SCALE, truth.shape[1], SCALE, -1) / top
    small, right = parts.mean(axis=(1, 3)), truth / top
    if truth.shape[2] in (2, 4):  # what is not seen does not count
        for image in (small, right):
            image[..., :-1] *= image[..., -1:]
    error = float(np.square(small - right).mean())
    found = -10 * np.log10(max(error, 1e-9))
    return "" if found >= expected.least else f"{found:.1f} dB, less than {expected.least}"


def outcome(case: Case, batch: Batch) -> str:
    """In words, for the table."""
    if case.name in batch.done:
        height, width = batch.done[case.name]
        warnings = warnings_of(case, batch)
        warned = "; warning: " + warnings[0].split(": ", 1)[-1] if warnings else ""
        return f"picture, {width}x{height} px{warned}"
    if case.name in batch.failed:
        reason = batch.failed[case.name]
        return "error: " + reason.split(": ", 1)[-1]
    return "passed over"
