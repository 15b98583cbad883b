"""Semantic tokens on disk, so that the language model sees a picture once, whatever is made of it later.

Each entry is a safetensors file, named by the hash of all that decides its content. Files appear whole
or not at all; one that is damaged is as good as none. This module knows nothing of pictures and models.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..system.atomic import whole_file
from ..system.caches import mark_used, trim

log = logging.getLogger(__name__)

LARGEST = 4 * 2**30  # bytes of all entries together, after `trim`


def make_key(**parts: Any) -> str:
    """The name of the entry that `parts` (anything JSON can hold) decide."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class TokenCache:
    """A cache of float32 tensors (1, m, d) by key. What cannot be written is kept in memory."""

    def __init__(self, folder: Path | None) -> None:
        """Name the folder, which is made on the first write; None keeps all in memory."""
        self.folder = folder
        self._held: dict[str, Tensor] = {}

    def get(self, key: str) -> Tensor | None:
        """The entry, bit for bit as it was put, or None."""
        if key in self._held or self.folder is None:
            return self._held.get(key)
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self._path(key)
        try:
            tensors = load(path.read_bytes())
            tokens = tensors["tokens"]
            if tokens.ndim == 3 and torch.equal(tensors["sha256"], _digest(tokens)):
                mark_used(path)
                return tokens
        except (OSError, SafetensorError, KeyError, ValueError):
            pass
        if path.exists():
            log.debug("%s: damaged, made anew", path)
        return None

    def put(self, key: str, tokens: Tensor) -> None:
        """Keep float32 tokens (1, m, d) on the CPU."""
        if self.folder is not None:
            from safetensors.torch import save

            tokens = tokens.contiguous()
            data = save({"tokens": tokens, "sha256": _digest(tokens)})
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with whole_file(self._path(key)) as file:
                    file.write(data)
                return
            except OSError as error:
                log.warning("%s: tokens cannot be kept there (%s)", self.folder, error.strerror or error)
                self.folder = None
        self._held[key] = tokens

    def trim(self, keep: Collection[str], largest: int = LARGEST) -> None:
        """Remove the entries used longest ago until `largest` bytes are left; those in `keep` stay."""
        if self.folder is not None:
            trim(self.folder, largest, {self._path(key).name for key in keep})

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}.safetensors"


def _digest(tokens: Tensor) -> Tensor:
    """SHA-256 of the values, (32,) uint8."""
    return torch.tensor(list(hashlib.sha256(tokens.numpy().tobytes()).digest()), dtype=torch.uint8)
