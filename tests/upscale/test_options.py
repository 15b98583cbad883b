"""What decides an output: which settings a second run goes by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from strsr_cli.batch.job import Job
from strsr_cli.batch.target_size import TargetSize
from strsr_cli.upscale.options import BigModelOptions, UpscaleOptions, settings_hash

OPTIONS = UpscaleOptions(
    size=TargetSize(4.0),
    model="lite",
    weights=None,
    tile=None,
    overlap=None,
    device="auto",
    precision="auto",
    quality=95,
)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / "0.png", tmp_path / "out" / "0.png", "png")


def hashed(job: Job, **changes: object) -> str:
    return settings_hash(dataclasses.replace(OPTIONS, **changes), job)


def test_settings_of_other_pixels_have_another_hash(job: Job, tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("a cat")
    text = BigModelOptions(conditioning="text", prompt="a photo")
    own = BigModelOptions(conditioning="text", prompt="a photo", prompt_from=tmp_path)
    others = [
        hashed(job, size=TargetSize(2.0)),
        hashed(dataclasses.replace(job, kind="jpg")),
        hashed(dataclasses.replace(job, frame=2)),
        hashed(job, tile=512),
        hashed(job, strip=True),
        hashed(job, big=BigModelOptions()),
        hashed(job, big=BigModelOptions(lora_scale=0.5)),
        hashed(job, big=BigModelOptions(quantize="int8")),
        hashed(job, big=text),
        hashed(job, big=own),
    ]
    assert len({hashed(job), *others}) == len(others) + 1


def test_the_settings_hash_ignores_where_it_is_computed(job: Job, tmp_path: Path) -> None:
    assert hashed(job, device="cuda:0", batch=8, jobs=3, local=1) == hashed(job)
    assert hashed(job, big=BigModelOptions(offload="none")) == hashed(job, big=BigModelOptions())


def test_the_prompt_of_the_image_itself_counts(job: Job, tmp_path: Path) -> None:
    text = BigModelOptions(conditioning="text", prompt="a photo")
    own = BigModelOptions(conditioning="text", prompt="a photo", prompt_from=tmp_path)
    assert hashed(job, big=own) == hashed(job, big=text)
    (tmp_path / "0.txt").write_text("a cat")
    assert hashed(job, big=own) != hashed(job, big=text)


def test_folders_of_earlier_versions_stay_done(job: Job) -> None:
    """The text that is hashed is that of version 0.1, to the letter."""
    text = (
        '{"compile": false, "kind": "png", "model": "lite", "overlap": null, "png_compression": 1, '
        '"precision": "auto", "prompt": null, "provenance": false, "quality": 95, "recipe": 1, '
        '"scale": 4.0, "steps": 1, "strip": false, "tile": "auto"}'
    )
    assert hashed(job) == hashlib.sha256(text.encode()).hexdigest()
    big = json.loads(text) | {"recipe": 2, "model": "zimage", "tile": "512", "big": ["vlm", 1.0, "none"]}
    expected = hashlib.sha256(json.dumps(big, sort_keys=True).encode()).hexdigest()
    assert hashed(job, model="zimage", tile=512, big=BigModelOptions()) == expected
