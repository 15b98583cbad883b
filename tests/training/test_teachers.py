from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.RealCUGAN import UpCunet4x
from torch import Tensor, nn

from strsr_cli.training.data.crops import RawBatch, prepare
from strsr_cli.training.data.degrade import DegradeConfig, resize
from strsr_cli.training.data.teachers import (
    TeacherConfig,
    Teachers,
    load_teacher,
    teacher_files,
    teacher_hashes,
)
from strsr_models.errors import StrsrError, UsageError, WeightsError

from ..helpers.teachers import save_teacher, tiny_network

CPU = torch.device("cpu")
CLEAN = DegradeConfig(clean_share=1.0, mild_share=0.0, scale_four_share=1.0)
MIXED = DegradeConfig(clean_share=0.5, mild_share=0.5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_teacher(tmp_path / "teacher.safetensors")


def assert_refused(path: Path, kind: type[StrsrError], *words: str) -> None:
    with pytest.raises(StrsrError) as caught:
        load_teacher(path, CPU)
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert all(word in message for word in words), message
    assert "\n" not in message


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_teacher_is_read_from_both_kinds_of_file(name: str, tmp_path: Path) -> None:
    teacher = load_teacher(save_teacher(tmp_path / name, seed=5), CPU)
    image = torch.rand(2, 3, 9, 12)
    torch.testing.assert_close(teacher(image), tiny_network(5)(image).clamp(0, 1))
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())


def test_a_teacher_is_read_from_inside_a_training_checkpoint(tmp_path: Path) -> None:
    """Most published files hold the tensors one level below."""
    torch.save({"params_ema": tiny_network(5).state_dict()}, tmp_path / "a.pth")
    image = torch.rand(1, 3, 8, 8)
    teacher = load_teacher(tmp_path / "a.pth", CPU)
    torch.testing.assert_close(teacher(image), tiny_network(5)(image).clamp(0, 1))


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    save_file({k: v.half() for k, v in tiny_network(1).state_dict().items()}, tmp_path / "a.safetensors")
    teacher = load_teacher(tmp_path / "a.safetensors", CPU)
    assert {parameter.dtype for parameter in teacher.model.parameters()} == {torch.float32}


def test_spandrel_missing_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    assert_refused(file, UsageError, "pip install 'strsr[train]'")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.pth", WeightsError, "none.pth", "no such file")
    assert_refused(tmp_path, WeightsError, "no such file")  # a folder


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("data", [b"", b"garbage" * 100])
def test_a_damaged_file_is_refused(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    assert_refused(tmp_path / name, WeightsError, name, "cannot be read")


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("import pathlib; pathlib.Path('harmed').touch()",))


def test_code_in_a_pickle_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"body.0.weight": Harmful()}))
    torch.save({"body.0.weight": Harmful()}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        assert_refused(tmp_path / name, WeightsError, name)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "tensors",
    [
        {"some.weight": torch.ones(3)},
        {"body.0.weight": torch.ones(3), "body.1.weight": torch.ones(3)},  # Compact, at first sight
    ],
)
def test_an_unknown_architecture_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    assert_refused(tmp_path / "a.safetensors", WeightsError, "of no architecture that spandrel", "damaged")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda: tiny_network(0, scale=2), ["Compact", "enlarges 2 times, not 4"]),
        (lambda: tiny_network(0, channels=1), ["has 1 channels in and 1 out, not 3"]),
        (lambda: tiny_network(0, scale=1, channels=4), ["has 4 channels in", "and enlarges 1 times"]),
        (UpCunet4x, ["RealCUGAN", "takes only pictures of certain sizes", "minimum=32"]),
    ],
    ids=["scale", "channels", "both", "sizes"],
)
def test_an_unfit_network_is_refused(network: type[nn.Module], words: list[str], tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "a.safetensors")
    assert_refused(tmp_path / "a.safetensors", WeightsError, *words)


def test_hashes_name_a_file_that_is_gone(file: Path, tmp_path: Path) -> None:
    config = TeacherConfig(clean=(str(file),), mild=(str(file), str(tmp_path / "none.pth")))
    with pytest.raises(WeightsError, match=r"none\.pth: cannot be read: No such file"):
        teacher_hashes(config)
    other = save_teacher(tmp_path / "none.pth", seed=1)
    hashes = teacher_hashes(config)
    assert hashes["mild"][0] == hashes["clean"][0] != hashes["mild"][1]
    assert hashes["severe"] == hashes["lens"] == []
    save_teacher(other, seed=2)
    assert teacher_hashes(config)["mild"][1] != hashes["mild"][1]


# --- what they make --------------------------------------------------------------------------------


def test_teachers_together_give_the_mean_of_their_outputs(tmp_path: Path) -> None:
    files = tuple(str(save_teacher(tmp_path / f"{seed}.pth", seed)) for seed in range(3))
    lq = torch.rand(2, 3, 8, 8)
    outputs = [Teachers(file, CPU, "fp32")(lq, "mild", (32, 32)) for file in files]
    mean = Teachers(TeacherConfig(mild=files), CPU, "fp32")(lq, "mild", (32, 32))
    assert mean is not None
    torch.testing.assert_close(mean, torch.stack(outputs).mean(0))
    assert (mean - outputs[0]).abs().max() > 0.01


def test_a_kind_without_teachers_gives_nothing(file: Path) -> None:
    teachers = Teachers(TeacherConfig(mild=(str(file),)), CPU, "fp32")
    lq = torch.rand(1, 3, 8, 8)
    given = {kind for kind in teacher_files("") if teachers(lq, kind, (32, 32)) is not None}
    assert given == {"mild"}


def test_lens_and_medium_take_the_teachers_of_severe() -> None:
    taken = teacher_files(TeacherConfig(mild=("m",), severe=("s", "t")))
    severe = (Path("s"), Path("t"))
    assert taken == {"clean": (), "mild": (Path("m"),), "lens": severe, "medium": severe, "severe": severe}
    own = teacher_files(TeacherConfig(lens=("l",), medium=("m",), severe=("s",)))
    assert (own["lens"], own["medium"], own["severe"]) == ((Path("l"),), (Path("m"),), (Path("s"),))


def test_a_single_name_stands_for_all_kinds() -> None:
    assert set(teacher_files("a.pth").values()) == {(Path("a.pth"),)}
    assert set(teacher_files("").values()) == {()}
    assert Teachers("", CPU, "fp32")(torch.rand(1, 3, 8, 8), "severe", (32, 32)) is None


def test_outputs_come_in_the_size_asked_for(file: Path) -> None:
    teachers, lq = Teachers(str(file), CPU, "fp32"), torch.rand(1, 3, 20, 16)
    whole = tiny_network(0)(lq).clamp(0, 1)
    for height, width in ((80, 64), (40, 32), (51, 41)):
        output = teachers(lq, "clean", (height, width))
        assert output is not None
        planes = [Image.fromarray(plane.numpy()) for plane in whole[0]]
        reduced = [np.array(plane.resize((width, height), Image.Resampling.BICUBIC)) for plane in planes]
        expected = torch.from_numpy(np.stack(reduced))[None].clamp(0, 1)
        torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_an_input_that_fails_in_a_network_is_one_line(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"teacher .*: cannot restore 16x24 px: ") as caught:
        Teachers(str(file), CPU, "fp32")(torch.rand(1, 4, 16, 24), "clean", (64, 96))
    assert "\n" not in str(caught.value)


# --- in batches ------------------------------------------------------------------------------------


def raw_batch(count: int) -> RawBatch:
    rng = torch.Generator().manual_seed(3)
    hq = torch.randint(256, (count, 3, 64, 64), generator=rng, dtype=torch.uint8)
    picture = torch.randint(256, (count, 3, 128, 128), generator=rng, dtype=torch.uint8)
    return RawBatch(hq, picture, list(range(count)), ())


def test_batches_hold_what_teachers_make_of_the_degraded(file: Path) -> None:
    raw = raw_batch(3)
    batch = prepare(raw, 0, CLEAN, 0, CPU, Teachers(str(file), CPU, "fp32"))
    reduced = resize(raw.hq.float() / 255, (16, 16), "bicubic")
    expected = tiny_network(0)((reduced * 255).round() / 255).clamp(0, 1)
    assert batch.teacher is not None
    torch.testing.assert_close(batch.teacher, expected)
    assert batch.kinds == ("clean",) * 3
    assert batch.dropped == ()
    assert not batch.teacher.is_inference()  # autograd takes it
    plain = prepare(raw, 0, CLEAN, 0, CPU)
    assert plain.teacher is None
    for name in ("hq", "lq_up", "picture"):
        assert torch.equal(getattr(plain, name), getattr(batch, name))


def test_a_kind_without_teachers_learns_from_the_photo(file: Path) -> None:
    teachers = Teachers(TeacherConfig(mild=(str(file),)), CPU, "fp32")
    batch = prepare(raw_batch(8), 0, MIXED, 0, CPU, teachers)
    assert batch.teacher is not None
    assert set(batch.kinds) == {"clean", "mild"}
    same = [torch.equal(*pair) for pair in zip(batch.teacher, batch.hq, strict=True)]
    assert same == [kind == "clean" for kind in batch.kinds]


def test_samples_whose_teacher_gives_nan_are_replaced(file: Path, tmp_path: Path) -> None:
    broken = save_teacher(tmp_path / "broken.pth", broken=True)
    teachers = Teachers(TeacherConfig(clean=(str(file),), mild=(str(broken),)), CPU, "fp32")
    raw = raw_batch(8)
    batch = prepare(raw, 0, MIXED, 0, CPU, teachers)
    bad = tuple(row for row, kind in enumerate(batch.kinds) if kind == "mild")
    assert batch.dropped == bad
    assert 0 < len(bad) < 8
    good = next(row for row in range(8) if row not in bad)
    whole = prepare(raw, 0, MIXED, 0, CPU)
    for name in ("hq", "lq_up", "picture", "teacher"):
        tensor = getattr(batch, name)
        assert tensor.isfinite().all()
        for row in range(8):
            source = good if row in bad else row
            assert torch.equal(tensor[row], tensor[source])
            if name != "teacher":
                assert torch.equal(tensor[row], getattr(whole, name)[source])


def test_a_batch_of_nan_alone_is_an_error(tmp_path: Path) -> None:
    broken = save_teacher(tmp_path / "broken.pth", broken=True)
    with pytest.raises(StrsrError, match="not finite for a whole batch; try precision=fp32"):
        prepare(raw_batch(2), 0, MIXED, 0, CPU, Teachers(str(broken), CPU, "fp32"))


def test_one_broken_teacher_of_two_spoils_the_mean(file: Path, tmp_path: Path) -> None:
    """Its NaN must not be averaged away or clamped into an image."""
    broken = save_teacher(tmp_path / "broken.pth", broken=True)
    teachers = Teachers(TeacherConfig(clean=(str(file), str(broken))), CPU, "fp32")
    output = teachers(torch.from_numpy(np.ones((1, 3, 8, 8), np.float32)), "clean", (32, 32))
    assert output is not None
    assert output.isnan().any()
