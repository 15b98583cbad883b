"""A run's folder: its checkpoints and weights, its logs, and disks that fill up."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import Result

from strsr_cli.system.atomic import whole_folder
from strsr_cli.training.run import logbook
from strsr_cli.training.run.folder import Run
from strsr_cli.training.run.progress import Progress
from strsr_cli.training.train import train
from strsr_models import StrsrError, UsageError
from strsr_models.checkpoints.locations import lite_folder

from ..helpers.refusing import refuse
from ..helpers.training import BASE, limit_files, limits_end, metrics, newest, run, same


def test_a_run_s_folder_stands_for_its_weights(
    photos: Path, tiny_config: Path, tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    first = tmp_path / "first"
    weights = run(photos, first, tiny_config, "steps=1") / "model.safetensors"
    second = run(photos, tmp_path / "second", tiny_config, "steps=1", f"init={first}")
    with safe_open(second / "model.safetensors", "pt") as file:
        assert file.metadata()["start"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    with safe_open(weights, "pt") as file:
        assert "start" not in file.metadata()
    outputs = [tmp_path / "by-run.png", tmp_path / "by-weights.png"]
    for output, folder in zip(outputs, (tmp_path / "second", second), strict=True):
        result = strsr("upscale", photos / "cat.png", output, "--weights", folder)
        assert result.exit_code == 0, result.output
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_tensorboard_gets_the_numbers(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=2", "tensorboard=true")
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"l1_loss" in events.read_bytes()


def test_a_full_disk_leaves_the_old_checkpoint(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(photos, out, tiny_config, "steps=2")
    before = newest(out)
    with (
        limits_end(),
        pytest.raises(
            StrsrError, match=r"cannot be written .*; is the disk full\? the last checkpoint is .*0000002"
        ),
    ):
        train([photos], out, tiny_config, [*BASE, "steps=4"], limit_files)
    assert Run(out).saved_steps() == [2]
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["0000002"]
    assert same(before, newest(out))
    run(photos, out, tiny_config, "steps=4")
    assert Run(out).saved_steps() == [2, 4]


@pytest.mark.parametrize(
    ("setting", "file"), [("log_every=1", "metrics.jsonl"), ("sample_every=4", "samples/0000004.png")]
)
def test_a_full_disk_is_one_line_that_names_the_file(
    setting: str, file: str, photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = [*BASE, "steps=8", "save_every=3", "log_every=3", setting]
    with limits_end(), pytest.raises(StrsrError) as caught:
        train([photos], out, tiny_config, settings, lambda line: limit_files(line, 100))
    told = str(caught.value)
    assert told.startswith(f"{out / file}: cannot be written")
    assert told.endswith(f"is the disk full? the last checkpoint is {Run(out).checkpoint(3)}")
    assert len(told.splitlines()) == 1


def test_tensorboard_on_a_full_disk_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(True, 5, Run(tmp_path / "run"), 0, True, lambda _line: None)

    def log_a_lot() -> None:
        with limits_end(), progress:
            limit_files("step 3/", 400)
            for step in range(5):
                progress.log(step, {f"n{number}": 1.0 for number in range(10)})

    with pytest.raises(StrsrError, match=r"run/tensorboard: cannot be written .*last checkpoint"):
        log_a_lot()
    assert "Traceback" not in capsys.readouterr().err


def test_checkpoints_are_kept_two_at_a_time(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=5", "save_every=1", "precision=auto")
    assert Run(tmp_path / "run").saved_steps() == [4, 5]


@pytest.mark.slow
def test_a_run_folder_has_one_run_at_a_time(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    words = [word for setting in [*BASE, "steps=1"] for word in ("--set", setting)]
    command = [sys.executable, "-m", "strsr_cli", "train", "--data", photos, "--config", tiny_config, "--out"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with Run(tmp_path / "run").locked(True):
        other = subprocess.run(
            [*map(str, command), str(tmp_path / "run"), *words],
            env=paths,
            capture_output=True,
            text=True,
            check=False,
        )
    assert other.returncode == 1
    assert other.stderr.splitlines()[-1].startswith(
        f"strsr: another process is training in {tmp_path / 'run'}; "
    )
    assert Run(tmp_path / "run").latest() is None


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOLCK])
def test_a_run_on_a_disk_that_knows_little_is_whole(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name in ("chmod", "fsync", "replace"):
        refuse(monkeypatch, name, number)
    refuse(monkeypatch, "lockf", number, module=fcntl)
    run(photos, tmp_path / "run", tiny_config, "steps=2", "save_every=1")
    assert Run(tmp_path / "run").saved_steps() == [1, 2]
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_folder_that_is_not_a_run_is_left_alone(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.toml").write_text("precious")
    with pytest.raises(UsageError, match="neither empty nor a run"):
        run(photos, mine, tiny_config, "steps=1")
    assert [path.name for path in mine.iterdir()] == ["config.toml"]
    assert (mine / "config.toml").read_text() == "precious"


def test_weights_that_are_gone_are_made_again(photos: Path, tiny_config: Path, tmp_path: Path) -> None:
    weights = run(photos, tmp_path / "run", tiny_config, "steps=1")
    before = load_file(weights / "model.safetensors")
    shutil.rmtree(weights)
    assert run(photos, tmp_path / "run", tiny_config, "steps=1") == weights
    assert same(load_file(weights / "model.safetensors"), before)


def test_a_whole_folder_takes_the_place_of_the_old_one_alone(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("model", "model.old", "model.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    whole_folder(target, lambda folder: (folder / "file").write_text("fresh") and None)
    assert (target / "file").read_text() == "fresh"

    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StrsrError, match="is the disk full"):
        whole_folder(target, fail)
    assert (target / "file").read_text() == "fresh"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.new", "model.old"]


def test_the_lattice_is_measured_ten_times_an_interval(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    real = logbook.lattice_curve
    monkeypatch.setattr(logbook, "lattice_curve", lambda *images: looked.append(1) or real(*images))
    run(photos, tmp_path / "run", tiny_config, "steps=21", "log_every=20", "batch_size=1")
    assert len(looked) == 11
    assert all("lattice_4_db" in line for line in metrics(tmp_path / "run"))


def test_the_log_leaves_out_what_small_crops_cannot_measure(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run(photos, tmp_path / "run", tiny_config, "steps=1", "crop_size=32")
    (line,) = metrics(tmp_path / "run")
    assert "lattice_4_db" in line
    assert "lattice_16_db" not in line  # fewer than four periods


def test_export_wants_a_run_and_a_new_folder(
    tmp_path: Path, tiny_weights: Path, strsr: Callable[..., Result]
) -> None:
    (tmp_path / "some").mkdir()
    assert "not the folder of a run" in strsr("export", tmp_path / "some", tmp_path / "w").stderr
    (tmp_path / "run").mkdir()
    tiny_weights.rename(tmp_path / "run" / "model")
    (tmp_path / "some" / "precious.txt").write_text("mine")
    refused = strsr("export", tmp_path / "run", tmp_path / "some")
    assert refused.exit_code == 2
    assert "not an empty folder" in refused.stderr
    assert (tmp_path / "some" / "precious.txt").read_text() == "mine"


def test_lite_is_the_name_of_the_embedded_weights_unless_a_folder_has_it(
    tmp_path: Path, strsr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert strsr("export", "lite", "copy").exit_code == 0
    embedded = lite_folder(None)
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == {
        path.name: path.read_bytes() for path in embedded.iterdir()
    }
    (tmp_path / "lite").mkdir()
    assert "lite: is not the folder of a run" in strsr("export", "lite", "other").stderr
