"""The text models of models that see images too, as transformers computes them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ModelError
from quire.models.config_reader import read_json
from quire.models.families.latent import LATENT_TINY
from quire.models.families.ministral import YARN
from quire.models.nested_config import NESTED
from quire.models.registry import build_spec
from quire.runtime.open_model import tie_missing_head
from quire.weights.checkpoint import open_checkpoint
from quire.weights.loader import load_weights
from tests.models.cases_mixtures import llama4
from tests.models.checkpoints import BASE
from tests.models.computing import Loaded, Model, distance

MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
GLM_ROPE = {**MROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 40}
GEMMA = {**BASE, "head_dim": 32, "sliding_window": 8, "num_hidden_layers": 2}
TEXT: dict[str, dict[str, Any]] = {
    "gemma3": {"model_type": "gemma3_text", **GEMMA},
    "llama4": {"model_type": "llama4_text", **llama4("x").fields},
    "mistral3": {"model_type": "mistral", **BASE, "head_dim": 16, "sliding_window": None},
    "mistral3-small-4": {
        "model_type": "mistral4", **BASE, **LATENT_TINY, "n_routed_experts": 8,
        "num_experts_per_tok": 3, "moe_intermediate_size": 40, "n_shared_experts": 1,
        "rope_parameters": {"type": "yarn", **YARN},
    },
    "qwen2_5_vl": {"model_type": "qwen2_5_vl_text", **BASE, "rope_parameters": MROPE},
    "qwen3_vl": {"model_type": "qwen3_vl_text", **BASE, "head_dim": 16, "rope_parameters": MROPE},
    "qwen3_vl_moe": {
        "model_type": "qwen3_vl_moe_text", **BASE, **EXPERTS, "num_experts": 6, "head_dim": 16,
        "rope_parameters": MROPE,
    },
    "qwen3_5_moe": {
        "model_type": "qwen3_5_moe_text", **BASE, **EXPERTS, "num_experts": 6, "head_dim": 32,
        "shared_expert_intermediate_size": 40, "num_hidden_layers": 4,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "glm4v": {"model_type": "glm4v_text", **BASE, "head_dim": 16, "rope_parameters": GLM_ROPE},
    "glm4v_moe": {
        "model_type": "glm4v_moe_text", **BASE, **EXPERTS, "n_routed_experts": 6, "head_dim": 16,
        "n_shared_experts": 1, "rope_parameters": GLM_ROPE,
    },
    "internvl": {"model_type": "qwen2", **BASE},
    "smolvlm": {"model_type": "llama", **BASE},
}  # fmt: skip
TOWER = {"depth": 1, "num_heads": 2, "out_hidden_size": 64, "num_position_embeddings": 4}
VISION: dict[str, dict[str, Any]] = {
    "gemma3": {"model_type": "siglip_vision_model"},
    "llama4": {"model_type": "llama4_vision_model", "vision_output_dim": 32,
               "projector_input_dim": 32, "projector_output_dim": 32, "pixel_shuffle_ratio": 0.5},
    "mistral3": {"model_type": "pixtral"},
    "qwen2_5_vl": {**TOWER, "fullatt_block_indexes": [0], "window_size": 28},
    "qwen3_vl": {**TOWER, "deepstack_visual_indexes": [0]},
    "qwen3_vl_moe": {**TOWER, "deepstack_visual_indexes": [0]},
    "qwen3_5_moe": {**TOWER, "deepstack_visual_indexes": []},
    "glm4v": TOWER,
    "glm4v_moe": TOWER,
    "internvl": {"model_type": "internvl_vision"},
    "smolvlm": {"model_type": "smolvlm_vision"},
}  # fmt: skip
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "image_size": 28,
         "num_attention_heads": 2, "patch_size": 14, "head_dim": 16}  # fmt: skip


def build(kind: str, directory: Path) -> Any:
    """Write a random checkpoint with its vision parts; transformers' model."""
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(3)
    text, (kind, *_) = TEXT[kind], kind.split("-")
    vision = {**SMALL, **VISION[kind]}
    fields = {"text_config": text, "vision_config": vision, "tie_word_embeddings": False}
    if kind == "gemma3":
        fields |= {"mm_tokens_per_image": 4, "tie_word_embeddings": True}
    config = AutoConfig.for_model(kind, **fields)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    model = model.float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
    model.tie_weights()
    model.save_pretrained(directory)
    return model


@pytest.mark.oracle
@pytest.mark.parametrize("kind", TEXT)
def test_logits_of_text(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build(kind, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    values = read_json(tmp_path / "config.json")
    assert values["architectures"][0] in NESTED and "vision_config" in values
    spec = tie_missing_head(build_spec(values), checkpoint)
    loaded = Loaded(spec, load_weights(checkpoint, spec.weights(), unused=spec.unused))
    assert all(record.levelno < logging.WARNING for record in caplog.records), caplog.text
    tokens = np.random.default_rng(0).integers(3, spec.vocab_size, 20).tolist()
    import torch

    with torch.no_grad():
        expected = model(input_ids=torch.tensor([tokens])).logits[0].float().numpy()
    assert distance(Model(loaded, "reference").logits(tokens), expected) < 1e-4


def test_text_models_that_are_not_known() -> None:
    values = {"architectures": ["Mistral3ForConditionalGeneration"]}
    with pytest.raises(ModelError, match="text_config is None"):
        build_spec(values)
    with pytest.raises(ModelError, match="'mamba'; mistral, ministral3, mistral4 can be run"):
        build_spec({**values, "text_config": {"model_type": "mamba"}})
