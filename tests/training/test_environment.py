"""What `accelerate launch` says in the environment: followed where it changes the speed, refused where the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from strsr_cli.training.environment import check_environment, dynamo_options
from strsr_cli.training.run.folder import Run
from strsr_models import UsageError

from ..helpers.training import newest, run, same


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GRADIENT_ACCUMULATION_STEPS", "4", "would make gradients smaller; unset it"),
        ("GRADIENT_ACCUMULATION_STEPS", "auto", "would make gradients smaller"),
        ("MIXED_PRECISION", "bf16", "this run computes in fp32; --set precision=bf16"),
        ("MIXED_PRECISION", "fp8", "this run computes in fp32"),
        ("FP8_BACKEND", "TE", "8 bits; unset it"),
        ("USE_FSDP", "true", "set up for FSDP"),
        ("USE_DEEPSPEED", "1", "set up for DEEPSPEED"),
        ("USE_MEGATRON_LM", "yes", "set up for MEGATRON_LM"),
        ("USE_PARALLELISM_CONFIG", "true", "set up for PARALLELISM_CONFIG"),
    ],
)
def test_a_variable_that_would_change_results_is_refused(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(UsageError, match=words) as caught:
        check_environment("fp32")
    assert str(caught.value).startswith(f"ACCELERATE_{name}")
    assert len(str(caught.value).splitlines()) == 1


def test_what_a_plain_launch_says_is_no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MIXED_PRECISION", "no"), ("DYNAMO_BACKEND", "NO"), ("USE_FSDP", "false")):
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    check_environment("bf16")
    assert dynamo_options() is None


def test_a_launch_of_the_run_s_own_precision_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_environment("bf16")


def test_a_backend_that_nobody_knows_is_one_line(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "nonsense")
    with pytest.raises(UsageError, match="ACCELERATE_DYNAMO_BACKEND: 'NONSENSE' is not"):
        run(photos, tmp_path / "run", tiny_config, "steps=1")


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_runs_go_on_with_and_without_a_dynamo_backend(
    photos: Path, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    for steps, backend in ((1, "EAGER"), (2, "NO"), (3, "EAGER")):
        monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", backend)
        run(photos, out, tiny_config, f"steps={steps}")
        assert not [name for name in newest(out) if "_orig_mod" in name]
    weights = load_file(out / "model" / "model.safetensors")
    assert weights
    assert not [name for name in weights if "_orig_mod" in name]


def test_a_checkpoint_with_the_names_of_compiled_modules_is_read(
    photos: Path, tiny_config: Path, tmp_path: Path
) -> None:
    for name in ("plain", "renamed"):
        run(photos, tmp_path / name, tiny_config, "steps=1")
    saved = Run(tmp_path / "renamed").latest()
    assert saved is not None
    for file in ("model.safetensors", "average.safetensors"):
        tensors = load_file(saved / file)
        save_file({f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}, saved / file)
    for name in ("plain", "renamed"):
        run(photos, tmp_path / name, tiny_config, "steps=2")
    assert same(newest(tmp_path / "plain"), newest(tmp_path / "renamed"))
    assert all(isinstance(value, torch.Tensor) for value in newest(tmp_path / "renamed").values())
