"""What the families on a published base share: conditions, precision, loading, training and saving.

A family (zimage.py, flux2.py) adds its conventions: the three verbs on latents, names and classes.
"""

from __future__ import annotations

import contextlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints import default_models_dir, fill_strictly, read_model, read_tensors, require_pieces
from ..devices import DTYPES, autocast, multiplies_bf16
from ..encoders.qwen import VisionLanguageEncoder, load_vision_language
from ..encoders.text import TextConvention, TextEncoder, load_text_encoder
from ..errors import UsageError, WeightsError
from ..half_precision import companion_dtype, make_float16_safe
from ..lora import add_lora, load_lora, lora_rank, lora_state_dict, merge_lora
from ..networks.projector import Projector
from .base import OneStepPipeline

VISION_LANGUAGE_FOLDER = "Qwen3-VL-4B-Instruct"
CONDITIONINGS = ("vlm", "text", "given")
LARGEST_LORA_SCALE = 1.5
# The two forms of an adapter's files: as `save_adapter` writes them, and as published.
SAVED = ("lora.safetensors", "projector.safetensors")
PUBLISHED = ("state_dict.pth", "projector.pth")


@dataclass(frozen=True)
class PretrainedOptions:
    """What a family on a published base is loaded with."""

    conditioning: str = "vlm"  # vlm: from the picture; text: from `prompt`; given: no encoder is loaded
    prompt: str = ""  # of text conditioning
    # Which one-step tensors are merged: "published" (StrSR's, in the models folder), "none" (the base
    # model as it is, to train from), or a folder that `save_adapter` wrote.
    adapter: str = "published"
    lora_scale: float = 1.0  # 0: the base model, 1: as trained
    # Of the parameters: auto, bf16, fp16 or fp32. auto, on CUDA: bf16 where the GPU multiplies it, else
    # fp16, which is made safe; elsewhere fp32.
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.conditioning not in CONDITIONINGS:
            raise UsageError(f"conditioning {self.conditioning!r}: use {', '.join(CONDITIONINGS)}")
        if self.prompt and self.conditioning != "text":
            raise UsageError(f"a prompt needs conditioning 'text', not {self.conditioning!r}")
        if not 0 <= self.lora_scale <= LARGEST_LORA_SCALE:
            raise UsageError(f"lora_scale {self.lora_scale:g}: must be between 0 and {LARGEST_LORA_SCALE}")
        if self.precision not in ("auto", *DTYPES):
            raise UsageError(f"precision {self.precision!r}: use auto, {', '.join(DTYPES)}")


class PretrainedPipeline(OneStepPipeline):
    """A published diffusion transformer and VAE, made a one-step restorer by LoRA and a projector.

    The parameters carry the precision: float32, or half of it for 6 B of them. Verbs cast what goes
    into a network to the network's dtype and give float32.
    """

    multiple_of = 16  # output px: the VAE's 8 times the transformer's patch of 2
    largest_tile = 1024
    overlap = 64
    sigma = 0.8  # where the one step starts; timestep = 1000 * sigma

    name: str
    base_folder: str  # in a models folder, diffusers' layout
    adapter_folder: str  # in a models folder, StrSR's files
    lora_targets: tuple[str, ...]
    text_convention: TextConvention

    def __init__(
        self,
        dit: nn.Module,
        vae: nn.Module,
        semantic_encoder: nn.Module | None = None,
        projector: nn.Module | None = None,
    ) -> None:
        """dit, vae: of the family's diffusers classes.

        semantic_encoder: images (b, 3, h, w) to tokens (b, m, e). Without one (set it to None once
        all conditions are made, and its memory is free) the verbs on latents take a given `cond`.
        projector: from the encoder's tokens to the transformer's; None where they are the same.
        """
        super().__init__()
        self.dit = dit
        self.vae = vae
        self.semantic_encoder = semantic_encoder
        self.projector = projector
        self.adapter = "none"  # what has been merged into `dit`

    @staticmethod
    @abstractmethod
    def classes() -> tuple[Any, Any]:
        """diffusers' (transformer, autoencoder) classes; imported on call, as lite does without them."""

    @staticmethod
    @abstractmethod
    def condition_width(dit: nn.Module) -> int:
        """Width d of the tokens that the transformer takes."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the transformer's own parameters (LoRA and projector are float32 in training)."""
        return next(self.dit.parameters()).dtype

    def encode_condition(self, image: Tensor) -> Tensor:
        """Semantic tokens (b, m, d) of whole images (b, 3, h, w) in [0, 1], float32.

        All images of a batch get the same number of tokens: it depends on the prompt alone.
        """
        if self.semantic_encoder is None:
            raise UsageError(f"{self.name} was loaded without a semantic encoder: give it a cond")
        tokens: Tensor = self.semantic_encoder(image)  # (b, m, e)
        if self.projector is not None:
            tokens = self.projector(tokens.to(next(self.projector.parameters()).dtype))
        return tokens.float()  # (b, m, d)

    def encode_posterior(self, lq_up: Tensor) -> Tensor:
        """The VAE's latents (b, c, H/8, W/8) of (b, 3, H, W) in [0, 1]: the mode, never a sample."""
        image = (2 * lq_up - 1).to(next(self.vae.parameters()).dtype)
        posterior = self.vae.encode(image).latent_dist  # type: ignore[operator]
        return posterior.mode().float()  # type: ignore[no-any-return]

    def decode_image(self, latents: Tensor) -> Tensor:
        """(b, c, H/8, W/8) in the VAE's own scale -> (b, 3, H, W) near [0, 1]."""
        image = self.vae.decode(latents.to(next(self.vae.parameters()).dtype)).sample  # type: ignore[operator]
        return image.float() / 2 + 0.5  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def computing(self, precision: str) -> Iterator[None]:
        """Parameters in half precision compute as they are; "fp32" widens them for the time being.

        Widening doubles the memory: it is the last resort for a tile that is not finite. Parameters in
        float32 are autocast, as in the other families.
        """
        if self.dtype == torch.float32:
            with autocast(self.device, precision):
                yield
        elif precision != "fp32":
            yield
        else:
            networks = [(network, next(network.parameters()).dtype) for network in (self.dit, self.vae)]
            try:
                for network, _ in networks:
                    network.float()
                yield
            finally:
                for network, dtype in networks:
                    network.to(dtype)

    def prepare_training(self, rank: int = 256, start: Path | None = None) -> None:
        """Freeze everything but the projector and a new LoRA of `rank` (both float32) on the transformer.

        start: a folder of `save_adapter` or a published one to go on from; its rank is then used.
        Activations are recomputed in the backward pass (gradient checkpointing): at 1024 px they would
        not fit. Raises UsageError on a pipeline that has an adapter merged, WeightsError for `start`.
        """
        if self.adapter != "none":
            raise UsageError(f"{self.name} has an adapter merged: load it with adapter='none' to train it")
        lora = lora_path = None
        if start is not None:
            lora_path, projector_path = adapter_files(start)
            lora = read_tensors(lora_path)
            rank = lora_rank(lora, lora_path)
            if self.projector is not None:
                fill_strictly(self.projector, read_tensors(projector_path), projector_path)
        self.requires_grad_(False).eval()
        add_lora(self.dit, self.lora_targets, rank)
        if lora is not None and lora_path is not None:
            load_lora(self.dit, lora, lora_path)
        if self.projector is not None:
            self.projector.float().requires_grad_(True)
        self.set_gradient_checkpointing(True)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Of the transformer and the VAE."""
        for network in (self.dit, self.vae):
            switch = (
                network.enable_gradient_checkpointing if enabled else network.disable_gradient_checkpointing
            )
            switch()  # type: ignore[operator]

    def save_adapter(self, folder: Path, metadata: dict[str, str]) -> None:
        """Write what training has made into an existing folder, to be loaded by `adapter=folder`.

        lora.safetensors and projector.safetensors under the published names, in the precision trained
        (float32), with `metadata`; and config.json, which says what they belong to.
        """
        from safetensors.torch import save

        parts = [lora_state_dict(self.dit), self.projector.state_dict() if self.projector else {}]
        for name, tensors in zip(SAVED, parts, strict=True):
            if tensors:
                whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
                (folder / name).write_bytes(save(whole, metadata={"format": "pt", **metadata}))
        config = {"family": self.name, "base": self.base_folder}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_models_dir(
        cls, root: Path | None, device: torch.device, options: PretrainedOptions
    ) -> PretrainedPipeline:
        """Load from a models folder in the published layout (default: see `default_models_dir`).

        The adapter is merged into the transformer, which then costs what the base does. Raises
        WeightsError that names every missing piece, or every tensor that does not fit.
        """
        root = root or default_models_dir()
        require_pieces(root, cls.pieces(options))
        dtype = parameter_dtype(options.precision, device)
        beside = companion_dtype(dtype, device)  # of VAE and language model
        dit_class, vae_class = cls.classes()
        dit = read_model(dit_class, root / cls.base_folder / "transformer", dtype).to(device)
        vae = read_model(vae_class, root / cls.base_folder / "vae", beside)
        encoder: VisionLanguageEncoder | TextEncoder | None = None
        projector = None
        if options.conditioning == "vlm":
            encoder = load_vision_language(root / VISION_LANGUAGE_FOLDER, beside)
            projector = Projector(encoder.width, cls.condition_width(dit))
        elif options.conditioning == "text":
            encoder = load_text_encoder(root / cls.base_folder, cls.text_convention, options.prompt, beside)
        pipeline = cls(dit, vae, encoder, projector)
        if options.adapter != "none":
            published = options.adapter == "published"
            folder = root / cls.adapter_folder if published else Path(options.adapter)
            pipeline.merge_adapter(folder, options.lora_scale)
        if dtype == torch.float16:
            make_float16_safe(dit)
        return pipeline.to(device)

    @classmethod
    def pieces(cls, options: PretrainedOptions) -> list[str]:
        """What `from_models_dir` needs of a models folder, as "folder/part"."""
        parts = ["transformer", "vae"]
        parts += ["text_encoder", "tokenizer"] if options.conditioning == "text" else []
        pieces = [f"{cls.base_folder}/{part}" for part in parts]
        pieces += [VISION_LANGUAGE_FOLDER] if options.conditioning == "vlm" else []
        if options.adapter == "published":
            files = PUBLISHED if options.conditioning == "vlm" else PUBLISHED[:1]
            pieces += [f"{cls.adapter_folder}/{file}" for file in files]
        return pieces

    def merge_adapter(self, folder: Path, scale: float = 1.0) -> None:
        """Add scale * LoRA to the transformer's weights for good, and fill the projector."""
        check_family(folder, self.name)
        lora_path, projector_path = adapter_files(folder)
        merge_lora(self.dit, read_tensors(lora_path), self.lora_targets, lora_path, scale)
        if self.projector is not None:
            fill_strictly(self.projector, read_tensors(projector_path), projector_path)
        self.adapter = str(folder)


def parameter_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Of the transformer: "auto" is bfloat16 on GPUs that multiply it, float16 on older ones, else float32."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if multiplies_bf16(device) else torch.float16


def adapter_files(folder: Path) -> tuple[Path, Path]:
    """The files (LoRA, projector) of a folder that `save_adapter` wrote, or of a published one."""
    for lora, projector in (SAVED, PUBLISHED):
        if (folder / lora).is_file():
            return folder / lora, folder / projector
    raise WeightsError(f"{folder}: no adapter there; expected {SAVED[0]} or {PUBLISHED[0]}")


def check_family(folder: Path, family: str) -> None:
    """Raise WeightsError if the folder's config.json (published ones have none) names another family."""
    path = folder / "config.json"
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text())["family"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not the configuration of an adapter ({error})") from error
    if found != family:
        raise WeightsError(f"{folder}: an adapter for --model {found}, not {family}")
