"""Fixtures: seeds, a tiny real pipeline in place of the big one, and a small photo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import settings
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from strsr_cli.app import app
from strsr_models.encoders.lite import SemanticConfig
from strsr_models.networks.autoencoder import PyramidConfig
from strsr_models.networks.dit import DiTConfig
from strsr_models.pipelines.lite import LiteConfig, LitePipeline

from .helpers.tiny_models import cached_models_folder

settings.register_profile("strsr", deadline=None)  # shared machines are slow at times
settings.load_profile("strsr")

EXAMPLES = Path(__file__).parent.parent / "examples"

TINY = LiteConfig(
    autoencoder=PyramidConfig(
        latent_channels=8,
        encoder_channels=16,
        encoder_blocks=1,
        decoder_channels=(16, 16, 8),
        decoder_blocks=(1, 1, 1),
        pixel_channels=4,
    ),
    semantic=SemanticConfig(short_side=32, channels=(8, 8, 16, 16), grid=2),
    dit=DiTConfig(latent_channels=8, width=32, depth=2, heads=2, hidden=32),
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _as_many_threads_as_before() -> Iterator[None]:
    """Sums of float32 depend on how many threads add them up, and tests that follow compare bits."""
    before = torch.get_num_threads()
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == before


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or writes the cache of the person who runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _torch_computes() -> Iterator[None]:
    """Tests compile nothing for OpenVINO, where it is installed, unless they say so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRSR_BACKEND", "torch")
        yield


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    """accelerate keeps one precision per process; each test may choose its own."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def tiny() -> LitePipeline:
    """A tiny lite whose every organ matters: nothing is left at zero."""
    pipeline = LitePipeline(TINY).eval()
    with torch.no_grad():
        pipeline.dit.patch_out.weight.normal_(std=0.3)
        pipeline.dit.time_out.weight.normal_(std=0.1)
    return pipeline


@pytest.fixture
def tiny_weights(tiny: LitePipeline, tmp_path: Path) -> Path:
    """The tiny pipeline's weights as a folder for --weights."""
    folder = tmp_path / "tiny-weights"
    folder.mkdir()
    tiny.save(folder, {})
    return folder


@pytest.fixture
def photo() -> np.ndarray:
    """A real photo, (120, 160, 3) uint8."""
    with Image.open(EXAMPLES / "cat.png") as image:
        return np.array(image)


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:
    """A folder to train on: one good photo, one too small, one damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "cat.png")
    Image.fromarray(photo[:8, :8]).save(folder / "too-small.png")
    (folder / "damaged.jpg").write_text("no")
    return folder


@pytest.fixture
def squeezenet(tmp_path: Path) -> Path:
    """A file of random weights with torchvision's names, as far as the last tap."""
    import torchvision

    path = tmp_path / "squeezenet.safetensors"
    save_file(dict(torchvision.models.squeezenet1_1(weights=None).state_dict()), path)
    return path


@pytest.fixture
def strsr() -> Callable[..., Result]:
    """Run the command line in this process: strsr("upscale", "in", "out")."""
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder in the published layout, of tiny real networks; made once, not to be changed."""
    return cached_models_folder(tmp_path_factory)
