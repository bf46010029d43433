"""Qwen3-Next and Qwen3.5: three gated delta nets to one attention with an output gate.

Norms are of 1 + weight but for that in the delta nets; a quarter of each head is rotated.

Source: the configs of Qwen3NextForCausalLM and Qwen3_5ForCausalLM in transformers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families import parts
from quire.models.families.decoder import (
    TINY,
    AttentionMaker,
    MlpMaker,
    decoder,
    dense_mlp,
    grouped_attention,
    rms_norm,
)
from quire.models.families.delta_net import delta_net, linear_layers
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import Attention, ModelSpec, TokenMixer
from quire.models.stored_as import stored_as

__all__ = ["qwen3_5", "qwen3_5_language_model", "qwen3_next"]

TINY_HYBRID: dict[str, Any] = {
    **TINY,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}
CONVOLUTION = {"linear_attn.conv1d": tuple(f"linear_attn.{each}_conv" for each in "qkv")}
QUERIES = {"self_attn.q_proj": ("self_attn.query_proj", "self_attn.gate_proj")}


@family("Qwen3NextForCausalLM", tiny={**TINY_HYBRID, "mlp_only_layers": [0, 1, 2, 3]})
def qwen3_next(config: ConfigReader) -> ModelSpec:
    """Qwen3-Next with dense layers."""
    key_heads = config.positive("linear_num_key_heads", 16)
    layout = Layout(
        fused={
            "linear_attn.in_proj_qkvz": tuple(f"linear_attn.{each}_proj" for each in "qkvz"),
            "linear_attn.in_proj_ba": ("linear_attn.b_proj", "linear_attn.a_proj"),
            **CONVOLUTION,
            **QUERIES,
        },
        groups={
            "linear_attn.in_proj_qkvz": key_heads,
            "linear_attn.in_proj_ba": key_heads,
            "self_attn.q_proj": config.positive("num_attention_heads"),
        },
    )
    return stored_as(_hybrid(config, _dense_layers(config)), layout)


@family("Qwen3_5ForCausalLM", tiny=TINY_HYBRID)
def qwen3_5(config: ConfigReader) -> ModelSpec:
    """Qwen3.5 dense models, text only."""
    layout = Layout(
        names={f"linear_attn.{each}_proj": f"linear_attn.in_proj_{each}" for each in "zba"},
        fused={
            "linear_attn.in_proj_qkv": tuple(f"linear_attn.{each}_proj" for each in "qkv"),
            **CONVOLUTION,
            **QUERIES,
        },
        groups={"self_attn.q_proj": config.positive("num_attention_heads")},
    )
    return stored_as(_hybrid(config, dense_mlp(config)), layout)


@family("Qwen3_5ForConditionalGeneration", tiny={"text_config": TINY_HYBRID})
def qwen3_5_language_model(config: ConfigReader) -> ModelSpec:
    """The language model of Qwen3.5 checkpoints; images are not read."""
    for key in ("vision_config", "image_token_id", "video_token_id"):
        config.get(key)
    for key in ("vision_start_token_id", "vision_end_token_id", "language_model_only"):
        config.get(key)
    tied = config.flag("tie_word_embeddings")
    values = {"tie_word_embeddings": tied, **config.section("text_config")}
    text = ConfigReader(values, config.architecture)
    spec = qwen3_5(text)
    text.finish()
    return spec


def _hybrid(config: ConfigReader, mlp: MlpMaker) -> ModelSpec:
    linear, full, recurrent = linear_layers(config), _gated_attention(config), delta_net(config)

    def attention(layer: int, prefix: str) -> TokenMixer:
        return recurrent(layer, prefix) if linear[layer] else full(layer, prefix)

    return decoder(config, attention=attention, mlp=mlp, norm=rms_norm(config, offset=1.0))


def _gated_attention(config: ConfigReader) -> AttentionMaker:
    """Attention with norms on the heads of queries and keys, and a gate on what comes out."""
    width, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    dim, bias = parts.head_dim(config, 256), config.flag("attention_bias")
    ungated = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="heads",
        norm=rms_norm(config, offset=1.0),
        dim=dim,
        ropes=[read_rope(config, dim, partial=0.25)] * parts.num_layers(config),
    )
    rows = partial(parts.linear, out=heads * dim, width=width, split="rows", bias=bias, unit=dim)

    def attention(layer: int, prefix: str) -> Attention:
        made = ungated(layer, prefix)
        assert isinstance(made, Attention)
        return replace(made, query=rows(prefix + "query_proj"), gate=rows(prefix + "gate_proj"))

    return attention


def _dense_layers(config: ConfigReader) -> MlpMaker:
    """One gated MLP in each block; a mixture of experts is refused."""
    dense, layers = config.get("mlp_only_layers", []), parts.num_layers(config)
    step = config.positive("decoder_sparse_step", 1)
    for key in ("num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size"):
        config.get(key)  # of experts, which no layer has
    config.get("norm_topk_prob")
    if config.integer("num_experts", 0):
        sparse = [i for i in range(layers) if i not in dense and (i + 1) % step == 0]
        if sparse:
            raise ModelError(
                f"{config.architecture}: layer {sparse[0]} is a mixture of experts, which is not "
                "supported with recurrent layers yet"
            )
    return dense_mlp(config)
