"""Published checkpoints on disk: the pieces that are missing, and reading what is there strictly.

This file knows files and folders, no family and no arithmetic. Nothing here downloads anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WeightsError, first_line
from .locations import cache_dir as cache_dir  # noqa: PLC0414
from .locations import default_models_dir as default_models_dir  # noqa: PLC0414
from .published import require_pieces as require_pieces  # noqa: PLC0414


def fingerprint(paths: Iterable[Path]) -> str:
    """A hash that tells the contents of files and folders apart without reading them: names, sizes, times.

    It does not depend on where they lie: a models folder may move. Raises WeightsError for what is not there.
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


def read_model(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Read a model of a diffusers or transformers class from its folder, onto the CPU, in `dtype`.

    Both libraries fill tensors that a checkpoint lacks with random numbers and only remark on it;
    here that is a WeightsError, as is anything else that keeps the folder from being read.
    Tensors that the class does not know (a language model's head, say) are left aside.
    """
    diffusers = cls.__module__.startswith("diffusers.")
    if diffusers:
        check_class(cls, folder)
    # This argument has a new name in transformers; diffusers has always known the old one.
    argument = "torch_dtype" if diffusers else "dtype"
    model, info = read_component(cls, folder, output_loading_info=True, **{argument: dtype})
    # Converters forget BatchNorm's counter of batches, and nothing reads it.
    missing = [key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")]
    problems = sorted(f"missing {key}" for key in missing)
    problems += sorted(f"wrong shape {key}" for key in info["mismatched_keys"])
    if problems:
        raise WeightsError(f"{folder}: does not fit its config.json: {shorten(problems)}")
    return model


def check_class(cls: Any, folder: Path) -> None:
    """Raise WeightsError if config.json is another class's, of which diffusers would take what fits."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        name = config.get("_class_name", cls.__name__)
    except (OSError, ValueError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a JSON object"
        raise WeightsError(f"{path}: cannot be read ({reason}); get it again") from error
    if name != cls.__name__:
        raise WeightsError(f"{folder}: holds {name}, expected {cls.__name__}: is it another model's folder?")


def read_skeleton(cls: Any, folder: Path) -> Any:
    """Read a model of a diffusers class from its folder's config.json alone: shapes without values."""
    from accelerate import init_empty_weights

    check_class(cls, folder)
    try:
        with _quiet(), init_empty_weights():
            return cls.from_config(cls.load_config(folder, local_files_only=True))
    except Exception as error:
        # The library raises many kinds; each means an unusable folder.
        reason = first_line(error, skip_blank=True)
        raise WeightsError(f"{folder}: cannot be read as {cls.__name__} ({reason})") from error


def read_component(cls: Any, folder: Path, **options: Any) -> Any:
    """Call `cls.from_pretrained(folder)` without network, progress bars or remarks. Raises WeightsError."""
    try:
        with _quiet():
            return cls.from_pretrained(folder, local_files_only=True, **options)
    except MemoryError:
        raise
    except Exception as error:
        # The libraries raise many kinds; each means an unusable folder.
        reason = first_line(error, skip_blank=True)
        reason = _damaged_file(folder) or reason
        raise WeightsError(f"{folder}: cannot be read as {cls.__name__} ({reason})") from error


def _damaged_file(folder: Path) -> str:
    """The first safetensors file of a folder that cannot be opened, in words, as the libraries do not name it."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except OSError as error:
            return f"{path.name} cannot be opened: {error}"
        except SafetensorError as error:
            return f"{path.name} is damaged or cut short, get it again: {error}"
    return ""


def require_chat(speaker: Any, folder: Path) -> None:
    """Raise WeightsError unless a tokenizer or processor, read from `folder`, has words and a chat template.

    transformers makes a tokenizer without a word where the files are missing.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise WeightsError(f"{folder}: has no tokenizer.json or vocab.json; get it again")
    if not speaker.chat_template:
        raise WeightsError(f"{folder}: has no chat template (chat_template.jinja); get it again")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context in which diffusers and transformers neither draw progress bars nor remark on what they read."""
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


def read_tensors(path: Path, prefix: str = "") -> dict[str, Any]:
    """Read everything in a safetensors file or a torch checkpoint (any other suffix), by name, as it is.

    prefix: only names that start with it are read, and are returned without it.
    A training checkpoint's `state_dict` is opened, and DDP's `module.` dropped. The values of a torch
    checkpoint may be something else than tensors. Raises WeightsError if the file cannot be read.
    """
    tensors = _read_safetensors(path, prefix) if path.suffix == ".safetensors" else _read_torch(path)
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read_safetensors(path: Path, prefix: str) -> dict[str, Any]:
    """Read the tensors of a safetensors file whose names start with `prefix`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: cannot be read as safetensors, get it again if it is damaged ({error})"
        ) from error


def read_shapes(path: Path) -> dict[str, Any]:
    """Read what `read_tensors` does, with tensors on the meta device: a large file is hardly touched."""
    # Both kinds of file are mapped.
    tensors = read_tensors(path)
    return {key: value.to("meta") if isinstance(value, Tensor) else value for key, value in tensors.items()}


def _read_torch(path: Path) -> dict[str, Any]:
    """Read the dict of a torch checkpoint, its `state_dict` where it has one, without DDP's prefix."""
    try:
        # The file is mapped, so that the parts which are not wanted (a text tower) take no memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # The function torch.load raises many kinds; each means an unusable file.
        reason = first_line(error, skip_blank=True)
        if reason.startswith("Weights only load failed"):
            # The rest of torch's message advises what is not safe.
            reason = "it is no torch file, or holds more than tensors"
        raise WeightsError(
            f"{path}: cannot be read as tensors, get it again if it is damaged ({reason})"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected a dict of tensors")
    values = {str(name): value for name, value in content.items()}
    names = [name for name, value in values.items() if isinstance(value, Tensor)]
    if names and all(name.startswith("module.") for name in names):
        values = {name.removeprefix("module."): value for name, value in values.items()}
    return values


def fill_strictly(module: nn.Module, tensors: dict[str, Any], path: Path, owner: str = "this model") -> None:
    """Fill all of a module's tensors from those of `path`, or raise one WeightsError on every mismatch.

    owner: the name, for the message, of what they do not fit then.
    """
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    problems = mismatches(tensors, shapes)
    if problems:
        raise WeightsError(f"{path}: does not fit {owner}: {shorten(problems)}")
    module.load_state_dict(tensors)


def mismatches(tensors: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Return every entry that is missing, unknown, no tensor of floats, wrongly shaped or not finite, in words, sorted.

    Tensors on the meta device have no values to look at.
    """
    problems = [f"missing {key}" for key in shapes.keys() - tensors.keys()]
    problems += [f"unknown {key}" for key in tensors.keys() - shapes.keys()]
    for key in shapes.keys() & tensors.keys():
        value = tensors[key]
        if not isinstance(value, Tensor):
            problems.append(f"{key} is a {type(value).__name__}, expected a tensor")
        elif not value.is_floating_point():
            problems.append(f"{key} is {value.dtype}, expected floats")
        elif tuple(value.shape) != shapes[key]:
            problems.append(f"{key} is {tuple(value.shape)}, expected {shapes[key]}")
        elif not value.is_meta and not value.float().isfinite().all():
            problems.append(f"{key} is not finite")
    return sorted(problems)


def shorten(problems: list[str], most: int = 20) -> str:
    """Return the first problems in one line, and how many more there are."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more
