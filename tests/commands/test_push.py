"""`strsr export --push`: to a hub of our own, and back by `--weights hf:`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from PIL import Image
from typer.testing import Result

from strsr_cli.setup.hub_weights import local_weights
from strsr_models.pipelines.int8 import read_ranges

from ..helpers.pushing_hub import PushingHub
from .test_models import one_line

Run = Callable[..., Result]
NAME = "someone/tiny"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[PushingHub]:
    hub = PushingHub()
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    # Large files go by LFS, which this hub knows.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # of the library, before it tries again
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "writer")
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.close()


@pytest.fixture
def run_folder(tiny_weights: Path, tmp_path: Path) -> Path:
    """A run's folder, as far as export looks."""
    shutil.copytree(tiny_weights, tmp_path / "run" / "model")
    return tmp_path / "run"


# The library's own call of its HTTP library.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_pushed_weights_come_back_by_their_name(
    strsr: Run, hub: PushingHub, run_folder: Path, tmp_path: Path
) -> None:
    words = ("export", run_folder, "--push", NAME, "--licence", "cc-by-4.0", "--dataset", "someone/photos")
    result = strsr(*words)
    assert result.exit_code == 0, result.output
    assert f"--weights hf:{NAME}" in result.stdout
    files = hub.repositories[NAME]
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert files["model.safetensors"] == (run_folder / "model" / "model.safetensors").read_bytes()
    assert len(hub.commits) == 1
    card = huggingface_hub.ModelCard(files["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert card.data.pipeline_tag == "image-to-image"
    assert card.data.datasets == ["someone/photos"]
    assert {"strsr", "super-resolution"} <= set(card.data.tags)
    assert f"--weights hf:{NAME}" in card.text

    Image.new("RGB", (12, 10), "teal").save(tmp_path / "a.png")
    upscaled = strsr(
        "upscale", tmp_path / "a.png", tmp_path / "b.png", "--scale", 2, "--weights", f"hf:{NAME}"
    )
    assert upscaled.exit_code == 0, upscaled.output
    # Once more: its own files are replaced. OUT is kept where it is named.
    assert strsr("export", run_folder, tmp_path / "out", "--push", NAME).exit_code == 0
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert len(hub.commits) == 2
    # Ranges for int8 go there and come back, too.
    (tmp_path / "pictures").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "pictures" / "a.png")
    pictures = ("--ranges", tmp_path / "pictures")
    assert strsr("export", run_folder, "--push", NAME, *pictures).exit_code == 0
    assert "ranges.json" in hub.repositories[NAME]
    assert read_ranges(local_weights(Path(f"hf:{NAME}")))


def test_an_adapter_s_card_names_its_base(strsr: Run, hub: PushingHub, models: Path, tmp_path: Path) -> None:
    from strsr_cli.setup.push import card

    folder = tmp_path / "adapter"
    folder.mkdir()
    from safetensors.torch import save_file
    from torch import ones

    save_file({"a": ones(1)}, folder / "lora.safetensors", {"photos": "3", "format": "pt"})
    read = huggingface_hub.ModelCard(card(folder, "zimage", NAME, "other", []))
    assert read.data.base_model == "Tongyi-MAI/Z-Image-Turbo"
    assert "lora" in read.data.tags
    assert "- photos: `3`" in read.text
    assert "--model zimage" in read.text


def test_what_cannot_be_pushed_takes_one_line(
    strsr: Run, hub: PushingHub, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = ("export", run_folder, "--push")
    assert "OUT is missing" in one_line(strsr("export", run_folder), 2)
    assert "expected owner/name" in one_line(strsr(*push, "tiny"), 2)
    hub.repositories["someone/bert"] = {"pytorch_model.bin": b"x", "vocab.txt": b"y"}
    message = one_line(strsr(*push, "someone/bert"), 2)
    assert "holds other files (pytorch_model.bin, vocab.txt)" in message
    assert hub.commits == []
    with monkeypatch.context() as patch:
        patch.setenv("HF_TOKEN", "reader")
        assert "the token may not write there (status 403)" in one_line(strsr(*push, NAME))
        patch.delenv("HF_TOKEN")
        patch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere/token")
        assert "no token" in one_line(strsr(*push, NAME))
        patch.setenv("HF_HUB_OFFLINE", "1")
        assert "offline (HF_HUB_OFFLINE is set)" in one_line(strsr(*push, NAME))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be pushed to http://127.0.0.1:9" in one_line(strsr(*push, NAME))
    assert NAME not in hub.repositories
