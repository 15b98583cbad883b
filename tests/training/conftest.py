"""Fixtures of the training room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strsr_cli.training.config_files import to_toml
from strsr_cli.training.settings import TrainConfig

from ..conftest import TINY
from ..helpers.pairs import Home
from ..helpers.teachers import save_teacher


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    """A configuration file of the tiny network."""
    path = tmp_path / "tiny.toml"
    lines = to_toml(TrainConfig(model=TINY))
    path.write_text(lines[lines.index("[model]") :])
    return path


@pytest.fixture
def photo_folder(tmp_path: Path, photo: np.ndarray) -> Path:
    """Five photos that differ, one in a folder below."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.roll(photo, 31 * number, axis=1)).save(folder / f"{number}.png")
    Image.fromarray(photo[::-1].copy()).save(folder / "more" / "4.webp", lossless=True)
    return folder


@pytest.fixture
def empty(tmp_path: Path) -> Home:
    """Three photos and a teacher, without pairs as yet."""
    home = Home(tmp_path)
    home.photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home.photos / f"{number}.png")
    save_teacher(home.teacher)
    return home


@pytest.fixture
def home(empty: Home) -> Home:
    """Eight pairs, made in two groups."""
    empty.make()
    return empty
