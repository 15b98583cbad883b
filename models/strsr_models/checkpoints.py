"""Published checkpoints on disk: where they lie, which pieces are missing, and reading them strictly.

Knows files and folders, no family and no arithmetic. Nothing here downloads anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import WeightsError

# The folders of a models folder, and the Hugging Face repositories that they come from.
REPOSITORIES = {
    "Z-Image-Turbo": "Tongyi-MAI/Z-Image-Turbo",
    "FLUX.2-klein-base-4B": "black-forest-labs/FLUX.2-klein-base-4B",
    "Qwen3-VL-4B-Instruct": "Qwen/Qwen3-VL-4B-Instruct",
    "StrSR-zimage": "jkwang28/StrSR",
    "StrSR-flux": "jkwang28/StrSR",
}


def default_models_dir() -> Path:
    """The models folder when none is named: STRSR_MODELS_DIR, else strsr/models in the user's cache."""
    named = os.environ.get("STRSR_MODELS_DIR")
    return Path(named).expanduser() if named else cache_dir() / "models"


def cache_dir() -> Path:
    """strsr's folder in the user's cache, where the platform has it."""
    home = Path.home()
    if sys.platform == "darwin":
        cache = home / "Library" / "Caches"
    elif sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return cache / "strsr"


def fingerprint(paths: Iterable[Path]) -> str:
    """What tells the contents of files and folders apart without reading them: names, sizes, times.

    Not where they lie: a models folder may move. Raises WeightsError for what is not there.
    """
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                state = file.stat()
            except OSError as error:
                raise WeightsError(f"{file}: cannot be read ({error.strerror})") from error
            name = file.relative_to(path.parent).as_posix()
            digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def require_pieces(root: Path, pieces: Iterable[str]) -> None:
    """Raise one WeightsError that names every piece ("folder/part") missing in `root`, and its source."""
    missing = [piece for piece in pieces if not _is_there(root / piece)]
    if not missing:
        return
    sources = dict.fromkeys(REPOSITORIES[piece.split("/")[0]] for piece in missing)
    raise WeightsError(
        f"{root}: missing {', '.join(missing)}; they come from huggingface.co: {', '.join(sources)}; "
        f"put them there, or name the folder that has them (--models-dir, STRSR_MODELS_DIR)"
    )


def _is_there(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def read_model(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A model of a diffusers or transformers class from its folder, on the CPU, in `dtype`.

    Both libraries fill tensors that a checkpoint lacks with random numbers and only remark on it;
    here that is a WeightsError, as is anything else that keeps the folder from being read.
    Tensors that the class does not know (a language model's head, say) are left aside.
    """
    # transformers has renamed this argument; diffusers has always known the old name.
    argument = "torch_dtype" if cls.__module__.startswith("diffusers.") else "dtype"
    model, info = read_component(cls, folder, output_loading_info=True, **{argument: dtype})
    # A counter that nothing reads; converters forget it.
    missing = [key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")]
    problems = sorted(f"missing {key}" for key in missing)
    problems += sorted(f"wrong shape {key}" for key in info["mismatched_keys"])
    if problems:
        raise WeightsError(f"{folder}: does not fit its config.json: {shorten(problems)}")
    return model


def read_skeleton(cls: Any, folder: Path) -> Any:
    """A model of a diffusers class from its folder's config.json alone: shapes without values."""
    from accelerate import init_empty_weights

    try:
        with _quiet(), init_empty_weights():
            return cls.from_config(cls.load_config(folder, local_files_only=True))
    except Exception as error:  # as in read_component
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{folder}: cannot be read as {cls.__name__} ({reason})") from error


def read_component(cls: Any, folder: Path, **options: Any) -> Any:
    """`cls.from_pretrained(folder)` without network, progress bars or remarks, or WeightsError."""
    try:
        with _quiet():
            return cls.from_pretrained(folder, local_files_only=True, **options)
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise many kinds; each means an unusable folder
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{folder}: cannot be read as {cls.__name__} ({reason})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """diffusers and transformers neither draw progress bars nor remark on what they read."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, progress_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if progress_bar:
                library.enable_progress_bar()


def read_tensors(path: Path) -> dict[str, Any]:
    """Everything in a .safetensors or .pth file; that the values of a .pth are tensors is not checked."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".pth":
        return _read_pth(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error})") from error


def read_shapes(path: Path) -> dict[str, Any]:
    """As `read_tensors`, with tensors on the meta device: a large file is hardly touched."""
    is_pth = path.suffix == ".pth"  # safetensors maps its files by itself
    found = _read_pth(path, mmap=zipfile.is_zipfile(path)) if is_pth else read_tensors(path)
    return {key: value.to("meta") if isinstance(value, Tensor) else value for key, value in found.items()}


def _read_pth(path: Path, mmap: bool = False) -> dict[str, Any]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch.load raises many kinds; each means an unusable file
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{path}: cannot be read as tensors ({reason})") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: holds a {type(data).__name__}, expected a dict of tensors")
    return data


def fill_strictly(module: nn.Module, tensors: dict[str, Any], path: Path, owner: str = "this model") -> None:
    """Fill all of a module's tensors from those of `path`, or raise one WeightsError on every mismatch.

    owner: what they do not fit then, in the message.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = mismatches(tensors, wanted)
    if problems:
        raise WeightsError(f"{path}: does not fit {owner}: {shorten(problems)}")
    module.load_state_dict(tensors)


def mismatches(tensors: dict[str, Any], wanted: dict[str, tuple[int, ...]]) -> list[str]:
    """Every missing, unknown, non-tensor, wrongly shaped or not finite entry, in words, sorted.

    Tensors on the meta device have no values to look at.
    """
    problems = [f"missing {key}" for key in wanted.keys() - tensors.keys()]
    problems += [f"unknown {key}" for key in tensors.keys() - wanted.keys()]
    for key in wanted.keys() & tensors.keys():
        value = tensors[key]
        if not isinstance(value, Tensor):
            problems.append(f"{key} is a {type(value).__name__}, expected a tensor")
        elif tuple(value.shape) != wanted[key]:
            problems.append(f"{key} is {tuple(value.shape)}, expected {wanted[key]}")
        elif not value.is_meta and not value.isfinite().all():
            problems.append(f"{key} is not finite")
    return sorted(problems)


def shorten(problems: list[str], most: int = 20) -> str:
    """The first problems in one line, and how many more there are."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
