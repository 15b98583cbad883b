"""The table of published checkpoints: the folders that a models folder has, and where they come from.

The loader and `strsr models` share it. It imports nothing heavy and touches no network.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError, WeightsError, nearest
from .adapter import PUBLISHED
from .judges import GROUP, JUDGES

MODEL_FILES = ("*.json", "*.safetensors")
LICENCE_FILES = ("LICENSE*", "LICENCE*")
LARGEST_LORA_SCALE = 1.5  # of an adapter; 1: as trained


@dataclass(frozen=True)
class Published:
    """One folder of a models folder, and the huggingface.co repository that it comes from."""

    folder: str
    repository: str
    licence: str
    gigabytes: float  # about; what is pulled unless more is asked for. The hub's own figures rule
    parts: tuple[str, ...]  # what must be there to be used: folders of a model ("." is the top), or files
    files: tuple[str, ...] = ()  # patterns of what is pulled, the same number of folders deep
    text_encoder: tuple[str, ...] = ()  # patterns that only conditioning by text needs
    text_encoder_gigabytes: float = 0.0
    one_of: tuple[str, ...] = ()  # of these files, the first that the repository has
    word: str = ""  # in the path of `parts` where one repository holds them for several folders


def _base(folder: str, repository: str, gigabytes: float) -> Published:
    """Return a base model in diffusers' layout; all of them so far are Apache-2.0."""
    return Published(
        folder,
        repository,
        "Apache-2.0",
        gigabytes,
        parts=("transformer", "vae"),
        files=(
            *(f"{part}/{file}" for part in ("transformer", "vae") for file in MODEL_FILES),
            *LICENCE_FILES,
        ),
        text_encoder=(*(f"text_encoder/{file}" for file in MODEL_FILES), "tokenizer/*"),
        text_encoder_gigabytes=8.1,
    )


def _adapter(folder: str, word: str, gigabytes: float) -> Published:
    """Return the folder of StrSR's LoRA and projector; both families lie in one repository."""
    return Published(
        folder,
        "jkwang28/StrSR",
        "non-commercial, as its authors declare",
        gigabytes,
        parts=("state_dict.pth", "projector.pth"),
        word=word,
    )


# The gigabytes of adapters are counted, for rank 256 in float32.
_TABLE = (
    _base("Z-Image-Turbo", "Tongyi-MAI/Z-Image-Turbo", 24.8),
    _base("FLUX.2-klein-base-4B", "black-forest-labs/FLUX.2-klein-base-4B", 8.1),
    Published(
        "Qwen3-VL-4B-Instruct",
        "Qwen/Qwen3-VL-4B-Instruct",
        "Apache-2.0",
        8.9,
        parts=(".",),
        files=(*MODEL_FILES, "merges.txt", "*.jinja", *LICENCE_FILES),
    ),
    _adapter("StrSR-zimage", "zimage", 2.5),
    _adapter("StrSR-flux", "flux", 1.2),
    Published(
        "CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup",
        "laion/CLIP-convnext_xxlarge-laion2B-s34B-b82K-augreg-soup",
        "MIT",
        4.8,
        parts=(),
        files=("open_clip_config.json", *LICENCE_FILES),
        one_of=(
            "open_clip_model.safetensors",
            "open_clip_pytorch_model.safetensors",
            "open_clip_pytorch_model.bin",
        ),
    ),
)


FOLDERS = {entry.folder: entry for entry in _TABLE}
FAMILIES = {
    "zimage": ("Z-Image-Turbo", "Qwen3-VL-4B-Instruct", "StrSR-zimage"),
    "flux2": ("FLUX.2-klein-base-4B", "Qwen3-VL-4B-Instruct", "StrSR-flux"),
}

MODELS = ("lite", *FAMILIES)  # the names of all models


def check_model(model: str) -> None:
    """Raise UsageError unless `model` is one of MODELS."""
    if model not in MODELS:
        raise UsageError(f"--model {model}: unknown; {nearest(model, MODELS)}")


def named(name: str) -> tuple[Published, ...]:
    """The folders that a name of a folder or of a family means. Raises UsageError."""
    if name == "lite":
        raise UsageError("lite comes with strsr: there is nothing to pull or to verify")
    if name not in FOLDERS and name not in FAMILIES:
        known = [*FAMILIES, *FOLDERS, GROUP, *JUDGES]
        raise UsageError(f"{name}: no published model; {nearest(name, known)}")
    return tuple(FOLDERS[folder] for folder in FAMILIES.get(name, (name,)))


def adapter_folder(model: str) -> str:
    """The folder of a family's adapter in a models folder. Raises UsageError for a model without one."""
    if model not in FAMILIES:
        raise UsageError(f"--model {model}: has no published base")
    return FAMILIES[model][-1]


def pull_command(root: Path, pieces: Iterable[str]) -> str:
    """Return the command to type so that `pieces` ("folder/part") come into `root`."""
    pieces = list(pieces)
    folders = list(dict.fromkeys(piece.split("/")[0] for piece in pieces))
    # A family is named only for all of it: what is there already would be read, or fetched, in vain.
    families = [family for family, members in FAMILIES.items() if set(folders) == set(members)]
    names = families or folders
    text = any(piece.split("/")[1:2] in (["text_encoder"], ["tokenizer"]) for piece in pieces)
    where = shlex.quote(str(root))
    commands = []
    for name in names:
        with_text = text and (name in FAMILIES or FOLDERS[name].text_encoder)
        option = " --text-encoder" if with_text else ""
        commands.append(f"strsr models pull {name}{option} --models-dir {where}")
    return " && ".join(commands)


def needed_pieces(model: str, conditioning: str, adapter: bool) -> list[str]:
    """Return the pieces ("folder/part") of a models folder that a family needs.

    conditioning: vlm, text, none, or given. adapter: whether the published one is wanted.
    """
    base, language, own = FAMILIES[model]
    parts = ["transformer", "vae"]
    if conditioning in ("text", "none"):
        parts += ["text_encoder", "tokenizer"]
    pieces = [f"{base}/{part}" for part in parts]
    if conditioning == "vlm":
        pieces.append(language)
    if adapter:
        files = PUBLISHED if conditioning == "vlm" else PUBLISHED[:1]
        pieces += [f"{own}/{file}" for file in files]
    return pieces


def require_pieces(root: Path, pieces: Iterable[str]) -> None:
    """Raise one WeightsError that names every piece ("folder/part") missing in `root`, and how to get it."""
    missing = [piece for piece in pieces if not _is_there(root / piece)]
    if not missing:
        return
    sources = dict.fromkeys(FOLDERS[piece.split("/")[0]].repository for piece in missing)
    raise WeightsError(
        f"{root}: missing {', '.join(missing)}; they come from huggingface.co: {', '.join(sources)}; "
        f"get them by: {pull_command(root, missing)}; or name the folder that has them (--models-dir, STRSR_MODELS_DIR)"
    )


def _is_there(path: Path) -> bool:
    """Whether a path is a file, or a folder with anything in it."""
    # Unlike Path, both answer no to a name that is too long.
    return os.path.isfile(path) or (os.path.isdir(path) and any(path.iterdir()))  # noqa: PTH112, PTH113
