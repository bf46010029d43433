"""Unwraps the configs of models that see images or hear too, of which only the text model is run.

Their config.json holds that of the text model as text_config or llm_config, or has its keys among
its own; beside it stand the parts that make embeddings of images, whose weights are left unread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.errors import ModelError

__all__ = ["IMAGE_PARTS", "NESTED", "SECTIONS", "text_config"]

NESTED: Mapping[str, Mapping[str, str]] = {
    "Exaone4_5_ForConditionalGeneration": {"exaone4_5_text": "Exaone4ForCausalLM"},
    "Gemma3ForConditionalGeneration": {"gemma3_text": "Gemma3ForCausalLM"},
    "Glm4vForConditionalGeneration": {
        "glm4v_text": "Glm4ForCausalLM",
        "glm4v": "Glm4ForCausalLM",
    },
    "Glm4vMoeForConditionalGeneration": {"glm4v_moe_text": "Glm4MoeForCausalLM"},
    "Idefics3ForConditionalGeneration": {"llama": "LlamaForCausalLM"},
    "InternVLChatModel": {
        "internlm2": "InternLM2ForCausalLM",
        "llama": "LlamaForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "qwen3_moe": "Qwen3MoeForCausalLM",
    },
    "InternVLForConditionalGeneration": {
        "llama": "LlamaForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "qwen3_moe": "Qwen3MoeForCausalLM",
    },
    "KimiK25ForConditionalGeneration": {
        "kimi_k2": "DeepseekV3ForCausalLM",
        "deepseek_v3": "DeepseekV3ForCausalLM",
    },
    "KimiVLForConditionalGeneration": {"deepseek_v3": "DeepseekV3ForCausalLM"},
    "Llama4ForConditionalGeneration": {"llama4_text": "Llama4ForCausalLM"},
    "Mistral3ForConditionalGeneration": {
        "mistral": "MistralForCausalLM",
        "ministral3": "Ministral3ForCausalLM",
        "mistral4": "Mistral4ForCausalLM",
    },
    "Phi3VForCausalLM": {"phi3_v": "Phi3ForCausalLM"},
    "Qwen2_5_VLForConditionalGeneration": {
        "qwen2_5_vl_text": "Qwen2ForCausalLM",
        "qwen2_5_vl": "Qwen2ForCausalLM",
    },
    "Qwen3_5ForConditionalGeneration": {"qwen3_5_text": "Qwen3_5ForCausalLM"},
    "Qwen3_5MoeForConditionalGeneration": {"qwen3_5_moe_text": "Qwen3_5MoeForCausalLM"},
    "Qwen3VLForConditionalGeneration": {"qwen3_vl_text": "Qwen3ForCausalLM"},
    "Qwen3VLMoeForConditionalGeneration": {"qwen3_vl_moe_text": "Qwen3MoeForCausalLM"},
    "SmolVLMForConditionalGeneration": {"llama": "LlamaForCausalLM"},
    "VoxtralForConditionalGeneration": {"llama": "LlamaForCausalLM"},
}
"""Architecture → model_type of its text_config → the architecture of the text model; a text_config
without one is of the first."""

SECTIONS = ("text_config", "llm_config")

PARTS = (
    *("vision_tower.", "vision_model.", "vision_embed_tokens.", "visual."),
    *("multi_modal_projector.", "mm_projector.", "mlp1.", "connector.", "audio_tower."),
)
IMAGE_PARTS = (*PARTS, *(f"model.{part}" for part in PARTS))
"""What the names of tensors begin with that only images need."""

OF_IMAGES = ("vision_", "image_", "video_", "img_", "audio_")
"""What keys begin with that stand among those of the text model and are not."""

OF_THE_WHOLE = (
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "quantization_config",
    "tie_word_embeddings",
    "torch_dtype",
)
"""Keys that may stand outside of text_config."""

UNSAID: Mapping[str, Mapping[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "bos_token_id": 2,
    },
    "qwen3_vl_moe_text": {"norm_topk_prob": True},
}
"""What transformers takes where a published text_config of this model_type says nothing."""


def text_config(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The config of the text model as if it stood alone, of an architecture among NESTED.

    Raises ModelError without a text_config, or with one of a model that is not known.
    """
    models = NESTED[architecture]
    text = next((config[key] for key in SECTIONS if config.get(key) is not None), None)
    if text is None and config.get("model_type") in models:
        text = config  # the keys of both stand side by side
    if not isinstance(text, Mapping):
        raise ModelError(f"{architecture}: text_config is {text!r:.100}; expected an object")
    model_type = text.get("model_type", next(iter(models)))
    if model_type not in models:
        raise ModelError(
            f"{architecture}: the text model is {model_type!r}; {', '.join(models)} can be run"
        )
    own = {key: value for key, value in text.items() if not key.startswith(OF_IMAGES)}
    outer = {key: config[key] for key in OF_THE_WHOLE if config.get(key) is not None}
    return {
        **UNSAID.get(model_type, {}),
        **own,
        **outer,
        "architectures": [models[model_type]],
    }
