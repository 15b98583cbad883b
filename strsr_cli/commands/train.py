"""`strsr train`."""

from __future__ import annotations

import typer

from .options import ConfigFile, Data, DryRun, Preview, RunFolder, Settings, need_out


def train(
    data: Data,
    out: RunFolder = None,
    config: ConfigFile = None,
    set: Settings = None,
    preview: Preview = None,
    dry_run: DryRun = False,
) -> None:
    """Teach lite to restore photos, from a folder of good ones.

    --set stage=autoencoder, flow or pixel (the default) says what is learnt.
    """
    from ..system.console import show_warnings
    from ..system.machine import advice_on_cuda
    from ..training import train as loop

    show_warnings()
    if advice := advice_on_cuda():
        typer.echo(advice, err=True)
    if preview is not None:
        loop.preview(data, config, set or [], preview)
        typer.echo(f"look at {preview}")
    elif dry_run:
        loop.dry_run(data, config, set or [], typer.echo)
    else:
        loop.train(data, need_out(out), config, set or [], typer.echo)
