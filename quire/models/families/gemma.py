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
    dense_mlp,
    grouped_attention,
    rms_norm,
)
from quire.models.families.parts import activation, dtype, head_dim, num_layers, rounded_to
from quire.models.families.rope_config import read_rope, read_ropes
from quire.models.families.windows import types_by_pattern, windows_of
from quire.models.registry import family
from quire.models.spec import Activation, ModelSpec

__all__ = ["gemma", "gemma2", "gemma3"]

SANDWICH = BlockNorms(
    attention="input_layernorm",
    mlp="pre_feedforward_layernorm",
    attention_output="post_attention_layernorm",
    mlp_output="post_feedforward_layernorm",
)
TINY_GEMMA = {**TINY, "head_dim": 32, "sliding_window": 8}


@family("GemmaForCausalLM", tiny={**TINY, "head_dim": 32})
def gemma(config: ConfigReader) -> ModelSpec:
    """Gemma and CodeGemma."""
    dim, bias = head_dim(config, 256), config.flag("attention_bias")
    ropes = [read_rope(config, dim)] * num_layers(config)
    attention = grouped_attention(config, dim=dim, qkv_bias=bias, output_bias=bias, ropes=ropes)
    return _gemma(config, attention, PRE_NORMS)


@family("Gemma2ForCausalLM", tiny=TINY_GEMMA)
def gemma2(config: ConfigReader) -> ModelSpec:
    """Gemma 2: windows in every second layer, soft caps."""
    dim, bias = head_dim(config, 256), config.flag("attention_bias")
    types = types_by_pattern(config, 2)
    attention = grouped_attention(
        config,
        dim=dim,
        qkv_bias=bias,
        output_bias=bias,
        scale=_attention_scale(config),
        softcap=_softcap(config, "attn_logit_softcapping", 50.0),
        ropes=[read_rope(config, dim)] * len(types),
        windows=windows_of(config, types),
    )
    return _gemma(config, attention, SANDWICH, 30.0)


@family("Gemma3ForCausalLM", tiny={**TINY_GEMMA, "sliding_window_pattern": 2})
def gemma3(config: ConfigReader) -> ModelSpec:
    """Gemma 3, the text models: five layers with a window for one without."""
    dim, bias = head_dim(config, 256), config.flag("attention_bias")
    types = types_by_pattern(config, config.positive("sliding_window_pattern", 6))
    attention = grouped_attention(
        config,
        dim=dim,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads",
        norm=rms_norm(config, offset=1.0),
        scale=_attention_scale(config),
        softcap=_softcap(config, "attn_logit_softcapping", None),
        ropes=read_ropes(config, dim, types, theta=1e6, local_theta=1e4),
        windows=windows_of(config, types),
    )
    return _gemma(config, attention, SANDWICH)


def _gemma(
    config: ConfigReader,
    attention: AttentionMaker,
    block_norms: BlockNorms,
    logit_cap: float | None = None,
) -> ModelSpec:
    if config.get("use_bidirectional_attention"):
        raise ModelError(
            f"{config.architecture}: use_bidirectional_attention makes an encoder of it; only the "
            "decoder is supported here"
        )
    return decoder(
        config,
        attention=attention,
        mlp=dense_mlp(config, kind=_activation(config)),
        norm=rms_norm(config, offset=1.0),
        block_norms=block_norms,
        length=config.positive("max_position_embeddings", 8192),
        embedding_scale=rounded_to(math.sqrt(config.positive("hidden_size")), dtype(config)),
        logit_cap=_softcap(config, "final_logit_softcapping", logit_cap),
        tied=True,
    )


def _activation(config: ConfigReader) -> Activation:
    """The first files say gelu where they mean its tanh form, and the newer key says so."""
    tanh = "gelu_pytorch_tanh"
    old = activation(config, "hidden_act", tanh)
    kind = activation(config, "hidden_activation", tanh) if "hidden_activation" in config else old
    return "gelu_tanh" if kind == "gelu" else kind


def _attention_scale(config: ConfigReader) -> float:
    return 1 / math.sqrt(config.number("query_pre_attn_scalar", 256, low=1e-6, high=1e9))


def _softcap(config: ConfigReader, key: str, default: float | None) -> float | None:
    """The cap; null and 0 mean none, a missing key the default."""
    if key not in config:
        return default
    return config.number(key, 0.0, low=0.0, high=1e9) or None
