"""`strsr bench`."""

from __future__ import annotations

import typer

from strsr_models.errors import UsageError

from .options import (
    PARTS,
    SIDE,
    Batches,
    BenchBackend,
    BenchDevice,
    BenchModel,
    BenchPrecision,
    BenchWeights,
    Images,
    JsonFigures,
    ModelsDir,
    OwnPictures,
    Repeats,
    Scale,
    Size,
    Skip,
)

LARGEST_BATCH = 1024  # tiles


def bench(
    model: BenchModel = "lite",
    weights: BenchWeights = None,
    models_dir: ModelsDir = None,
    device: BenchDevice = "auto",
    precision: BenchPrecision = "auto",
    backend: BenchBackend = "auto",
    scale: Scale = 4,
    runs: Repeats = 3,
    images: Images = 60,
    size: Size = None,
    folder: OwnPictures = None,
    batch: Batches = "auto",
    skip: Skip = "",
    json: JsonFigures = False,
) -> None:
    """Measure start-up, speed, memory and what the machine could do at most, by a fixed protocol.

    JPEG files are made (photo-like, the same each time) or taken from --folder, and their outputs
    written as PNG to a temporary folder, by what `strsr upscale` runs. After a warm-up each run
    times the batch from file to file, and the network alone on the very same tiles; their ratio is
    the pipeline's efficiency. Medians of all runs. Tell other programs to be quiet meanwhile.

    Exit code: 0 measured, 1 a picture failed, 2 wrong usage, 3 weights or device not available,
    130 interrupted.
    """
    from strsr_models.tiling.sizes import check_scale

    check_scale(scale)
    if folder is not None and size is not None:
        raise UsageError("--size: is of pictures that are made; --folder brings its own")
    batches, skipped = parse_batches(batch), parse_parts(skip)
    from ..bench.protocol import BenchOptions, measure
    from ..bench.text import show
    from ..setup.hub_weights import local_weights

    options = BenchOptions(
        model=model,
        weights=local_weights(weights),
        models_dir=models_dir,
        device=device,
        precision=precision,
        backend=backend,
        scale=scale,
        runs=runs,
        images=images,
        size=size or SIDE,
        folder=folder,
        batches=batches,
        skip=skipped,
    )
    show(measure(options, lambda text: typer.echo(text, err=True)), json, typer.echo)


def parse_batches(text: str) -> tuple[int, ...] | None:
    """`auto` -> None, `1,2,8` -> numbers of tiles. Raises UsageError."""
    if text == "auto":
        return None
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdecimal() and 1 <= int(part) <= LARGEST_BATCH for part in parts):
        return tuple(map(int, parts))
    raise UsageError(f"--batch {text}: use auto or numbers of tiles, 1 to {LARGEST_BATCH}, such as 1,2,4,8")


def parse_parts(text: str) -> frozenset[str]:
    """`start-up,roofline` -> the two; of PARTS. Raises UsageError."""
    parts = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not parts <= set(PARTS):
        raise UsageError(f"--skip {text}: use some of {', '.join(PARTS)}")
    return parts
