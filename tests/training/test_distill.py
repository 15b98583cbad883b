from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import Result

from strsr_cli.training.criterion import CoachTurn, Criterion, in_share, random_window, weighted_sum
from strsr_cli.training.data.crops import Batch
from strsr_cli.training.distill import build_student, distill, read_distill_config
from strsr_cli.training.export import export
from strsr_cli.training.run.folder import Run
from strsr_cli.training.run.samples import restore_samples
from strsr_models import StrsrError, UsageError, WeightsError
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.pipelines.pretrained import SAVED

from ..helpers.tiny_models import cached_models_folder
from ..helpers.training import metrics

BASE = [
    "batch_size=2",
    "crop_size=112",
    "workers=0",
    "log_every=1",
    "warmup_steps=1",
    "device=cpu",
    "precision=fp32",
    "tensorboard=false",
    "coach_network=squeezenet",
    "coach_hidden=8",
    "perceptual_weight=0.1",
    "fdl_network=squeezenet",
    "fdl_projections=4",
    "fdl_strides=[]",
    "fdl_weight=1e-5",
    "fdl_from=2",
]


@pytest.fixture
def settings(squeezenet: Path) -> list[str]:
    files = [f"{name}_weights={squeezenet}" for name in ("coach", "perceptual", "fdl")]
    return [*BASE, *files]


def quiet(_line: str) -> None:
    pass


def newest(out: Path) -> dict[str, torch.Tensor]:
    """All weights and moments, of student and coach, in the newest checkpoint."""
    folder = Run(out).latest()
    assert folder is not None
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= {f"{path.name}.{k}": v for k, v in load_file(path).items()}
    for path in sorted(folder.glob("optimizer*.bin")):
        for number, moments in torch.load(path, weights_only=True)["state"].items():
            values = {k: v for k, v in moments.items() if isinstance(v, torch.Tensor)}
            tensors |= {f"{path.name}.{number}.{k}": v for k, v in values.items()}
    return tensors


def test_distillation_goes_through_two_stages_with_a_coach(
    photos: Path, tiny_weights: Path, settings: list[str], tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    out = tmp_path / "run"
    words = [word for setting in [*settings, "steps=4"] for word in ("--set", setting)]
    result = strsr("distill", "--data", photos, "--student", tiny_weights, "--out", out, *words)
    assert result.exit_code == 0, result.output
    lines = metrics(out)
    everywhere = {"l1_loss", "perceptual_loss", "gan_loss", "coach_loss", "r1_loss", "lattice_16_db"}
    assert all(everywhere <= line.keys() for line in lines)
    assert ["fdl_loss" in line for line in lines] == [False, False, True, True]
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_weights, out / "model"))
    assert not torch.equal(before["decoder.conv_out.weight"], after["decoder.conv_out.weight"])
    result = strsr("upscale", photos / "cat.png", tmp_path / "cat.png", "--weights", out / "model")
    assert result.exit_code == 0, result.output


def test_student_and_coach_take_turns(
    photos: Path, tiny_weights: Path, settings: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    distill(str(tiny_weights), [photos], out, None, [*settings, "steps=4", "turns=alternate"], quiet)
    assert ["l1_loss" in line for line in metrics(out)] == [True, False, True, False]
    assert ["coach_loss" in line for line in metrics(out)] == [False, True, False, True]


@pytest.mark.parametrize(
    ("coach", "turns", "parts"),
    [
        ("conv", "alternate", 2),
        pytest.param("dit", "both", 1, marks=pytest.mark.slow),
        pytest.param("none", "both", 1, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumed_equals_a_straight_one(
    coach: str, turns: str, parts: int, photos: Path, tiny_weights: Path, settings: list[str], tmp_path: Path
) -> None:
    settings = [*settings, "steps=6", f"coach={coach}", f"accumulate={parts}", f"turns={turns}"]
    distill(str(tiny_weights), [photos], tmp_path / "straight", None, settings, quiet)

    def die_at_four(line: str) -> None:
        if line.startswith("step 4/"):
            raise SystemExit

    again = [*settings, "save_every=3"]
    with pytest.raises(SystemExit):
        distill(str(tiny_weights), [photos], tmp_path / "killed", None, again, die_at_four)
    distill(str(tiny_weights), [photos], tmp_path / "killed", None, again, quiet)
    first, second = newest(tmp_path / "straight"), newest(tmp_path / "killed")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any("on_maps" in key for key in first) == (coach != "none")
    assert not any("trunk" in key or "features" in key for key in first)


def test_the_coach_learns_to_tell_photos_from_restored_ones(
    tiny: LitePipeline, settings: list[str], photo: torch.Tensor
) -> None:
    config = read_distill_config("lite", None, settings)
    criterion = Criterion(tiny, config, torch.device("cpu"))
    assert criterion.coach is not None
    turn = CoachTurn(criterion.coach, config)
    optimizer = torch.optim.Adam(turn.parameters(), lr=3e-3)
    hq = torch.from_numpy(photo).permute(2, 0, 1)[None].float()[..., :64, :64].repeat(2, 1, 1, 1) / 255
    fake = torch.nn.functional.avg_pool2d(hq, 5, 1, 2)
    losses = []
    for step in range(30):
        optimizer.zero_grad()
        values = turn(hq, fake, [step])
        weighted_sum(values, config).backward()
        optimizer.step()
        losses.append(values["coach_loss"].item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad is None for parameter in criterion.coach.trunk.parameters())


def test_defaults_of_the_big_students_are_the_published_values(squeezenet: Path) -> None:
    config = read_distill_config("zimage", None, [f"fdl_weights={squeezenet}"])
    assert (config.rank, config.crop_size, config.steps, config.fdl_from) == (256, 1024, 60_000, 40_000)
    assert (config.l1_weight, config.perceptual_weight, config.gan_weight, config.fdl_weight) == (
        1,
        3,
        0.1,
        0.002,
    )
    assert (config.learning_rate, config.final_learning_rate, config.coach_learning_rate) == (
        5e-6,
        5e-6,
        1e-6,
    )
    assert (config.betas, config.gradient_clip, config.r1_weight) == ((0.9, 0.999), 1.0, 10.0)
    assert (config.turns, config.coach, config.coach_network) == ("alternate", "conv", "convnext_xxlarge")
    assert config.precision == "bf16"
    assert config.gradient_checkpointing


def test_judges_look_elsewhere_in_each_step_or_at_all_of_it() -> None:
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(random_window(image, 0, 0, 5), image)
    windows = [random_window(image, 16, 0, step) for step in range(50)]
    assert {window.shape for window in windows} == {(1, 3, 48, 48)}
    corners = {float(window[0, 0, 0, 0]) for window in windows}
    assert len(corners) > 40
    assert corners <= set(image[0, 0, :17, :17].flatten().tolist())


def test_the_frequency_loss_has_its_share_of_a_batch_in_parts(
    tiny: LitePipeline, settings: list[str], squeezenet: Path
) -> None:
    ours = [*settings, "batch_size=4", "fdl_share=0.5", "coach=none", "perceptual_weight=0", "crop_size=96"]
    config = read_distill_config("lite", None, [*ours, "judge_shift=0"])
    assert [number for number in range(8) if in_share(number, config)] == [1, 3, 5, 7]
    criterion = Criterion(tiny, config, torch.device("cpu"))
    restored, hq = torch.rand(4, 3, 96, 96), torch.rand(4, 3, 96, 96)
    whole = criterion(restored, hq, 9, [4, 5, 6, 7])["fdl_loss"]
    halves = [criterion(restored[i : i + 2], hq[i : i + 2], 9, [4 + i, 5 + i])["fdl_loss"] for i in (0, 2)]
    quarters = [criterion(restored[i : i + 1], hq[i : i + 1], 9, [4 + i])["fdl_loss"] for i in range(4)]
    torch.testing.assert_close(sum(halves) / 2, whole)
    torch.testing.assert_close(sum(quarters) / 4, whole)
    assert quarters[0] == quarters[2] == 0
    full = read_distill_config("lite", None, [*ours, "judge_shift=0", "fdl_share=1"])
    chosen = Criterion(tiny, full, torch.device("cpu"))(restored[1::2], hq[1::2], 9, [5, 7])["fdl_loss"]
    torch.testing.assert_close(chosen, whole)


@pytest.mark.parametrize("student", ["lite", "flux2"])
def test_samples_are_conditioned_as_training_is(
    student: str, settings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = cached_models_folder(tmp_path_factory)
    config = read_distill_config(student, None, [*settings, f"models_dir={models}", "rank=4", "crop_size=64"])
    pipeline = build_student(config).eval()
    lq_up, picture = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        expected = pipeline(lq_up, pipeline.training_condition(lq_up, picture)).clamp(0, 1)
    restored = restore_samples(pipeline, Batch(lq_up, lq_up, picture), Accelerator(cpu=True))
    torch.testing.assert_close(restored, expected)


def test_preview_draws_a_sheet(
    photos: Path, settings: list[str], tmp_path: Path, strsr: Callable[..., Result]
) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    result = strsr("distill", "--data", photos, "--preview", tmp_path / "sheet.png", *words)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "sheet.png") as image:
        assert min(image.size) > 200


@pytest.mark.parametrize("student", ["zimage", "flux2"])
def test_a_big_students_step_moves_its_trainable_parts_only(
    student: str, settings: list[str], photos: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models = cached_models_folder(tmp_path_factory)
    ours = [*settings, f"models_dir={models}", "rank=4", "fdl_from=0", "steps=1", "learning_rate=0.01"]
    ours += ["turns=both", "perceptual_network=squeezenet"]
    config = read_distill_config(student, None, ours)
    pipeline = build_student(config)
    trained = {name for name, parameter in pipeline.named_parameters() if parameter.requires_grad}
    assert {"lora_A", "lora_B"} == {part for name in trained for part in name.split(".") if "lora" in part}
    assert all("lora_" in name or name.startswith("projector.") for name in trained)
    criterion = Criterion(pipeline, config, torch.device("cpu"))
    assert criterion.coach is not None
    hq, lq_up = torch.rand(1, 3, 112, 112), torch.rand(1, 3, 112, 112)
    restored = pipeline(lq_up, pipeline.training_condition(lq_up, lq_up))
    weighted_sum(criterion(restored, hq, 0, [0]), config).backward()
    weighted_sum(CoachTurn(criterion.coach, config)(hq, restored.detach(), [0]), config).backward()
    moved = {name for name, parameter in pipeline.named_parameters() if parameter.grad is not None}
    assert moved == trained
    # B starts at zero, so that A's first gradient is zero, but B's and the projector's are not.
    for name, parameter in pipeline.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is not None for parameter in criterion.coach.heads.parameters())
    assert all(parameter.grad is None for parameter in criterion.coach.trunk.parameters())

    folder = distill(student, [photos], tmp_path / "run", None, ours, quiet)
    assert {path.name for path in folder.iterdir()} >= {"lora.safetensors", "projector.safetensors"}
    assert {path.name for path in export(tmp_path / "run", tmp_path / "out").iterdir()} >= set(SAVED)
    saved = Run(tmp_path / "run").latest()
    assert saved is not None
    assert all("lora_" in k or k.startswith("projector.") for k in load_file(saved / "model.safetensors"))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("lora", lambda t: t.pop(next(iter(t))), "missing base_model.model."),
        ("lora", lambda t: t.update({next(iter(t)): torch.full((4, 32), float("nan"))}), "is not finite"),
        (
            "lora",
            lambda t: t.update({"base_model.model.other.lora_A.default.weight": torch.ones(4, 4)}),
            "is no t",
        ),
        ("projector", lambda t: t.pop("2.weight"), "missing 2.weight"),
        ("projector", lambda t: t.update({"0.bias": torch.ones(3)}), r"0.bias is \(3,\), expected"),
    ],
)
def test_export_refuses_an_adapter_that_no_base_takes(
    file: str,
    damage: Callable[[dict], object],
    message: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    published = cached_models_folder(tmp_path_factory) / "StrSR-zimage"
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"family": "zimage"}')
    for name, saved in zip(("state_dict.pth", "projector.pth"), SAVED, strict=True):
        save_file(torch.load(published / name, weights_only=True), model / saved)
    export(tmp_path / "run", tmp_path / "whole")
    tensors = load_file(model / f"{file}.safetensors")
    damage(tensors)
    save_file(tensors, model / f"{file}.safetensors")
    with pytest.raises(WeightsError, match=message):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("coach=vit", "did you mean 'dit'"),
        ("coach_network=convnext_xxl", "convnext_xxlarge"),
        ("turns=alternately", "did you mean 'alternate'"),
        ("coach_weights=", "needs coach_weights"),
        ("fdl_weights=", "needs fdl_weights"),
        ("fdl_share=0", "fdl_share must lie in (0, 1]"),
        ("r1_sigma=-1", "r1_sigma -1.0: must be at least 0"),
        ("fdl_strides=[0]", "fdl_strides [0]: must be at least 1"),
        ("judge_shift=-1", "judge_shift -1: leaves 113 px of crop_size 112"),
        ("judge_shift=100", "leave at least 32 px"),
        ("coach=dit", "judge_shift 8: leaves 104 px of crop_size 112"),
        (
            "coach_network=convnext_base",
            "judge_shift 8: leaves 104 px of crop_size 112; must not be negative, and ",
        ),
        ("crop_size=80", "3 x 3 is smaller than the kernel"),
        ("fdl_strides=[1, 2]", "with a stride for each map"),
        ("gan_wieght=1", "did you mean 'gan_weight'"),
        ('coach_network=["convnext_xxlarge", "squeezenet"]', "of feature networks alone"),
        ("coach_network=[]", "of feature networks alone"),
    ],
)
def test_a_wrong_setting_is_one_line(
    setting: str,
    message: str,
    photos: Path,
    tiny_weights: Path,
    settings: list[str],
    tmp_path: Path,
    strsr: Callable[..., Result],
) -> None:
    shift = [] if "judge_shift 8" not in message else ["judge_shift=8"]
    words = [word for entry in [*settings, *shift, setting] for word in ("--set", entry)]
    out = tmp_path / "run"
    result = strsr("distill", "--data", photos, "--student", tiny_weights, "--out", out, *words)
    assert result.exit_code in (2, 3), result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_student_that_is_nowhere_is_named(photos: Path, settings: list[str], tmp_path: Path) -> None:
    with pytest.raises(StrsrError, match="did you mean 'zimage'"):
        distill("zimages", [photos], tmp_path / "run", None, settings, quiet)


def test_a_student_without_semantic_tokens_sees_its_crop_alone(
    settings: list[str],
) -> None:
    pipeline = build_student(
        read_distill_config("lite", None, [*settings, "semantic_tokens=false", "crop_size=128"])
    )
    crop, pictures = torch.rand(1, 3, 64, 64), torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        first, second = (pipeline(crop, picture[None]) for picture in pictures)
    assert torch.equal(first, second)
    trained = {name.split(".")[0] for name in pipeline.trainable_state()}
    assert trained == {"structural_encoder", "dit", "decoder"}


def test_a_lattice_loss_needs_crops_that_hold_the_lattice(settings: list[str]) -> None:
    with pytest.raises(UsageError, match="needs crop_size from 64 on"):
        read_distill_config("lite", None, [*settings, "lattice_weight=1e-4", "crop_size=48"])
