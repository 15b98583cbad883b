"""`strsr upscale` with zimage and flux2: conditions, their cache, two phases, errors."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from strsr_cli.app import app
from strsr_cli.batch.job import Job
from strsr_cli.upscale import conditions
from strsr_cli.upscale import options as upscale_options
from strsr_cli.upscale.conditions import Conditions
from strsr_cli.upscale.options import BigModelOptions
from strsr_models import load_pipeline
from strsr_models.pipelines.options import PretrainedOptions

families = pytest.mark.parametrize("family", ["zimage", "flux2"])
ADAPTERS = {"zimage": "StrSR-zimage", "flux2": "StrSR-flux"}
BASES = {"zimage": "Z-Image-Turbo", "flux2": "FLUX.2-klein-base-4B"}
Run = Callable[..., Result]


@pytest.fixture(autouse=True, scope="module")
def _light_collections() -> Iterator[None]:
    """Every first phase ends with a garbage collection, which need not walk through all libraries here."""
    import diffusers
    import transformers

    assert diffusers
    assert transformers
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    for number, name in enumerate(("a", "b", "c")):
        Image.fromarray(photo[30 * number : 30 * number + 20, 40 : 60 + number]).save(root / f"{name}.png")
    return root


@pytest.fixture
def upscale(models: Path, tmp_path: Path) -> Run:
    """upscale(family, source, *options) -> the result, its outputs in the folder of the given name."""

    def run(family: str, source: Path, out: str, *options: object, root: Path = models) -> Result:
        words = ["upscale", source, tmp_path / out, "--model", family, "--models-dir", root, "--scale", 2]
        return CliRunner().invoke(app, [str(word) for word in (*words, "--tile", 64, *options)])

    return run


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Where the cache's entries are in these tests."""
    return tmp_path / "cache" / "strsr" / "tokens"


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*"))}  # not the journal


@pytest.fixture
def mute(models: Path, tmp_path: Path) -> Path:
    """The models folder, with language models that cannot be loaded; their files have their sizes and times."""
    folder = shutil.copytree(models, tmp_path / "mute")
    for path in folder.rglob("*.safetensors"):
        if path.parent.name in ("text_encoder", "Qwen3-VL-4B-Instruct"):
            state = path.stat()
            path.write_bytes(bytes(state.st_size))
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    return folder


@families
def test_outputs_do_not_depend_on_company_or_cache(
    family: str, upscale: Run, folder: Path, tmp_path: Path, tokens: Path, mute: Path
) -> None:
    assert upscale(family, folder / "b.png", "alone").exit_code == 0
    assert len(made(tokens)) == 1
    assert upscale(family, folder, "three", "--no-token-cache").exit_code == 0
    assert len(made(tokens)) == 1
    assert upscale(family, folder, "mixed").exit_code == 0
    assert len(made(tokens)) == 3
    assert upscale(family, folder, "mute", "--no-token-cache", root=mute).exit_code != 0
    result = upscale(family, folder, "cached", root=mute)
    assert result.exit_code == 0, result.output
    assert made(tmp_path / "three") == made(tmp_path / "mixed") == made(tmp_path / "cached")
    assert made(tmp_path / "alone")["b.png"] == made(tmp_path / "three")["b.png"]
    assert len(set(made(tmp_path / "three").values())) == 3
    other_scale = upscale(family, folder, "larger", "--scale", 3)
    assert other_scale.exit_code == 0, other_scale.output


def test_a_cache_entry_is_decided_by_what_decides_its_tokens(models: Path, tmp_path: Path) -> None:
    lq, job = torch.rand(1, 3, 4, 6), Job(tmp_path / "a.png", None, "png")

    def key(family: str = "zimage", precision: str = "fp32", root: Path = models, **said: Any) -> str:
        image = said.pop("image", lq)
        options = BigModelOptions(models_dir=root, **said)
        return Conditions(family, None, options, precision, torch.device("cpu")).key(job, image)

    copied = tmp_path / "models"
    shutil.copytree(models, copied)  # keeps the files' times
    text = {"conditioning": "text", "prompt": "a cat"}
    assert key() == key() == key(root=copied) == key(lora_scale=0.5, offload="model", token_cache=False)
    assert key(**text) == key(**text, image=lq + 1)  # the same for every picture
    other = [key("flux2"), key(precision="bf16"), key(image=lq + 1e-6), key(image=lq.view(1, 3, 6, 4))]
    other += [key(conditioning="none"), key(**text), key(**{**text, "prompt": "a dog"})]
    projector = copied / "StrSR-zimage" / "projector.pth"
    torch.save({name: 2 * value for name, value in torch.load(projector).items()}, projector)
    other += [key(root=copied)]
    assert key(root=copied, **text) == key(**text)  # has no projector
    assert len({key(), *other}) == 1 + len(other)


def test_an_entry_of_an_older_format_is_not_read(
    upscale: Run, folder: Path, tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of before pictures were resized as the projectors were trained: other tokens, to be made anew."""
    upscale("zimage", folder / "a.png", "right", "--no-token-cache")
    with monkeypatch.context() as before:
        before.setattr(conditions, "FORMAT", 1)
        upscale("zimage", folder / "a.png", "old")
    (entry,) = tokens.iterdir()
    save_file({name: 0 * value for name, value in load_file(entry).items()}, entry)  # what it must not take
    upscale("zimage", folder / "a.png", "new")
    assert made(tmp_path / "new") == made(tmp_path / "right")
    assert len(made(tokens)) == 2


@families
def test_a_folder_of_an_older_recipe_is_made_again(
    family: str, upscale: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(upscale_options, "BIG_RECIPE", 1)
        assert "3 done" in upscale(family, folder, "out").output
    assert "3 done" in upscale(family, folder, "out").output
    assert "3 skipped" in upscale(family, folder, "out").output


@families
def test_tiles_are_of_the_trained_size_shifted_inward(family: str, models: Path) -> None:
    pipeline = load_pipeline(family, models)

    def tiles(height: int, width: int, **options: Any) -> list[tuple[int, int, int, int]]:
        lq = torch.zeros(1, 3, height, width)
        tiled = pipeline.tiled(lambda rows, columns: lq[..., rows, columns], (height, width), 4, **options)
        return [(tile.top, tile.left, tile.height, tile.width) for tile in tiled.tiles]

    sides = (0, 960, 1024)
    for one_shape in (False, True):
        large = tiles(512, 512, one_shape=one_shape)
        assert large == [(top, left, 1024, 1024) for top in sides for left in sides]
        assert tiles(100, 512, one_shape=one_shape) == [(0, left, 400, 1024) for left in sides]
        assert tiles(25, 33, one_shape=one_shape) == [(0, 0, 112, 144)]
    assert tiles(512, 300, tile=768)[:2] == [(0, 0, 768, 768), (0, 432, 768, 768)]


def test_a_damaged_entry_is_made_anew(upscale: Run, folder: Path, tmp_path: Path, tokens: Path) -> None:
    upscale("zimage", folder / "a.png", "first")
    (entry,) = tokens.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1])
    result = upscale("zimage", folder / "a.png", "again")
    assert result.exit_code == 0, result.output
    assert made(tmp_path / "again") == made(tmp_path / "first")
    assert entry.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(upscale: Run, folder: Path, tokens: Path) -> None:
    tokens.parent.mkdir(parents=True)
    tokens.write_text("a file where a folder should be")
    result = upscale("zimage", folder, "out")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("tokens cannot be kept there") == 1


@families
def test_conditioning_none_needs_the_text_encoder_once(
    family: str, upscale: Run, folder: Path, tokens: Path, models: Path, mute: Path
) -> None:
    assert upscale(family, folder / "a.png", "a", "--conditioning", "none").exit_code == 0
    result = upscale(family, folder, "all", "--conditioning", "none", "--lora-scale", 0, root=mute)
    assert result.exit_code == 0, result.output
    assert len(list(tokens.iterdir())) == 1
    # A neutral prompt and no adapter: what the base model does by itself.
    options = PretrainedOptions(conditioning="none", adapter="none")
    with Image.open(folder / "c.png") as image:
        lq = torch.tensor(np.array(image)).permute(2, 0, 1)[None] / 255
    base = load_pipeline(family, models, options=options).upscale(lq, 2, tile=64)
    with Image.open(folder.parent / "all" / "c.png") as image:
        assert np.abs(np.asarray(image) / 255 - base[0].permute(1, 2, 0).numpy()).max() < 1 / 255


def test_prompts_may_be_of_each_image(upscale: Run, folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "a.txt").write_text("a cat\n")
    (prompts / "b.txt").write_bytes(b"\xff\xfe\xfa")
    result = upscale("zimage", folder, "out", "--prompt-from", prompts)
    assert result.exit_code == 1
    assert list(made(tmp_path / "out")) == ["a.png"]
    assert result.stderr.count("failed") == 3  # two images and the summary
    assert f"its prompt {prompts / 'c.txt'} cannot be read: No such file" in result.stderr
    assert f"its prompt {prompts / 'b.txt'} is not UTF-8 text" in result.stderr

    (prompts / "b.txt").write_text(" \n")
    result = upscale("zimage", folder, "both", "--prompt-from", prompts, "--prompt", "a dog")
    assert f"its prompt {prompts / 'b.txt'} is empty" in result.stderr
    assert upscale("zimage", folder, "cat", "--prompt", "a cat").exit_code == 0
    assert upscale("zimage", folder, "dog", "--prompt", "a dog").exit_code == 0
    assert made(tmp_path / "both") == {
        "a.png": made(tmp_path / "cat")["a.png"],
        "c.png": made(tmp_path / "dog")["c.png"],
    }
    assert made(tmp_path / "cat")["c.png"] != made(tmp_path / "dog")["c.png"]

    (prompts / "a.txt").write_bytes("\ufeffa cat\r\n".encode())  # as Windows' editor writes it
    (prompts / "b.txt").write_text("cat " * 50_000)
    result = upscale("zimage", folder, "marked", "--prompt-from", prompts)
    assert made(tmp_path / "marked") == {"a.png": made(tmp_path / "cat")["a.png"]}
    assert f"its prompt {prompts / 'b.txt'} is longer than 100 kB" in result.stderr


def test_the_language_model_has_left_when_the_transformer_comes(
    upscale: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[Any] = []
    events: list[str] = []
    load_conditioner, second = conditions.load_conditioner, Conditions.load_pipeline

    def first(*args: Any, **options: Any) -> Any:
        events.append("language model")
        conditioner = load_conditioner(*args, **options)
        alive.extend(weakref.ref(module) for module in conditioner.modules())
        return conditioner

    def transformer(self: Conditions, device: str) -> Any:
        events.append("transformer")
        assert alive
        assert [reference() for reference in alive if reference() is not None] == []
        pipeline = second(self, device)
        assert pipeline.semantic_encoder is None
        return pipeline

    monkeypatch.setattr(conditions, "load_conditioner", first)
    monkeypatch.setattr(Conditions, "load_pipeline", transformer)
    result = upscale("zimage", folder, "out")
    assert result.exit_code == 0, result.output
    assert events == ["language model", "transformer"]


@pytest.mark.parametrize("said", [[], ["--prompt", "a cat"]])
def test_a_bad_image_is_told_once_and_the_rest_go_on(
    said: list[str], upscale: Run, folder: Path, tmp_path: Path
) -> None:
    (folder / "b.png").write_text("not an image")
    result = upscale("zimage", folder, "out", *said)
    assert result.exit_code == 1
    assert sorted(made(tmp_path / "out")) == ["a.png", "c.png"]
    assert [line for line in result.stderr.splitlines() if "b.png" in line] == [
        f"failed {folder / 'b.png'}: not a PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, HEIC or JPEG XL image"
    ]
    assert "2 done, 0 skipped, 1 failed" in result.stderr


def test_remarks_come_once_and_a_stream_is_read_once(models: Path, upscale: Run, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    result = upscale("flux2", tmp_path / "two.tif", "out")
    assert result.stderr.count("has 2 frames") == 1

    words = ["upscale", "-", "-", "--model", "flux2", "--models-dir", models, "--scale", 2, "--format", "tif"]
    data = (tmp_path / "two.tif").read_bytes()
    piped = CliRunner().invoke(app, [str(word) for word in words], input=data)
    assert piped.exit_code == 0, piped.output
    with Image.open(BytesIO(piped.stdout_bytes)) as a, Image.open(tmp_path / "out" / "two.tif") as b:
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_the_precision_reaches_the_parameters(upscale: Run, folder: Path) -> None:
    result = upscale("zimage", folder / "a.png", "out", "--precision", "bf16", "--verbose")
    assert "model zimage on cpu in bf16" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "lite", "--prompt", "a cat"], "--prompt: not for --model lite"),
        (
            ["--model", "lite", "--offload", "none", "--no-token-cache"],
            "--offload, --no-token-cache: not for",
        ),
        (["--model", "lite", "--models-dir", "x"], "--models-dir: not for --model lite"),
        (["--conditioning", "text"], "--conditioning text: needs --prompt TEXT or --prompt-from FOLDER"),
        (["--conditioning", "vlm", "--prompt", "x"], "--prompt: needs --conditioning text, not vlm"),
        (["--prompt-from", "/nowhere"], "--prompt-from /nowhere: no such folder"),
        (["--quantize", "int8", "--offload", "sequential"], "--quantize: quantised weights cannot move"),
        (["--lora-scale", "1.6"], "--lora-scale 1.6: must be between 0 and 1.5"),
        (["--lora-scale", "nan"], "--lora-scale nan: must be between"),
        (["--prompt", "caf\udce9"], "--prompt: is not UTF-8 text"),
        (["--conditioning", "mood"], "--conditioning"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: list[str], message: str, strsr: Run, folder: Path
) -> None:
    if "--model" not in options:
        options = ["--model", "zimage", *options]
    result = strsr("upscale", folder, folder.parent / "out", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (folder.parent / "out").exists()


def test_standard_input_has_no_prompt_of_its_own(strsr: Run, tmp_path: Path) -> None:
    result = strsr("upscale", "-", tmp_path / "x.png", "--model", "flux2", "--prompt-from", tmp_path)
    assert result.exit_code == 2
    assert "standard input has no name" in result.stderr


def test_quantising_without_torchao_names_the_command(
    upscale: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    result = upscale("zimage", folder, "out", "--quantize", "int8")
    assert result.exit_code == 2
    assert result.stderr == "strsr: --quantize int8: needs torchao: pip install 'strsr[quant]'\n"


@pytest.fixture
def damaged(models: Path, tmp_path: Path) -> Path:
    """A copy of the models folder, to be damaged."""
    root = tmp_path / "damaged"
    shutil.copytree(models, root)
    return root


def refused(result: Result, *messages: str) -> None:
    """Exit code 3, one line, nothing else."""
    assert result.exit_code == 3, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    for message in messages:
        assert message in line


@families
def test_weights_that_do_not_fit_are_one_line(
    family: str, upscale: Run, folder: Path, damaged: Path, tmp_path: Path
) -> None:
    own = damaged / ADAPTERS[family]
    other = damaged / ADAPTERS["flux2" if family == "zimage" else "zimage"]

    def run(*options: object, root: Path = damaged) -> Result:
        return upscale(family, folder / "a.png", "out", *options, root=root)

    refused(run(root=tmp_path / "nowhere"), f"missing {BASES[family]}/transformer", "huggingface.co")
    refused(run(root=folder), f"missing {BASES[family]}/transformer", "--models-dir")
    refused(run("--weights", other), f"{other}/state_dict.pth: does not fit this model, with none of")
    refused(run("--weights", other, "--prompt", "x"), "state_dict.pth: does not fit this model, with none of")
    with_projector = (own / "projector.pth").read_bytes()
    shutil.copy(other / "projector.pth", own / "projector.pth")
    refused(run(), f"{own}/projector.pth: does not fit", "2.bias is")
    (own / "projector.pth").write_bytes(with_projector)
    refused(run("--weights", folder), f"{folder}: no adapter there")

    whole = (own / "state_dict.pth").read_bytes()
    lora = torch.load(own / "state_dict.pth")
    key = next(name for name in lora if "lora_A" in name)
    lora["left.over"] = lora.pop(key)
    rank_key = next(name for name in lora if "lora_A" in name)
    lora[rank_key] = torch.zeros(9, lora[rank_key].shape[1])
    text_key = next(name for name in lora if "lora_B" in name)
    lora[text_key] = "text"
    torch.save(lora, own / "state_dict.pth")
    refused(
        run(),
        *(f"missing {key}", "unknown left.over", f"{rank_key} is (9,", f"{text_key} is a str, expected a"),
    )
    (own / "state_dict.pth").write_bytes(whole[:-100])
    refused(run(), f"{own}/state_dict.pth: cannot be read as tensors")
    (own / "state_dict.pth").write_bytes(whole)
    vae = damaged / BASES[family] / "vae" / "diffusion_pytorch_model.safetensors"
    vae.write_bytes(vae.read_bytes()[:-100])
    refused(run(), f"{BASES[family]}/vae: cannot be read as Autoencoder")
    eyes = damaged / "Qwen3-VL-4B-Instruct" / "model.safetensors"
    eyes.write_bytes(eyes.read_bytes()[:-100])
    refused(run("--no-token-cache"), "Qwen3-VL-4B-Instruct: cannot be read as Qwen3VL")
    (own / "projector.pth").unlink()
    refused(run(), f"missing {ADAPTERS[family]}/projector.pth", "jkwang28/StrSR")
    assert not (tmp_path / "out").exists()


@families
def test_an_adapter_of_ones_own_is_used(
    family: str, upscale: Run, folder: Path, models: Path, tmp_path: Path
) -> None:
    pipeline = load_pipeline(family, models, options=PretrainedOptions(adapter="none"))
    pipeline.prepare_training(start=models / ADAPTERS[family])
    own = tmp_path / "own"
    own.mkdir()
    pipeline.save(own, {})
    for out, options in (("own-out", ["--weights", own]), ("published", [])):
        result = upscale(family, folder / "a.png", out, *options)
        assert result.exit_code == 0, result.output
    assert made(tmp_path / "own-out") == made(tmp_path / "published")
    other = "flux2" if family == "zimage" else "zimage"
    refused(upscale(other, folder / "a.png", "other", "--weights", own), f"an adapter for --model {family}")
    lora = own / "lora.safetensors"
    lora.write_bytes(lora.read_bytes()[:-10])
    refused(upscale(family, folder / "a.png", "x", "--weights", own), "lora.safetensors: cannot be read")


def test_files_on_disk_are_float32(upscale: Run, folder: Path, tokens: Path) -> None:
    upscale("zimage", folder / "a.png", "out", "--precision", "bf16")
    (entry,) = tokens.iterdir()
    assert load_file(entry)["tokens"].dtype == torch.float32
