"""`strsr export --push owner/name`: an export with a model card, to a repository on huggingface.co."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from strsr_models.checkpoints.locations import CONFIG_NAME
from strsr_models.checkpoints.published import FAMILIES, FOLDERS
from strsr_models.errors import UsageError, WeightsError

from .. import __version__
from ..system.console import Tell
from . import hub
from .hub_weights import FILES, OPTIONAL

NAME = re.compile(r"[\w.-]+/[\w.-]+")
CARD = "README.md"
OF_THE_HUB = {".gitattributes"}  # which it makes itself
TAGS = ("strsr", "super-resolution", "image-restoration")
TEXT = """# {title}

Weights for [strsr](https://pypi.org/project/strsr/), which makes old, small or damaged photos large and sharp:
{kind}.

    strsr upscale photos/ large/{model} --weights hf:{name}

## What made them

{facts}

Licence: {licence}. Name the photos that they were trained on, what they are good for and where they fail, before others
rely on them.
"""


def push(folder: Path, name: str, licence: str, datasets: list[str], report: Tell) -> str:
    """Upload an export with its card; returns its address. Raises UsageError, WeightsError, one line each.

    folder: as `strsr export` wrote it. name: owner/name, made where it is not there. A repository that holds files of
    something else is left as it is.
    """
    token = check_push(name)
    from huggingface_hub import HfApi

    family = _family(folder)
    files = (CONFIG_NAME, *FILES[family], *(extra for extra in OPTIONAL if (folder / extra).is_file()))
    api = HfApi(endpoint=hub.endpoint(), token=token)
    with _one_line(name):
        if api.repo_exists(name):
            there = {sibling.rfilename for sibling in api.model_info(name).siblings or []}
            _check_own(name, there, {*files, *OPTIONAL, CARD})
        else:
            api.create_repo(name)
        (folder / CARD).write_text(card(folder, family, name, licence, datasets), encoding="utf-8")
        report(f"uploading {', '.join(files)} and the card to {hub.endpoint()}/{name}")
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[*files, CARD],
            commit_message=f"Weights exported by strsr {__version__}",
        )
    return f"{hub.endpoint()}/{name}"


def check_push(name: str) -> str:
    """Return the token to push with. Raises UsageError for a wrong name, WeightsError offline or without a token."""
    if not NAME.fullmatch(name):
        raise UsageError(f"--push {name}: expected owner/name")
    if variable := hub.forbidden_by():
        raise WeightsError(f"--push {name}: offline ({variable} is set); unset it to push")
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise WeightsError(
            f"--push {name}: no token: log in by `hf auth login`, or set HF_TOKEN to one that may write"
        )
    return str(token)


def _check_own(name: str, there: set[str], ours: set[str]) -> None:
    """Raise UsageError for a repository with files that no export has."""
    others = sorted(there - ours - OF_THE_HUB)
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise UsageError(
            f"--push {name}: exists already and holds other files ({', '.join(others[:3])}{more}); name another"
        )


@contextlib.contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Turn what the hub refuses into one line."""
    from huggingface_hub import errors

    try:
        yield
    except UsageError:
        raise
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise WeightsError(
                f"--push {name}: the token may not write there (status {status}); take one with the right to write, "
                f"of {name.split('/')[0]} or of its members"
            ) from error
        raise WeightsError(
            f"--push {name}: {hub.endpoint()} answers with status {status}; try again later"
        ) from error
    except Exception as error:
        raise WeightsError(
            f"--push {name}: cannot be pushed to {hub.endpoint()} ({hub.reason_behind(error)}); try again later"
        ) from error


def _family(folder: Path) -> str:
    return str(json.loads((folder / CONFIG_NAME).read_text())["family"])


def card(folder: Path, family: str, name: str, licence: str, datasets: list[str]) -> str:
    """Return the model card of an export: front matter for the hub, and what its metadata says of it."""
    from huggingface_hub import ModelCardData

    base = FOLDERS[FAMILIES[family][0]].repository if family in FAMILIES else None
    data = ModelCardData(
        license=licence,
        library_name="strsr",
        pipeline_tag="image-to-image",
        base_model=base,
        datasets=datasets or None,
        tags=[*TAGS, *(["lora"] if base else [])],
        **({"base_model_relation": "adapter"} if base else {}),
    )
    kind = f"an adapter (LoRA and projector) for {base}" if base else "a network of the family lite"
    facts = [f"- {key}: `{value}`" for key, value in sorted(_metadata(folder, family).items())]
    text = TEXT.format(
        title=name.split("/")[1],
        kind=kind,
        model=f" --model {family}" if base else "",
        name=name,
        facts="\n".join(facts) or "Nothing is known of it.",
        licence=licence,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _metadata(folder: Path, family: str) -> dict[str, str]:
    """Return what the weights' own metadata says: configuration, photos and steps that made them."""
    from safetensors import safe_open

    with safe_open(folder / FILES[family][0], "numpy") as file:
        return {key: value for key, value in (file.metadata() or {}).items() if key != "format"}
