"""gpt-oss: attention with sinks, windows in every other layer, and experts with biases.

Source: the GptOssForCausalLM config of transformers; arXiv:2508.10925.
"""

from __future__ import annotations

from dataclasses import replace

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import (
    TINY,
    AttentionMaker,
    MlpMaker,
    decoder,
    grouped_attention,
    rms_norm,
)
from quire.models.families.experts import expert_count, expert_mlps, in_stacks, router
from quire.models.families.parts import activation, head_dim, num_layers
from quire.models.families.rope_config import read_rope
from quire.models.families.windows import FULL, SLIDING, layer_types, windows_of
from quire.models.registry import family
from quire.models.spec import Attention, MixtureOfExperts, ModelSpec, Weight

__all__ = ["gpt_oss"]


@family(
    "GptOssForCausalLM",
    tiny={
        **TINY,
        "head_dim": 16,
        "attention_bias": True,
        "sliding_window": 8,
        "layer_types": [SLIDING, FULL],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "swiglu_limit": 7.0,
    },
)
def gpt_oss(config: ConfigReader) -> ModelSpec:
    """gpt-oss-20b and gpt-oss-120b."""
    norm = rms_norm(config, eps=1e-5)
    return decoder(config, attention=_attention(config), mlp=_experts(config), norm=norm)


def _attention(config: ConfigReader) -> AttentionMaker:
    """Each head has a sink: a score without a value."""
    layers, dim = num_layers(config), head_dim(config, 64)
    types = layer_types(config, [FULL if i % 2 else SLIDING for i in range(layers)])
    bias, heads = config.flag("attention_bias", True), config.positive("num_attention_heads")
    attention = grouped_attention(
        config,
        qkv_bias=bias,
        output_bias=bias,
        dim=dim,
        ropes=[read_rope(config, dim, theta=150000.0)] * layers,
        windows=windows_of(config, types),
    )

    def with_sinks(layer: int, prefix: str) -> Attention:
        sinks = Weight(prefix + "sinks", (heads,), "rows")
        return replace(attention(layer, prefix), sinks=sinks)

    return with_sinks


def _experts(config: ConfigReader) -> MlpMaker:
    """Experts stored in two tensors, gate and up in alternate columns."""
    count = expert_count(config, "num_local_experts", "num_experts")
    top_k, inner = config.positive("num_experts_per_tok", 4), config.positive("intermediate_size")
    config.expect("experts_per_token", top_k)
    config.get("initial_context_length")  # as the rope has it
    alpha = config.number("swiglu_alpha", 1.702, low=0.0, high=1e6)
    if activation(config) != "silu":
        raise ModelError(f"{config.architecture}: hidden_act must be silu, which its gates clamp")
    limit = config.number("swiglu_limit", 7.0, low=1e-6, high=1e6)

    def mixture(layer: int, prefix: str) -> MixtureOfExperts:
        mlps = tuple(
            replace(mlp, activation="clamped_swiglu", alpha=alpha, limit=limit)
            for mlp in expert_mlps(config, prefix + "experts.", count, inner, bias=True)
        )
        bias = Weight(prefix + "router.bias", (count,))
        return MixtureOfExperts(
            router(config, prefix + "router", count, top_k, normalised=True, bias=bias),
            in_stacks(
                mlps,
                prefix + "experts.gate_up_proj",
                prefix + "experts.down_proj",
                transposed=True,
                interleaved=True,
            ),
        )

    return mixture
