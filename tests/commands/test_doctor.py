"""`strsr doctor` on this very machine, with and without weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from typer.testing import Result

from strsr_cli import __version__
from strsr_cli.setup import doctor
from strsr_cli.system import machine

from ..helpers.tiny_models import cached_models_folder

Run = Callable[..., Result]


def test_json_holds_all_that_doctor_knows(
    strsr: Run, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    models = cached_models_folder(tmp_path_factory)
    result = strsr("doctor", "--json", "--models-dir", models)
    examination = json.loads(result.stdout)
    assert result.exit_code == 0
    assert examination["strsr"] == __version__
    assert examination["torch"]
    assert examination["cpu"]["cores"] >= 1
    assert examination["cpu"]["threads"] >= 1
    assert examination["cpu"]["free_bytes"] > 0
    assert "fp32" in examination["cpu"]["precisions"]
    assert examination["libraries"]["diffusers"]
    assert examination["default"]["precision"] in ("fp32", "bf16", "fp16")
    assert {"output", "cache", "models"} == set(examination["disks"])
    assert examination["disks"]["output"] == {
        "path": str(Path.cwd()),
        "free_bytes": examination["disks"]["output"]["free_bytes"],
    }
    assert all(disk["free_bytes"] > 0 for disk in examination["disks"].values())
    assert all(weights["present"] for weights in examination["weights"].values())
    assert {row["model"] for row in examination["fit"]} == {"lite", "zimage", "flux2"}
    assert all(row["estimated"] for row in examination["fit"])


@pytest.mark.parametrize(
    ("backend", "precision", "gains"),
    [("openvino", "fp32", True), ("openvino", "bf16", False), ("torch", "fp32", False)],
)
def test_int8_is_named_where_it_is_faster(
    backend: str, precision: str, gains: bool, strsr: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = {"device": "cpu", "precision": precision, "backend": backend}
    monkeypatch.setattr(doctor, "_default", lambda: default)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert ("; --precision int8 is faster" in strsr("doctor").stdout) == gains


def test_missing_weights_are_no_failure(strsr: Run, tmp_path: Path) -> None:
    (tmp_path / "StrSR-flux").mkdir()
    (tmp_path / "StrSR-flux" / "state_dict.pth").touch()
    result = strsr("doctor", "--models-dir", tmp_path)
    assert result.exit_code == 0
    assert "lite: weights are there" in result.stdout
    assert "zimage: missing Z-Image-Turbo, Qwen3-VL-4B-Instruct, StrSR-zimage;" in result.stdout
    assert "StrSR-flux/projector.pth" in result.stdout
    assert f"strsr models pull zimage --models-dir {tmp_path}" in result.stdout


def test_broken_libraries_and_odd_paths_are_no_failure(
    strsr: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> bool:
        raise RuntimeError("no driver")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    monkeypatch.setattr(psutil, "virtual_memory", broken)
    file = tmp_path / "file"
    file.touch()
    result = strsr("doctor", "--models-dir", file)
    assert result.exit_code == 0, result.output
    assert "unknown" in result.stdout


def test_a_gpu_that_does_not_answer_is_listed(strsr: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 99)
    dead = machine.examine_gpus()[98]
    assert (dead["device"], dead["free_bytes"], dead["precisions"]) == ("cuda:98", None, [])
    result = strsr("doctor")
    assert result.exit_code == 0
    assert any(line.startswith("cuda:98") and "none works" in line for line in result.stdout.splitlines())


@pytest.mark.gpu
def test_a_gpu_is_described() -> None:
    gpu = machine.examine_gpus()[0]
    assert gpu["name"]
    assert 0 < gpu["free_bytes"] <= gpu["total_bytes"]
    assert {"fp32", "fp16"} <= set(gpu["precisions"])


def test_precisions_are_tried() -> None:
    assert machine.computes("cpu", "bf16")
    assert not machine.computes("no-such-device", "fp32")


def test_estimates_follow_from_the_parameters() -> None:
    # Transformer, VAE and decoding weigh more than the vision-language model, in both families.
    assert doctor.peak_bytes("zimage", "bf16") == pytest.approx(15.47e9, rel=0.01)
    assert doctor.peak_bytes("flux2", "bf16") == pytest.approx(10.93e9, rel=0.01)
    small = {"device": "cuda:0", "free_bytes": 12_000_000_000}
    verdicts = {row["model"]: row["fits"] for row in doctor.estimates(small)}
    assert verdicts == {"lite": True, "zimage": False, "flux2": True}
