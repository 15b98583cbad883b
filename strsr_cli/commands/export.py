"""`strsr export`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

from strsr_models.errors import UsageError

from .options import Datasets, ExportFolder, Faithful, Licence, Onnx, Push, RangePictures, Run


def export(
    run: Run,
    out: ExportFolder = None,
    faithful: Faithful = None,
    ranges: RangePictures = None,
    onnx: Onnx = None,
    push: Push = None,
    licence: Licence = "unknown",
    dataset: Datasets = None,
) -> None:
    """Make a run's averaged weights a folder for `strsr upscale --weights`, and push it to huggingface.co."""
    from ..system.console import show_warnings
    from ..training.export import export as export_run
    from ..training.export import export_onnx

    show_warnings()
    if out is None and push is None and onnx is None:
        raise UsageError(
            "OUT is missing: the new folder for the weights; or name a repository by --push, a file by --onnx"
        )
    if ranges is not None and out is None and push is None:
        raise UsageError("--ranges: belongs to a folder of weights; name OUT, too, or --push")
    if onnx is not None:
        typer.echo(f"network in {export_onnx(run, onnx)}")
        if out is None and push is None:
            return
    if push is None:
        assert out is not None
        folder = export_run(run, out, faithful, ranges)
        typer.echo(f"weights in {folder}; try them: strsr upscale INPUT OUTPUT --weights {folder}")
        return
    from ..setup import push as hub_push

    # Before anything is written.
    hub_push.check_push(push)
    with tempfile.TemporaryDirectory() as passing:
        folder = export_run(run, out or Path(passing) / "weights", faithful, ranges)
        address = hub_push.push(folder, push, licence, dataset or [], typer.echo)
    typer.echo(f"weights at {address}; try them: strsr upscale INPUT OUTPUT --weights hf:{push}")
