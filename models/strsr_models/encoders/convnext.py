"""The coach's published trunk: the visual tower of a CLIP ConvNeXt of open_clip's, frozen.

open_clip is imported when a trunk is built, not before: restoring pictures needs none of it. Only
the visual tower is built; weights come from a local file and are never downloaded here.

Letters: b batch, h w pixels, c_i channels of a stage, e channels of the embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import read_tensors
from ..checkpoints.locations import default_models_dir
from ..checkpoints.published import FOLDERS
from ..errors import UsageError, WeightsError, nearest
from ..packages import install_command
from .frozen import FrozenNetwork, fill

NAME, TAG = "convnext_xxlarge", "laion2b_s34b_b82k_augreg_soup"
STAGES = 3  # of four: their maps are at 1/4, 1/8 and 1/16 size
SMALLEST = 32  # px: the last stage works at 1/32 size
RANDOM = "random"  # the name that asks for weights without a file
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Names under which open_clip's repositories keep their weights, in the order of preference.
FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


class ConvNextTrunk(FrozenNetwork):
    """The trunk from images to the maps of a CLIP ConvNeXt's first three stages and its image embedding.

    `channels` are those of the maps (384, 768, 1536 for convnext_xxlarge), `embedding_channels`
    those of the embedding (1024).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        weights: Path | str | None = None,
        name: str = NAME,
        tag: str = TAG,
        checkpointing: bool = False,
        models_dir: Path | None = None,
    ) -> None:
        """Build the visual tower and fill it.

        weights: an open_clip checkpoint (.safetensors, .bin, .pt) or a folder that holds one, of
        which the `visual.*` tensors are read; "random": a random start, for tests and ablations;
        None: the models folder (`models_dir`; None: the default one), or else the local cache of
        huggingface_hub, if `tag` of `name` has been pulled or downloaded before.

        name: an open_clip ConvNeXt. checkpointing: compute stages again in the backward pass
        instead of keeping them, which crops of 1024 px need on the largest one.
        Raises UsageError for an unknown name, WeightsError for weights that are missing or do not fit.
        """
        super().__init__()
        config = _model_config(name)
        path = None if weights == RANDOM else _find_weights(weights, name, tag, models_dir)
        if path is None:
            self.visual = _visual_tower(config)
        else:
            # A file fills all 0.8 billion numbers, so that none is drawn.
            with torch.device("meta"):
                self.visual = _visual_tower(config)
            fill(self.visual, read_tensors(path, "visual."), path, f"visual tower of {name}")
        trunk = self.visual.trunk
        trunk.set_grad_checkpointing(checkpointing)
        self.channels: tuple[int, ...] = tuple(i["num_chs"] for i in trunk.feature_info[:STAGES])
        self.embedding_channels: int = config["embed_dim"]
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(1, 3, 1, 1), persistent=False)
        self.freeze()

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return maps (b, c_i, h/4/2^i, w/4/2^i) and embedding (b, e) of an image (b, 3, h, w) in [0, 1].

        The image is not resized: the network is convolutional and its head pools, though CLIP saw
        pictures of 256 px. Sizes are rounded down: of a side that is no multiple of 32 the last
        pixels are not seen by all stages. The embedding is not normalised.
        Raises UsageError for images smaller than 32 px.
        """
        if min(image.shape[-2:]) < SMALLEST:
            raise UsageError(f"ConvNeXt trunk: needs at least {SMALLEST} px, got {tuple(image.shape[-2:])}")
        trunk = self.visual.trunk
        x = trunk.stem((image - self.mean) / self.std)  # (b, c_1, h/4, w/4)
        maps = []
        for stage in trunk.stages:
            x = stage(x)  # (b, c_i, h/4/2^i, w/4/2^i)
            maps.append(x)
        pooled = trunk.forward_head(trunk.norm_pre(x))  # (b, c_4)
        return maps[:STAGES], self.visual.head(pooled)  # (b, e)


def _open_clip() -> Any:
    """Import open_clip. Raises UsageError, with the command that helps, where it is missing."""
    try:
        import open_clip
        import open_clip.timm_model
    except ImportError as error:
        raise UsageError(
            f"a ConvNeXt trunk needs open_clip: {install_command('open_clip_torch')} ({error})"
        ) from error
    return open_clip


def _model_config(name: str) -> dict[str, Any]:
    """Return the configuration that open_clip has of a ConvNeXt. Raises UsageError for an unknown name."""
    open_clip = _open_clip()
    known = [model for model in open_clip.list_models() if _is_convnext(open_clip.get_model_config(model))]
    if name not in known:
        raise UsageError(f"ConvNeXt trunk {name!r}: open_clip has no such ConvNeXt; {nearest(name, known)}")
    return dict(open_clip.get_model_config(name))


def _is_convnext(config: dict[str, Any]) -> bool:
    """Whether a configuration of open_clip's has a ConvNeXt as its visual tower."""
    return "convnext" in str(config["vision_cfg"].get("timm_model_name"))


def _visual_tower(config: dict[str, Any]) -> Any:
    """Build the image half of a CLIP model: `trunk`, a ConvNeXt of timm's, and `head`, the projection."""
    open_clip = _open_clip()
    vision = open_clip.CLIPVisionCfg(**config["vision_cfg"])
    return open_clip.timm_model.TimmModel(
        str(vision.timm_model_name),
        embed_dim=config["embed_dim"],
        image_size=vision.image_size,
        pool=vision.timm_pool,
        proj=vision.timm_proj,
        proj_bias=vision.timm_proj_bias,
        # The weights of timm itself are never wanted.
        pretrained=False,
    )


def _find_weights(weights: Path | str | None, name: str, tag: str, models_dir: Path | None) -> Path:
    """Return the file that `weights` means. Raises a WeightsError that says where to get it."""
    if weights is None:
        return _cached_weights(name, tag, models_dir or default_models_dir())
    path = Path(weights)
    if path.is_dir():
        files = [path / name for name in FILES if (path / name).is_file()]
        if not files:
            raise WeightsError(f"{path}: holds none of {', '.join(FILES)}")
        return files[0]
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights of {name}; {_where_from(name, tag)}")
    return path


def _cached_weights(name: str, tag: str, models_dir: Path) -> Path:
    """Return the weights that strsr has pulled, or huggingface_hub has downloaded before; asks no server."""
    from huggingface_hub import try_to_load_from_cache

    repository = _repository(name, tag)
    folder = _pulled_by_strsr().get(repository)
    for path in [models_dir / folder / file for file in FILES] if folder else []:
        if path.is_file():
            return path
    files = FILES if repository else ()
    for file in files:
        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    raise WeightsError(f"{name}: no weights given; {_where_from(name, tag)}")


def _repository(name: str, tag: str) -> str:
    """The huggingface.co repository of a tag, or "" if open_clip knows none."""
    entry = _open_clip().get_pretrained_cfg(name, tag) or {}
    return str(entry.get("hf_hub", "")).strip("/")


def _pulled_by_strsr() -> dict[str, str]:
    """Return the folders of `strsr models pull`, by their repositories."""
    return {entry.repository: entry.folder for entry in FOLDERS.values()}


def _where_from(name: str, tag: str) -> str:
    """Advice on where to get the weights, for a message."""
    repository = _repository(name, tag)
    source = f"https://huggingface.co/{repository}" if repository else "the repository of this model"
    if folder := _pulled_by_strsr().get(repository):
        command = f"strsr models pull {folder}"
        return f"they come from {source}: get them by: {command}; or give the path of a file or folder that has them"
    return f"download {FILES[-1]} from {source} and give the path of that file, or of its folder, as weights"
