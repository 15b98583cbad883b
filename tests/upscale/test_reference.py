"""`strsr upscale` against METHOD in straight lines of torch, which share no code with the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from typer.testing import Result

from strsr_models.encoders.qwen import load_vision_language, trained_size

PROMPT = (
    "Descibe this image in detail, especially the text in image. Cinematic, hyper sharpness, highly "
    "detailed, perfect without deformations. Camera, hyper detailed photo, realistic maximum detail, 32k, "
    "Color. Grading, ultra HD, extreme meticulous detailing, skin pore detailing"
)
WORDS = "a cat on a sofa, in the evening"


@pytest.fixture
def small(photo: np.ndarray, tmp_path: Path) -> Path:
    """Four times this is 164 x 212 px: no multiples of 16; tiles of 128 px share 80 px of the 176 rows, not 32."""
    Image.fromarray(photo[30:71, 40:93]).save(tmp_path / "small.png")
    return tmp_path / "small.png"


def add_lora(dit: torch.nn.Module, path: Path) -> None:
    lora, weights = torch.load(path), dict(dit.named_parameters())
    for name, a in lora.items():
        if name.endswith("lora_A.default.weight"):
            b = lora[name.replace("lora_A", "lora_B")]
            weights[name[len("base_model.model.") : -len("lora_A.default.weight")] + "weight"].data += b @ a


def seen(models: Path, path: Path, projector: Path) -> Tensor:
    """What Qwen3-VL makes of a chat message with the image, projected: (1, m, d)."""
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

    # 53 x 41 px: the authors' tool makes multiples of 28 of at least 3,136 px of it, before the processor's own resize.
    picture = Image.open(path).convert("RGB")
    assert picture.size == (53, 41)
    picture = picture.resize((84, 56), Image.Resampling.BICUBIC)
    processor = AutoProcessor.from_pretrained(models / "Qwen3-VL-4B-Instruct")
    vlm = Qwen3VLForConditionalGeneration.from_pretrained(models / "Qwen3-VL-4B-Instruct").eval()
    content = [
        {"type": "image", "image": picture},
        {"type": "text", "text": PROMPT},
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    hidden = vlm.model(**inputs).last_hidden_state[0]
    hidden = hidden[inputs["input_ids"][0] != vlm.config.image_token_id]
    w = torch.load(projector)
    return F.linear(F.silu(F.linear(hidden, w["0.weight"], w["0.bias"])), w["2.weight"], w["2.bias"])[None]


def read(base: Path, words: str, thinking: bool) -> tuple[tuple[Tensor, ...], Tensor]:
    """All hidden states of the base model's text encoder, padded to 512, and where its text is."""
    from transformers import AutoTokenizer, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    encoder = Qwen3ForCausalLM.from_pretrained(base / "text_encoder").eval()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": words}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    inputs = tokenizer(text, padding="max_length", max_length=512, truncation=True, return_tensors="pt")
    return encoder(**inputs, output_hidden_states=True).hidden_states, inputs["attention_mask"][0] == 1


def zimage(models: Path, path: Path, words: str | None) -> Callable[[Tensor], Tensor]:
    from diffusers import AutoencoderKL, ZImageTransformer2DModel

    base, adapter = models / "Z-Image-Turbo", models / "StrSR-zimage"
    dit = ZImageTransformer2DModel.from_pretrained(base / "transformer").eval()
    vae = AutoencoderKL.from_pretrained(base / "vae").eval()
    add_lora(dit, adapter / "state_dict.pth")
    if words is None:
        c = seen(models, path, adapter / "projector.pth")
    else:
        states, text = read(base, words, thinking=True)
        c = states[-2][:, text]

    def restore(x_up: Tensor) -> Tensor:
        z = vae.encode(2 * x_up - 1).latent_dist.mode()
        v = -dit([z[0][:, None]], torch.tensor([0.2]), [c[0]], return_dict=False)[0][0][:, 0][None]
        z = z - 0.8 * v
        return vae.decode(z / vae.config.scaling_factor + vae.config.shift_factor).sample

    return restore


def flux2(models: Path, path: Path, words: str | None) -> Callable[[Tensor], Tensor]:
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    base, adapter = models / "FLUX.2-klein-base-4B", models / "StrSR-flux"
    dit = Flux2Transformer2DModel.from_pretrained(base / "transformer").eval()
    vae = AutoencoderKLFlux2.from_pretrained(base / "vae").eval()
    add_lora(dit, adapter / "state_dict.pth")
    if words is None:
        c = seen(models, path, adapter / "projector.pth")[:, :512]
    else:
        states, _ = read(base, words, thinking=False)
        c = torch.cat([states[9], states[18], states[27]], dim=-1)
    mean = vae.bn.running_mean[None, :, None, None]
    std = (vae.bn.running_var[None, :, None, None] + vae.config.batch_norm_eps).sqrt()

    def restore(x_up: Tensor) -> Tensor:
        z = vae.encode(2 * x_up - 1).latent_dist.mode()
        _, k, h, w = z.shape
        z = z.view(1, k, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(1, 4 * k, h // 2, w // 2)
        z = (z - mean) / std
        text = torch.tensor([[0, 0, 0, n] for n in range(c.shape[1])])
        lattice = torch.tensor([[0, row, column, 0] for row in range(h // 2) for column in range(w // 2)])
        v = dit(z.flatten(2).mT, c, torch.tensor([0.8]), lattice, text, None, return_dict=False)[0]
        z = (z - 0.8 * v.mT.reshape(z.shape)) * std + mean
        z = z.view(1, k, 2, 2, h // 2, w // 2).permute(0, 1, 4, 2, 5, 3).reshape(1, k, h, w)
        return vae.decode(z).sample

    return restore


@torch.no_grad()
def reference(
    restore: Callable[[Tensor], Tensor], path: Path, scale: int, tile: int, overlap: int
) -> np.ndarray:
    """(H, W, 3) in [0, 1]."""
    lq = torch.tensor(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255
    x_up = F.interpolate(lq, scale_factor=scale, mode="bicubic", align_corners=False).clamp(0, 1)
    height, width = x_up.shape[2:]
    x_up = F.pad(x_up, (0, -width % 16, 0, -height % 16), mode="reflect")
    total, weights = torch.zeros_like(x_up), torch.zeros_like(x_up[:, :1])
    sides = x_up.shape[2:]
    starts = [sorted({min(n, max(side - tile, 0)) for n in range(0, side, tile - overlap)}) for side in sides]
    for top in starts[0]:
        for left in starts[1]:
            part = x_up[:, :, top : top + tile, left : left + tile]
            ramps = [
                torch.minimum(torch.arange(1.0, n + 1), torch.arange(float(n), 0, -1)).clamp(max=overlap)
                for n in part.shape[2:]
            ]
            weight = ramps[0][:, None] * ramps[1]
            total[:, :, top : top + tile, left : left + tile] += weight * restore(part)
            weights[:, :, top : top + tile, left : left + tile] += weight
    return (((total / weights).clamp(-1, 1) + 1) / 2)[0, :, :height, :width].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("size", "seen_size"),
    [((64, 64), (56, 56)), ((75, 50), (84, 56)), ((300, 200), (308, 196)), ((256, 256), (252, 252))],
)
def test_pictures_reach_the_processor_as_trained(
    size: tuple[int, int], seen_size: tuple[int, int], photo: np.ndarray, models: Path
) -> None:
    """(width, height) px, to the byte: Pillow's bicubic, before the processor's own resize."""
    picture = Image.fromarray(photo).resize(size)
    expected = np.asarray(picture.resize(seen_size, Image.Resampling.BICUBIC))
    encoder = load_vision_language(models / "Qwen3-VL-4B-Instruct", torch.float32)
    given: list[np.ndarray] = []
    processor = encoder.processor

    def recording(images: list[Tensor], **words: object) -> object:
        given.extend(image.permute(1, 2, 0).numpy() for image in images)
        return processor(images=images, **words)

    recording.image_token_id, recording.apply_chat_template = (  # type: ignore[attr-defined]
        processor.image_token_id,
        processor.apply_chat_template,
    )
    encoder.processor = recording
    encoder(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255)
    assert len(given) == 1
    np.testing.assert_array_equal(given[0], expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), (56, 56)),
        ((10, 400), (28, 392)),
        ((41, 53), (56, 84)),
        ((42, 42), (56, 56)),
        ((70, 98), (56, 112)),  # 2.5 and 3.5 patches: Python rounds halves to even numbers
        ((4000, 4000), (3584, 3584)),
        ((100, 200_000), (56, 160_272)),
    ],
)
def test_pictures_of_extreme_shape_are_brought_within_bounds(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert trained_size(*size) == expected


def made_by(
    strsr: Callable[..., Result], model: str, models: Path, small: Path, *options: object
) -> np.ndarray:
    out = small.parent / "out"
    result = strsr(
        *("upscale", small, out, "--model", model, "--models-dir", models, "--scale", 4),
        *("--precision", "fp32", "--device", "cpu", *options),
    )
    assert result.exit_code == 0, result.output
    with Image.open(out / "small.png") as image:
        return np.asarray(image) / 255


@pytest.mark.parametrize("words", [None, WORDS], ids=["vlm", "text"])
@pytest.mark.parametrize("family", [zimage, flux2])
def test_a_single_tile_is_the_method_to_the_letter(
    family: Callable, words: str | None, strsr: Callable[..., Result], models: Path, small: Path
) -> None:
    with torch.no_grad():
        expected = reference(family(models, small, words), small, 4, tile=1024, overlap=64)
    said = [] if words is None else ["--prompt", words]
    made = made_by(strsr, family.__name__, models, small, "--tile", 1024, "--overlap", 64, *said)
    assert made.shape == expected.shape == (164, 212, 3)
    assert np.abs(made - expected).max() < 1 / 255
    assert expected.std() > 0.05


@pytest.mark.parametrize("words", [None, WORDS], ids=["vlm", "text"])
@pytest.mark.parametrize("family", [zimage, flux2])
def test_tiles_differ_by_their_blending_alone(
    family: Callable, words: str | None, strsr: Callable[..., Result], models: Path, small: Path
) -> None:
    with torch.no_grad():
        restore = family(models, small, words)
        expected = reference(restore, small, 4, tile=128, overlap=32)
        whole = reference(restore, small, 4, tile=1024, overlap=64)
    said = [] if words is None else ["--prompt", words]
    made = made_by(strsr, family.__name__, models, small, "--tile", 128, "--overlap", 32, *said)
    assert np.abs(made - expected).max() <= 6 / 255
    assert np.abs(made - expected).mean() < 1 / 255
    assert np.abs(made - whole).mean() > 2 / 255  # tiles do matter to this network
