"""The part that families on a published base share: conditions, precision, loading, training and saving.

A family (zimage.py, flux2.py) adds its conventions: the three verbs on latents, names and classes.
"""

from __future__ import annotations

import contextlib
import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoints.adapter import SAVED, adapter_files, check_family
from ..checkpoints.files import read_model, read_shapes, read_skeleton, read_tensors, require_pieces
from ..checkpoints.locations import default_models_dir
from ..checkpoints.lora import (
    add_lora,
    check_lora,
    load_lora,
    lora_rank,
    lora_state_dict,
    merge_lora,
    published_names,
)
from ..checkpoints.published import needed_pieces
from ..compute import offload
from ..compute.devices import autocast, check_precision, parameter_dtype
from ..compute.half_precision import companion_dtype, make_float16_safe
from ..compute.quantize import BYTES, quantize, require_torchao
from ..encoders.text import TextConvention
from ..errors import UsageError
from .base import OneStepPipeline
from .conditioner import VISION_LANGUAGE_FOLDER, Conditioner, fill_projector, load_encoder, project
from .options import PretrainedOptions

log = logging.getLogger(__name__)

TILES_PER_TURN = 16  # for networks that take turns on a GPU: each way there and back costs seconds


class PretrainedPipeline(OneStepPipeline):
    """A published diffusion transformer and VAE, made a one-step restorer by LoRA and a projector.

    The parameters carry the precision: float32, or half of it for 6 B of them. Verbs cast what goes
    into a network to the network's dtype and give float32.
    """

    multiple_of = 16  # output px: the VAE's 8 times the transformer's patch of 2
    largest_tile = 1024  # what the released adapters were trained on: tiles are never fitted
    exact_tiles = True
    overlap = 64
    sigma = 0.8  # where the one step starts; timestep = 1000 * sigma
    vae_tile = 512  # px: of the VAE's own tiles, once it has run out of memory

    name: str
    base_folder: str  # in a models folder, diffusers' layout
    adapter_folder: str  # in a models folder, StrSR's files
    lora_targets: tuple[str, ...]
    text_convention: TextConvention
    width_key: str  # of the transformer's config: the width of a token of the condition
    most_tokens: int | None = None  # of the condition

    def __init__(
        self,
        dit: nn.Module,
        vae: nn.Module,
        semantic_encoder: nn.Module | None = None,
        projector: nn.Module | None = None,
    ) -> None:
        """Keep the networks dit and vae, which are of the family's diffusers classes.

        semantic_encoder: images (b, 3, h, w) to tokens (b, m, e). Without one (set it to None once
        all conditions are made, and its memory is free) the verbs on latents take a given `cond`.
        projector: from the encoder's tokens to the transformer's; None where they are the same.
        """
        super().__init__()
        self.dit = dit
        self.vae = vae
        self.semantic_encoder = semantic_encoder
        self.projector = projector
        # The adapter that has been merged into `dit`.
        self.adapter = "none"
        # The way in which `dit` and `vae` come to the device.
        self.offload = "none"

    @staticmethod
    @abstractmethod
    def classes() -> tuple[Any, Any]:
        """The classes (transformer, autoencoder) of diffusers; imported on call, as lite does without them."""

    @classmethod
    def condition_width(cls, dit: nn.Module) -> int:
        """The width d of the tokens that the transformer takes."""
        return int(dit.config[cls.width_key])  # type: ignore[index]

    @property
    def token_width(self) -> int:
        """The width d of the tokens of a condition."""
        return self.condition_width(self.dit)

    @classmethod
    def width_of(cls, root: Path) -> int:
        """The width d of a models folder's transformer, before its weights are read."""
        return cls.condition_width(read_skeleton(cls.classes()[0], root / cls.base_folder / "transformer"))

    @property
    def device(self) -> torch.device:
        """The device on which the transformer computes."""
        return offload.execution_device(self.dit)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the transformer's own parameters (LoRA and projector are float32 in training)."""
        return next(self.dit.parameters()).dtype

    def encode_condition(self, image: Tensor) -> Tensor:
        """Return semantic tokens (b, m, d) of whole images (b, 3, h, w) in [0, 1], float32.

        All images of a batch get the same number of tokens: it depends on the prompt alone.
        """
        if self.semantic_encoder is None:
            raise UsageError(f"{self.name} was loaded without a semantic encoder: give it a cond")
        tokens = self.semantic_encoder(image)  # (b, n, e)
        return project(tokens, self.projector, self.most_tokens)  # (b, m, d)

    def encode_posterior(self, lq_up: Tensor) -> Tensor:
        """Return the VAE's latents (b, c, H/8, W/8) of (b, 3, H, W) in [0, 1]: the mode, never a sample."""
        image = (2 * lq_up - 1).to(next(self.vae.parameters()).dtype)
        return self._through_vae(lambda: self.vae.encode(image).latent_dist.mode()).float()  # type: ignore[operator]

    def decode_image(self, latents: Tensor) -> Tensor:
        """Decode latents (b, c, H/8, W/8) in the VAE's own scale to an image (b, 3, H, W) near [0, 1]."""
        latents = latents.to(next(self.vae.parameters()).dtype)
        image = self._through_vae(lambda: self.vae.decode(latents).sample)  # type: ignore[operator]  # (b, 3, H, W)
        return image.float() / 2 + 0.5

    def _through_vae(self, run: Callable[[], Tensor]) -> Tensor:
        """Call `run`; if the device's memory is too small for that, again with a VAE that works in tiles.

        Its tiles do not see each other (norms and attention are over the whole input), so that this is
        near to the same and not the same: the way out where nothing would come out otherwise.
        """
        vae: Any = self.vae
        try:
            return run()
        except torch.OutOfMemoryError:
            if vae.use_tiling or torch.is_grad_enabled():
                raise
        # The memory of the attempt is free again only here, outside the handler.
        torch.cuda.empty_cache()
        vae.enable_slicing()
        vae.enable_tiling()
        vae.tile_sample_min_size = self.vae_tile
        vae.tile_latent_min_size = self.vae_tile // 8
        log.warning(
            "the VAE does not fit the free memory: from here on it works in tiles of %d px, which can "
            "differ a little in colour; a smaller --tile keeps it exact",
            self.vae_tile,
        )
        return run()

    @property
    def tile_networks(self) -> list[nn.Module]:
        """The networks that see tiles; the VAE by its halves, as it has no forward pass of its own here."""
        vae: Any = self.vae
        return [self.dit, vae.encoder, vae.decoder]

    @property
    def tiles_at_once(self) -> int:
        """The number of tiles at once: networks that take turns do so once for many tiles."""
        return TILES_PER_TURN if self.offload == "model" else 1

    def restore_together(
        self, views: list[Tensor], conds: list[Tensor], precision: str, steps: int
    ) -> list[tuple[Tensor, str]]:
        """Restore tiles as the base class does; networks that take turns each see all tiles in their turn."""
        if self.offload != "model":
            return super().restore_together(views, conds, precision, steps)
        with self.computing(precision):
            encoded = [self.encode_latents(self.placed(view)) for view in views]
            denoised = [
                self.denoise(latents, cond.to(self.device), steps)
                for latents, cond in zip(encoded, conds, strict=True)
            ]
            images = [
                self.decode_latents(latents, self.placed(view)).float()
                for latents, view in zip(denoised, views, strict=True)
            ]
        if all(bool(torch.isfinite(image).all()) for image in images):
            return [(image, precision) for image in images]
        return super().restore_together(views, conds, precision, steps)

    @contextlib.contextmanager
    def computing(self, precision: str) -> Iterator[None]:
        """A context in which parameters in half precision compute as they are; "fp32" widens them meanwhile.

        Widening doubles the memory: it is the last resort for a tile that is not finite. Parameters in
        float32 are autocast, as in the other families.
        """
        check_precision(precision)
        if self.dtype in (torch.float32, torch.float64):
            with autocast(self.device, precision):
                yield
        elif precision != "fp32":
            with autocast(self.device, "fp32"):
                yield
        else:
            networks = [(network, next(network.parameters()).dtype) for network in (self.dit, self.vae)]
            try:
                for network, _ in networks:
                    network.float()
                with autocast(self.device, "fp32"):
                    yield
            finally:
                for network, dtype in networks:
                    network.to(dtype)

    def training_condition(self, lq_up: Tensor, picture: Tensor) -> Tensor:
        """The crop itself at its original size, a quarter: what the vision-language model sees, as published."""
        size = [side // 4 for side in lq_up.shape[-2:]]
        return F.interpolate(lq_up, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)

    def prepare_training(self, rank: int = 256, start: Path | None = None) -> None:
        """Freeze everything but the projector and a new LoRA of `rank` (both float32) on the transformer.

        start: a folder of `save` or a published one to go on from; its rank is then used.
        Activations are recomputed in the backward pass (gradient checkpointing): at 1024 px they would
        not fit. Raises UsageError on a pipeline that has an adapter merged, WeightsError for `start`.
        """
        if self.adapter != "none":
            raise UsageError(f"{self.name} has an adapter merged: load it with adapter='none' to train it")
        lora = lora_path = None
        if start is not None:
            lora_path, projector_path = adapter_files(start)
            lora = published_names(read_tensors(lora_path))
            rank = lora_rank(lora, lora_path)
            fill_projector(self.projector, projector_path)
        self.requires_grad_(False).eval()
        add_lora(self.dit, self.lora_targets, rank)
        if lora is not None and lora_path is not None:
            load_lora(self.dit, lora, lora_path)
        if self.projector is not None:
            self.projector.float().requires_grad_(True)
        self.set_gradient_checkpointing(True)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Let the transformer and the VAE compute their activations again in the backward pass, or not."""
        for network in (self.dit, self.vae):
            switch = (
                network.enable_gradient_checkpointing if enabled else network.disable_gradient_checkpointing
            )
            switch()  # type: ignore[operator]

    def save(self, folder: Path, metadata: dict[str, str]) -> None:
        """Write what training has made into an existing folder, to be loaded by `adapter=folder`.

        The files are lora.safetensors and projector.safetensors under the published names, in the precision
        trained (float32), with `metadata`; and config.json, which says what they belong to.
        """
        from safetensors.torch import save

        parts = [lora_state_dict(self.dit), self.projector.state_dict() if self.projector else {}]
        for name, part in zip(SAVED, parts, strict=True):
            if part:
                tensors = {key: value.detach().cpu().contiguous() for key, value in part.items()}
                (folder / name).write_bytes(save(tensors, metadata={"format": "pt", **metadata}))
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
        require_torchao(options.quantize)
        dtype = parameter_dtype(options.precision, device)
        # The VAE and the language model never compute in float16.
        companion = companion_dtype(dtype, device)
        dit_class, vae_class = cls.classes()
        dit = read_model(dit_class, root / cls.base_folder / "transformer", dtype)
        vae = read_model(vae_class, root / cls.base_folder / "vae", companion)
        pipeline = cls(dit, vae)
        mode = pipeline._fitting_mode(options, device)
        if mode == options.quantize == "none":
            # Merging is fastest on the device, and main memory is then free for the encoder.
            pipeline.to(device)
        pipeline.semantic_encoder, pipeline.projector = load_encoder(cls, root, options, companion)
        if options.adapter != "none":
            pipeline.merge_adapter(cls.adapter_in(root, options), options.lora_scale)
        if dtype == torch.float16:
            make_float16_safe(dit)
        if options.quantize != "none":
            quantize(dit, options.quantize, device)
        pipeline.place(mode, device)
        return pipeline

    def _fitting_mode(self, options: PretrainedOptions, device: torch.device) -> str:
        """The offloading that `options` ask for; "auto" by the memory that is free."""
        dit, vae = offload.parameter_bytes(self.dit), offload.parameter_bytes(self.vae)
        if options.quantize != "none":
            dit = round(dit / self.dtype.itemsize * BYTES[options.quantize])
        pixels = self.largest_tile**2
        mode = offload.choose_mode(
            options.offload, device, dit=dit, vae=vae, pixels=pixels, itemsize=self.dtype.itemsize
        )
        # Quantised weights do not move layer by layer.
        return "model" if mode == "sequential" and options.quantize != "none" else mode

    def place(self, mode: str, device: torch.device) -> None:
        """Bring the networks to the device, all at once or as `mode` of offloading says; done once."""
        for network in (self.semantic_encoder, self.projector):
            if network is not None:
                network.to(device)
        if mode == "none":
            self.to(device)
        elif mode == "model":
            offload.take_turns((self.vae, self.dit), device)
        else:
            offload.move_layer_by_layer(self.dit, device)
            offload.move_layer_by_layer(self.vae, device)
        self.offload = mode

    @classmethod
    def load_conditioner(
        cls, root: Path | None, device: torch.device, options: PretrainedOptions
    ) -> Conditioner:
        """Load what `encode_condition` needs, without transformer and VAE; raises as `from_models_dir`."""
        root = root or default_models_dir()
        dtype = companion_dtype(parameter_dtype(options.precision, device), device)
        encoder, projector = load_encoder(cls, root, options, dtype)
        if encoder is None:
            raise UsageError("conditioning 'given' has no encoder to load")
        if projector is not None and options.adapter != "none":
            folder = cls.adapter_in(root, options)
            check_family(folder, cls.name)
            fill_projector(projector, adapter_files(folder)[1])
        conditioner = Conditioner(encoder, projector, cls.most_tokens).eval().requires_grad_(False)
        size = offload.parameter_bytes(encoder)
        mode = offload.choose_mode(
            options.offload, device, dit=size, vae=0, pixels=1024**2, itemsize=dtype.itemsize
        )
        if mode == "sequential":
            offload.move_layer_by_layer(encoder.model, device)
            if projector is not None:
                projector.to(device)
            return conditioner
        return conditioner.to(device)

    @classmethod
    def adapter_in(cls, root: Path, options: PretrainedOptions) -> Path:
        """The folder of the adapter that `options` ask for."""
        return root / cls.adapter_folder if options.adapter == "published" else Path(options.adapter)

    @classmethod
    def check_adapter(cls, root: Path, options: PretrainedOptions) -> None:
        """Raise WeightsError, before anything large is read, unless the LoRA's names and shapes fit."""
        if options.adapter != "none":
            folder = cls.adapter_in(root, options)
            check_family(folder, cls.name)
            path, _ = adapter_files(folder)
            dit = read_skeleton(cls.classes()[0], root / cls.base_folder / "transformer")
            check_lora(dit, published_names(read_shapes(path)), cls.lora_targets, path)

    @classmethod
    def condition_sources(cls, root: Path, options: PretrainedOptions) -> list[Path]:
        """The files and folders that a condition depends on, beside the picture and the prompt."""
        base = root / cls.base_folder
        if options.conditioning != "vlm":
            return [base / "text_encoder", base / "tokenizer"]
        if options.adapter == "none":
            return [root / VISION_LANGUAGE_FOLDER]
        return [root / VISION_LANGUAGE_FOLDER, adapter_files(cls.adapter_in(root, options))[1]]

    @classmethod
    def pieces(cls, options: PretrainedOptions) -> list[str]:
        """The pieces of a models folder that `from_models_dir` needs, as "folder/part"."""
        return needed_pieces(cls.name, options.conditioning, options.adapter == "published")

    def merge_adapter(self, folder: Path, scale: float = 1.0) -> None:
        """Add scale * LoRA to the transformer's weights for good, and fill the projector."""
        check_family(folder, self.name)
        lora_path, projector_path = adapter_files(folder)
        lora = published_names(read_tensors(lora_path))
        merge_lora(self.dit, lora, self.lora_targets, lora_path, scale=scale)
        fill_projector(self.projector, projector_path)
        self.adapter = str(folder)
