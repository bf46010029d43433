"""Qwen3-Next and Qwen3.5: three gated delta nets to one attention with an output gate.

Norms are of 1 + weight but for that in the delta nets; a quarter of each head is rotated.

Source: the configs of Qwen3NextForCausalLM and Qwen3_5ForCausalLM in transformers.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

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
from quire.models.families.experts import stacked
from quire.models.families.latent import next_token_layers
from quire.models.families.qwen2_moe import TINY_EXPERTS, qwen_experts
from quire.models.families.rope_config import read_rope
from quire.models.places import Layout
from quire.models.registry import family
from quire.models.spec import Attention, ModelSpec, TokenMixer
from quire.models.stored_as import stored_as

__all__ = ["qwen3_5", "qwen3_5_moe", "qwen3_next"]

TINY_HYBRID: dict[str, Any] = {
    **TINY,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}
TINY_MIXTURE: dict[str, Any] = {
    **TINY_HYBRID,
    **TINY_EXPERTS,
    "shared_expert_intermediate_size": 40,
}
CONVOLUTION = {"linear_attn.conv1d": tuple(f"linear_attn.{each}_conv" for each in "qkv")}
QUERIES = {"self_attn.q_proj": ("self_attn.query_proj", "self_attn.gate_proj")}


@family("Qwen3NextForCausalLM", tiny={**TINY_MIXTURE, "mlp_only_layers": [1]})
def qwen3_next(config: ConfigReader) -> ModelSpec:
    """Qwen3-Next, whose layers are mixtures of experts."""
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
    return stored_as(_hybrid(config, _experts(config)), layout)


@family("Qwen3_5ForCausalLM", tiny=TINY_HYBRID)
def qwen3_5(config: ConfigReader) -> ModelSpec:
    """Qwen3.5 dense models, text only."""
    return _qwen3_5(config, dense_mlp(config))


@family("Qwen3_5MoeForCausalLM", tiny=TINY_MIXTURE)
def qwen3_5_moe(config: ConfigReader) -> ModelSpec:
    """Qwen3.5 mixtures of experts, text only."""
    return _qwen3_5(config, stacked(_experts(config)))


def _qwen3_5(config: ConfigReader, mlp: MlpMaker) -> ModelSpec:
    layout = Layout(
        names={f"linear_attn.{each}_proj": f"linear_attn.in_proj_{each}" for each in "zba"},
        fused={
            "linear_attn.in_proj_qkv": tuple(f"linear_attn.{each}_proj" for each in "qkv"),
            **CONVOLUTION,
            **QUERIES,
        },
        groups={"self_attn.q_proj": config.positive("num_attention_heads")},
    )
    return stored_as(_hybrid(config, mlp), layout)


def _hybrid(config: ConfigReader, mlp: MlpMaker) -> ModelSpec:
    linear, full, recurrent = linear_layers(config), _gated_attention(config), delta_net(config)

    def attention(layer: int, prefix: str) -> TokenMixer:
        return recurrent(layer, prefix) if linear[layer] else full(layer, prefix)

    return decoder(
        config,
        attention=attention,
        mlp=mlp,
        norm=rms_norm(config, offset=1.0),
        unused=(*next_token_layers(config), "mtp."),
    )


def _gated_attention(config: ConfigReader) -> AttentionMaker:
    """Attention with norms on the heads of queries and keys, and a gate on what comes out."""
    width, heads = config.positive("hidden_size"), config.positive("num_attention_heads")
    dim, bias = parts.head_dim(config, 256), config.flag("attention_bias")
    config.expect("attn_output_gate", True)
    config.expect("mamba_ssm_dtype", "float32")
    config.expect("output_gate_type", "swish", "silu")  # of the norm in delta nets
    for key in ("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"):
        config.get(key)  # of layers that guess ahead
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
        return replace(made, query=rows(prefix + "query_proj"), gate=rows(prefix + "gate_proj"))

    return attention


def _experts(config: ConfigReader) -> MlpMaker:
    """Experts with normalised weights and a gated shared one, where there are any."""
    if config.integer("num_experts") == 0:
        for key in ("num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"):
            config.get(key)
        for key in ("shared_expert_intermediate_size", "mlp_only_layers", "decoder_sparse_step"):
            config.get(key)
        return dense_mlp(config)
    shared = config.integer("shared_expert_intermediate_size", 512)
    return qwen_experts(config, shared or None, normalised=True)
