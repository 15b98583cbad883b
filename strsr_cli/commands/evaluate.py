"""`strsr evaluate`."""

from __future__ import annotations

import typer

from ..images.formats import MAX_PIXELS
from .options import Border, Evaluated, InspectMaxPixels, Json, LpipsNet, LpipsWeights, Reference


def evaluate(
    out: Evaluated,
    against: Reference,
    border: Border = 0,
    lpips: LpipsNet = "auto",
    lpips_weights: LpipsWeights = None,
    max_pixels: InspectMaxPixels = MAX_PIXELS,
    json: Json = False,
) -> None:
    """Hold outputs against references of the same size: PSNR, SSIM, LPIPS and the grid score.

    Pairs have the same name; suffixes, and _x4 at the end of outputs' names, do not count. Nothing is
    resized, nothing is downloaded.

    Exit code: 0 all measured, 1 some could not be, 2 wrong usage, 3 weights of LPIPS not available.
    """
    from ..inspection.evaluate import EvaluateOptions, evaluate_folder
    from ..system.console import visible

    options = EvaluateOptions(against, border, lpips, lpips_weights, json, max_pixels)
    if not evaluate_folder(out, options, typer.echo, lambda line: typer.echo(visible(line), err=True)):
        raise typer.Exit(1)
