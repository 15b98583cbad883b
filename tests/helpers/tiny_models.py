"""A models folder in the published layout, of the real classes in tiny and with random weights.

    root = tiny_models_folder(path)      Z-Image-Turbo/ FLUX.2-klein-base-4B/ Qwen3-VL-4B-Instruct/
                                         StrSR-zimage/ StrSR-flux/

Nothing is left at a value that hides a mistake: shifts, scales and running statistics are random.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SPECIAL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
]
# The shape of Qwen's own: roles, an image where the message has one, thinking closed when not wanted.
CHAT_TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
LANGUAGE_WIDTH = 32
CAPTION_WIDTH = LANGUAGE_WIDTH  # Z-Image's captions are as wide as its text encoder
JOINT_WIDTH = 3 * LANGUAGE_WIDTH  # FLUX.2's are three of its layers
RANK = 4


def tiny_models_folder(root: Path) -> Path:
    """Write everything into `root`; takes about a second."""
    torch.manual_seed(7)
    save_zimage(root / "Z-Image-Turbo", root / "StrSR-zimage")
    save_flux2(root / "FLUX.2-klein-base-4B", root / "StrSR-flux")
    save_vision_language(root / "Qwen3-VL-4B-Instruct")
    return root


def save_zimage(base: Path, adapter: Path) -> None:
    from diffusers import AutoencoderKL, ZImageTransformer2DModel

    dit = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=CAPTION_WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 512, 512],
    )
    # Older releases of diffusers leave them as the memory happens to be.
    for token in (dit.x_pad_token, dit.cap_pad_token):
        nn.init.zeros_(token)
    vae = AutoencoderKL(
        **vae_shape(),
        latent_channels=4,
        scaling_factor=0.36,
        shift_factor=0.12,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    randomise(dit).save_pretrained(base / "transformer")
    randomise(vae).save_pretrained(base / "vae")
    save_text_encoder(base, layers=3)
    save_adapter(
        adapter,
        dit,
        CAPTION_WIDTH,
        ("to_q", "to_k", "to_v", "to_out.0", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
    )


def save_flux2(base: Path, adapter: Path) -> None:
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    dit = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=JOINT_WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(**vae_shape(), latent_channels=4)
    randomise(dit).save_pretrained(base / "transformer")
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    randomise(vae).save_pretrained(base / "vae")
    save_text_encoder(base, layers=28)
    save_adapter(adapter, dit, JOINT_WIDTH, ("to_q", "to_k", "to_v", "_proj", "to_add_out", "to_out"))


def vae_shape() -> dict[str, Any]:
    """Eight times smaller, in four stages."""
    return {
        "block_out_channels": (8, 8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }


def randomise(model: nn.Module) -> Any:
    """Give one-dimensional parameters (biases, norms, pad tokens) other values than 0 and 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or parameter.shape[0] == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def save_text_encoder(base: Path, layers: int) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = make_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=LANGUAGE_WIDTH,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    Qwen3ForCausalLM(config).save_pretrained(base / "text_encoder")
    tokenizer.save_pretrained(base / "tokenizer")


def make_tokenizer() -> Any:
    """One token per byte, and the special ones."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2TokenizerFast

    vocabulary = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2TokenizerFast(vocab=vocabulary, merges=[], extra_special_tokens=SPECIAL_TOKENS)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_vision_language(folder: Path) -> None:
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = make_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": LANGUAGE_WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": LANGUAGE_WIDTH,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    # As Qwen3-VL's: patches of 16, pixels to [-1, 1].
    shape: dict[str, Any] = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": 32**2, "longest_edge": 256**2}, **shape),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**shape),
        chat_template=CHAT_TEMPLATE,
    )
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def save_adapter(folder: Path, dit: nn.Module, width: int, targets: tuple[str, ...]) -> None:
    """state_dict.pth and projector.pth as published, large enough to matter."""
    folder.mkdir(parents=True)
    lora: dict[str, Tensor] = {}
    for name, module in dit.named_modules():
        if isinstance(module, nn.Linear) and any(target in name for target in targets):
            key = f"base_model.model.{name}.lora_{{}}.default.weight"
            lora[key.format("A")] = 0.3 * torch.randn(RANK, module.in_features)
            lora[key.format("B")] = 0.3 * torch.randn(module.out_features, RANK)
    torch.save(lora, folder / "state_dict.pth")
    projector = nn.Sequential(nn.Linear(LANGUAGE_WIDTH, width // 2), nn.SiLU(), nn.Linear(width // 2, width))
    torch.save(projector.state_dict(), folder / "projector.pth")


_FOLDERS: dict[str, Path] = {}


def cached_models_folder(factory: Any) -> Path:
    """The folder, made once in a test session; factory: pytest's tmp_path_factory. Not to be changed."""
    base = str(factory.getbasetemp())
    if base not in _FOLDERS:
        _FOLDERS[base] = tiny_models_folder(factory.mktemp("models"))
    return _FOLDERS[base]


def merged_by_hand(dit: nn.Module, path: Path) -> None:
    """Add B A of every module named in the file: the reference for tests."""
    lora = torch.load(path, weights_only=True)
    parameters = dict(dit.named_parameters())
    for key in lora:
        if ".lora_A." in key:
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
            parameters[f"{module}.weight"].data += lora[key.replace("_A", "_B")] @ lora[key]


def look_at(models: Path, lq: Tensor, prompt: str, seen_size: tuple[int, int]) -> Tensor:
    """Last hidden states of Qwen3-VL at all tokens but the image's: the reference for tests.

    seen_size: (width, height) px that the authors' tool makes of the picture first.
    """
    from PIL import Image
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

    folder = models / "Qwen3-VL-4B-Instruct"
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
    picture = Image.fromarray((lq[0] * 255).round().byte().permute(1, 2, 0).numpy())
    picture = picture.resize(seen_size, Image.Resampling.BICUBIC)
    text = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        f"{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=[text], images=[picture], return_tensors="pt")
    # Not the outer model's hidden_states[-1]: transformers 4 took it before the final norm, 5 after it.
    states = model.model(**inputs).last_hidden_state
    return torch.stack(
        [state for state, token in zip(states[0], inputs.input_ids[0], strict=True) if token != 261]
    )[None]


def project(path: Path, tokens: Tensor) -> Tensor:
    """The projector in two lines: the reference for tests."""
    p = torch.load(path, weights_only=True)
    hidden = nn.functional.silu(tokens @ p["0.weight"].T + p["0.bias"])
    return hidden @ p["2.weight"].T + p["2.bias"]
