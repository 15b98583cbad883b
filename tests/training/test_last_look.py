"""What is looked at before a run is done, saved or exported; what a kill leaves; words of its log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from strsr_cli.system.atomic import TEMPORARY_PREFIX
from strsr_cli.system.processes import machine_id
from strsr_cli.training.export import export
from strsr_cli.training.run.folder import Run
from strsr_cli.training.run.history import Data, continued
from strsr_cli.training.run.progress import speed_text
from strsr_cli.training.train import train
from strsr_models import StrsrError
from strsr_models.pipelines.lite import LitePipeline

from ..helpers.training import BASE, run

DEAD = 2**22 + 1  # no process has this number


@pytest.mark.parametrize(
    ("rate", "what"), [("0.9", "weights are"), ("1e-9", "averaged weights, in float16,")]
)
def test_weights_that_are_not_finite_are_never_saved(
    rate: str, what: str, photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    # What decays by so much overflows as soon as the learning rate is not tiny.
    out, settings = tmp_path / "run", [*BASE, "weight_decay=1e39", "final_learning_rate=0"]
    train([photos], out, tiny_config, [*settings, "steps=1", "learning_rate=1e-40"], print)
    first = (out / "model" / "model.safetensors").read_bytes()
    with pytest.raises(StrsrError, match=rf"step 2: {what} .*not finite, .*last checkpoint is .*0000001"):
        train([photos], out, tiny_config, [*settings, "steps=2", f"learning_rate={rate}"], print)
    assert Run(out).saved_steps() == [1]
    assert (out / "model" / "model.safetensors").read_bytes() == first


def test_a_sample_that_is_not_finite_ends_the_run_before_done(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LitePipeline.restore

    def restore(self: LitePipeline, *args: object) -> torch.Tensor:
        return real(self, *args) * (1.0 if torch.is_grad_enabled() else float("nan"))

    monkeypatch.setattr(LitePipeline, "restore", restore)
    with pytest.raises(StrsrError, match=r"step 1: what the averaged weights make of a sample is not finite"):
        run(photos, tmp_path / "run", tiny_config, "steps=1")
    assert not (tmp_path / "run" / "model").exists()


def test_a_checkpoint_that_is_not_finite_is_not_gone_on_with(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=1")
    saved = Run(tmp_path / "run").latest()
    assert saved is not None
    tensors = load_file(saved / "model.safetensors")
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(StrsrError, match=r"0000001: cannot be resumed \(its weights are not finite\)"):
        run(photos, tmp_path / "run", tiny_config, "steps=2")


def test_other_data_are_told_and_stand_in_the_weights(
    photo_folder: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out, lines = tmp_path / "run", []
    run(photo_folder, out, tiny_config, "steps=2")
    run(photo_folder, out, tiny_config, "steps=3")
    assert len(json.loads((out / "data.json").read_text())) == 1
    (photo_folder / "0.png").unlink()
    weights = train([photo_folder], out, tiny_config, [*BASE, "steps=4"], lines.append)
    assert "other data from step 3 on: 4 photos, before: 5 photos; data.json and the weights say so" in lines
    history = json.loads((out / "data.json").read_text())
    assert [(entry["from_step"], entry["photos"]) for entry in history] == [(0, 5), (3, 4)]
    copy = export(out, tmp_path / "copy")
    for folder in (weights, copy):
        with safe_open(folder / "model.safetensors", "pt") as file:
            metadata = file.metadata()
        assert json.loads(metadata["data_history"]) == history
        assert metadata["data"] == history[-1]["data"]


def test_a_run_of_before_its_history_has_what_its_weights_say(
    photo_folder: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(photo_folder, out, tiny_config, "steps=1")
    before = json.loads((out / "data.json").read_text())[0]["data"]
    (out / "data.json").unlink()
    (photo_folder / "0.png").unlink()
    run(photo_folder, out, tiny_config, "steps=2")
    history = json.loads((out / "data.json").read_text())
    assert [(entry["from_step"], entry["data"] == before) for entry in history] == [(0, True), (1, False)]


def test_what_came_after_a_checkpoint_is_forgotten() -> None:
    first, second = Data(0, "a", 1), Data(5, "b", 2)
    assert continued([first, second], Data(5, "a", 1)) == [first]
    assert continued([first, second], Data(9, "c", 3)) == [first, second, Data(9, "c", 3)]
    assert continued([first, second], Data(0, "c", 3)) == [Data(0, "c", 3)]
    assert continued([], Data(4, "c", 3)) == [Data(0, "", 0), Data(4, "c", 3)]


def test_what_killed_processes_left_goes_at_the_next_start(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(photos, out, tiny_config, "steps=1")
    mark = f"{TEMPORARY_PREFIX}{machine_id()}-{DEAD}-"
    (out / f"{TEMPORARY_PREFIX}ab12cd_x" / "new").mkdir(parents=True)
    (out / f"{mark}abcdefgh" / "new").mkdir(parents=True)
    for folder in (out, out / "samples"):
        (folder / f"{mark}hgfedcba.png").write_bytes(b"half")
    (out / "checkpoints" / "parts.new").mkdir()
    run(photos, out, tiny_config, "steps=2")
    assert not [path for path in out.rglob("*") if path.name.startswith((TEMPORARY_PREFIX, "parts"))]


def test_what_a_living_process_writes_stays(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(photos, out, tiny_config, "steps=1")
    mine = out / f"{TEMPORARY_PREFIX}{machine_id()}-{os.getpid()}-abcdefgh"
    mine.mkdir()
    run(photos, out, tiny_config, "steps=2")
    assert mine.is_dir()


def test_an_export_to_a_link_fills_the_folder_behind_it(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=1")
    (tmp_path / "real").mkdir()
    inode = (tmp_path / "real").stat().st_ino
    for name in ("real", "nowhere"):
        link = tmp_path / f"to-{name}"
        link.symlink_to(name)
        export(tmp_path / "run", link)
        assert link.is_symlink()
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [
            "config.json",
            "model.safetensors",
        ]
    assert (tmp_path / "real").stat().st_ino == inode


def test_a_speed_is_never_nothing() -> None:
    assert [speed_text(value) for value in (12.34, 1.0, 0.04)] == [
        "12.3 crops/s",
        "1.0 crops/s",
        "25 s a crop",
    ]


def test_a_line_of_samples_alone_has_no_speed_of_nought(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    settings = [*BASE, "steps=3", "log_every=3", "sample_every=2"]
    train([photos], tmp_path / "run", tiny_config, settings, lines.append)
    (line,) = (line for line in lines if line.startswith("step 2/"))
    assert "sample_gain_db" in line
    assert "crop" not in line
