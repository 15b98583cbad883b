"""The networks of torchvision's that judge a student: their files, and where torch.hub keeps them.

The package has none of them. `strsr models pull` fetches them to where torchvision looks for them too. This file
imports nothing heavy and touches no network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import WeightsError
from .homes import expand_home

SOURCE = "https://download.pytorch.org/models"
GROUP = "judges"  # the name that stands for all that lite's preset and recipes need


@dataclass(frozen=True)
class Judge:
    """One file of weights, trained on ImageNet. The end of its name is the beginning of its SHA-256."""

    name: str  # torchvision's, of the network
    file: str
    size: int  # bytes, about
    purpose: str

    @property
    def hash_prefix(self) -> str:
        """The hexadecimal digits that the file's SHA-256 begins with."""
        return Path(self.file).stem.rpartition("-")[2]

    @property
    def url(self) -> str:
        """The address from which torchvision has the file."""
        return f"{SOURCE}/{self.file}"

    @property
    def path(self) -> Path:
        """The place where torch.hub keeps the file, which need not be there."""
        return hub_folder() / self.file


JUDGES = {
    judge.name: judge
    for judge in (
        Judge("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", 4_960_000, "lite's distance and coach"),
        Judge("vgg19", "vgg19-dcbb9e9d.pth", 574_670_000, "the frequency loss, lite's distance and coach"),
        Judge("vgg16", "vgg16-397923af.pth", 553_430_000, "LPIPS, to train by"),
        Judge("alexnet", "alexnet-owt-7be5be79.pth", 244_410_000, "LPIPS, to measure by"),
    )
}
OF_LITE = ("squeezenet1_1", "vgg19")
# Which of them a network of the settings is filled from where no file is named.
BY_NETWORK = {"squeezenet": "squeezenet1_1", "vgg19": "vgg19", "vgg19_torchvision": "vgg19", "lpips": "vgg16"}


def hub_folder() -> Path:
    """Return the folder in which torch.hub keeps weights, by the variables that it goes by.

    Raises WeightsError where it depends on a home folder that is not known.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = os.environ.get("TORCH_HOME") or os.path.join(caches, "torch")  # noqa: PTH118
    return (
        expand_home(root, "TORCH_HOME" if os.environ.get("TORCH_HOME") else "the user's cache")
        / "hub"
        / "checkpoints"
    )


def own_file(network: str, setting: str) -> str:
    """Say what to do where a network's file is nowhere to be pulled from. setting: the one that names it."""
    return f"{network} is a file of your own, named by {setting} (docs/using/training.md says which)"


def judge_file(network: str, named: str | None) -> Path:
    """Return the file to fill a network of the settings from: the one named, else the one that is pulled.

    It need not be there.
    """
    return Path(named) if named else JUDGES[BY_NETWORK[network]].path


def require_judges(wanted: Iterable[tuple[str, str, Path]]) -> None:
    """Raise one WeightsError that says of all missing files which setting needs them and where they come from.

    wanted: the setting that names a file, its network, and the file.
    """
    missing = [entry for entry in wanted if not entry[2].is_file()]
    if not missing:
        return
    settings = ", ".join(dict.fromkeys(setting for setting, _, _ in missing))
    paths = ", ".join(dict.fromkeys(str(path) for _, _, path in missing))
    pulled = [BY_NETWORK[network] for _, network, path in missing if path == _pulled_path(network)]
    raise WeightsError(f"needs {settings}: {paths}: no such file; {_advice(list(dict.fromkeys(pulled)))}")


def _pulled_path(network: str) -> Path | None:
    """Return where a network's file is once it is pulled, None for one that cannot be."""
    return JUDGES[BY_NETWORK[network]].path if network in BY_NETWORK else None


def _advice(pulled: list[str]) -> str:
    """Say how judges that are missing are got, those that can be pulled; none: files of one's own."""
    if not pulled:
        return "name the file; of networks in `strsr models list` the setting can be left out"
    names = [GROUP] if len(pulled) > 1 and set(pulled) <= set(OF_LITE) else pulled
    commands = " && ".join(f"strsr models pull {name}" for name in names)
    return f"torchvision's {' and '.join(pulled)}, from {SOURCE}; get it by: {commands}; or name files of your own"
