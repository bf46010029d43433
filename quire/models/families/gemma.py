"""Gemma 1 to 3: norms of 1 + weight, GeGLU, embeddings times sqrt(width), a tied head.

Gemma 2 and 3 add norms behind each part of a block and windows in most layers; Gemma 2 soft caps on
scores and logits, Gemma 3 norms of queries and keys and a rope of its own for layers with a window.

Source: the configs of GemmaForCausalLM, Gemma2ForCausalLM and Gemma3ForCausalLM in transformers.
"""

from __future__ import annotations

import math

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    PRE_NORMS,
    TINY,
    AttentionMaker,
    BlockNorms,
    decoder,
    grouped_attention,
    rms_norm,
)
from quire.models.families.parts import activation, dtype, gated_mlp
from quire.models.families.rope_config import read_ropes
from quire.models.families.windows import types_by_pattern, windows_of
from quire.models.registry import family
from quire.models.spec import ModelSpec
from quire.ops.number_formats import rounded

__all__ = ["gemma", "gemma2", "gemma3"]

SANDWICH = BlockNorms(
    attention="input_layernorm",
    mlp="pre_feedforward_layernorm",
    attention_output="post_attention_layernorm",
    mlp_output="post_feedforward_layernorm",
)
TINY_GEMMA = {**TINY, "head_dim": 32}


@family("GemmaForCausalLM", tiny=TINY_GEMMA)
def gemma(config: ConfigReader) -> ModelSpec:
    """Gemma and CodeGemma."""
    _check_causal(config)
    bias = config.flag("attention_bias")
    attention = grouped_attention(config, head_dim=256, qkv_bias=bias, output_bias=bias)
    return _gemma(config, attention, PRE_NORMS)
