"""Random Qwen2-VL checkpoints, whole with tokenizer and image rules; transformers is the oracle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CASES", "IMAGE", "TEMPLATE", "SeeingCase", "build", "picture", "write_tokenizer"]

SPECIALS = ("<|end|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
PLACEHOLDER = "<|image_pad|>"
IMAGE = 256 + len(SPECIALS)
VOCAB = 272
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m.content %}{% if p.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class SeeingCase:
    """text, vision: fields of the configs of transformers.  flat: config.json as older files are.

    rules: fields of preprocessor_config.json.
    """

    name: str
    text: dict[str, Any]
    vision: dict[str, Any]
    rules: dict[str, Any]
    flat: bool = False
    tied: bool = False

    def __str__(self) -> str:
        return self.name


def _text(section: list[int], theta: float = 10000.0, **fields: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": theta, "mrope_section": section}
    base = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": 256,
    }
    return {**base, **fields}


def _vision(**fields: Any) -> dict[str, Any]:
    base = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
    return {**base, "patch_size": 4, **fields}


def _rules(patch: int = 4, frames: int = 2, merge: int = 2, **fields: Any) -> dict[str, Any]:
    sizes = {"patch_size": patch, "temporal_patch_size": frames, "merge_size": merge}
    return {**sizes, "min_pixels": 256, "max_pixels": 2048, **fields}


CASES = (
    SeeingCase("nested", _text([2, 3, 3]), _vision(), _rules()),
    SeeingCase(
        "flat-tied-3x3",
        _text([8, 4, 4], 1e6, hidden_size=96, num_attention_heads=3, num_key_value_heads=3),
        _vision(embed_dim=48, hidden_size=96, num_heads=4, spatial_merge_size=3, patch_size=3),
        _rules(3, merge=3, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]),
        flat=True,
        tied=True,
    ),
    SeeingCase(
        "one-frame-gelu",
        _text([4, 6, 6], num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=3),
        _vision(embed_dim=24, num_heads=1, depth=3, hidden_act="gelu", temporal_patch_size=1),
        _rules(frames=1, min_pixels=1024, max_pixels=1024),
    ),
)


def picture(width: int, height: int, seed: int = 0) -> Any:
    """Coloured noise over a slope, which no scaling makes the same as another."""
    from PIL import Image as Pillow

    random = np.random.default_rng([width, height, seed])
    slope = np.linspace(0, 120, width)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
    noise = random.integers(0, 76, (height, width, 3))
    return Pillow.fromarray((slope + noise).astype(np.uint8))


def build(case: SeeingCase, directory: Path) -> Any:
    """Write the checkpoint; return the transformers model."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    torch.manual_seed(len(case.name))
    config = Qwen2VLConfig(
        text_config=case.text,
        vision_config=case.vision,
        image_token_id=IMAGE,
        video_token_id=IMAGE + 1,
        vision_start_token_id=259,
        vision_end_token_id=260,
        tie_word_embeddings=case.tied,
    )
    config._attn_implementation = "eager"
    model = Qwen2VLForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                is_norm = ("norm" in name or "ln_q" in name) and name.endswith("weight")
                parameter.normal_(1.0 if is_norm else 0.0, 0.1)
            else:
                parameter.normal_(0, 1.5 / (parameter.numel() / len(parameter)) ** 0.5)
    model.tie_weights()
    model.save_pretrained(directory)
    write_settings(case, directory)
    return model


def write_settings(case: SeeingCase, directory: Path) -> None:
    """Write image rules and tokenizer, and config.json as the case has it."""
    (directory / "preprocessor_config.json").write_text(json.dumps(case.rules))
    write_tokenizer(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    if case.flat:
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        text["rope_theta"] = rope.pop("rope_theta")
        text["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        channels = {"in_chans": config["vision_config"].pop("in_channels", 3)}
        config = {**text, **config, "vision_config": {**config["vision_config"], **channels}}
    path.write_text(json.dumps(config))


def write_tokenizer(directory: Path) -> None:
    """A token for each byte, and the special ones of Qwen2-VL."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIALS, PLACEHOLDER])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
