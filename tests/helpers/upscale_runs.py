"""What a run of `strsr upscale` says and leaves."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def reasons(run: dict) -> dict[str, str]:
    return {Path(e["output"]).name: e["reason"] for e in run["events"] if e["event"] in ("skipped", "left")}


def made(run: dict) -> list[str]:
    return sorted(Path(event["output"]).name for event in run["events"] if event["event"] == "done")


def left_over(out: Path) -> list[str]:
    """Names of ours that no output bears; all images there are whole."""
    for path in (*out.rglob("*.png"), *out.rglob("*.jpg")):
        if not path.name.startswith("."):
            with Image.open(path) as image:
                image.load()
    return sorted(path.name for path in out.rglob(".*"))
