"""The files that judges are filled from: those that a configuration names, else those that were pulled."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from strsr_models.checkpoints.judges import BY_NETWORK, judge_file, own_file, require_judges
from strsr_models.config import as_tuple
from strsr_models.encoders.features import FEATURES
from strsr_models.errors import nearest

if TYPE_CHECKING:
    from .settings import LoopConfig

Names = str | tuple[str, ...]


def check_files(config: object, networks: str, files: str, advice: str) -> None:
    """Raise ValueError unless there is a file for each network of the setting `networks`.

    Files are named by the setting `files`, or it is empty, where `strsr models pull` knows all networks.
    """
    wanted, given = (as_tuple(getattr(config, name)) for name in (networks, files))
    for network in wanted:
        if network not in FEATURES and network not in BY_NETWORK:
            raise ValueError(f"{networks} {network!r}: unknown; {nearest(network, {*FEATURES, *BY_NETWORK})}")
    if given != ("",):
        if len(given) != len(wanted) or not all(given):
            raise ValueError(
                f"{networks} needs {files}, a file for each of {list(wanted)}, or none at all; {advice}"
            )
        return
    for network in wanted:
        if network not in BY_NETWORK:
            raise ValueError(f"{networks} needs {files}: {own_file(network, files)}; {advice}")


def named_files(networks: Names, files: Names) -> Iterator[tuple[str, Path]]:
    """Yield each network of a setting with the file that it is filled from, which need not be there."""
    given = itertools.chain(as_tuple(files), itertools.repeat(""))
    for network, file in zip(as_tuple(networks), given, strict=False):
        yield network, judge_file(network, file)


def check_judges(config: LoopConfig) -> None:
    """Raise one WeightsError on all files that the judges of a configuration lack, and how to get them."""
    roles = ["perceptual"] if config.perceptual_weight else []
    if getattr(config, "coach", "none") == "conv" and getattr(config, "coach_on_features", False):
        roles.append("coach")
    if getattr(config, "stage_two", False):
        roles.append("fdl")
    wanted = []
    for role in roles:
        setting = f"{role}_weights"
        files = named_files(getattr(config, f"{role}_network"), getattr(config, setting))
        wanted += [(setting, network, path) for network, path in files]
    require_judges(wanted)
