"""Pipelines inside other people's programs: what these give, what they have set for tensors, what they do later."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from strsr_models import ImageError, OneStepPipeline, UsageError, WeightsError, load_pipeline
from strsr_models.checkpoints.locations import WEIGHTS_NAME
from strsr_models.load import load_conditioner
from strsr_models.pipelines.lite import LitePipeline
from strsr_models.pipelines.options import PretrainedOptions

FAMILIES = ["lite", "zimage", "flux2"]
families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def load(tiny_weights: Path, models: Path) -> Callable[[str], OneStepPipeline]:
    """Load a family of tiny networks."""
    return lambda family: load_pipeline(family, tiny_weights if family == "lite" else models)


@pytest.fixture
def lq() -> Tensor:
    return torch.rand(1, 3, 20, 24)


@contextlib.contextmanager
def default(dtype: torch.dtype | None = None, device: str | None = None) -> Iterator[None]:
    """A default type or device of the whole process."""
    try:
        if dtype is not None:
            torch.set_default_dtype(dtype)
        if device is not None:
            torch.set_default_device(device)
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        if device is not None:
            torch.set_default_device(None)
            # Else torch 2.6 can no longer say what the default is. (After "cpu" every call would take another way,
            # in all tests that follow.)
            if torch.__version__.startswith("2.6."):
                del torch._GLOBAL_DEVICE_CONTEXT.device_context


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """PyTorch's deterministic mode."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "default float64": lambda: default(torch.float64),
    "default float16": lambda: default(torch.float16),
    "default device": lambda: default(device="meta"),
    "device context": lambda: torch.device("meta"),
    "deterministic": deterministic,
}
surroundings = pytest.mark.parametrize("name", SURROUNDINGS)


# --- answers ---------------------------------------------------------------------------------------


def is_ordinary(tensor: Tensor) -> bool:
    """Whether a tensor can be changed in place and differentiated."""
    tensor.clone().add_(1)
    tensor.mul_(1)
    weight = torch.ones(1, requires_grad=True)
    (tensor * weight).sum().backward()
    tensor.requires_grad_()
    tensor.square().sum().backward()
    return weight.grad is not None and tensor.grad is not None


@families
def test_answers_can_be_changed_and_differentiated(
    load: Callable[[str], OneStepPipeline], family: str, lq: Tensor
) -> None:
    pipeline = load(family)
    with torch.inference_mode():
        inside = pipeline.upscale(lq, 2)
    assert is_ordinary(inside)
    assert is_ordinary(pipeline.upscale(lq, 2))
    assert is_ordinary(pipeline.upscale(lq.clone().requires_grad_(), 2))
    assert is_ordinary(pipeline.condition(lq, "fp32"))


def test_answers_of_a_conditioner_are_ordinary(models: Path, lq: Tensor) -> None:
    conditioner = load_conditioner("zimage", models)
    with torch.inference_mode():
        inside = conditioner.condition(lq)
    assert is_ordinary(inside)
    assert is_ordinary(conditioner.condition(lq))
    text = load_conditioner("zimage", models, options=PretrainedOptions(conditioning="text", prompt="a cat"))
    assert is_ordinary(text.read("a cat"))


@families
def test_a_pipeline_can_be_trained_after_it_was_used(
    load: Callable[[str], OneStepPipeline], family: str, models: Path, lq: Tensor
) -> None:
    """Nothing that networks keep between calls is of an inference mode."""
    pipeline = load(family)
    if family != "lite":
        pipeline = load_pipeline(family, models, options=PretrainedOptions(adapter="none"))
    with torch.inference_mode():
        pipeline.upscale(lq, 2)
    pipeline.prepare_training(4)
    pipeline(torch.rand(1, 3, 32, 32), lq).square().mean().backward()
    assert any(parameter.grad is not None for parameter in pipeline.trainable_parameters())


# --- images and arguments --------------------------------------------------------------------------


@families
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_other_floats_are_enlarged_as_they_are(
    load: Callable[[str], OneStepPipeline], family: str, lq: Tensor, dtype: torch.dtype
) -> None:
    pipeline, given = load(family), lq.to(dtype)
    large = pipeline.upscale(given, 2)
    assert large.dtype == dtype
    # Rounded twice: as it came, and as it goes.
    assert torch.equal(large, pipeline.upscale(given.float(), 2).to(dtype))


def odd(image: Tensor, number: float) -> Tensor:
    image = image.clone()
    image[0, 1, 2, 3] = number
    return image


@families
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_not_finite_are_the_image_s_fault(
    load: Callable[[str], OneStepPipeline], family: str, lq: Tensor, number: float
) -> None:
    pipeline = load(family)
    with pytest.raises(ImageError, match="pixels are not finite numbers"):
        pipeline.upscale(odd(lq, number), 2)
    with pytest.raises(ImageError, match="pixels are not finite numbers"):
        pipeline.upscale(odd(lq, number).half(), 2, cond=pipeline.condition(lq, "fp32"))


def test_a_tile_or_overview_with_nan_is_the_image_s_fault(
    tiny: LitePipeline, models: Path, lq: Tensor
) -> None:
    with pytest.raises(ImageError, match="pixels are not finite"):
        tiny.condition(odd(lq, float("nan")), "fp16")
    with pytest.raises(ImageError, match="pixels are not finite"):
        load_conditioner("zimage", models).condition(odd(lq, float("nan")))


@pytest.mark.parametrize(
    ("argument", "value", "reason"),
    [
        ("steps", 0, "steps 0: must be a whole number, at least 1"),
        ("steps", -3, "steps -3: "),
        ("steps", 1.5, "steps 1.5: "),
        ("steps", "2", "steps '2': "),
        ("steps", None, "steps None: "),
        ("precision", "fp64", "precision 'fp64': use one of fp16, bf16, fp32"),
        ("precision", "", "precision ''"),
        ("precision", torch.float16, "precision torch.float16"),
        ("tile", 0, "tile 0: must be a whole number, at least 1"),
        ("tile", 64.5, "tile 64.5: "),
        ("overlap", -1, "overlap -1: must be a whole number, at least 0"),
        ("scale", "4", "scale: must be a number from 1 to 16, not a str"),
        ("scale", None, "not a NoneType"),
        ("scale", 0.5, "scale 0.5: must be between 1 and 16"),
        ("cond", torch.zeros(1, 3, 7), r"cond: expected a float tensor \(1, m, 32\), got \(1, 3, 7\)"),
        ("cond", torch.zeros(2, 3, 32), "cond: "),
        ("cond", torch.full((1, 3, 32), float("nan")), "cond: some of its numbers are not finite"),
        ("cond", [[1.0]], "cond: .* got a list"),
        ("lq", np.zeros((1, 3, 8, 8), np.float32), "got a ndarray"),
        ("lq", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8"),
        ("lq", torch.zeros(1, 3, 8, 8, dtype=torch.complex64), "got torch.complex64"),
        ("lq", torch.zeros(1, 3, 8, 8, device="meta"), "meta device, which holds no values"),
        ("lq", torch.eye(8).expand(1, 3, 8, 8).to_sparse(), "give a dense tensor"),
        ("lq", torch.zeros(0, 3, 8, 8), r"got torch.float32 \(0, 3, 8, 8\)"),
    ],
)
def test_arguments_of_no_sense_are_refused_in_one_line(
    tiny: LitePipeline, lq: Tensor, argument: str, value: object, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        tiny.upscale(**{"lq": lq, "scale": 2, argument: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_verbs_refuse_no_steps_and_unknown_precisions(tiny: LitePipeline, lq: Tensor, models: Path) -> None:
    with pytest.raises(UsageError, match="steps 0"):
        tiny.restore(torch.rand(1, 3, 16, 16), tiny.condition(lq, "fp32"), steps=0)
    with pytest.raises(UsageError, match="precision 'half'"):
        tiny.condition(lq, "half")
    rough = load_pipeline("zimage", models, options=PretrainedOptions(precision="bf16"))
    with pytest.raises(UsageError, match="precision 'half'"):
        rough.condition(lq, "half")


# --- surroundings ----------------------------------------------------------------------------------


@families
@surroundings
def test_surroundings_of_a_call_do_not_count(
    load: Callable[[str], OneStepPipeline], family: str, lq: Tensor, name: str
) -> None:
    pipeline = load(family)
    expected = pipeline.upscale(lq, 2)
    with SURROUNDINGS[name]():
        large = pipeline.upscale(lq, 2)
    assert torch.equal(large, expected)
    assert large.dtype == torch.float32


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_asked_for_beats_an_outer_autocast(
    tiny: LitePipeline, lq: Tensor, precision: str
) -> None:
    expected = tiny.upscale(lq, 2, precision=precision)
    other = torch.float16 if precision == "bf16" else torch.bfloat16
    with torch.autocast("cpu", other):
        assert torch.equal(tiny.upscale(lq, 2, precision=precision), expected)
    assert not torch.equal(expected, tiny.upscale(lq, 2))


def test_parameters_in_half_precision_beat_an_outer_autocast(models: Path, lq: Tensor) -> None:
    rough = load_pipeline("zimage", models, options=PretrainedOptions(precision="bf16"))
    expected = rough.upscale(lq, 2)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(rough.upscale(lq, 2), expected)


@families
@surroundings
def test_surroundings_of_loading_do_not_count(
    load: Callable[[str], OneStepPipeline], family: str, lq: Tensor, name: str
) -> None:
    expected = load(family)
    with SURROUNDINGS[name]():
        before = torch.get_default_dtype(), torch.get_default_device()
        pipeline = load(family)
        assert before == (torch.get_default_dtype(), torch.get_default_device())
    assert {parameter.dtype for parameter in pipeline.parameters()} == {torch.float32}
    assert not any(parameter.is_inference() for parameter in pipeline.parameters())
    assert torch.equal(pipeline.upscale(lq, 2), expected.upscale(lq, 2))


@families
def test_random_numbers_go_on_as_if_nothing_was_loaded(
    load: Callable[[str], OneStepPipeline], family: str, models: Path, lq: Tensor
) -> None:
    def draws() -> tuple[object, ...]:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    def seed() -> None:
        torch.manual_seed(7)
        np.random.seed(7)
        random.seed(7)

    seed()
    expected = draws()
    seed()
    load(family).upscale(lq, 2)
    if family != "lite":
        load_conditioner(family, models)
    assert draws() == expected


def test_callbacks_keep_the_surroundings_of_the_caller(tiny: LitePipeline, lq: Tensor) -> None:
    seen = []

    def look(done: int, tiles: int) -> None:
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))

    with torch.autocast("cpu", torch.bfloat16):
        tiny.upscale(lq, 4, tile=64, overlap=16, on_tile=look)
    assert len(seen) > 1
    assert set(seen) == {(True, True)}


# --- types, copies, threads ------------------------------------------------------------------------


@families
def test_a_pipeline_in_float64_computes_in_it(
    load: Callable[[str], OneStepPipeline], family: str, lq: Tensor
) -> None:
    pipeline = load(family)
    expected = pipeline.upscale(lq, 2)
    double = copy.deepcopy(pipeline).double()
    large = double.upscale(lq.double(), 2)
    assert large.dtype == torch.float64
    torch.testing.assert_close(large.float(), expected, atol=1e-4, rtol=0)
    assert double.upscale(lq, 2).dtype == torch.float32
    assert next(double.parameters()).dtype == torch.float64


def test_lite_in_float64_is_differentiated_exactly(tiny: LitePipeline) -> None:
    lq_up = torch.rand(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    tiny.double()
    cond = tiny.encode_condition(torch.rand(1, 3, 8, 8)).detach()
    assert torch.autograd.gradcheck(lambda image: tiny.restore(image, cond), (lq_up,), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("precision", [None, "fp16", "bf16", "fp32"])
def test_lite_in_half_precision_is_as_autocast(
    tiny_weights: Path, lq: Tensor, dtype: torch.dtype, precision: str | None
) -> None:
    half = load_pipeline("lite", tiny_weights).to(dtype)
    native = "fp16" if dtype == torch.float16 else "bf16"
    widened = copy.deepcopy(half).float()
    assert half.native_precision == native
    expected = widened.upscale(lq, 2, precision=precision or native)
    assert torch.equal(half.upscale(lq, 2, precision=precision), expected)
    assert half.upscale(lq.to(dtype), 2).dtype == dtype
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    torch.testing.assert_close(
        expected, load_pipeline("lite", tiny_weights).upscale(lq, 2), atol=0.03, rtol=0
    )


@pytest.mark.parametrize("family", ["zimage", "flux2"])
def test_a_large_model_made_half_still_works(
    load: Callable[[str], OneStepPipeline], family: str, lq: Tensor
) -> None:
    pipeline = load(family)
    expected = pipeline.upscale(lq, 2)
    large = pipeline.bfloat16().upscale(lq, 2)
    assert large.dtype == torch.float32
    assert float((large - expected).abs().mean()) < 0.05


def test_whole_numbers_for_weights_are_named(tiny: LitePipeline, tiny_weights: Path, lq: Tensor) -> None:
    tensors = load_file(tiny_weights / WEIGHTS_NAME)
    name = "dit.patch_in.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, tiny_weights / WEIGHTS_NAME)
    with pytest.raises(WeightsError, match=r"dit\.patch_in\.weight is torch\.int8, expected floats"):
        load_pipeline("lite", tiny_weights)
    for parameter in tiny.parameters():
        parameter.requires_grad_(False).data = parameter.data.int()
    with pytest.raises(WeightsError, match=r"the weights are torch\.int32: use float32"):
        tiny.upscale(lq, 2)


def test_weights_without_values_are_refused(tiny: LitePipeline, lq: Tensor) -> None:
    with pytest.raises(WeightsError, match="the weights are on the meta device"):
        tiny.to("meta").upscale(lq, 2)


@families
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pipeline: pickle.loads(pickle.dumps(pipeline))])
def test_a_copy_makes_the_same_picture(
    load: Callable[[str], OneStepPipeline],
    family: str,
    lq: Tensor,
    duplicate: Callable[[OneStepPipeline], OneStepPipeline],
) -> None:
    pipeline = load(family)
    expected = pipeline.upscale(lq, 2)
    assert torch.equal(duplicate(pipeline).upscale(lq, 2), expected)


def test_a_state_comes_back_as_it_was(tiny_weights: Path, lq: Tensor) -> None:
    pipeline = load_pipeline("lite", tiny_weights)
    expected = pipeline.upscale(lq, 2)
    state = {name: value.clone() for name, value in pipeline.state_dict().items()}
    for parameter in pipeline.parameters():
        parameter.zero_()
    assert not torch.equal(pipeline.upscale(lq, 2), expected)
    pipeline.load_state_dict(state)
    assert torch.equal(pipeline.upscale(lq, 2), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_threads_at_once_make_the_same_pictures(tiny_weights: Path, dtype: torch.dtype) -> None:
    pipeline = load_pipeline("lite", tiny_weights).to(dtype)
    images = [torch.rand(1, 3, 20, 24) for _ in range(6)]
    expected = [pipeline.upscale(image, 2) for image in images]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda image: pipeline.upscale(image, 2), images))
    assert all(map(torch.equal, answers, expected))
