"""`strsr train`: from a folder of photos to lite's weights, in three stages with one loop.

autoencoder   the structural encoder and the decoder learn to give a good photo back
flow          the DiT learns the velocity along the straight path from good latents to degraded ones:
              a painter in several steps, `strsr upscale --steps N`
pixel         all organs learn end to end in one step, by L1 and a perceptual distance

The loop runs the verbs that `strsr upscale` runs, with gradients on. `strsr distill` goes on from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strsr_models.checkpoints.locations import WEIGHTS_NAME, weights_folder
from strsr_models.errors import UsageError
from strsr_models.load import load_lite
from strsr_models.pipelines.lite import LiteConfig, LitePipeline

from ..system.console import Tell
from .config_files import read_config, to_toml
from .criterion import Distance, image_losses, make_distance, weighted_sum
from .data.crops import Batch, Crops
from .data.photos import load_photos
from .data.seeds import generator_for
from .environment import begin_step, compile_parts, make_accelerator
from .judge_files import check_judges
from .loop import (
    batches_from,
    check_crop_size,
    describe,
    in_parts,
    learning_rate,
    make_adamw,
    set_learning_rate,
)
from .memory import decoded_bytes, estimate_memory
from .preview import draw_preview
from .run.checkpoint import Average
from .run.folder import Run
from .run.logbook import Logbook
from .settings import TrainConfig


def train(data: list[Path], out: Path, config_file: Path | None, settings: list[str], report: Tell) -> Path:
    """Run or resume the training in `out`; returns the folder of the exported weights."""
    config = read_config(TrainConfig, config_file, settings, run=out)
    accelerator = make_accelerator(config)
    torch.manual_seed(config.seed)
    pipeline, stage, distance = build(config, accelerator.device)
    parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    main = accelerator.is_main_process
    crops = Crops(
        load_photos(data, config.crop_size, config.cache_gb, main, config.photo_colors),
        config.crop_size,
        config.seed,
        config.graphics_share,
    )
    run, average = Run(out), Average(pipeline, config.ema_decay)
    compile_parts(config, [*pipeline.children(), distance])
    stage, optimizer = accelerator.prepare(stage, make_adamw(parameters, config, config.learning_rate))
    start = weights_folder(Path(config.init)) / WEIGHTS_NAME if config.init else None
    with (
        run.locked(main),
        Logbook(
            run=run,
            accelerator=accelerator,
            config=config,
            crops=crops,
            models=[stage],
            average=average,
            distance=distance,
            start=start,
            size=describe(pipeline),
            report=report,
        ) as logbook,
    ):
        for batch, numbers in batches_from(logbook.step, logbook.stop, crops, config, accelerator):
            begin_step(config)
            step = logbook.step
            rate = learning_rate(config, step, logbook.share)
            set_learning_rate(optimizer, rate)
            whole = (batch.hq, batch.lq_up, batch.picture, numbers)
            for hq, lq_up, picture, part in in_parts(accelerator, stage, whole, config.accumulate):
                losses, restored = stage(hq, lq_up, picture, part)
                accelerator.backward(weighted_sum(losses, config) / config.accumulate)
                logbook.meter.add(losses)
            if logbook.guard.step(accelerator, optimizer, parameters, config.gradient_clip, step + 1):
                average.update(step + 1)
            if logbook.after_step(restored, hq, {"learning_rate": rate}):
                break
    return logbook.finish()


def build(config: TrainConfig, device: torch.device) -> tuple[LitePipeline, nn.Module, Distance | None]:
    """Build the pipeline that a run trains, the stage that computes its losses, and the perceptual loss among these."""
    check_judges(config)
    pipeline = build_pipeline(config).to(device)
    pipeline.set_gradient_checkpointing(config.gradient_checkpointing)
    check_crop_size(config, pipeline)
    distance = make_distance(config, device)
    return pipeline, STAGE_LOSSES[config.stage](pipeline, config, distance), distance


def build_pipeline(config: TrainConfig) -> LitePipeline:
    """Build a pipeline with random weights, or with those of `init`, in float32 on the CPU."""
    if not config.init:
        fresh = LitePipeline(config.model).train()
        return fresh.to(memory_format=torch.channels_last)
    pipeline = load_lite(weights_folder(Path(config.init)), torch.device("cpu"), None)
    if pipeline.config != config.model and config.model != LiteConfig():
        raise UsageError(f"init {config.init}: its config.json differs from [model]; leave [model] out")
    return pipeline.requires_grad_(True).train()


class PixelStage(nn.Module):
    """The stage that trains all organs, end to end in one step."""

    def __init__(self, pipeline: LitePipeline, config: TrainConfig, distance: Distance | None) -> None:
        super().__init__()
        self.pipeline, self.config, self.distance = pipeline, config, distance

    def forward(
        self, hq: Tensor, lq_up: Tensor, picture: Tensor, _numbers: Sequence[int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return losses, and the restored crops (b, 3, s, s)."""
        restored = self.pipeline(lq_up, picture)
        return image_losses(restored, hq, self.config, self.distance), restored


class AutoencoderStage(nn.Module):
    """The stage of structural encoder and decoder: latents of a good photo must give the photo back."""

    def __init__(self, pipeline: LitePipeline, config: TrainConfig, distance: Distance | None) -> None:
        super().__init__()
        pipeline.requires_grad_(False)
        for organ in (pipeline.structural_encoder, pipeline.decoder):
            organ.requires_grad_(True)
        self.pipeline, self.config, self.distance = pipeline, config, distance

    def forward(
        self, hq: Tensor, lq_up: Tensor, _picture: Tensor, _numbers: Sequence[int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return losses, and the crops (b, 3, s, s) as they come back."""
        restored = self.pipeline.decode_latents(self.pipeline.encode_latents(hq), lq_up)
        return image_losses(restored, hq, self.config, self.distance), restored


class FlowStage(nn.Module):
    """The stage of the DiT and its semantic tokens: velocity along the straight path from good to degraded latents.

    At sigma in (0, pipeline.sigma] the latents are good + sigma / pipeline.sigma * (degraded - good),
    so that the velocity is (degraded - good) / pipeline.sigma everywhere, and the one step of
    `denoise` from the degraded end arrives at the good one.
    """

    def __init__(self, pipeline: LitePipeline, config: TrainConfig, _distance: Distance | None) -> None:
        super().__init__()
        pipeline.requires_grad_(False)
        for organ in (pipeline.dit, pipeline.semantic_encoder, pipeline.projector):
            organ.requires_grad_(True)
        self.pipeline, self.seed, self.noise = pipeline, config.seed, config.flow_noise

    def forward(
        self, hq: Tensor, lq_up: Tensor, picture: Tensor, numbers: Sequence[int]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return losses, and the crops (b, 3, s, s) that the velocity of this moment would lead to at once."""
        pipeline = self.pipeline
        with torch.no_grad():
            good, degraded = pipeline.encode_latents(hq), pipeline.encode_latents(lq_up)  # (b, c, h, w)
        rngs = [generator_for("flow", self.seed, int(number)) for number in numbers]
        share = torch.stack([1 - torch.rand(1, 1, 1, generator=rng) for rng in rngs]).to(good)  # (0, 1]
        noise = torch.stack([torch.randn(good.shape[1:], generator=rng) for rng in rngs]).to(good)
        path = degraded + self.noise * noise - good
        latents, velocity = good + share * path, path / pipeline.sigma
        sigma = share.flatten() * pipeline.sigma  # (b,)
        pred = pipeline.velocity(latents, sigma, pipeline.encode_condition(picture))
        with torch.no_grad():
            arrived = latents - sigma.view(-1, 1, 1, 1) * pred
            restored = pipeline.decode_latents(arrived, lq_up)
        return {"flow_loss": F.mse_loss(pred.float(), velocity.float())}, restored


STAGE_LOSSES: dict[str, type[PixelStage | AutoencoderStage | FlowStage]] = {
    "autoencoder": AutoencoderStage,
    "flow": FlowStage,
    "pixel": PixelStage,
}


def preview(data: list[Path], config_file: Path | None, settings: list[str], sheet: Path) -> None:
    """Write a sheet of what the network would see of the data: rows of hq | lq."""
    draw_preview(sheet, data, read_config(TrainConfig, config_file, settings))


def dry_run(data: list[Path], config_file: Path | None, settings: list[str], report: Tell) -> None:
    """Tell what `train` would run and what memory it would take; nothing is written."""
    config = read_config(TrainConfig, config_file, settings)
    accelerator = make_accelerator(config)
    photos = load_photos(data, config.crop_size, cache_gb=0)
    pipeline, stage, distance = build(config, torch.device("cpu"))
    report(to_toml(config))
    report(f"# {len(photos)} photos, {describe(pipeline)}")

    def step(batch: Batch, numbers: list[int]) -> None:
        losses, _ = stage(batch.hq, batch.lq_up, batch.picture, numbers)
        weighted_sum(losses, config).backward()  # type: ignore[no-untyped-call]

    judges = distance.networks if distance is not None else []
    kept = decoded_bytes(photos, config.cache_gb)
    estimate = estimate_memory(pipeline, judges, config, accelerator.num_processes, step, photos=kept)
    report(f"# memory on each device: {estimate}")
