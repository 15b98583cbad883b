"""The scratch folder: everything that the commands of the pages name, small; and a `strsr` that trains for two steps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from strsr_models.checkpoints.judges import JUDGES
from strsr_models.checkpoints.locations import EMBEDDED
from strsr_models.networks.resnet50v2 import ResNet50V2Stages

from ..helpers.teachers import save_teacher
from ..helpers.tiny_models import tiny_models_folder
from .extract import ROOT

# `strsr` of the scratch folder: as typed, but for what makes training last hours.
STRSR = f"""#!{sys.executable}
import sys
from strsr_cli.app import app
args = sys.argv[1:]
if args[:1] in (["train"], ["distill"]):
    short = ["steps=2", "batch_size=1", "crop_size=96", "log_every=1", "workers=0"]
    if args[0] == "distill":
        short += ["fdl_from=0", "fdl_projections=2"]
    if "--make-pairs" in args:
        args[args.index("--make-pairs") + 1] = "32"
    for setting in [*short, "tensorboard=false", "device=cpu", "precision=fp32"]:
        args += ["--set", setting]
app(args)
"""
PYTHON = f"""#!/bin/sh
exec {sys.executable} "$@"
"""
FILE_TOML = """pairs = "pairs"
teacher = "x4plus.safetensors"
coach = "none"
fdl_weight = 0.0
perceptual_weight = 0.0
largest_crop = 96
pair_size = 96
"""


def make_scratch(root: Path) -> Path:
    """Fill a folder with what the pages name. Takes some seconds."""
    small_pictures(root)
    outputs(root)
    for_training(root)
    programs(root / "bin")
    tiny_models_folder(root / "cache" / "strsr" / "models")
    for name in ("docs", "scripts", "models", "tests"):
        (root / name).symlink_to(ROOT / name)
    return root


def picture(side: tuple[int, int], seed: int = 0) -> Image.Image:
    """A part of a photo, of so many px."""
    with Image.open(ROOT / "examples" / "cat.png") as cat:
        return cat.convert("RGB").crop((seed, seed, 100 + seed, 100 + seed)).resize(side)


def small_pictures(root: Path) -> None:
    """Photos of a few px wherever commands take them from."""
    for folder in ("photos/2024", "small", "here", "examples", "album"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(
        (
            "photos/cat.png",
            "photos/2024/dog.jpg",
            "small/a.png",
            "here/a.jpg",
            "examples/cat.png",
            "album/b.png",
        )
    ):
        picture((24, 20), number).save(root / name)
    for name in ("small.jpg", "a.jpg", "photo.jpg", "photo.png", "cat.jpg", "old.jpg", "in.jpg", "in.png"):
        picture((24, 20)).save(root / name)
    frames = [picture((24, 20), number) for number in range(2)]
    frames[0].save(root / "clip.gif", save_all=True, append_images=frames[1:], duration=80)
    (root / "examples" / "training").symlink_to(ROOT / "examples" / "training")


def outputs(root: Path) -> None:
    """Outputs of earlier runs, and what they are held against."""
    for folder in ("large", "originals"):
        (root / folder).mkdir()
        for number in range(2):
            picture((320, 256), number).save(root / folder / f"scan{number}.png")
    for number in (1, 2):
        for folder, shift in (("large", 0), ("originals", 3)):
            picture((96, 80), number + shift).save(root / folder / f"clip_{number:04}.png")


def for_training(root: Path) -> None:
    """Photos to train on, a run, and files of teachers and judges with random weights."""
    for folder, side in (("PHOTOS", 288), ("photos", 100)):
        (root / folder).mkdir(exist_ok=True)
        for number in range(2):
            picture((side, side), 10 * number).save(root / folder / f"large{number}.png")
    shutil.copytree(EMBEDDED / "lite", root / "RUN2" / "model")
    shutil.copytree(EMBEDDED / "lite", root / "START" / "model")
    (root / "FILE.toml").write_text(FILE_TOML)
    save_teacher(root / "x4plus.safetensors")
    torch.manual_seed(0)
    resnet = ResNet50V2Stages().state_dict()
    save_file({name: value.contiguous() for name, value in resnet.items()}, root / "resnet50v2.safetensors")
    hub = root / "cache" / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    torch.save(random_squeezenet(), hub / JUDGES["squeezenet1_1"].file)
    torch.save(random_vgg19(), hub / JUDGES["vgg19"].file)


def random_squeezenet() -> dict[str, torch.Tensor]:
    import torchvision

    return dict(torchvision.models.squeezenet1_1(weights=None).state_dict())


def random_vgg19() -> dict[str, torch.Tensor]:
    """The layers of VGG-19 as far as relu3_1, which is as far as lite's judges look."""
    layers = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256)}
    tensors = {}
    for number, (inputs, outputs) in layers.items():
        tensors[f"features.{number}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * outputs)) ** 0.5
        tensors[f"features.{number}.bias"] = 0.1 * torch.randn(outputs)
    return tensors


def programs(folder: Path) -> None:
    """The programs `strsr` and `python` of this environment."""
    folder.mkdir()
    for name, text in (("strsr", STRSR), ("python", PYTHON)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def environment(root: Path) -> dict[str, str]:
    """The variables under which commands run: nothing of the user's, and no network."""
    paths = [str(root / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        "PATH": os.pathsep.join(paths),
        "HOME": str(root / "home"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "models")]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
    }


def run(command: str, root: Path, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    """Run a command as bash does, in the scratch folder."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
        check=False,
    )
