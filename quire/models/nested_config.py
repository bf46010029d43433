"""Unwraps the configs of models that see images too, of which only the text model is run.

Their config.json holds that of the text model as text_config; beside it stand the parts that turn
images into embeddings, whose weights are left unread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.errors import ModelError

__all__ = ["IMAGE_PARTS", "NESTED", "text_config"]

NESTED: Mapping[str, Mapping[str, str]] = {
    "Gemma3ForConditionalGeneration": {"gemma3_text": "Gemma3ForCausalLM"},
    "Llama4ForConditionalGeneration": {"llama4_text": "Llama4ForCausalLM"},
    "Mistral3ForConditionalGeneration": {
        "mistral": "MistralForCausalLM",
        "ministral3": "Ministral3ForCausalLM",
        "mistral4": "Mistral4ForCausalLM",
    },
}
"""Architecture → model_type of its text_config → the architecture of the text model; a text_config
without one is of the first."""

PARTS = ("vision_tower.", "vision_model.", "multi_modal_projector.")
IMAGE_PARTS = (*PARTS, *(f"model.{part}" for part in PARTS))
"""What the names of tensors begin with that only images need."""

OF_THE_WHOLE = (
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "quantization_config",
    "tie_word_embeddings",
    "torch_dtype",
)
"""Keys that may stand outside of text_config."""


def text_config(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The config of the text model as if it stood alone, of an architecture among NESTED.

    Raises ModelError without a text_config, or with one of a model that is not known.
    """
    text, models = config.get("text_config"), NESTED[architecture]
    if not isinstance(text, dict):
        raise ModelError(f"{architecture}: text_config is {text!r:.100}; expected an object")
    model_type = text.get("model_type", next(iter(models)))
    if model_type not in models:
        raise ModelError(
            f"{architecture}: the text model is {model_type!r}; {', '.join(models)} can be run"
        )
    outer = {key: config[key] for key in OF_THE_WHOLE if config.get(key) is not None}
    return {**text, **outer, "architectures": [models[model_type]]}
