"""The options that decide an output, with those that zimage and flux2 have alone, and the hash of all of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strsr_models.checkpoints.locations import weights_folder
from strsr_models.checkpoints.published import LARGEST_LORA_SCALE, check_model
from strsr_models.errors import ImageError, UsageError
from strsr_models.tiling.sizes import LEAST_SCALE

from ..batch.job import Job
from ..batch.target_size import TargetSize
from ..images.formats import MAX_PIXELS, PNG_COMPRESSION
from ..system.paths import exists, is_folder


@dataclass(frozen=True)
class UpscaleOptions:
    """Everything that decides what an output looks like, and how fast it comes."""

    size: TargetSize
    model: str
    weights: Path | None
    tile: int | None  # px of what the network makes; None: chosen to fit each image
    overlap: int | None  # the same px; None: the model's
    device: str
    precision: str
    quality: int
    steps: int = 1  # of the network
    fidelity: float = 0.0  # of lite: from 0, the sharper picture, to 1, the more faithful
    draft: bool = False  # whether lite computes below x4 at the output's own size: faster, softer
    big: BigModelOptions | None = None  # of zimage and flux2; None: lite
    check_grid: bool = False  # whether outputs are checked for a printed grid
    grid_limit: float | None = None  # dB of score to warn above; None: where the verdict is "grid"
    max_pixels: int = MAX_PIXELS  # of an input
    strip: bool = False  # whether all metadata but the colour profile is dropped
    provenance: bool = False  # whether the output says how it was made
    keep_times: bool = (
        False  # whether the output has the times of the input's file; no other content, so no other hash
    )
    jobs: int | None = None  # pictures decoded, and encoded, at a time; None: by the cores
    batch: int | None = None  # tiles at once; None: what fits the memory
    compile: bool = False  # whether the networks are compiled
    backend: str = "auto"  # what computes lite's tiles on a CPU: auto, torch or openvino
    png_compression: int = PNG_COMPRESSION
    local: int | None = None  # this process's number among those of its machine, for `--device auto`

    @property
    def in_int8(self) -> bool:
        """Whether lite's widest layers are to be computed in whole numbers of 8 bits."""
        return self.precision == "int8"

    @property
    def float_precision(self) -> str:
        """The name of the precision of what is computed in floats; int8 leaves it to auto."""
        return "auto" if self.in_int8 else self.precision

    @property
    def weights_folder(self) -> Path | None:
        """The folder of the weights that `weights` names, which may be a run's; None for the model's own."""
        return weights_folder(self.weights) if self.weights else None


LONGEST_PROMPT = 100_000  # bytes of a file; the models read 512 tokens


@dataclass(frozen=True)
class BigModelOptions:
    """The options of a model on a published base; the defaults are the command's."""

    models_dir: Path | None = None  # None: STRSR_MODELS_DIR or the user's cache
    conditioning: str = "vlm"  # vlm, text or none
    prompt: str | None = None  # of text conditioning, for images without one of their own
    prompt_from: Path | None = None  # folder of <image's stem>.txt
    lora_scale: float = 1.0
    offload: str = "auto"
    quantize: str = "none"
    token_cache: bool = True

    def prompt_of(self, job: Job) -> str:
        """The prompt of one image in text conditioning. Raises ImageError where it has none."""
        if self.prompt_from is None or job.source is None:
            return self.prompt or ""
        path = self.prompt_from / f"{job.source.stem}.txt"
        if self.prompt is not None and not exists(path):
            return self.prompt
        try:
            if path.stat().st_size > LONGEST_PROMPT:
                raise ImageError(f"{job.name}: its prompt {path} is longer than {LONGEST_PROMPT // 1000} kB")
            # Some editors begin a file with a byte order mark.
            text = path.read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            raise ImageError(f"{job.name}: its prompt {path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ImageError(f"{job.name}: its prompt {path} is not UTF-8 text") from error
        if not text:
            raise ImageError(f"{job.name}: its prompt {path} is empty")
        return text


def resolve_options(model: str, jobs: list[Job], **given: Any) -> BigModelOptions | None:
    """The options of a model on a published base from what was `given` (None: not given); None for lite.

    Raises UsageError for an unknown model, and for options that it does not have or that contradict each other.
    """
    check_model(model)
    given = {name: value for name, value in given.items() if value is not None}
    if model == "lite":
        if given:
            flags = ", ".join(_flag(name) for name in given)
            raise UsageError(f"{flags}: not for --model lite; zimage and flux2 have such options")
        return None
    prompts = [name for name in ("prompt", "prompt_from") if name in given]
    conditioning = given.setdefault("conditioning", "text" if prompts else "vlm")
    if prompts and conditioning != "text":
        raise UsageError(f"{_flag(prompts[0])}: needs --conditioning text, not {conditioning}")
    if conditioning == "text" and not prompts:
        raise UsageError("--conditioning text: needs --prompt TEXT or --prompt-from FOLDER")
    options = BigModelOptions(**given)
    # The comparison is false for NaN as well.
    if not 0 <= options.lora_scale <= LARGEST_LORA_SCALE:
        raise UsageError(f"--lora-scale {options.lora_scale:g}: must be between 0 and {LARGEST_LORA_SCALE}")
    if options.prompt is not None and _is_broken(options.prompt):
        raise UsageError("--prompt: is not UTF-8 text; use a UTF-8 terminal, or --prompt-from")
    if options.prompt_from is not None and not is_folder(options.prompt_from):
        raise UsageError(f"--prompt-from {options.prompt_from}: no such folder")
    if options.prompt_from is not None and any(job.source is None for job in jobs):
        raise UsageError("--prompt-from: standard input has no name to find a prompt by; use --prompt")
    if options.quantize != "none" and options.offload == "sequential":
        raise UsageError(
            "--quantize: quantised weights cannot move layer by layer; drop --offload sequential"
        )
    return options


def _is_broken(text: str) -> bool:
    """Whether an argument has bytes that are not text; Python passes them on as lone surrogates."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _flag(name: str) -> str:
    return "--no-token-cache" if name == "token_cache" else "--" + name.replace("_", "-")


# Versions of how lite, and how the big models, make pixels: to be raised when the same settings and weights
# come to give other pixels.
RECIPE, BIG_RECIPE = 1, 2


def settings_hash(options: UpscaleOptions, job: Job) -> str:
    """The hash of all that decides a job's output but for the input and the weights, in hexadecimal.

    Where it is computed does not count: a folder may be begun on one machine and ended on another. The text that is
    hashed decides what a later run skips: names and values must stay as they are.
    """
    big = options.big
    settings: dict[str, object] = {
        "recipe": RECIPE if big is None else BIG_RECIPE,
        "kind": job.kind,
        "prompt": None,
        "scale": options.size.scale,
        "model": options.model,
        "tile": "auto" if options.tile is None else str(options.tile),
        "overlap": options.overlap,
        "precision": options.precision,
        "quality": options.quality,
        "steps": options.steps,
        "strip": options.strip,
        "provenance": options.provenance,
        "png_compression": options.png_compression,
        "compile": options.compile,
    }
    if options.size != TargetSize(options.size.scale):
        settings["size"] = options.size.words
    if options.fidelity:
        settings["fidelity"] = options.fidelity
    # Before there were drafts, all were made as these are.
    if big is None and not options.draft and options.size != TargetSize(max(options.size.scale, LEAST_SCALE)):
        settings["below"] = "reduced"
    if job.frame is not None:
        settings["frame"] = job.frame
    if big is not None:
        settings["big"] = [big.conditioning, big.lora_scale, big.quantize]
        if big.conditioning == "text":
            # An image without a prompt will fail for that later.
            with contextlib.suppress(ImageError):
                settings["prompt"] = big.prompt_of(job)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def run_hash(options: UpscaleOptions, format: str, weights: str) -> str:
    """The hash of what two runs at once on one OUTPUT must have in common.

    format: "keep" or a key of OUTPUT_FORMATS. weights: the hash of the network's weights.
    """
    prompts = str(options.big.prompt_from) if options.big is not None else ""
    common = settings_hash(options, Job(None, None, format))
    return hashlib.sha256(f"{common} {weights} {prompts}".encode(errors="surrogateescape")).hexdigest()
