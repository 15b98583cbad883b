"""`strsr models pull judges` from a server of our own, and training that uses what was pulled."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor
from typer.testing import Result

from strsr_models.checkpoints.judges import JUDGES, SOURCE, Judge, hub_folder

from ..helpers.file_server import FileServer
from .test_models import one_line

Run = Callable[..., Result]
PULL = ("models", "pull", "judges")


def published(tensors: dict[str, Tensor]) -> bytes:
    """A file as torchvision publishes it: a dict of tensors in torch's old format."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def vgg19() -> dict[str, Tensor]:
    """Random weights of the layers that the judges see."""
    layers = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256)}
    tensors = {}
    for number, (inputs, outputs) in layers.items():
        tensors[f"features.{number}.weight"] = torch.randn(outputs, inputs, 3, 3) / outputs**0.5
        tensors[f"features.{number}.bias"] = torch.randn(outputs)
    return tensors


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Both of lite's judges with random weights, under names that bear their hashes."""
    server = FileServer()
    squeezenet = torchvision.models.squeezenet1_1(weights=None).state_dict()
    files = {"squeezenet1_1": published(squeezenet), "vgg19": published(vgg19())}
    for name, data in files.items():
        file = f"{name}-{hashlib.sha256(data).hexdigest()[:8]}.pth"
        monkeypatch.setitem(JUDGES, name, Judge(name, file, len(data), "of a test"))
        server.files[file] = data
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TORCH_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("STRSR_JUDGES_URL", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.close()


def states(strsr: Run) -> dict[str, str]:
    listed = json.loads(strsr("models", "list", "--json").stdout)["judges"]
    return {judge["name"]: judge["state"] for judge in listed}


def test_pulled_judges_are_used_where_no_file_is_named(
    strsr: Run, server: FileServer, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    assert states(strsr) == dict.fromkeys(("squeezenet1_1", "vgg19", "vgg16", "alexnet"), "absent")
    settings = ["steps=1", "batch_size=1", "crop_size=64", "fdl_from=0", "fdl_projections=2", "workers=0"]
    settings += ["device=cpu", "precision=fp32", "tensorboard=false", "log_every=1"]
    words = [word for setting in settings for word in ("--set", setting)]
    train = ("distill", "--data", photos, "--student", tiny_weights, "--out", tmp_path / "run", *words)
    message = one_line(strsr(*train))
    assert "needs perceptual_weights, coach_weights, fdl_weights" in message
    assert all(judge in message for judge in ("squeezenet1_1", "vgg19", SOURCE))
    assert "strsr models pull judges" in message
    assert not (tmp_path / "run").exists()

    result = strsr(*PULL)
    assert result.exit_code == 0, result.output
    assert {path.name for path in hub_folder().iterdir()} == set(server.files)
    assert states(strsr)["vgg19"] == states(strsr)["squeezenet1_1"] == "pulled"
    assert strsr("models", "verify", "judges").exit_code == 0
    assert strsr("models", "path", "vgg19").stdout == f"{JUDGES['vgg19'].path}\n"
    assert strsr(*PULL).stdout.count("is there already") == 2
    assert len(server.requests) == 2

    result = strsr(*train)
    assert result.exit_code == 0, result.output
    losses = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"perceptual_loss", "coach_loss", "fdl_loss"} <= losses.keys()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("portal", "is not the file"),
        ("cut", "is not the file"),
        ("broken", "status 503"),
        ("gone", "cannot be pulled"),
    ],
)
def test_what_is_not_the_judge_s_file_is_not_kept(
    strsr: Run, server: FileServer, monkeypatch: pytest.MonkeyPatch, mode: str, words: str
) -> None:
    server.mode = mode
    if mode == "gone":
        monkeypatch.setenv("STRSR_JUDGES_URL", "http://127.0.0.1:9")
    message = one_line(strsr(*PULL))
    assert words in message
    assert "squeezenet1_1" in message
    assert list(hub_folder().iterdir()) == []
    server.mode = ""


def test_a_damaged_judge_is_told_and_pulled_again(strsr: Run, server: FileServer) -> None:
    assert strsr(*PULL).exit_code == 0
    path = JUDGES["squeezenet1_1"].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!")
    message = one_line(strsr("models", "verify", "judges"))
    assert "squeezenet1_1 damaged" in message
    assert "strsr models pull judges" in message
    server.requests.clear()
    assert strsr(*PULL).exit_code == 0
    assert (path.read_bytes(), server.requests) == (whole, [path.name])
    path.write_bytes(b"")
    assert states(strsr)["squeezenet1_1"] == "incomplete"


def test_what_a_killed_pull_has_left_is_removed(strsr: Run, server: FileServer) -> None:
    left = hub_folder() / f".{JUDGES['squeezenet1_1'].file}.pull"
    left.mkdir(parents=True)
    (left / "half.partial").write_bytes(b"half")
    assert strsr(*PULL).exit_code == 0
    assert not left.exists()


def test_offline_forbids_to_pull_judges_too(
    strsr: Run, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline (HF_HUB_OFFLINE is set)" in one_line(strsr(*PULL))
    assert server.requests == []


def test_the_table_of_judges_is_torchvision_s() -> None:
    for name, judge in JUDGES.items():
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        assert judge.url == weights.url
        assert judge.size == pytest.approx(weights.meta["_file_size"] * 2**20, rel=1e-3)


def test_judges_lie_where_torch_hub_keeps_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_HOME", raising=False)
    assert hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"
