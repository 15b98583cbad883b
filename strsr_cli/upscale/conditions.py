"""The first of the two phases of zimage and flux2: what each picture of a batch means, before any is restored.

The language model is as large as the transformer. It comes into memory only if some picture's tokens
are not in the cache, and has left it when the transformer comes.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from strsr_models import OneStepPipeline, load_pipeline
from strsr_models.checkpoints.files import fingerprint, require_pieces
from strsr_models.checkpoints.locations import cache_dir, default_models_dir
from strsr_models.compute.devices import parameter_dtype
from strsr_models.compute.quantize import require_torchao
from strsr_models.encoders.qwen import PROMPT
from strsr_models.errors import ImageError, WeightsError
from strsr_models.load import load_conditioner, pretrained_family
from strsr_models.pipelines.conditioner import NEUTRAL_PROMPT, Conditioner
from strsr_models.pipelines.options import PretrainedOptions

from ..batch.job import Job
from ..batch.report import Reporter, about
from .failures import loading, reporting_failures
from .options import BigModelOptions
from .token_cache import TokenCache, make_key

log = logging.getLogger(__name__)

FORMAT = 2  # of the cache's entries; to be raised when the same pictures come to give other tokens


def pretrained_options(
    options: BigModelOptions, adapter: Path | None, precision: str, prompt: str = ""
) -> PretrainedOptions:
    """Return what a family is loaded with. adapter: a folder in place of the published one. Raises UsageError."""
    return PretrainedOptions(
        conditioning=options.conditioning,
        prompt=prompt,
        adapter="published" if adapter is None else str(adapter),
        lora_scale=options.lora_scale,
        precision=precision,
        offload=options.offload,
        quantize=options.quantize,
    )


def tokens_folder() -> Path | None:
    """The folder in which tokens are kept; None for a user without a home, who has no cache either."""
    try:
        return cache_dir() / "tokens"
    except WeightsError:
        return None


class Conditions:
    """The conditions of a batch's images: made in the first phase, looked up in the second."""

    def __init__(
        self, model: str, adapter: Path | None, options: BigModelOptions, precision: str, device: torch.device
    ) -> None:
        """Check that all pieces are there. adapter: a folder in place of the published one. Raises WeightsError."""
        self.model, self.options, self.device = model, options, device
        family = pretrained_family(model)
        self.root = options.models_dir or default_models_dir()
        self.pretrained = pretrained_options(options, adapter, precision)
        require_pieces(self.root, family.pieces(self.pretrained))
        require_torchao(options.quantize)
        # A bad adapter is refused now, not after hours of the first phase.
        family.check_adapter(self.root, self.pretrained)
        self.cache = TokenCache(tokens_folder() if options.token_cache else None)
        # What all images of the batch have in common in their keys.
        self._common = {
            "format": FORMAT,
            "model": model,
            "conditioning": options.conditioning,
            "weights": fingerprint(family.condition_sources(self.root, self.pretrained)),
            "precision": str(parameter_dtype(precision, device)),
            "device": device.type,
            "libraries": [importlib.metadata.version(name) for name in ("torch", "transformers")],
        }

    def make(self, jobs: list[Job], read_lq: Callable[[Job], Tensor], reporter: Reporter) -> list[Job]:
        """Make the conditions that the cache lacks, and let the language model go. Returns the jobs that can go on.

        read_lq: gives a job's low-quality image (1, 3, h, w) in [0, 1]; called only where the picture matters.
        """
        conditioner: Conditioner | None = None
        ready, keys = [], []
        for number, job in enumerate(jobs, start=1):
            cure = "try --offload sequential or --conditioning none"
            with about(job.name), reporting_failures(job, reporter, self.device, cure):
                lq = read_lq(job) if self.options.conditioning == "vlm" else None
                key = self.key(job, lq)
                if self.cache.get(key) is None:
                    conditioner = conditioner or self._load_conditioner()
                    cond = conditioner.read(self._prompt(job)) if lq is None else conditioner.condition(lq)
                    self.cache.put(key, cond)
                    log.debug("%s: tokens %s", job.name, tuple(cond.shape))
                keys.append(key)
                ready.append(job)
            reporter.looked(number, len(jobs))
        self.cache.trim(keys)
        if conditioner is not None:
            del conditioner
            # Modules and their hooks hold each other, so that only the collector frees them.
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return ready

    def get(self, job: Job, lq: Tensor) -> Tensor:
        """The condition (1, m, d) that `make` made for an image. Raises ImageError where it is gone."""
        cond = self.cache.get(self.key(job, lq))
        if cond is None:
            raise ImageError(f"{job.name}: the file or its tokens changed while strsr ran; run it again")
        return cond

    def load_pipeline(self, device: str) -> OneStepPipeline:
        """Load the networks of the second phase: transformer and VAE."""
        options = replace(self.pretrained, conditioning="given")
        with loading(f"--model {self.model}", torch.device(device)):
            return load_pipeline(self.model, self.root, device, options=options)

    def _load_conditioner(self) -> Conditioner:
        with loading("the language model", self.device):
            return load_conditioner(self.model, self.root, str(self.device), options=self.pretrained)

    def _prompt(self, job: Job) -> str:
        """The text that the language model reads, beside the picture."""
        fixed_prompts = {"vlm": PROMPT, "none": NEUTRAL_PROMPT}
        return fixed_prompts.get(self.options.conditioning) or self.options.prompt_of(job)

    def key(self, job: Job, lq: Tensor | None) -> str:
        """The name of the cache's entry for a job with the image lq (1, 3, h, w)."""
        image = None
        if self.options.conditioning == "vlm" and lq is not None:
            pixels = lq.contiguous()
            image = [*pixels.shape, hashlib.sha256(pixels.numpy().tobytes()).hexdigest()]
        return make_key(**self._common, prompt=self._prompt(job), image=image)
