"""Weights of one's own on huggingface.co: `--weights hf:owner/name[@revision]` to a folder of the Hugging Face cache.

Only what `strsr export` writes is fetched, and only safetensors. What is in the cache is used without network.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from strsr_models.checkpoints.adapter import SAVED
from strsr_models.checkpoints.locations import CONFIG_NAME, FAITHFUL_NAME, RANGES_NAME, WEIGHTS_NAME
from strsr_models.checkpoints.published import FAMILIES
from strsr_models.errors import UsageError, WeightsError

from ..system.atomic import sha256_of
from ..system.terminal import takes_escapes
from . import hub
from .cache import cache_folder

PREFIX = "hf:"
NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")
FILES = {"lite": (WEIGHTS_NAME,), **dict.fromkeys(FAMILIES, SAVED)}  # of an export, beside its configuration


OPTIONAL = (FAITHFUL_NAME, RANGES_NAME)  # in an export of lite


def local_weights(weights: Path | None) -> Path | None:
    """Return the folder that weights mean: `hf:owner/name[@revision]` is fetched, any other is what it is.

    Raises UsageError for a name that none can have, WeightsError for what cannot be fetched or is no export.
    """
    if weights is None or not str(weights).startswith(PREFIX):
        return weights
    match = NAME.fullmatch(str(weights).removeprefix(PREFIX))
    if match is None:
        raise UsageError(f"--weights {weights}: expected hf:owner/name or hf:owner/name@revision")
    return fetch_export(match["repository"], match["revision"])


def fetch_export(repository: str, revision: str | None) -> Path:
    """Return the folder in the cache with an export of strsr. Raises WeightsError."""
    config = _file(repository, revision, CONFIG_NAME)
    family = _family(config)
    if family not in FILES:
        raise _no_export(repository, f"its {CONFIG_NAME} is of no model of strsr")
    # All of one commit, whatever is pushed meanwhile.
    commit = config.parent.name
    for name in FILES[family]:
        path = _file(repository, commit, name)
        _check(repository, name, path)
    for name in OPTIONAL if family == "lite" else ():
        if (extra := _file_if_there(repository, commit, name)) is not None:
            _check(repository, name, extra)
    return config.parent


def _file_if_there(repository: str, commit: str, name: str) -> Path | None:
    """Return a file as `_file` does, or None where the repository, or the cache without a network, has none."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return _file(repository, commit, name)
    except WeightsError as error:
        cause: BaseException | None = error
        while isinstance(cause, WeightsError):
            cause = cause.__cause__
        if isinstance(cause, EntryNotFoundError):
            return None
        raise


def _family(config: Path) -> str:
    """Return the family that a configuration names, "" where it names none."""
    try:
        data = json.loads(config.read_text())
    except (OSError, ValueError, RecursionError):
        return ""
    return str(data.get("family", "")) if isinstance(data, dict) else ""


def _file(repository: str, revision: str | None, name: str) -> Path:
    """Return a file of the cache, fetched first where that is allowed and needed. Raises WeightsError."""
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    if not takes_escapes(sys.stderr):
        disable_progress_bars()
    offline = hub.forbidden_by()
    try:
        with hub.one_line_errors(repository):
            return Path(
                hf_hub_download(
                    repository,
                    name,
                    revision=revision,
                    endpoint=hub.endpoint(),
                    cache_dir=cache_folder(),
                    etag_timeout=hub.SECONDS,
                    local_files_only=bool(offline),
                )
            )
    except WeightsError as error:
        cause = error.__cause__
        local = isinstance(cause, errors.LocalEntryNotFoundError)
        if isinstance(cause, errors.EntryNotFoundError) and not local:
            raise _no_export(repository, f"it has no {name}") from error
        if offline and local:
            raise WeightsError(
                f"{PREFIX}{repository}: offline ({offline} is set), and {name} is not in the Hugging Face cache"
            ) from error
        raise


def _no_export(repository: str, reason: str) -> WeightsError:
    return WeightsError(
        f"{PREFIX}{repository}: is no export of strsr: {reason}; expected what `strsr export` writes, in safetensors"
    )


def _check(repository: str, name: str, path: Path) -> None:
    """Raise WeightsError, and throw the file away, unless it has the hash by which the cache calls it."""
    blob = path.resolve()
    if hub.SHA256.fullmatch(blob.name) and sha256_of(blob) != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise WeightsError(
            f"{PREFIX}{repository}: {name} came damaged (its hash is not the one listed); try again"
        )
